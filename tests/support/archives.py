"""Archives without files, for tests of how scans are divided."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from prism_ssl.config.defaults import apply_overrides, phantom_cpu
from prism_ssl.contracts import PreparedScan, RobustStats, ScanRecord
from prism_ssl.data.archive import Archive
from prism_ssl.data.catalog import CatalogReport
from prism_ssl.data.holdout import split_by_patient
from prism_ssl.data.preflight import PreflightReport
from prism_ssl.data.sharded_dataset import make_shards

CONFIG = apply_overrides(phantom_cpu(), {"data.workers": 1, "data.catalog_path": "/a/catalog.csv"})


def archive(
    numbers: Iterable[int], catalog: str = "/a/catalog.csv", patient_of: Callable[[int], str] = "p{}".format
) -> Archive:
    """An archive of these scans, each of a patient of its own, divided as one that is seen for the first time."""
    scans = [_scan(number, patient_of(number)) for number in numbers]
    train, held = split_by_patient(scans, 0.05, 8, 0, subject_of=lambda each: each.record.subject_id)
    n = len(scans)
    return Archive(
        catalog=Path(catalog),
        preflight_dir=Path("/cache"),
        shards=make_shards(train, 1),
        held_out=held,
        selection=CatalogReport(n, {}, 0, n, n, {}),
        preflight=PreflightReport(n, 0, {}, {}, 0, n, 0),
    )


def _scan(number: int, patient: str) -> PreparedScan:
    record = ScanRecord(f"{number:016x}", f"series {number}", "CT", f"/a/{number}.nii", "", patient)
    return PreparedScan(record, RobustStats(-1000.0, 0.0, 100.0), 10**6, (40, 40, 32), (1.0, 1.0, 1.0))
