"""The usable scans of a catalogue, for tools that run in one process and without Ray."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from prism_ssl.config.schema import DataConfig, PrismConfig, TrainConfig
from prism_ssl.contracts import PreparedScan, ScanRecord
from prism_ssl.data.catalog import load_records
from prism_ssl.data.checks.verdict import check_scan
from prism_ssl.data.scan import OpenScan, open_scan
from prism_ssl.errors import CatalogError
from prism_ssl.utils.machine import usable_cpus


@dataclass(frozen=True)
class UsableScans:
    """The scans of a catalogue that pass preflight's checks, in the catalogue's seeded order."""

    scans: list[PreparedScan]
    rejected: dict[str, int]
    """Reason -> how many scans were refused for it."""


def catalog_config(catalog: str, n_scans: int, selection_seed: int = 0, train_seed: int = 0) -> PrismConfig:
    """The default settings for the first ``n_scans`` of a table."""
    data = DataConfig(catalog_path=catalog, n_scans=n_scans, selection_seed=selection_seed)
    return PrismConfig(data=data, train=TrainConfig(seed=train_seed))


def catalog_records(config: PrismConfig) -> list[ScanRecord]:
    """The selected records that have a file; raises ``CatalogError`` as ``load_records`` and when none has."""
    selection = load_records(config.data, config.data.selection_seed)
    if not selection.records:
        raise CatalogError(
            f"none of the {len(selection.unresolved)} selected rows of {config.data.catalog_path} leads to a file; "
            "check its column series_path"
        )
    return selection.records


def usable_scans(config: PrismConfig) -> UsableScans:
    """Check every selected scan as preflight would; each file is read once, to its end.

    Raises:
        CatalogError: the table cannot be used, or no scan passes.
    """
    records = catalog_records(config)
    with ThreadPoolExecutor(usable_cpus()) as threads:
        verdicts = list(threads.map(lambda record: check_scan(record, config), records))
    rejected: dict[str, int] = {}
    for verdict in verdicts:
        if verdict.reason is not None:
            rejected[verdict.reason] = rejected.get(verdict.reason, 0) + 1
    kept = [
        verdict.prepared(record) for verdict, record in zip(verdicts, records, strict=True) if verdict.reason is None
    ]
    if not kept:
        reasons = ", ".join(f"{reason} {count}" for reason, count in rejected.items())
        raise CatalogError(f"none of the {len(records)} scans of {config.data.catalog_path} is usable ({reasons})")
    return UsableScans(kept, rejected)


def open_prepared(scan: PreparedScan, config: PrismConfig) -> OpenScan:
    """Open a usable scan with the statistics from its check."""
    return open_scan(Path(scan.record.nifti_path), scan.stats, config.preflight.max_volume_bytes)
