"""Scans of a catalogue with preflight's verdicts: usable ones, and refused ones with the reason."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from prism_ssl.config.schema import PrismConfig
from prism_ssl.contracts import PreparedScan, ScanRecord
from prism_ssl.data.archive import preflight_dir
from prism_ssl.data.catalog import load_records
from prism_ssl.data.checks import ManifestRow, check_scan, file_signature, find_row, read_manifest, verdict_key
from prism_ssl.data.scan import TRANSIENT_REASONS
from prism_ssl.errors import PrismError
from prism_ssl.utils.machine import usable_cpus

Rows = dict[tuple[str, str], ManifestRow]
_BAD = {"scan": pl.String, "modality": pl.String, "reason": pl.String, "detail": pl.String}


@dataclass(frozen=True)
class CheckedScans:
    """Usable scans in the catalogue's seeded order, and the refused ones: scan, modality, reason, detail.

    ``known`` of the verdicts were preflight's own; the other files were read now.
    """

    usable: list[PreparedScan]
    bad: pl.DataFrame
    known: int

    def in_words(self) -> str:
        """Such as "14 scans can be used, 2 refused"."""
        read = len(self.usable) + self.bad.height - self.known
        source = f"{self.known} verdicts are preflight's, {read} files were read now" if self.known else "read now"
        return f"{len(self.usable)} scans can be used, {self.bad.height} refused ({source})"


def checked_scans(config: PrismConfig, preflight_root: Path | None = None) -> CheckedScans:
    """The verdict on every selected scan of ``config.data``.

    Verdicts of a run's preflight (in ``preflight_root``, the folder ``.preflight`` beside the run folders) are reused
    where neither the file nor the limits have changed; all other files are read to their ends.

    Raises:
        CatalogError: the table cannot be used.
    """
    selection = load_records(config.data, config.data.selection_seed)
    manifest = _manifest(config, preflight_root)
    verdicts = [_known(record, config, manifest) for record in selection.records]
    with ThreadPoolExecutor(usable_cpus()) as threads:
        unknown = [record for record, row in zip(selection.records, verdicts, strict=True) if row is None]
        read = iter(list(threads.map(lambda record: check_scan(record, config), unknown)))
    rows = [(record, row or next(read)) for record, row in zip(selection.records, verdicts, strict=True)]
    bad = [(row.scan_id, record.modality, str(row.reason), row.detail or "") for record, row in rows if row.reason]
    bad += [(each.record.scan_id, each.record.modality, each.reason, each.detail) for each in selection.unresolved]
    return CheckedScans(
        usable=[row.prepared(record) for record, row in rows if row.reason is None],
        bad=pl.DataFrame(bad, schema=_BAD, orient="row").sort("reason", "scan"),
        known=len(rows) - len(unknown),
    )


def reasons_of(bad: pl.DataFrame) -> pl.DataFrame:
    """How many scans were refused for each reason, the most frequent first."""
    return bad.group_by("reason").agg(pl.len().alias("scans")).sort("scans", "reason", descending=[True, False])


def _manifest(config: PrismConfig, preflight_root: Path | None) -> Rows:
    if preflight_root is None or config.data.catalog_path is None:
        return {}
    return read_manifest(preflight_dir(Path(config.data.catalog_path), preflight_root))


def _known(record: ScanRecord, config: PrismConfig, manifest: Rows) -> ManifestRow | None:
    row = find_row(manifest, record)
    if row is None or row.reason in TRANSIENT_REASONS or row.config_hash != verdict_key(record, config)["config_hash"]:
        return None
    try:
        unchanged = (row.size, row.mtime_ns) == file_signature(record.nifti_path)
    except PrismError:
        return None
    return row if unchanged else None


def scan_names(scans: Sequence[PreparedScan]) -> dict[str, PreparedScan]:
    """Name in the notebook's list -> scan."""
    return {
        f"{scan.record.modality} {scan.record.scan_id[:8]}, {' x '.join(map(str, scan.shape))}": scan for scan in scans
    }
