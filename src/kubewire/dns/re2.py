"""Regular expressions of Corefiles: RE2's syntax as Python's.

The two agree on nearly everything. What a Corefile may hold and Python reads otherwise, or not at
all, is rewritten: ``[[:alpha:]]``, ``\\pL``, ``\\z``, ``\\Q..\\E``, ``(?<name>..)`` and flags that begin
in the middle. What Python knows beyond RE2 (looking ahead and behind) is let through.
"""

from __future__ import annotations

import functools
import re

_CLASSES = {
    "alnum": "0-9A-Za-z", "alpha": "A-Za-z", "ascii": r"\x00-\x7F", "blank": r"\t ",
    "cntrl": r"\x00-\x1F\x7F", "digit": "0-9", "graph": "!-~", "lower": "a-z", "print": " -~",
    "punct": r"!-/:-@\[-`{-~", "space": r"\t\n\v\f\r ", "upper": "A-Z", "word": "0-9A-Za-z_",
    "xdigit": "0-9A-Fa-f",
}  # fmt: skip
_LETTERS = {"L": "A-Za-zÀ-ÖØ-öø-ʯͰ-ϿЀ-ӿ", "N": r"\d", "Lu": "A-ZÀ-ÖØ-Þ", "Ll": "a-zß-öø-ÿ", "Nd": r"\d"}  # fmt: skip
_TOKEN = re.compile(
    r"\\Q(?P<quoted>.*?)(?:\\E|$)|\\[pP](?P<letter>[A-Z])|\\[pP]\{(?P<named>\^?\w+)\}|(?P<end>\\z)"
    r"|\\.|\[\^?\]?|(?P<posix>\[:\^?[a-z]+:\])|\(\?(?P<flags>[imsU]*(?:-[imsU]+)?)\)"
    r"|(?P<group>\(\?<(?![=!]))|(?P<open>\()|(?P<close>\))|.",
    re.DOTALL,
)


@functools.lru_cache(1000)
def pattern(text: str) -> re.Pattern[str]:
    """A pattern. Raises re.error."""
    return re.compile(_Translation(text).python)


class _Translation:
    """One pass over an expression."""

    def __init__(self, text: str) -> None:
        self._open: list[int] = [0]
        """For each group that is open: how many more were opened inside of it for flags."""
        self._inside = False
        """Inside of a set of characters."""
        at, parts = 0, []
        while at < len(text):
            if self._inside and (posix := re.compile(r"\[:(\^?)([a-z]+):\]").match(text, at)):
                parts.append(self._posix(text, posix))
                at = posix.end()
                continue
            match = _TOKEN.match(text, at)
            assert match is not None
            parts.append(self._one(text, match))
            at = match.end()
        self.python = "".join(parts) + ")" * self._open[0]

    def _one(self, text: str, match: re.Match[str]) -> str:
        token = match[0]
        if self._inside:
            self._inside = token != "]"
        elif token[0] == "[":
            self._inside = True
            return token.replace("]", r"\]")
        if match["quoted"] is not None:
            return re.escape(match["quoted"])
        if match["letter"] or match["named"]:
            return self._letters(text, match)
        if match["end"]:
            return r"\Z"
        return token if self._inside or token == "]" else self._group(text, match)

    def _group(self, text: str, match: re.Match[str]) -> str:
        if match["flags"]:
            if "U" in match["flags"]:
                raise re.error("the flag U is not offered", text, match.start())
            self._open[-1] += 1
            return f"(?{match['flags']}:"
        if match["group"]:
            self._open.append(0)
            return "(?P<"
        if match["open"]:
            self._open.append(0)
        if match["close"]:
            extra = self._open.pop() if len(self._open) > 1 else 0
            return ")" * (extra + 1)
        return match[0]

    def _posix(self, text: str, match: re.Match[str]) -> str:
        if match[2] not in _CLASSES or match[1]:
            raise re.error(f"invalid character class range: `{match[0]}`", text, match.start())
        return _CLASSES[match[2]]

    def _letters(self, text: str, match: re.Match[str]) -> str:
        name = match["letter"] or match["named"]
        if name not in _LETTERS:
            raise re.error(f"invalid character class range: `{match[0]}`", text, match.start())
        negated = match[0][1] == "P"
        if self._inside:
            if negated:
                raise re.error(
                    "a negated class inside of another is not offered", text, match.start()
                )
            return _LETTERS[name]
        return f"[{'^' * negated}{_LETTERS[name]}]"
