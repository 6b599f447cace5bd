"""Split by patient into training and held out, stable when the table changes."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any, Self, TypeVar

from prism_ssl.contracts import ScanRecord
from prism_ssl.errors import CatalogError
from prism_ssl.utils.hashing import short_id, stable_int

T = TypeVar("T")

Patients = dict[str, list[str]]
"""Subject id -> ids of the patient's scans, both hashes."""


@dataclass(frozen=True)
class Split:
    """The patients that a run trains on, and those that it holds out.

    ``proven``: every step so far was trained under it. False for a run that an earlier version began without storing a
    split: then the split covers only what was trained on since.
    """

    training: Patients
    held_out: Patients
    proven: bool = True

    @classmethod
    def of(cls, training: Iterable[ScanRecord], held_out: Iterable[ScanRecord], proven: bool = True) -> Self:
        """The split of these scans."""
        return cls(_by_patient(training), _by_patient(held_out), proven)

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> Self:
        """The inverse of ``dataclasses.asdict``."""
        return cls(**plain)

    def joined(self, earlier: Split | None) -> Split:
        """The union with an ``earlier`` split, including scans that the table no longer has: they may come back."""
        if earlier is None:
            return self
        return Split(_union(earlier.training, self.training), _union(earlier.held_out, self.held_out), earlier.proven)

    def changes_since(self, earlier: Split) -> str | None:
        """Text on the scans added to and removed from an ``earlier`` split; None without changes."""
        said = []
        for words, before, now in (
            ("to train on", earlier.training, self.training),
            ("held out", earlier.held_out, self.held_out),
        ):
            gone, new = _scans(before) - _scans(now), _scans(now) - _scans(before)
            if gone or new:
                left, came = before.keys() - now.keys(), now.keys() - before.keys()
                said.append(
                    f"{words}: {len(gone)} scans are gone and {len(new)} are new "
                    f"({len(left)} patients are gone, {len(came)} are new)"
                )
        if said and earlier.held_out and not self.held_out:
            said.append("no held-out patient is left, so nothing can be evaluated")
        return "; ".join(said) or None

    def shares_training_with(self, scans: Iterable[ScanRecord]) -> bool:
        """Whether ``scans`` include a patient that was trained on."""
        return any(scan.subject_id in self.training for scan in scans)


def split_by_patient(
    scans: Sequence[T],
    fraction: float,
    min_series: int,
    seed: int,
    subject_of: Callable[[T], str] = attrgetter("subject_id"),
    earlier: Split | None = None,
    listed: Collection[str] | None = None,
) -> tuple[list[T], list[T]]:
    """``(train, held_out)``: whole patients, each side in the order of ``scans``.

    Every patient has a fixed place in [0, 1) that depends only on ``seed`` and the subject id. Those below ``fraction``
    are held out, then the next ones until ``min_series`` scans are held out, but never the last patient. So a patient
    below ``fraction`` stays held out whatever scans come and go. With ``listed`` subject ids, exactly those are held
    out instead.

    Patients of an ``earlier`` split stay on their side; of the others those below ``fraction``, or listed, are held
    out. Held-out patients who left are not replaced: every candidate was trained on.
    """
    place = {subject: stable_int("holdout", seed, subject) / 2**63 for subject in map(subject_of, scans)}
    if earlier is not None:
        chosen = {subject for subject in place if place[subject] < fraction} if listed is None else set(listed)
        held = (chosen | earlier.held_out.keys()) - earlier.training.keys()
    elif listed is not None:
        held = set(listed)
    else:
        held = _held_out_at_first(place, Counter(map(subject_of, scans)), fraction, min_series)
    train = [scan for scan in scans if subject_of(scan) not in held]
    return train, [scan for scan in scans if subject_of(scan) in held]


def listed_patients(path: Path) -> set[str]:
    """Subject ids (hashes) of the patients in a text file: one id of the catalogue a line.

    ``#`` at the start of a line, or after a blank, begins a comment.

    Raises:
        CatalogError: the file cannot be read, or names nobody.
    """
    try:
        lines = path.expanduser().read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise CatalogError(
            f"data.holdout_file {path} cannot be read ({type(error).__name__}); "
            "needed: a text file with one patient id a line"
        ) from error
    patients = {re.split(r"(?:^|\s)#", line)[0].strip() for line in lines} - {""}
    if not patients:
        raise CatalogError(f"data.holdout_file {path} names no patient; needed: one patient id a line")
    return {short_id("subject", patient) for patient in patients}


def _held_out_at_first(place: dict[str, float], series: Counter[str], fraction: float, min_series: int) -> set[str]:
    held: set[str] = set()
    held_series = 0
    for subject in sorted(place, key=lambda subject: (place[subject], subject))[:-1]:
        if place[subject] >= fraction and held_series >= min_series:
            break
        held.add(subject)
        held_series += series[subject]
    return held


def _by_patient(records: Iterable[ScanRecord]) -> Patients:
    patients: Patients = {}
    for record in records:
        patients.setdefault(record.subject_id, []).append(record.scan_id)
    return {subject: sorted(patients[subject]) for subject in sorted(patients)}


def _union(one: Patients, other: Patients) -> Patients:
    return {subject: sorted({*one.get(subject, ()), *other.get(subject, ())}) for subject in sorted({*one, *other})}


def _scans(patients: Patients) -> set[str]:
    return {scan for scans in patients.values() for scan in scans}
