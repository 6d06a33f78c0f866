"""Batches of questions (``--flows``): JSON lines in, JSON lines out in the same order.

Every line has its answer. One that cannot be answered is answered with ``{"error"}`` and named on
stderr; the others are answered all the same, and the exit status is 2.
"""

import json
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

import click

from kubewire.api.errors import InputError, system_text
from kubewire.api.meta import JSON

Q = TypeVar("Q")


def run(path: str, read: Callable[[JSON], Q], answer: Callable[[list[Q]], Iterable[JSON]]) -> None:
    """Read each line of a file (``-``: standard input), answer all that are good, print all."""
    found = [_attempt(place, line, read) for place, line in _lines(path)]
    answers = iter(answer([f for f in found if not isinstance(f, InputError)]))
    shown = ({"error": str(f)} if isinstance(f, InputError) else next(answers) for f in found)
    sys.stdout.writelines(json.dumps(answer) + "\n" for answer in shown)
    if any(isinstance(f, InputError) for f in found):
        raise click.exceptions.Exit(2)


def _lines(path: str) -> list[tuple[str, str]]:
    """(place, text) of every line that is not empty."""
    try:
        text = sys.stdin.read() if path == "-" else Path(path).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read: {system_text(error)}") from error
    name = "STDIN" if path == "-" else path
    lines = enumerate(text.split("\n"), 1)
    return [(f"{name}[line {n}]", line) for n, line in lines if line.strip()]


def _attempt(place: str, line: str, read: Callable[[JSON], Q]) -> Q | InputError:
    try:
        return read(_object(line))
    except InputError as error:
        click.echo(f"{place}: {error}", err=True)
        return error


def _object(line: str) -> JSON:
    try:
        parsed = json.loads(line)
    except ValueError as error:
        raise InputError(f"not JSON: {error}") from error
    if not isinstance(parsed, dict):
        raise InputError("an object is expected")
    return parsed
