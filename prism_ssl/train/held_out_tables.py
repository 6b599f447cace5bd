"""What the held-out evaluation found, beside what chance and an untrained encoder reach."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from rich.table import Table

from prism_ssl.model.pair_targets import AXES

_MEASURES = (
    ("recall@1, same series", "recall_at_1", "recall_at_1_chance"),
    ("recall@5, same series", "recall_at_5", "recall_at_5_chance"),
    ("mean sign skill", "skill_mean", None),
    ("LiDAR / its ceiling", "lidar_relative", None),
    ("modality, kNN", "knn_modality", "modality_chance"),
    ("modality, linear", "linear_modality", "modality_chance"),
    ("organ, kNN", "knn_organ", "organ_chance"),
    ("organ, linear", "linear_organ", "organ_chance"),
    ("same place, other patient", "position_recall_at_1", "position_recall_at_1_chance"),
)


def held_out_tables(probe: Mapping[str, float | None], proven: bool = True) -> list[Table]:
    """Tables of the ``probe/`` scalars (without the prefix) that are there; none when none is.

    ``proven``: whether it is known that the run was never trained on these scans.
    """
    known = {name: value for name, value in probe.items() if value is not None and math.isfinite(value)}
    return [table for table in (_measures(known, proven), _axes(known)) if table.row_count]


def measures(probe: Mapping[str, float]) -> list[tuple[str, str, str, str]]:
    """In words: measure, what was reached, chance, what random weights reach; for each that there is."""
    rows = []
    for words, name, chance in _MEASURES:
        if name in probe:
            chance_level = "0" if chance is None else _number(probe.get(chance))
            rows.append((words, _number(probe[name]), chance_level, _number(probe.get(f"{name}_random_init"))))
    if "proxy_quality" in probe:
        rows.append(
            (
                "proxy quality, 0 to 1 (95 % over series, not over seeds)",
                _number(probe["proxy_quality"]) + _interval(probe),
                "",
                "",
            )
        )
    return rows


def verdict(probe: Mapping[str, float | None]) -> str | None:
    """A sentence where retrieval on held-out scans is no better than with random weights; None otherwise."""
    reached, untrained = probe.get("recall_at_1"), probe.get("recall_at_1_random_init")
    if reached is None or untrained is None or not reached <= untrained:
        return None
    return (
        f"Held-out recall@1 does not beat random weights ({reached:.2f} against {untrained:.2f}): this encoder has "
        "learned nothing that retrieval can use"
    )


def _measures(probe: Mapping[str, float], proven: bool) -> Table:
    sure = "never trained on" if proven else "held out now; an earlier version may have trained on some"
    table = Table(title=f"held-out scans ({sure})", title_justify="left")
    table.add_column("measure")
    for column in ("reached", "chance", "random init"):
        table.add_column(column, justify="right")
    for row in measures(probe):
        table.add_row(*row)
    return table


def _axes(probe: Mapping[str, float]) -> Table:
    table = Table()
    for column in ("held out", "sign skill (chance 0)", "R2 (mean answer 0)"):
        table.add_column(column)
    for head, axes in AXES.items():
        skill, r2 = (_by_axis(probe, what, axes) for what in ("skill", "r2"))
        if skill or r2:
            table.add_row(head, skill, r2)
    return table


def _by_axis(probe: Mapping[str, float], what: str, axes: Iterable[str]) -> str:
    known = ((axis, probe[f"{what}/{axis}"]) for axis in axes if f"{what}/{axis}" in probe and axis != "distance")
    return "  ".join(f"{axis} {value:+.2f}" for axis, value in known)


def _interval(probe: Mapping[str, float]) -> str:
    low, high = probe.get("proxy_quality_low"), probe.get("proxy_quality_high")
    return "" if low is None or high is None else f" ({low:.2f} to {high:.2f})"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"
