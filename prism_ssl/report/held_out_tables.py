"""Tables of the held-out evaluation: each measure with its chance level and its untrained baselines."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from rich.table import Table

from prism_ssl.model.pair_targets import AXES

ENDINGS = ("_random_init", "_pixels", "_spacing")
"""Endings of the baselines' scalars, in the order of the columns."""

_RIVALS = (("chance", "_chance"), ("random weights", "_random_init"), ("pixel statistics", "_pixels"))
"""What place recall is judged against, and the endings of the scalars."""

_WHERE_MEASURED = {"place_recall_at_1": "same place", "position_skill": "position by other patients"}
"""Parts of the proxy quality that not every archive has, by their scalars."""

_MEASURES = (
    ("same place, other series", "place_recall_at_1", "place_recall_at_1_chance"),
    ("  location error, mm", "place_distance_mm", "place_distance_mm_chance"),
    ("position, by other patients", "position_skill", None),
    ("same series, nearest view", "recall_at_1", "recall_at_1_chance"),
    ("same series, nearest 5", "recall_at_5", "recall_at_5_chance"),
    ("shift and rotation, sign", "pose_skill_mean", None),
    ("modality, kNN probe", "knn_modality", "modality_chance"),
    ("modality, linear probe", "linear_modality", "modality_chance"),
    ("organ, kNN probe", "knn_organ", "organ_chance"),
    ("organ, linear probe", "linear_organ", "organ_chance"),
    ("same place, other patient", "position_recall_at_1", "position_recall_at_1_chance"),
    ("directions between series", "telling_directions", None),
    ("proxy quality (see below)", "proxy_quality", None),
)


def held_out_tables(probe: Mapping[str, float | None], proven: bool = True) -> list[Table]:
    """Tables of the ``probe/`` scalars (given without the prefix); no table without scalars.

    ``proven``: whether it is certain that the run was never trained on these scans.
    """
    known = {name: value for name, value in probe.items() if value is not None and math.isfinite(value)}
    return [table for table in (_measures(known, proven), _axes(known)) if table.row_count]


def measures(probe: Mapping[str, float]) -> list[tuple[str, ...]]:
    """Rows of text: measure, value reached, chance, values of random weights, pixel statistics and spacing alone."""
    rows = []
    for words, name, chance in _MEASURES:
        if name in probe:
            said = _millimetres if name.endswith("_mm") else _count if name == "telling_directions" else _number
            chance_level = "0" if chance is None else said(probe.get(chance))
            others = (said(probe.get(f"{name}{ending}")) for ending in ENDINGS)
            rows.append((words, said(probe[name]), chance_level, *others))
    return rows


def verdict(probe: Mapping[str, float | None]) -> str | None:
    """Warnings where the encoder is not shown to be better than what needs no training; None where there are none.

    Same-series recall is compared with random weights. Place recall is compared with chance, which must lie below its
    interval over patients, and with random weights and pixel statistics: the interval of the difference, patient by
    patient, must lie above 0. Earlier versions did not record differences; there each must lie below the interval.
    """
    known = {name: value for name, value in probe.items() if value is not None and math.isfinite(value)}
    return ". ".join(said for said in (_series_verdict(known), _place_verdict(known)) if said) or None


def _series_verdict(probe: Mapping[str, float]) -> str | None:
    reached, untrained = probe.get("recall_at_1"), probe.get("recall_at_1_random_init")
    if reached is None or untrained is None or reached > untrained:
        return None
    fact = f"Held-out recall@1 does not beat random weights ({reached:.2f} against {untrained:.2f})"
    if _place_beats_random_weights(probe):
        return f"{fact}; in the place test, which weighs more, it does"
    return f"{fact}: this encoder has learned nothing that retrieval can use"


def _place_beats_random_weights(probe: Mapping[str, float]) -> bool:
    least_gain = probe.get("place_gain_random_init_low")
    if least_gain is not None:
        return least_gain > 0
    low, untrained = probe.get("place_recall_at_1_low"), probe.get("place_recall_at_1_random_init")
    return low is not None and untrained is not None and low > untrained


def _place_verdict(probe: Mapping[str, float]) -> str | None:
    reached, low, high = (probe.get(f"place_recall_at_1{ending}") for ending in ("", "_low", "_high"))
    if reached is None:
        return None
    lost, doubtful = list[str](), list[str]()
    for words, ending in _RIVALS:
        value, least_gain = probe.get(f"place_recall_at_1{ending}"), probe.get(f"place_gain{ending}_low")
        if value is None:
            continue
        excluded = least_gain > 0 if least_gain is not None else low is None or low > value
        if reached <= value:
            lost.append(f"{words} ({value:.2f})")
        elif not excluded:
            doubtful.append(f"{words} ({value:.2f})")
    said = [
        *([f"it does not beat {_listed(lost)}"] if lost else []),
        *([f"the interval does not exclude {_listed(doubtful)}"] if doubtful else []),
    ]
    known_interval = low is not None and high is not None
    between = f"95 % interval {low:.2f} to {high:.2f}" if known_interval else "no interval: a single patient"
    return f"Held-out place recall@1 is {reached:.2f} ({between}): {', and '.join(said)}" if said else None


def _listed(words: list[str]) -> str:
    return " and ".join(part for part in (", ".join(words[:-1]), words[-1]) if part)


def notes(probe: Mapping[str, float]) -> list[str]:
    """How to read the measures, a sentence or two each."""
    told = []
    if "place_recall_at_1" in probe:
        low, high = probe.get("place_recall_at_1_low"), probe.get("place_recall_at_1_high")
        between = "" if low is None or high is None else f" (95 % interval {low:.2f} to {high:.2f})"
        told.append(
            f"Same place, other series: {probe['place_recall_at_1']:.2f}{between} of the views find the same place "
            f"among 16 views of the other series; {probe.get('place_pairs', 0):.0f} pairs of series, "
            f"{probe.get('place_patients', 0):.0f} patients. All 16 share one scanner, so it gives no hint."
        )
    elif "place_pairs" in probe:
        failed = probe.get("place_pairs_left_out", 0)
        told.append(
            f"No place test: none of the {failed:.0f} pairs of series that were opened can be used."
            if failed
            else "No place test: no held-out patient has two series (CT and MR, or two MR), or none was asked for."
        )
    if "recall_at_1" in probe:
        alone = probe.get("recall_at_1_modality_alone")
        told.append(
            "Same series: scanner and contrast give hints, and texture alone can suffice."
            + ("" if alone is None else f" Modality alone reaches {alone:.2f}.")
        )
    if "telling_directions" in probe and "telling_directions_max" in probe:
        told.append(
            f"Directions between series: {probe['telling_directions']:.0f} of {probe['telling_directions_max']:.0f} "
            "directions of the embedding separate series better than shuffled labels do."
        )
    elif "telling_directions_max" in probe:
        told.append("Directions between series: not measured, too few series (16 are needed).")
    if "proxy_quality" in probe:
        parts = ["same series", "shift and rotation"]
        parts += [words for name, words in _WHERE_MEASURED.items() if name in probe]
        if "proxy_quality_directions" in probe:
            parts.append(f"telling directions ({probe['proxy_quality_directions']:.2f} of the largest number)")
        told.append(f"Proxy quality{_interval(probe)}: weighted mean of {', '.join(parts)}; 0 is chance, 1 is perfect.")
    return told


def _measures(probe: Mapping[str, float], proven: bool) -> Table:
    sure = "never trained on" if proven else "held out now; an earlier version may have trained on some"
    said = "\n".join(notes(probe))
    table = Table(title=f"held-out scans ({sure})", title_justify="left", caption=said or None, caption_justify="left")
    table.add_column("measure")
    for column in ("reached", "chance", "random\nweights", "pixels\nonly", "spacing\nonly"):
        table.add_column(column, justify="right")
    for row in measures(probe):
        table.add_row(*row)
    return table


def _axes(probe: Mapping[str, float]) -> Table:
    table = Table()
    for column in ("held out", "sign skill (chance 0)", "R2 (predicting the mean: 0)"):
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
    return "" if low is None or high is None else f" (95 % interval over patients, not seeds: {low:.2f} to {high:.2f})"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _count(value: float | None) -> str:
    return "" if value is None else f"{value:.0f}"


def _millimetres(value: float | None) -> str:
    return "" if value is None else f"{value:.0f}"
