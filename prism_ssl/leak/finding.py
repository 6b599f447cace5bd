"""One result of the leak check: skill or recall of a reader, with interval, bound and verdict."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from prism_ssl.contracts import Float64
from prism_ssl.leak.readers import Z, skill_of

Verdict = Literal["ok", "LEAK", "caught", "BLIND", "reported"]


@dataclass(frozen=True)
class Finding:
    """``value`` (sign skill, or recall@1) with its interval; of several targets the one that was predicted best.

    ``bound`` is the largest value tolerated, None where a level is only reported. ``control`` marks a
    drawer that leaks on purpose.
    """

    check: str
    reader: str
    target: str
    value: float
    low: float
    high: float
    bound: float | None
    n: int
    control: bool = False
    per_target: tuple[float, ...] = ()

    @property
    def verdict(self) -> Verdict:
        """LEAK: the whole interval lies above the bound. BLIND: the deliberate leak of a control was not detected."""
        if self.bound is None:
            return "reported"
        leaks = self.low > self.bound
        if self.control:
            return "caught" if leaks else "BLIND"
        return "LEAK" if leaks else "ok"

    @property
    def failed(self) -> bool:
        """Whether this finding fails the whole check."""
        return self.verdict in ("LEAK", "BLIND")


def worst_axis(
    check: str,
    reader: str,
    targets: Sequence[str],
    predicted: Float64,
    true: Float64,
    bound: float | None,
    control: bool = False,
) -> Finding:
    """The finding on the target, of those in the columns [Q, K], whose sign was predicted best."""
    skills = [skill_of(predicted[:, k], true[:, k]) for k in range(len(targets))]
    worst = int(np.argmax([skill.value for skill in skills]))
    values = tuple(skill.value for skill in skills)
    skill = skills[worst]
    return Finding(check, reader, targets[worst], skill.value, skill.low, skill.high, bound, len(true), control, values)


def recall_finding(reader: str, hits: Float64, series: npt.NDArray[np.int64]) -> Finding:
    """Recall@1 over views [V]; series are the independent units of the interval."""
    means = np.array([hits[series == one].mean() for one in np.unique(series)])
    value, half = float(hits.mean()), Z * float(means.std()) / math.sqrt(len(means))
    low, high = max(value - half, 0.0), min(value + half, 1.0)
    return Finding("same-series retrieval", reader, "recall@1", value, low, high, None, len(hits))
