"""The fixed split of the study's patients: training, validation (for every decision) and test (for reports alone)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Literal

Side = Literal["training", "validation", "test"]

TEST_SHARE, VALIDATION_SHARE = 0.3, 1 / 3
"""Share of all patients in the test set, and share of the remaining patients in the validation set."""

NEVER_TESTED = frozenset({"STS001", "STS004", "STS005", "STS010", "STS013"})
"""Patients whose scans also serve as examples while the project is developed."""

_NAME = "prism-study-1"


def side_of(patient: str) -> Side:
    """Side of a patient (the id in the catalogue); it follows from the id alone and never changes."""
    if patient in NEVER_TESTED:
        return "training"
    if _place(_NAME, patient) >= 1 - TEST_SHARE:
        return "test"
    return "validation" if _place(f"{_NAME}-validation", patient) < VALIDATION_SHARE else "training"


def patients_on(side: Side, patients: Iterable[str]) -> list[str]:
    """Those of ``patients`` on a side, in order."""
    return sorted({patient for patient in patients if side_of(patient) == side})


def _place(name: str, patient: str) -> float:
    """A fixed place in [0, 1)."""
    return int(hashlib.sha256(f"{name}:{patient}".encode()).hexdigest(), 16) / 2**256
