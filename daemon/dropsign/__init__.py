"""dropsign: signs files as they are dropped."""

from importlib.metadata import version

__version__ = version("dropsign")
