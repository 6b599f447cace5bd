"""Which patients are never trained on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import TypeVar

from prism_ssl.utils.hashing import stable_int

T = TypeVar("T")


def split_by_patient(
    scans: Sequence[T],
    fraction: float,
    min_series: int,
    seed: int,
    subject_of: Callable[[T], str] = attrgetter("subject_id"),
) -> tuple[list[T], list[T]]:
    """``(train, held_out)``: whole patients, each side in the order of ``scans``.

    Every patient has a fixed place in [0, 1) that follows from ``seed`` and the subject id alone. Those below
    ``fraction`` are held out, then the next ones until ``min_series`` scans are, and never the last patient. So a
    patient below ``fraction`` stays held out whatever scans come and go.
    """
    place = {subject: stable_int("holdout", seed, subject) / 2**63 for subject in map(subject_of, scans)}
    series = Counter(map(subject_of, scans))
    held: set[str] = set()
    held_series = 0
    for subject in sorted(place, key=lambda subject: (place[subject], subject))[:-1]:
        if place[subject] >= fraction and held_series >= min_series:
            break
        held.add(subject)
        held_series += series[subject]
    train = [scan for scan in scans if subject_of(scan) not in held]
    return train, [scan for scan in scans if subject_of(scan) in held]
