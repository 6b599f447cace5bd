"""Find the other series of a patient that views of the same place may come from."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Sequence

from prism_ssl.contracts import PreparedScan
from prism_ssl.utils.hashing import stable_int


def with_other_series(scans: Sequence[PreparedScan]) -> list[PreparedScan]:
    """The scans, each with the patient's other series among them in ``others``, in a fixed order hashed by their ids.

    Two CT are left out: often they are one acquisition reconstructed twice, so the raw pixels tell the place. So are
    equal voxels. Whether two series share a frame of reference shows when both are open.
    """
    of_patient: dict[str, list[PreparedScan]] = defaultdict(list)
    for scan in scans:
        of_patient[scan.record.subject_id].append(dataclasses.replace(scan, others=()))
    return [dataclasses.replace(scan, others=_others(scan, of_patient[scan.record.subject_id])) for scan in scans]


def _others(scan: PreparedScan, candidates: Sequence[PreparedScan]) -> tuple[PreparedScan, ...]:
    found = [
        other
        for other in candidates
        if other.record.series_id != scan.record.series_id
        and "MR" in (scan.record.modality, other.record.modality)
        and not (scan.content and other.content == scan.content)
    ]
    found.sort(key=lambda other: stable_int("other series", scan.record.scan_id, other.record.scan_id))
    return tuple(found)
