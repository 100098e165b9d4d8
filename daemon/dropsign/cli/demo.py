"""Placeholder."""


def demo() -> int:
    return 1
