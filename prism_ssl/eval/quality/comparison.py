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
    counted_patients,
    draw_counts,
    interval,
    part_weights,
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
    """Qualities [R] of runs, and the same for each resample of the patients [B, R]."""

    runs: list[str]
    values: Float64
    resampled: Float64
    n_patients: int

    def difference(self, a: str, b: str) -> Difference:
        """Quality of ``a`` less that of ``b``; raises ValueError where one of them is not among the runs."""
        i, j = self.runs.index(a), self.runs.index(b)
        value = float(self.values[i] - self.values[j])
        return Difference(value, *interval(value, self.resampled[:, i] - self.resampled[:, j], self.n_patients))

    def mean(self, runs: list[str]) -> Difference:
        """Mean quality of several runs, such as repeats of a configuration, with its interval over patients."""
        chosen = [self.runs.index(run) for run in runs]
        value = float(self.values[chosen].mean())
        return Difference(value, *interval(value, self.resampled[:, chosen].mean(axis=1), self.n_patients))


def resample_together(evidence: Mapping[str, PatientEvidence], config: EvalConfig) -> Resamples:
    """Resample the patients for all runs at once, so that every resample is one draw of patients for all of them.

    Runs that were asked about other series or pairs than most do not compare, and are left out.
    """
    asked = {run: (tuple(each.series), tuple(each.pairs), tuple(each.axes)) for run, each in evidence.items()}
    usual = max(set(asked.values()), key=lambda what: (list(asked.values()).count(what), what), default=None)
    runs = sorted(run for run, what in asked.items() if what == usual)
    if not runs:
        return Resamples([], np.empty(0), np.empty((config.bootstrap, 0)), 0)
    first = evidence[runs[0]]
    patients, weights = patients_of(first), part_weights(first, config)
    if any(not np.isfinite(evidence[run].telling_share) for run in runs):
        weights[3] = 0.0  # a part that one of them lacks would not compare
    counts = draw_counts(len(patients), config)
    whole = np.ones((1, len(patients)))
    values, resampled = [], []
    for run in runs:
        parts = QualityParts(evidence[run], patients)
        values.append(composite(parts(whole), weights)[0])
        resampled.append(composite(parts(counts), weights))
    return Resamples(runs, np.array(values), np.stack(resampled, axis=1), counted_patients(first, weights))
