"""Read a Corefile: tokens, server blocks, snippets, imports, environment variables.

The grammar is the one of Caddy's first version, which CoreDNS froze, and the error texts are its
own: people search for them. Directives keep their tokens; each plugin reads them with a Cursor.
"""

import glob
import os
from collections.abc import Callable, Container, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from kubewire.api.errors import InputError

MAX_SNIPPETS = 10_000
MAX_FILES = 100_000


class Token(NamedTuple):
    """One word and where it stands."""

    file: str
    line: int
    text: str


class CorefileError(InputError):
    """A Corefile that cannot be used; the text is what CoreDNS would say."""


@dataclass
class ServerBlock:
    """Keys (addresses) and, per directive, the tokens of all its occurrences."""

    keys: list[str] = field(default_factory=list)
    tokens: dict[str, list[Token]] = field(default_factory=dict)


def tokenize(text: str, file: str) -> list[Token]:
    """Split at white space; quotes may span lines; ``#`` starts a comment outside of them."""
    return list(_tokens(text.removeprefix("\ufeff"), file))


def _tokens(text: str, file: str) -> Iterator[Token]:
    line, start, word = 1, 1, ""
    i, end = 0, len(text)
    while i < end:
        ch = text[i]
        i += 1
        if ch.isspace():
            if ch == "\r":
                continue
            if word:
                yield Token(file, start, word)
                word = ""
            line += ch == "\n"
        elif ch == "#":
            stop = text.find("\n", i)
            i = end if stop < 0 else stop
        elif not word and ch == '"':
            quoted, i = _quoted(text, i)
            if i <= end or quoted:
                yield Token(file, line, quoted)
            line += quoted.count("\n")
        else:
            if not word:
                start = line
            word += ch
    if word:
        yield Token(file, start, word)


def _quoted(text: str, i: int) -> tuple[str, int]:
    out: list[str] = []
    while i < len(text):
        if text.startswith('\\"', i):
            out.append('"')
            i += 2
        elif text[i] == '"':
            return "".join(out), i + 1
        else:
            out.append(text[i])
            i += 1
    return "".join(out), i + 1


def substitute(text: str, env: Mapping[str, str]) -> str:
    """Replace ``{%NAME%}`` and ``{$NAME}``; a variable that is not set is empty."""
    for opening, closing in (("{%", "%}"), ("{$", "}")):
        at = text.find(opening)
        while at >= 0:
            end = text.find(closing, at)
            if end < at + len(opening) + 1:
                break
            reference = text[at : end + len(closing)]
            text = text.replace(reference, env.get(reference[len(opening) : -len(closing)], ""))
            at = text.find(opening)
    return text


class _Walker:
    """A position among tokens, with the errors that name it."""

    def __init__(self, tokens: list[Token], file: str) -> None:
        self.tokens = tokens
        self.file_name = file
        self.at = -1

    @property
    def val(self) -> str:
        """Text of the current token."""
        return self.tokens[self.at].text if 0 <= self.at < len(self.tokens) else ""

    @property
    def place(self) -> str:
        """``FILE:LINE`` of the current token."""
        if 0 <= self.at < len(self.tokens):
            token = self.tokens[self.at]
            return f"{token.file}:{token.line}"
        return f"{self.file_name}:0"

    def next(self) -> bool:
        """Go to the next token."""
        if self.at < len(self.tokens) - 1:
            self.at += 1
            return True
        return False

    def next_arg(self) -> bool:
        """Go to the next token if it stands on the same line."""
        if self.at < 0:
            return self.next()
        if self.at >= len(self.tokens) - 1:
            return False
        here, there = self.tokens[self.at], self.tokens[self.at + 1]
        if here.file == there.file and here.line + here.text.count("\n") == there.line:
            self.at += 1
            return True
        return False

    @property
    def new_line(self) -> bool:
        """The current token starts a line."""
        if self.at < 1:
            return True
        if self.at > len(self.tokens) - 1:
            return False
        before, here = self.tokens[self.at - 1], self.tokens[self.at]
        return before.file != here.file or before.line + before.text.count("\n") < here.line

    def err(self, text: str) -> CorefileError:
        """An error at the current token."""
        return CorefileError(f"{self.place} - Error during parsing: {text}")

    def arg_err(self) -> CorefileError:
        """A missing or surplus argument."""
        if self.val == "{":
            return self.err("Unexpected token '{', expecting argument")
        return self.err(f"Wrong argument count or unexpected line ending after '{self.val}'")

    def syntax_err(self, expected: str) -> CorefileError:
        """Another token was expected here."""
        return CorefileError(
            f"{self.place} - Syntax error: Unexpected token '{self.val}', expecting '{expected}'"
        )


class Cursor(_Walker):
    """The tokens of one directive (all its occurrences), as a plugin reads them."""

    def __init__(self, tokens: list[Token], file: str) -> None:
        super().__init__(tokens, file)
        self._nesting = 0

    def args(self) -> list[str]:
        """The remaining arguments of the line, up to an opening brace."""
        found = []
        while self.next_arg():
            if self.val == "{":
                self.at -= 1
                break
            found.append(self.val)
        return found

    def next_block(self) -> bool:
        """Go to the next line's first token inside ``{ }``; False after the last one."""
        if self._nesting:
            self.next()
            if self.val == "}":
                self._nesting -= 1
                return False
            return True
        if not self.next_arg():
            return False
        if self.val != "{":
            self.at -= 1
            return False
        self.next()
        if self.val == "}":
            return False
        self._nesting += 1
        return True

    def stanzas(self) -> Iterator[list[str]]:
        """Each occurrence of the directive: its arguments."""
        while self.next():
            yield self.args()

    def properties(self) -> Iterator[tuple[str, list[str]]]:
        """Each line of the current stanza's block: its first word and its arguments."""
        while self.next_block():
            word = self.val
            yield word, self.args()

    def nothing_else(self) -> None:
        """Complain about a block where there is none."""
        for word, _ in self.properties():
            raise self.unknown(word)

    def unknown(self, word: str) -> CorefileError:
        """A property that the plugin does not have, at the current place."""
        return self.err(f"unknown property '{word}'")


class Parser(_Walker):
    """Turns tokens into server blocks."""

    def __init__(
        self,
        text: str,
        file: str,
        directives: Container[str],
        env: Mapping[str, str],
        warn: Callable[[str], None],
    ) -> None:
        super().__init__(tokenize(text, file), file)
        self._directives = directives
        self._env = env
        self._warn = warn
        self._snippets: dict[str, list[Token]] = {}
        self._snippet_imports = 0
        self._file_imports = 0
        self._block = ServerBlock()

    def parse(self) -> list[ServerBlock]:
        """Every server block, in order. Raises CorefileError."""
        blocks = []
        while self.next():
            self._block = ServerBlock()
            self._one()
            if self._block.keys:
                blocks.append(self._block)
        return blocks

    def _one(self) -> None:
        if self._addresses():
            return
        keys = self._block.keys
        if len(keys) == 1 and keys[0].startswith("(") and keys[0].endswith(")"):
            self._snippet(keys[0][1:-1])
            self._block.keys = []
            return
        braces = self.val == "{"
        if not braces:
            self.at -= 1
        self._lines()
        if braces and self.val != "}":
            raise self.syntax_err("}")

    def _addresses(self) -> bool:
        """Read keys up to the opening brace or the end of line; True at the end of the file."""
        another = False
        while True:
            text = substitute(self.val, self._env)
            if text == "import" and self.new_line:
                self._import()
                if not self.next():
                    return True
                continue
            if text == "{":
                if another:
                    raise self.err(
                        f"Expected another address but had '{text}' - check for extra comma"
                    )
                return False
            if text:
                another = text.endswith(",")
                self._block.keys.append(text[:-1] if another else text)
            more = self.next()
            if another and not more:
                raise self.err("Unexpected EOF")
            if not more:
                return True
            if not another and self.new_line:
                return False

    def _snippet(self, name: str) -> None:
        if name in self._snippets:
            raise self.err(f"redeclaration of previously declared snippet {name}")
        if self.val != "{":
            raise self.syntax_err("{")
        depth, found = 1, []
        while self.next():
            if self.val == "}":
                depth -= 1
                if depth == 0:
                    break
            if self.val == "{":
                depth += 1
            found.append(self.tokens[self.at])
        if depth:
            raise self.syntax_err("}")
        for before, word, after in zip([None, *found], found, found[1:], strict=False):
            starts = before is None or (before.file, before.line) != (word.file, word.line)
            if word.text == "import" and starts and substitute(after.text, self._env) == name:
                raise self.err(f"maximum snippet import depth ({MAX_SNIPPETS}) exceeded")
        self._snippets[name] = found

    def _lines(self) -> None:
        while self.next():
            if self.val == "}":
                return
            if self.val == "import":
                self._import()
                continue
            self._directive()

    def _directive(self) -> None:
        name = substitute(self.val, self._env)
        if name not in self._directives:
            raise self.err(f"Unknown directive '{name}'")
        found = self._block.tokens.setdefault(name, [])
        found.append(self.tokens[self.at])
        depth = 0
        while self.next():
            if self.val == "{":
                depth += 1
            elif self.new_line and depth == 0:
                self.at -= 1
                break
            elif self.val == "}" and depth > 0:
                depth -= 1
            elif self.val == "}":
                raise self.err("Unexpected '}' because no matching opening brace")
            elif self.val == "import" and self.new_line:
                self._import()
                continue
            token = self.tokens[self.at]
            found.append(token._replace(text=substitute(token.text, self._env)))
        if depth:
            raise self.err("Unexpected EOF")

    def _import(self) -> None:
        """Put the imported tokens in place of the directive; ``next`` leads to the first."""
        if not self.next_arg():
            raise self.arg_err()
        pattern = substitute(self.val, self._env)
        if not pattern:
            raise self.err("Import requires a non-empty filepath")
        if self.next_arg():
            raise self.err("Import takes only one argument (glob pattern or file)")
        if pattern in self._snippets:
            if self._snippet_imports >= MAX_SNIPPETS:
                raise self.err(f"maximum snippet import depth ({MAX_SNIPPETS}) exceeded")
            self._snippet_imports += 1
            imported = self._snippets[pattern]
        else:
            if self._file_imports >= MAX_FILES:
                raise self.err(f"maximum file import depth ({MAX_SNIPPETS}) exceeded")
            self._file_imports += 1
            imported = [t for path in self._files(pattern) for t in self._read(path)]
        self.tokens[self.at - 1 : self.at + 1] = imported
        self.at -= 2

    def _files(self, pattern: str) -> list[str]:
        folder = Path(self.tokens[self.at].file).absolute().parent
        path = str(folder / pattern)
        if path.count("*") > 1 or path.count("?") > 1 or ("[" in path and "]" in path):
            raise self.err(
                f"Glob pattern may only contain one wildcard (*), but has others: {path}"
            )
        if not any(c in path for c in "*?[]"):
            if not os.path.lexists(path):
                raise self.err(f"File to import not found: {pattern}")
            return [path]
        found = sorted(glob.glob(path))  # noqa: PTH207 - the pattern is absolute
        if not found:
            self._warn(f"No files matching import glob pattern: {pattern}")
        return found

    def _read(self, path: str) -> list[Token]:
        if Path(path).is_dir():
            raise self.err(f"Could not import {path}: is a directory")
        try:
            return tokenize(Path(path).read_text(), path)
        except (OSError, UnicodeDecodeError) as error:
            raise self.err(f"Could not import {path}: {error}") from error


def parse(
    text: str,
    file: str,
    directives: Container[str],
    *,
    env: Mapping[str, str] | None = None,
    warn: Callable[[str], None] = lambda _: None,
) -> list[ServerBlock]:
    """Parse a Corefile. Raises CorefileError."""
    return Parser(text, file, directives, os.environ if env is None else env, warn).parse()
