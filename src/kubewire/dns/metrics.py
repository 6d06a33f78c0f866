"""What plugins count, under CoreDNS' names: kept by process, so that a reload goes on counting.

A plugin declares its metrics at the top of its module and counts through ``self.metrics``; the page
of the prometheus plugin shows them all. Answers that are replayed from the table pass no plugin:
what each of them stands for is written to ``Response.counted`` and added when the page is asked for.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

DEFAULT = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
SECONDS = tuple(0.00025 * 2**i for i in range(16))
FEW_SECONDS = tuple(0.00025 * 10**i for i in range(5))
PROGRAMMING = tuple(0.001 * 2**i for i in range(20))
SIZES = (0, 100, 200, 300, 400, 511, 1023, 2047, 4095, 8291, 16e3, 32e3, 48e3, 64e3)

Values = tuple[str, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Metric:
    """A family: counter, gauge or histogram (with upper bounds), and the names of its labels."""

    name: str
    help: str
    labels: tuple[str, ...] = ()
    kind: str = "counter"
    bounds: tuple[float, ...] = ()


class Histogram:
    """Counts per bucket, and the sum."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def add(self, value: float, n: int = 1) -> None:
        """Count ``n`` values alike."""
        self.counts[bisect_left(self.bounds, value)] += n
        self.sum += value * n

    def include(self, other: Histogram) -> None:
        """Add another one's counts."""
        self.counts = [a + b for a, b in zip(self.counts, other.counts, strict=True)]
        self.sum += other.sum


class Book:
    """Everything that is counted."""

    def __init__(self) -> None:
        self._numbers: dict[Metric, dict[Values, float]] = {}
        self._histograms: dict[Metric, dict[Values, Histogram]] = {}

    def show(self, *metrics: Metric) -> None:
        """Have metrics on the page before anything is counted: 0 if they have no labels."""
        for metric in metrics:
            found = self._numbers.setdefault(metric, {})
            if not metric.labels:
                found.setdefault((), 0)

    def add(self, metric: Metric, *values: str, n: float = 1) -> None:
        """Count."""
        found = self._numbers.get(metric)
        if found is None:
            found = self._numbers[metric] = {}
        found[values] = found.get(values, 0) + n

    def set(self, metric: Metric, value: float, *values: str) -> None:
        """Set a gauge."""
        self._numbers.setdefault(metric, {})[values] = value

    def drop(self, metric: Metric) -> None:
        """Forget a gauge of which other values are true now."""
        self._numbers.pop(metric, None)

    def observe(self, metric: Metric, value: float, *values: str) -> None:
        """Enter a value into a histogram."""
        self.histogram(metric, *values).add(value)

    def histogram(self, metric: Metric, *values: str) -> Histogram:
        """The histogram of some labels."""
        found = self._histograms.setdefault(metric, {})
        if values not in found:
            found[values] = Histogram(metric.bounds)
        return found[values]

    def get(self, metric: Metric, *values: str) -> float:
        """A number that was counted or set."""
        return self._numbers.get(metric, {}).get(values, 0)

    def items(self, metric: Metric) -> Iterable[tuple[Values, float]]:
        """All numbers of a metric, by its labels."""
        return self._numbers.get(metric, {}).items()

    def include(self, other: Book) -> None:
        """Add everything that another book holds."""
        for metric, numbers in other._numbers.items():
            self.show(metric)
            for values, n in numbers.items():
                self.add(metric, *values, n=n)
        for metric, histograms in other._histograms.items():
            for values, histogram in histograms.items():
                self.histogram(metric, *values).include(histogram)

    def lines(self) -> Iterator[str]:
        """The page, in Prometheus' text format."""
        for metric in sorted({*self._numbers, *self._histograms}, key=lambda m: m.name):
            numbers = self._numbers.get(metric, {})
            histograms = self._histograms.get(metric, {})
            if not numbers and not histograms:
                continue
            yield f"# HELP {metric.name} {metric.help}"
            yield f"# TYPE {metric.name} {metric.kind}"
            for values, number in sorted(numbers.items()):
                yield f"{metric.name}{_text(metric, values)} {_number(number)}"
            for values, histogram in sorted(histograms.items(), key=lambda item: item[0]):
                yield from _buckets(metric, values, histogram)


def _buckets(metric: Metric, values: Values, histogram: Histogram) -> Iterator[str]:
    total = 0
    for bound, count in zip((*metric.bounds, "+Inf"), histogram.counts, strict=True):
        total += count
        edge = bound if isinstance(bound, str) else f"{bound:g}"
        yield f"{metric.name}_bucket{_text(metric, values, le=edge)} {total}"
    yield f"{metric.name}_sum{_text(metric, values)} {_number(histogram.sum)}"
    yield f"{metric.name}_count{_text(metric, values)} {total}"


def _text(metric: Metric, values: Values, **more: str) -> str:
    labels = {**dict(zip(metric.labels, values, strict=True)), **more}
    text = ",".join(f'{name}="{_escaped(value)}"' for name, value in sorted(labels.items()))
    return f"{{{text}}}" if text else ""


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(value)
