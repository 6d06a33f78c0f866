"""READMEs as tests see them: blocks by language, and commands with what they print."""

import re


def block(text: str, language: str) -> str:
    """The first block of a language."""
    found = re.search(rf"```{language}\n(.*?)```", text, re.DOTALL)
    assert found
    return found[1]


def examples(text: str) -> list[tuple[str, str]]:
    """(command, output) of the console block."""
    parts = re.split(r"^\$ (.*)\n", block(text, "console"), flags=re.MULTILINE)[1:]
    return list(zip(parts[::2], parts[1::2], strict=True))
