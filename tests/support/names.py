"""File names that break careless programs."""

from typing import Final

HOSTILE: Final = (
    b"not utf-8 \xff\xfe\x80",
    b"new\nline",
    b"\n",
    b"quote \" and ' and `",
    b"-rf",
    b"--config=x",
    "emoji \N{PILE OF POO} and \N{LINE SEPARATOR}".encode(),
    b" space ",
    b"tab\tand\rreturn",
    b"\x1b[31mred\x07",
    b"back\\slash\\n",
    b"%s %n {0} $(id)",
    b"*?[a]",
    b"#comment",
    b"!not",
    b"~home",
    b"a.sign.txt",
    b"UPPER.SIGN",
    b"a" * 250,
    "\N{LATIN SMALL LETTER U WITH DIAERESIS}".encode() * 125,
)
