"""Termination messages: what a container wanted to be known of its end.

A program finds a file of its own at ``terminationMessagePath`` in every run. With the policy
FallbackToLogsOnError the end of its log stands in for a file that it left empty.
"""

from pathlib import Path

from kubewire.kubelet.enter import Bind
from kubewire.kubelet.logs import Question, tail_start
from kubewire.kubelet.pod import Container
from kubewire.kubelet.runtime import log_path

MOST = 4096
MOST_OF_LOG, LINES_OF_LOG = 2048, 80


def place(folder: Path, container: Container) -> Bind:
    """An empty file for a new run, and where it appears."""
    path = _path(folder, container)
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"")
    return Bind(str(path), container.termination_message_path)


def last_words(folder: Path, container: Container, exit_code: int) -> str:
    """The message of a run that has ended."""
    said = _start(_path(folder, container))
    if not said and exit_code and container.termination_message_policy == "FallbackToLogsOnError":
        said = _end_of_log(log_path(folder, container.name))
    return said.decode("utf-8", "replace")


def _path(folder: Path, container: Container) -> Path:
    return folder / "messages" / container.name


def _start(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(MOST)
    except FileNotFoundError:
        return b""


def _end_of_log(path: Path) -> bytes:
    try:
        records = path.read_bytes()
    except FileNotFoundError:
        return b""
    question = Question()
    lines = records[tail_start(records, LINES_OF_LOG) :].rstrip(b"\n").split(b"\n")
    return b"".join(map(question.answer, lines))[-MOST_OF_LOG:]
