"""Text that is safe for a terminal, whatever file names it holds."""


def printable(text: str) -> str:
    """Escape what would move the cursor, break the line or cannot be encoded."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)
