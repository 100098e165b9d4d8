"""config.toml.example is the reference of all keys: complete, valid, and nothing but the defaults."""

import tomllib
from pathlib import Path

import pytest
from pydantic import BaseModel

from dropsign import config

EXAMPLE = Path(__file__).parent.parent / "config.toml.example"

SECTIONS = {name: field.annotation for name, field in config.Configuration.model_fields.items()}

REQUIRED = {"outbox": {"path": "/srv/dropsign/outbox"}, "service": {"url": "https://signing.example.com"}}


def test_it_loads_and_equals_the_defaults() -> None:
    """Copying the example changes nothing but what must be set."""
    defaults = config.parse(dict(REQUIRED), {}, base=EXAMPLE.parent, source="defaults")
    assert config.load(EXAMPLE, {}) == defaults


@pytest.mark.parametrize("section", SECTIONS)
def test_every_key_is_there(section: str) -> None:
    """Each section of the example has exactly the keys of its model; a secret's value has no place in a file."""
    model = SECTIONS[section]
    assert isinstance(model, type)
    assert issubclass(model, BaseModel)
    keys = {name for name, field in model.model_fields.items() if not field.exclude}
    assert set(tomllib.loads(EXAMPLE.read_text("utf-8"))[section]) == keys


def test_every_key_has_a_line_of_why() -> None:
    """Above each key, or above the run of keys that it belongs to, stands a comment."""
    commented = False
    for line in EXAMPLE.read_text("utf-8").splitlines():
        if not line or line.startswith("["):
            commented = False
        elif line.startswith("#"):
            commented = True
        else:
            assert commented, line


def test_no_other_sections() -> None:
    """The example has exactly the sections of the configuration."""
    assert set(tomllib.loads(EXAMPLE.read_text("utf-8"))) == set(SECTIONS)
