"""Export numbers to Prometheus, through the metrics port of this process's Ray node.

Anyone who can reach the node can read that port: label values are small numbers and constants of this source, never a
name, an id or a path. This module does not import Ray; a process without Ray exports nothing.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Kind = Literal["gauge", "counter", "histogram"]


@dataclass(frozen=True)
class Export:
    """Export of the scalar ``source`` as the metric ``name``, with a label where several scalars share the name.

    A counter's source is a running total; a histogram observes every value, in ``buckets``. Prometheus reads
    ``ray_<name>``, and ``ray_<name>_total`` for counters.
    """

    source: str
    name: str
    text: str
    kind: Kind = "gauge"
    label: tuple[str, str] | None = None
    buckets: tuple[float, ...] = ()

    @property
    def exported_as(self) -> str:
        """The metric's name in Prometheus."""
        return f"ray_{self.name}_total" if self.kind == "counter" else f"ray_{self.name}"


class LiveMetrics:
    """Exports scalars as ``exports`` defines, all with the label ``who``; at most once per ``pause_s``.

    An export error never ends the run: the first one stops the export and is kept in ``problem``.
    """

    def __init__(self, exports: Sequence[Export], who: tuple[str, int], pause_s: float = 0.0) -> None:
        self._pause_s, self._last_shown_s = pause_s, -math.inf
        self._exports = {export.source: export for export in exports}
        self._who = (who[0], str(who[1]))
        self._metrics: dict[str, Any] = {}
        self._totals: dict[str, float] = {}
        self.problem: str | None = None

    def show(self, values: Mapping[str, float]) -> None:
        """Export the finite values that ``exports`` names; takes microseconds each and never blocks."""
        if self.problem is not None or time.monotonic() - self._last_shown_s < self._pause_s or not _ray_is_here():
            return
        self._last_shown_s = time.monotonic()
        try:
            for source, value in values.items():
                if source in self._exports and math.isfinite(value):
                    self._show(self._exports[source], value)
        except Exception as error:  # noqa: BLE001  the edge of a foreign service: kept in problem
            self.problem = f"{type(error).__name__}: {error}"

    def _show(self, export: Export, value: float) -> None:
        metric = self._metrics.get(export.name) or self._metrics.setdefault(export.name, self._made(export))
        tags = dict([self._who, *([export.label] if export.label else [])])
        if export.kind == "gauge":
            metric.set(value, tags)
        elif export.kind == "histogram":
            metric.observe(value, tags)
        elif (more := value - self._totals.get(export.source, 0.0)) > 0:
            metric.inc(more, tags)
            self._totals[export.source] = value

    def _made(self, export: Export) -> Any:
        from ray.util import metrics

        keys = tuple(key for key, _ in [self._who, *([export.label] if export.label else [])])
        if export.kind == "histogram":
            return metrics.Histogram(export.name, export.text, list(export.buckets), keys)
        kinds = {"gauge": metrics.Gauge, "counter": metrics.Counter}
        return kinds[export.kind](export.name, export.text, keys)


def _ray_is_here() -> bool:
    ray = sys.modules.get("ray")
    return ray is not None and bool(ray.is_initialized())
