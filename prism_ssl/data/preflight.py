"""Every selected scan is read once, to its end, before training: records -> prepared scans and a report.

The checks run as Ray Data tasks, one file in memory per task, on whatever cluster Ray has. What was found lies in
``manifest.parquet``: a second run reads only new and changed files, a killed run goes on where it was.
"""

from __future__ import annotations

import json
import logging
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import ray
import ray.data
from ray.util.annotations import RayDeprecationWarning
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from prism_ssl.config.schema import PrismConfig
from prism_ssl.contracts import PreparedScan, ScanRecord
from prism_ssl.data.catalog import UnresolvedRow
from prism_ssl.data.manifest import Manifest, ManifestRow
from prism_ssl.data.patience import within
from prism_ssl.data.quarantine import Quarantine, QuarantinedScan
from prism_ssl.data.reject_reason import PASSING_REASONS, RejectReason
from prism_ssl.data.scan_check import check_scan, file_signature, verdict_key
from prism_ssl.errors import ArchiveUnreachable, ScanRejected
from prism_ssl.utils.fs import write_atomic

FILES_PER_TASK = 8
"""Most files of one Ray task: a task costs about 30 ms, a full-size CT 400 ms."""

_FILES_PER_LOOK = 256

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
    """The scans to train on, in the order of the records, and the report."""

    kept: list[PreparedScan]
    report: PreflightReport


def run_preflight(
    records: Sequence[ScanRecord],
    unresolved: Sequence[UnresolvedRow],
    config: PrismConfig,
    out_dir: Path,
    quarantine: Quarantine | None = None,
    check: ScanCheck | None = None,
) -> PreflightResult:
    """Check every record and write ``manifest.parquet`` and ``preflight.json`` into ``out_dir``.

    Ray must be initialised. A file that makes its task fail, even by killing the process, is a rejected scan and
    costs no other scan its verdict.

    Args:
        records: scans with a file.
        unresolved: rows of the catalogue that led to no file; counted as rejected.
        config: the limits (``preflight``, ``view.radius_mm_floor``).
        out_dir: made if needed.
        quarantine: scans that failed at run time; left out until their file changes.
        check: stands in for ``check_scan`` in tests.
    """
    manifest = Manifest(out_dir)
    verdicts = _settled(records, config, manifest, quarantine.load() if quarantine else {})
    reused = sum(row.reason != RejectReason.QUARANTINED for row in verdicts.values())
    pending = [record for record in records if record.scan_id not in verdicts]
    try:
        for row in _with_progress(_check_all(pending, config, check or check_scan), len(pending)):
            manifest.add(row)
            verdicts[row.scan_id] = row
    finally:
        manifest.close()
    kept = [row.prepared(record) for record in records if (row := verdicts[record.scan_id]).reason is None]
    report = _report(records, unresolved, verdicts, checked=len(pending), reused=reused)
    write_atomic(out_dir / "preflight.json", (json.dumps(asdict(report), indent=2) + "\n").encode())
    _log.info("preflight: %d kept, %d rejected %s", report.kept, report.rejected, report.reasons)
    return PreflightResult(kept, report)


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
        row = manifest.find(record.nifti_path, record.modality)
        if entry is not None and signature == (entry.size, entry.mtime_ns):
            detail = f"failed at stage {entry.stage!r}: {entry.cause}"
            verdicts[record.scan_id] = ManifestRow(
                **identity, size=entry.size, mtime_ns=entry.mtime_ns, reason=RejectReason.QUARANTINED, detail=detail
            )
        elif (
            row is not None
            and signature == (row.size, row.mtime_ns)
            and row.config_hash == identity["config_hash"]
            and row.reason not in PASSING_REASONS
        ):
            verdicts[record.scan_id] = row
    return verdicts


def _signatures(records: Sequence[ScanRecord], limit_s: float) -> Iterator[tuple[int, int] | None]:
    """Of each record's file; None where it cannot be asked. Asked in bundles, each of which may take ``limit_s``."""
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
    except ScanRejected:
        return None


def _check_all(pending: Sequence[ScanRecord], config: PrismConfig, check: ScanCheck) -> Iterator[ManifestRow]:
    """Verdicts in the order in which they are found. A task that died takes its files with it: those are tried again
    alone, one after another, and what dies alone is rejected."""
    workers = config.preflight.concurrency or max(1, int(ray.cluster_resources().get("CPU", 1)))
    left = {record.scan_id: record for record in pending}
    files_per_task = min(FILES_PER_TASK, max(1, len(pending) // (4 * workers)))
    for per_task, at_once in ((files_per_task, workers), (1, 1)):
        for row in _survey(list(left.values()), config, check, per_task, at_once):
            left.pop(row.scan_id)
            yield row
    for record in left.values():
        detail = "the process that checked it was killed twice; out of memory, or a file that crashes the reader"
        yield ManifestRow(
            **verdict_key(record, config), size=0, mtime_ns=0, reason=RejectReason.CHECK_CRASHED, detail=detail
        )


def _survey(
    records: list[ScanRecord], config: PrismConfig, check: ScanCheck, per_task: int, at_once: int
) -> Iterator[ManifestRow]:
    """One pass over the records as a Ray Data job; records of a task that died are missing."""
    if not records:
        return

    def check_row(item: dict[str, Any]) -> dict[str, Any]:
        return asdict(check(ScanRecord(**item), config))

    with _quiet_ray_data():
        blocks = -(-len(records) // per_task)
        items = ray.data.from_items([asdict(record) for record in records], override_num_blocks=blocks)
        for row in _mapped(items, check_row, min(at_once, blocks)).iter_rows():
            yield ManifestRow(**row)


def _mapped(items: ray.data.Dataset, function: Callable[[dict[str, Any]], dict[str, Any]], at_once: int) -> Any:
    with warnings.catch_warnings():
        # Ray Data tries a task that died for ever. The parameter that says otherwise is deprecated in 2.60 without a
        # successor; Ray is pinned.
        warnings.simplefilter("ignore", RayDeprecationWarning)
        strategy = ray.data.TaskPoolStrategy(size=at_once)
        return items.map(function, compute=strategy, num_cpus=1, max_retries=0)


@contextmanager
def _quiet_ray_data() -> Iterator[None]:
    """Ray Data without bars and plans of its own, and with tasks that may die without ending the job."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # the context warns of its own defaults
        context = ray.data.DataContext.get_current().copy()
    context.enable_progress_bars = False
    context.max_errored_blocks = -1
    logger = logging.getLogger("ray.data")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with ray.data.DataContext.current(context):
            yield
    finally:
        logger.setLevel(level)


def _with_progress(rows: Iterator[ManifestRow], total: int) -> Iterator[ManifestRow]:
    """Pass the rows on, with a bar on stderr when that is a terminal."""
    console = Console(stderr=True)
    columns = (
        TextColumn("preflight"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[kept]} kept, {task.fields[rejected]} rejected"),
        TimeRemainingColumn(),
    )
    counts = Counter[str]()
    with Progress(*columns, console=console, disable=not (console.is_terminal and total)) as progress:
        task = progress.add_task("preflight", total=total, kept=0, rejected=0)
        for row in rows:
            counts["kept" if row.reason is None else "rejected"] += 1
            progress.update(task, advance=1, kept=counts["kept"], rejected=counts["rejected"])
            yield row


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
