"""Compare encoders patient by patient: all have answered the same held-out views, so differences are paired (pure)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from scipy import stats

from prism_ssl.config.operations import EvalConfig
from prism_ssl.contracts import Float64
from prism_ssl.eval.quality.bootstrap import (
    CONFIDENCE,
    RESAMPLES_MIN,
    QualityParts,
    composite,
    degrees_of_freedom,
    draw_counts,
    interval,
    part_weights,
    patients_behind,
    patients_of,
)
from prism_ssl.eval.quality.evidence import PatientEvidence
from prism_ssl.eval.quality.questions import weighed_alike, why_apart


@dataclass(frozen=True)
class Difference:
    """Quality of one run less that of another, with a 95 % interval over patients."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, eq=False)
class Resamples:
    """Qualities [R] of runs, and their parts for each resample of the patients [R, B, 5]."""

    runs: list[str]
    values: Float64
    parts: Float64
    weights: Float64  # [5]
    patients: Float64  # [5] behind each part
    apart: dict[str, str] = field(default_factory=dict)
    """Run that is not here -> why it does not compare, in words."""
    unrecorded: set[str] = field(default_factory=set)
    """Runs that are here and have no evaluation settings on record."""

    def difference(self, a: str, b: str) -> Difference:
        """Quality of ``a`` less that of ``b``, two runs chosen beforehand; ValueError for a run that is not here."""
        i, j = self.runs.index(a), self.runs.index(b)
        value = float(self.values[i] - self.values[j])
        return Difference(value, *interval(value, self.parts[i] - self.parts[j], self.weights, self.patients))

    def behind(self, best: str) -> dict[str, Difference]:
        """Quality of ``best`` less that of each run, for a run that was chosen because it is the best.

        Its intervals hold for all pairs of runs at once (Tukey's studentised range; each pair has a spread of its own,
        as in Games & Howell 1976): with plain ones, the luckiest of 24 equal encoders seems better than some other in
        most sweeps.
        """
        total = composite(self.parts, self.weights)  # [R, B]
        first = self.runs.index(best)
        freedom = degrees_of_freedom(self.parts[first], self.weights, self.patients)
        factor = np.nan
        if freedom > 0 and total.shape[1] >= RESAMPLES_MIN:
            several = max(len(self.runs), 2)
            factor = stats.studentized_range.ppf(CONFIDENCE, several, freedom) / np.sqrt(2)
            factor *= np.sqrt((freedom + 1) / freedom)
        half = factor * np.nanstd(total[first] - total, axis=1)
        gaps = self.values[first] - self.values
        return {run: Difference(g, g - h, g + h) for run, g, h in zip(self.runs, gaps, half, strict=True)}


def resample_together(evidence: Mapping[str, PatientEvidence], config: EvalConfig, like: str) -> Resamples:
    """Resample the patients for all runs at once, so that every resample is one draw of patients for all of them.

    Only runs that were asked the same questions as ``like``, under the same settings, compare; the others are left out.
    Parts have the weights that ``like`` was evaluated with, and those of ``config`` where these are not on record.
    Without evidence of ``like`` no run is left.
    """
    if like not in evidence:
        return Resamples([], np.empty(0), np.empty((0, config.bootstrap, 5)), np.zeros(5), np.zeros(5))
    first = evidence[like]
    reasons = {run: why_apart(each, first) for run, each in evidence.items()}
    runs = sorted(run for run, why in reasons.items() if why is None)
    patients, weights = patients_of(first), part_weights(first, weighed_alike(config, first.settings))
    if any(not np.isfinite(evidence[run].telling_share) for run in runs):
        weights[3] = 0.0  # a part that one of them lacks would not compare
    if any(evidence[run].position is None for run in runs):
        weights[4] = 0.0
    counts = draw_counts(len(patients), config)
    whole = np.ones((1, len(patients)))
    parts = [QualityParts(evidence[run], patients) for run in runs]
    values = np.array([composite(of_run(whole), weights)[0] for of_run in parts])
    return Resamples(
        runs=runs,
        values=values,
        parts=np.stack([of_run(counts) for of_run in parts]),
        weights=weights,
        patients=patients_behind(first),
        apart={run: why for run, why in reasons.items() if why is not None},
        unrecorded={run for run in runs if evidence[run].settings is None},
    )
