"""What several kinds show in their cells."""

from collections.abc import Callable
from typing import Any

import msgspec

from kubewire.api.meta import JSON
from kubewire.api.selectors import LabelSelector

Cells = Callable[[JSON], list[Any]]
"""Fills the row of an object."""


def selector_text(value: Any) -> str:
    """A label selector as kubectl shows it."""
    if not value:
        return "<none>"
    return str(msgspec.convert(value, LabelSelector)) or "<none>"


def labels_text(value: JSON | None) -> str:
    """Labels as ``a=b,c=d``."""
    return ",".join(f"{k}={v}" for k, v in sorted((value or {}).items())) or "<none>"
