"""Words of ``iptables-save`` lines: quoting as libxtables does it, and taking a line apart."""

from __future__ import annotations

import re

_PLAIN = re.compile(r"[A-Za-z0-9_-]+")
_WORD = re.compile(r'"((?:[^"\\]|\\.)*)"|(\S+)')
_ESCAPE = re.compile(r"([\"\\'])")
_ESCAPED = re.compile(r"\\(.)")


def quote(text: str) -> str:
    """A free text as ``iptables-save`` prints it: in quotes unless it is a plain word."""
    if _PLAIN.fullmatch(text):
        return text
    return '"' + _ESCAPE.sub(r"\\\1", text) + '"'


def words(line: str) -> list[str]:
    """The words of a line; quotes and escapes are taken away."""
    return [
        bare if bare else _ESCAPED.sub(r"\1", quoted)
        for quoted, bare in _WORD.findall(line.strip())
    ]


def spell(word: str) -> str:
    """A word that was read before: in quotes only where it has to be."""
    return quote(word) if not word or set(word) & set("\"\\' \t") else word
