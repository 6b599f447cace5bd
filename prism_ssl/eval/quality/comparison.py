"""Compare encoders patient by patient: all have answered the same held-out views, so differences are paired (pure)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from prism_ssl.config.operations import EvalConfig
from prism_ssl.contracts import Float64
from prism_ssl.eval.quality.bootstrap import (
    QualityParts,
    composite,
    draw_counts,
    interval,
    part_weights,
    patients_behind,
    patients_of,
)
from prism_ssl.eval.quality.evidence import PatientEvidence


@dataclass(frozen=True)
class Difference:
    """Quality of one run less that of another, with a 95 % interval over patients."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, eq=False)
class Resamples:
    """Qualities [R] of runs, and their parts for each resample of the patients [R, B, 4]."""

    runs: list[str]
    values: Float64
    parts: Float64
    weights: Float64  # [4]
    patients: Float64  # [4] behind each part

    def difference(self, a: str, b: str) -> Difference:
        """Quality of ``a`` less that of ``b``; raises ValueError where one of them is not among the runs."""
        i, j = self.runs.index(a), self.runs.index(b)
        value = float(self.values[i] - self.values[j])
        return Difference(value, *interval(value, self.parts[i] - self.parts[j], self.weights, self.patients))


def resample_together(evidence: Mapping[str, PatientEvidence], config: EvalConfig) -> Resamples:
    """Resample the patients for all runs at once, so that every resample is one draw of patients for all of them.

    Runs that were asked about other series or pairs than most do not compare, and are left out.
    """
    asked = {run: (tuple(each.series), tuple(each.pairs), tuple(each.axes)) for run, each in evidence.items()}
    usual = max(set(asked.values()), key=lambda what: (list(asked.values()).count(what), what), default=None)
    runs = sorted(run for run, what in asked.items() if what == usual)
    if not runs:
        return Resamples([], np.empty(0), np.empty((0, config.bootstrap, 4)), np.zeros(4), np.zeros(4))
    first = evidence[runs[0]]
    patients, weights = patients_of(first), part_weights(first, config)
    if any(not np.isfinite(evidence[run].telling_share) for run in runs):
        weights[3] = 0.0  # a part that one of them lacks would not compare
    counts = draw_counts(len(patients), config)
    whole = np.ones((1, len(patients)))
    parts = [QualityParts(evidence[run], patients) for run in runs]
    values = np.array([composite(of_run(whole), weights)[0] for of_run in parts])
    return Resamples(runs, values, np.stack([of_run(counts) for of_run in parts]), weights, patients_behind(first))
