"""Pseudo-terminals: one end for a program in a session of its own, the other for who talks to it."""

import contextlib
import fcntl
import struct
import termios

ENVIRONMENT = {"TERM": "xterm"}
"""What container runtimes set for programs with a terminal."""


def take() -> None:
    """In the child: make the terminal on standard input that of its session."""
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def resize(fd: int, width: int, height: int) -> None:
    """Tell the program another size; nothing if the terminal is gone or no terminal is so large."""
    with contextlib.suppress(OSError, struct.error):
        fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))
