"""Preflight: read and check every selected scan before training; returns prepared scans and a report.

The checks run as Ray Data tasks, one file in memory per task, on whatever cluster Ray has. The verdicts are kept in
``manifest.parquet``: a second run reads only new and changed files, a killed run resumes.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from prism_ssl.config.schema import PrismConfig
from prism_ssl.contracts import PreparedScan, ScanRecord
from prism_ssl.data.catalog import CatalogReport, UnresolvedRow
from prism_ssl.data.checks import (
    Manifest,
    ManifestRow,
    Quarantine,
    QuarantinedScan,
    check_scan,
    file_signature,
    verdict_key,
)
from prism_ssl.data.scan import TRANSIENT_REASONS, RejectReason, archive_root, is_not_empty, within
from prism_ssl.errors import ArchiveUnreachable, HostOutOfMemory, MachineTrouble, PrismError
from prism_ssl.utils.fs import write_atomic
from prism_ssl.utils.isolated_map import items_per_task, map_rows, survey, tasks_at_once
from prism_ssl.utils.progress import with_progress

FILES_PER_TASK = 8
"""Most files of one Ray task: a task costs about 30 ms, a full-size CT 400 ms."""

_FILES_PER_LOOK = 256
_TROUBLES = {kind.__name__: kind for kind in (MachineTrouble, HostOutOfMemory)}

ScanCheck = Callable[[ScanRecord, PrismConfig], ManifestRow]

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PreflightReport:
    """Counts over the scans of a run. ``modalities`` maps a modality to its kept and rejected scans.

    ``checked`` files were read in this run, ``reused`` verdicts came from the manifest.
    """

    kept: int
    rejected: int
    reasons: dict[str, int]
    modalities: dict[str, dict[str, int]]
    quarantined: int
    checked: int
    reused: int


@dataclass(frozen=True)
class PreflightResult:
    """The scans to train on, in the order of the records, the report, and the verdict on each record by scan id."""

    kept: list[PreparedScan]
    report: PreflightReport
    verdicts: dict[str, ManifestRow]


def run_preflight(
    records: Sequence[ScanRecord],
    unresolved: Sequence[UnresolvedRow],
    config: PrismConfig,
    out_dir: Path,
    quarantine: Quarantine | None = None,
    check: ScanCheck | None = None,
    catalog: CatalogReport | None = None,
) -> PreflightResult:
    """Check every record and write ``manifest.parquet`` and ``preflight.json`` into ``out_dir``.

    Ray must be initialised. A file that makes its task fail, even by killing the process, is rejected and costs no
    other scan its verdict. A file that this machine cannot read (no memory, say) is retried alone.

    Args:
        records: scans with a file.
        unresolved: rows of the catalogue that led to no file; counted as rejected.
        config: the limits (``preflight``, ``view.radius_mm_floor``).
        out_dir: created if needed.
        quarantine: scans that failed at run time; left out until their file changes.
        check: replaces ``check_scan`` in tests.
        catalog: counts of the table's rows by outcome; also written to ``preflight.json``.

    Raises:
        MachineTrouble, HostOutOfMemory: this machine cannot read a file even alone; the other verdicts are kept.
        ArchiveUnreachable: the archive is unreachable, or became so meanwhile.
    """
    manifest = Manifest(out_dir)
    verdicts = _settled(records, config, manifest, quarantine.load() if quarantine else {})
    reused = sum(row.reason != RejectReason.QUARANTINED for row in verdicts.values())
    pending = [record for record in records if record.scan_id not in verdicts]
    try:
        for lost in unresolved:
            manifest.add(_row_without_file(lost, config))
        found = _check_all(pending, config, check or check_scan)
        for row in with_progress(found, len(pending), "preflight", _kept, ("kept", "rejected")):
            manifest.add(row)
            verdicts[row.scan_id] = row
    finally:
        manifest.close()
    kept = [row.prepared(record) for record in records if (row := verdicts[record.scan_id]).reason is None]
    report = _report(records, unresolved, verdicts, checked=len(pending), reused=reused)
    told = asdict(report)
    if catalog is not None:
        told["catalog"] = asdict(catalog)
    if quarantine is not None and (damaged := quarantine.damaged_lines()):
        told["quarantine_lines_damaged"] = damaged
    write_atomic(out_dir / "preflight.json", (json.dumps(told, indent=2) + "\n").encode())
    _log.info("preflight: %d kept, %d rejected %s", report.kept, report.rejected, report.reasons)
    return PreflightResult(kept, report, verdicts)


def _row_without_file(lost: UnresolvedRow, config: PrismConfig) -> ManifestRow:
    key = verdict_key(replace(lost.record, nifti_path=lost.place or lost.record.series_path), config)
    return ManifestRow(**key, size=0, mtime_ns=0, reason=lost.reason, detail=lost.detail)


def _settled(
    records: Sequence[ScanRecord], config: PrismConfig, manifest: Manifest, quarantined: dict[str, QuarantinedScan]
) -> dict[str, ManifestRow]:
    """Verdicts that stand without reading a file: quarantined scans, and manifest rows of unchanged files."""
    verdicts: dict[str, ManifestRow] = {}
    for record, signature in zip(records, _signatures(records, config.data.open_timeout_s), strict=True):
        if signature is None:
            continue  # check_scan gives it its reason
        identity = verdict_key(record, config)
        entry = quarantined.get(record.scan_id)
        row = manifest.find(record)
        suspected = entry is not None and signature == (entry.size, entry.mtime_ns)
        if entry is not None and suspected and entry.condemns:
            detail = f"failed at stage {entry.stage!r}: {entry.cause}"
            verdicts[record.scan_id] = ManifestRow(
                **identity, size=entry.size, mtime_ns=entry.mtime_ns, reason=RejectReason.QUARANTINED, detail=detail
            )
        elif (
            row is not None
            and not suspected  # it was unreachable in an earlier run: read it again now
            and signature == (row.size, row.mtime_ns)
            and row.config_hash == identity["config_hash"]
            and row.reason not in TRANSIENT_REASONS
        ):
            verdicts[record.scan_id] = row
            manifest.add(row)  # new only if the file was unreachable meanwhile
    return verdicts


def _signatures(records: Sequence[ScanRecord], limit_s: float) -> Iterator[tuple[int, int] | None]:
    """Signature of each record's file; None if it is unreachable. Read in bundles, each within ``limit_s``."""
    for start in range(0, len(records), _FILES_PER_LOOK):
        bundle = records[start : start + _FILES_PER_LOOK]
        try:
            yield from within(limit_s, partial(_signatures_of, bundle))
        except TimeoutError as error:
            raise ArchiveUnreachable(
                f"{len(bundle)} files of the archive could not be looked at within {limit_s:g} s "
                "(data.open_timeout_s); does its file system hang?"
            ) from error


def _signatures_of(bundle: Sequence[ScanRecord]) -> list[tuple[int, int] | None]:
    return [_signature(record) for record in bundle]


def _signature(record: ScanRecord) -> tuple[int, int] | None:
    try:
        return file_signature(record.nifti_path)
    except PrismError:
        return None


def _check_all(pending: Sequence[ScanRecord], config: PrismConfig, check: ScanCheck) -> Iterator[ManifestRow]:
    """Verdicts in the order in which they are found; a file that kills its process twice is rejected."""
    workers = config.preflight.concurrency or tasks_at_once()
    left = {record.scan_id: record for record in pending}

    def check_row(item: dict[str, Any]) -> dict[str, Any]:
        record = ScanRecord(**item)
        try:
            return asdict(check(record, config))
        except MachineTrouble as trouble:  # as an error it would cost the other files of the task their verdicts
            reason, detail = type(trouble).__name__, str(trouble)
            return asdict(ManifestRow(**verdict_key(record, config), size=0, mtime_ns=0, reason=reason, detail=detail))

    per_task, doubtful, alone = items_per_task(len(pending), workers, FILES_PER_TASK), False, list[dict[str, Any]]()
    for items, each, width in (([asdict(record) for record in pending], per_task, workers), (alone, 1, 1)):
        for row in survey(items, "scan_id", lambda data, at_once: map_rows(data, check_row, at_once), each, width):
            if row["reason"] not in _TROUBLES:
                left.pop(row["scan_id"])
                doubtful |= row["reason"] in (RejectReason.MISSING_PATH, RejectReason.NOT_READABLE)
                yield ManifestRow(**row)
            elif items is not alone:
                alone.append(asdict(left[row["scan_id"]]))
            else:
                raise _TROUBLES[row["reason"]](
                    f"preflight, with {len(left)} of {len(pending)} files to read: {row['detail']}"
                )
    if doubtful and not is_not_empty(archive_root(record.nifti_path for record in pending)):
        raise ArchiveUnreachable(
            f"the folder of all scans is gone, empty or fails after preflight has looked for {len(pending)} files in "
            "it; is its volume mounted? The same command resumes with the unread files"
        )
    for record in left.values():
        detail = "the process that checked it was killed twice; out of memory, or a file that crashes the reader"
        yield ManifestRow(
            **verdict_key(record, config), size=0, mtime_ns=0, reason=RejectReason.CHECK_CRASHED, detail=detail
        )


def _kept(row: ManifestRow) -> bool:
    return row.reason is None


def _report(
    records: Sequence[ScanRecord],
    unresolved: Sequence[UnresolvedRow],
    verdicts: dict[str, ManifestRow],
    checked: int,
    reused: int,
) -> PreflightReport:
    outcomes = [(record.modality, verdicts[record.scan_id].reason) for record in records]
    outcomes += [(row.record.modality, row.reason) for row in unresolved]
    reasons = Counter(str(reason) for _, reason in outcomes if reason is not None)
    modalities = {modality: {"kept": 0, "rejected": 0} for modality in sorted({modality for modality, _ in outcomes})}
    for modality, reason in outcomes:
        modalities[modality]["kept" if reason is None else "rejected"] += 1
    return PreflightReport(
        kept=len(outcomes) - reasons.total(),
        rejected=reasons.total(),
        reasons=dict(reasons.most_common()),
        modalities=modalities,
        quarantined=reasons[RejectReason.QUARANTINED],
        checked=checked,
        reused=reused,
    )
