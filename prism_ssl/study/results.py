"""The study's table: every row's figures on the held-out patients, with intervals and paired differences (pure)."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from prism_ssl.eval.patients import by_patient, student_interval
from prism_ssl.eval.quality.bootstrap import skill_interval
from prism_ssl.eval.quality.evidence import PatientEvidence
from prism_ssl.eval.quality.questions import why_apart
from prism_ssl.model.pair_targets import AXES
from prism_ssl.study.rows import ROWS

BASELINES = {"random weights": "_random_init", "pixel statistics": "_pixels", "spacing alone": "_spacing"}
"""Rows that need no training, and the endings of their scalars in the first row's evaluation."""

_AXES = tuple(axis for axes in AXES.values() for axis in axes if axis != "distance")
PLACE = ("place recall@1", "95 % interval", "PRISM better by", "CT with MR", "centred", "error, mm")
"""Columns of the place test: same place, other series. CT with MR: of these pairs alone; centred: when the mean of each
series' views is subtracted first."""
POSE, REST = _AXES[:6], (*_AXES[6:], "modality, kNN", "modality, linear")
"""Columns of the pair heads (sign skill, with its 95 % interval over patients) and of the probes."""
COLUMNS = (*PLACE, *POSE, *REST)


@dataclass(frozen=True)
class Interval:
    """A mean over patients with its 95 % interval (Student's t); the ends are NaN for fewer than two patients."""

    mean: float
    low: float
    high: float


def over_patients(values: Sequence[float]) -> Interval:
    """Mean and interval of one value a patient."""
    known = np.asarray(values, float)
    return Interval(float(known.mean()) if len(known) else math.nan, *student_interval(known))


def place_by_patient(evidence: PatientEvidence) -> dict[str, float]:
    """Place recall@1 of each patient that has a pair of series."""
    names = sorted(set(evidence.patient_of_pair))
    return dict(zip(names, by_patient(evidence.place_recall, evidence.patient_of_pair).tolist(), strict=True))


def untrained(evidence: PatientEvidence, ending: str) -> PatientEvidence | None:
    """The same evidence with the place recall of a baseline; None where an earlier version did not keep it."""
    recall = evidence.untrained_place.get(ending)
    return None if recall is None else dataclasses.replace(evidence, place_recall=recall)


def difference(first: PatientEvidence, other: PatientEvidence) -> Interval:
    """Place recall of ``first`` less that of ``other``, patient by patient; NaN where their questions differ."""
    if why_apart(other, first) is not None:
        return Interval(math.nan, math.nan, math.nan)
    gains = by_patient(first.place_recall - other.place_recall, first.patient_of_pair)
    return over_patients(gains.tolist())


def table(
    probes: Mapping[str, Mapping[str, float | None]], evidence: Mapping[str, PatientEvidence]
) -> list[dict[str, str]]:
    """A line for each trained row, then for the baselines; ``row`` and ``COLUMNS`` -> text.

    Args:
        probes: name of a row -> scalars of its held-out evaluation.
        evidence: name of a row -> evidence by patient of the same evaluation.
    """
    first = next(iter(ROWS))
    lines = [_trained(name, probes[name], evidence, first) for name in ROWS if name in probes]
    source = probes.get(first) or next(iter(probes.values()), {})
    lines += [_baseline(title, ending, source, evidence.get(first)) for title, ending in BASELINES.items()]
    chance = dict.fromkeys(COLUMNS, "-") | {
        "row": "chance",
        "place recall@1": _number(source.get("place_recall_at_1_chance")),
        "error, mm": _number(source.get("place_distance_mm_chance"), 0),
        "modality, kNN": _number(source.get("modality_chance")),
        "modality, linear": _number(source.get("modality_chance")),
    }
    return [*lines, chance | dict.fromkeys(_AXES, "0")]


def _trained(
    name: str, probe: Mapping[str, float | None], evidence: Mapping[str, PatientEvidence], first: str
) -> dict[str, str]:
    better = difference(evidence[first], evidence[name]) if name != first and {name, first} <= evidence.keys() else None
    return {
        "row": ROWS[name].title,
        "place recall@1": _number(probe.get("place_recall_at_1")),
        "95 % interval": _interval(evidence.get(name)),
        "PRISM better by": _gain(better),
        "CT with MR": _number(probe.get("place_recall_at_1_ct_mr")),
        "centred": _number(probe.get("place_recall_at_1_centred")),
        "error, mm": _number(probe.get("place_distance_mm"), 0),
        **{axis: _skill(probe.get(f"skill/{axis}"), evidence.get(name), axis) for axis in _AXES},
        "modality, kNN": _number(probe.get("knn_modality")),
        "modality, linear": _number(probe.get("linear_modality")),
    }


def _baseline(
    title: str, ending: str, probe: Mapping[str, float | None], first: PatientEvidence | None
) -> dict[str, str]:
    own = first and untrained(first, ending)
    return dict.fromkeys(COLUMNS, "-") | {
        "row": title,
        "place recall@1": _number(probe.get(f"place_recall_at_1{ending}")),
        "95 % interval": _interval(own),
        "PRISM better by": _gain(difference(first, own) if first and own else None),
        "CT with MR": _number(probe.get(f"place_recall_at_1_ct_mr{ending}")),
        "centred": _number(probe.get(f"place_recall_at_1_centred{ending}")),
        "error, mm": _number(probe.get(f"place_distance_mm{ending}"), 0),
        "modality, kNN": _number(probe.get(f"knn_modality{ending}")),
        "modality, linear": _number(probe.get(f"linear_modality{ending}")),
    }


def markdown(lines: Sequence[Mapping[str, str]]) -> str:
    """The table as Markdown."""
    head = ("row", *COLUMNS)
    rows = [head, tuple("---" for _ in head), *(tuple(line[name] for name in head) for line in lines)]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows) + "\n"


def _interval(evidence: PatientEvidence | None) -> str:
    interval = evidence and over_patients(list(place_by_patient(evidence).values()))
    return f"{interval.low:.2f} to {interval.high:.2f}" if interval and math.isfinite(interval.low) else "-"


def _skill(value: float | None, evidence: PatientEvidence | None, axis: str) -> str:
    low, high = skill_interval(evidence, axis) if evidence else (math.nan, math.nan)
    return _number(value) + (f" ({low:.2f} to {high:.2f})" if value is not None and math.isfinite(low) else "")


def _gain(better: Interval | None) -> str:
    if better is None or not math.isfinite(better.mean):
        return "-"
    return f"{better.mean:+.2f} ({better.low:+.2f} to {better.high:+.2f})"


def _number(value: float | None, digits: int = 2) -> str:
    return "-" if value is None or not math.isfinite(value) else f"{value:.{digits}f}"
