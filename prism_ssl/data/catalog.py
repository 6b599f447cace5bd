"""A hospital's table of series -> the ScanRecords of a run.

Ids (each a hash; nothing of the source can be read in them, nor does the catalogue's place on disk enter)
    scan_id     of pmbb_id, series_id, series_path and nifti_path as the table has them ("" where it has none)
    series_id   of pmbb_id and the first of series_id, series_path, nifti_path that is not blank
    subject_id  of pmbb_id
Two rows with the same four fields are one scan: one row is kept, the others are counted as duplicates.
"""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from operator import attrgetter
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from prism_ssl.config.schema import DataConfig
from prism_ssl.contracts import ScanRecord
from prism_ssl.data.filters import has_modality, is_derived, is_localizer, is_time_series, modality_name, series_text
from prism_ssl.errors import CatalogError, ScanRejected
from prism_ssl.utils.hashing import short_id, stable_int

REQUIRED = ("pmbb_id", "modality", "series_path")
OPTIONAL = ("series_description", "exam_type", "nifti_path", "series_id")
IDENTITY = ("pmbb_id", "series_id", "series_path", "nifti_path")
SUFFIXES = (".csv", ".csv.gz", ".parquet")
NIFTI_SUFFIXES = (".nii", ".nii.gz")

# 65,536 rows keep the hash of a batch in cache (0.12 s for 10^6 rows; 0.27 s in one piece).
BATCH_ROWS = 65_536
MODALITIES_REMEMBERED = 100

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class CatalogReport:
    """What became of a catalogue's rows: rows = sum(dropped) + duplicates + distinct, and selected <= distinct.

    ``dropped`` counts each row under the first filter it fails, in the order they are applied;
    ``modalities`` counts the rows read by modality, before any filter (the 100 most frequent).
    """

    rows: int
    dropped: dict[str, int]
    duplicates: int
    distinct: int
    selected: int
    modalities: dict[str, int]


@dataclass(frozen=True, slots=True)
class UnresolvedRow:
    """A selected row without a file to use; ``nifti_path`` of its record is "" and ``detail`` holds no path."""

    record: ScanRecord
    reason: str
    detail: str


@dataclass(frozen=True, slots=True)
class Selection:
    """The scans of a run in their seeded hash order, the selected rows that lead to no file, and the counts."""

    records: list[ScanRecord]
    unresolved: list[UnresolvedRow]
    report: CatalogReport


def load_records(config: DataConfig, seed: int) -> Selection:
    """The scans that ``config`` asks for: filtered, freed of duplicates, the first ``n_scans`` in hash order.

    The order follows from ``seed`` and each row's own fields. Shuffling the table changes nothing; a row appended
    to it displaces at most one selected scan. Only selected rows are looked up on disk. Memory: 8 bytes per row
    that passes the filters, the selected rows, and a few batches.

    Raises:
        CatalogError: the table is missing, unreadable or empty, lacks a column, or no row passes the filters.
    """
    if config.catalog_path is None:
        raise CatalogError("data.catalog_path is not given; pass --data.catalog-path TABLE (.csv, .csv.gz or .parquet)")
    path = Path(config.catalog_path).expanduser().absolute()
    order = HashOrder(config.n_scans, seed)
    rows, dropped, modalities = 0, Counter[str](), Counter[str]()
    for batch in _batches(path, config):
        rows += batch.height
        modalities = _most_common(modalities + Counter(dict(batch["modality"].value_counts().iter_rows())))
        order.add(_keep(batch, config, dropped))
    selected = order.first()
    report = CatalogReport(
        rows=rows,
        dropped={reason: dropped[reason] for reason in _reasons_to_drop(config)},
        duplicates=(duplicates := order.duplicates()),
        distinct=rows - dropped.total() - duplicates,
        selected=selected.height,
        modalities=dict(modalities.most_common()),
    )
    if selected.is_empty():
        raise CatalogError(_nothing_left(path, report, config))
    return Selection(*_resolve_all(selected, path.parent), report)


def resolve_nifti(series_path: str, catalog_folder: Path, nifti_path: str = "") -> Path:
    """The one file of a series; relative paths count from the catalogue's folder.

    ``nifti_path`` is that file where it is not blank. Otherwise ``series_path`` is a folder that holds exactly one
    ``.nii`` or ``.nii.gz`` (hidden files aside), or is such a file itself.

    Raises:
        ScanRejected: ``missing_path``, ``no_file`` or ``more_than_one_file``; never a guess.
    """
    if nifti_path:
        if not _is_file(file := catalog_folder / nifti_path):
            raise ScanRejected("missing_path", "nifti_path names no file that can be reached; correct the table")
        return file
    folder = catalog_folder / series_path
    if _is_nifti(folder):
        return folder
    try:
        files = [file for file in folder.iterdir() if not file.name.startswith(".") and _is_nifti(file)]
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise ScanRejected(
            "missing_path",
            f"the series folder cannot be listed ({type(error).__name__}); correct series_path, or mount the archive",
        ) from None
    if not files:
        raise ScanRejected("no_file", "the series folder holds no .nii or .nii.gz, 1 needed; convert the series first")
    if len(files) > 1:
        raise ScanRejected(
            "more_than_one_file",
            f"the series folder holds {len(files)} NIfTI files, 1 needed; name the right one in a nifti_path column",
        )
    return files[0]


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


class HashOrder:
    """The first ``k`` distinct rows, in seeded hash order, of all rows added so far.

    Rows are equal when their IDENTITY is; of equal rows the one with the smallest modality stays. Which rows come
    first does not depend on the order, or the batches, in which they were added.
    """

    def __init__(self, k: int, seed: int) -> None:
        self._k, self._seed = k, stable_int("selection", seed)
        self._kept: list[pl.DataFrame] = []
        self._pending_rows = 0
        self._limit: int | None = None  # the k-th key so far: rows behind it cannot come first
        self._keys: list[npt.NDArray[np.uint64]] = []

    def add(self, rows: pl.DataFrame) -> None:
        """Takes rows with the columns of IDENTITY and modality."""
        keys = stable_keys(rows.select(pl.concat_str(IDENTITY, separator="\x1f")).to_series(), self._seed)
        self._keys.append(keys)
        rows = rows.select(*IDENTITY, "modality").with_columns(pl.Series("key", keys))
        if self._limit is not None:
            rows = rows.filter(pl.col("key") <= self._limit)
        # Through Arrow: a filtered frame holds on to its whole batch (1.3 GB instead of 0.5 at 10^7 rows).
        self._kept.append(pl.DataFrame(rows.to_arrow()))
        self._pending_rows += rows.height
        if self._pending_rows >= max(self._k, BATCH_ROWS // 8):
            self.first()

    def first(self) -> pl.DataFrame:
        """The first ``k`` distinct rows, with their ``key``; fewer where fewer were added."""
        if not self._kept:
            return pl.DataFrame(schema=[*IDENTITY, "modality", "key"])
        # The source fields break ties, so that even equal keys have an order.
        ordered = pl.concat(self._kept).sort("key", *IDENTITY, "modality")
        best = ordered.unique(IDENTITY, keep="first", maintain_order=True).head(self._k)
        self._kept, self._pending_rows = [best], 0
        self._limit = best["key"][-1] if best.height == self._k else None
        return best

    def duplicates(self) -> int:
        """How many of the rows added repeat another one.

        Judged by the 64-bit key: two of 10^7 distinct rows share one with a probability of 3e-6.
        """
        keys = np.sort(np.concatenate([np.empty(0, np.uint64), *self._keys]))
        return int(np.count_nonzero(keys[1:] == keys[:-1]))


def stable_keys(strings: pl.Series, seed: int) -> npt.NDArray[np.uint64]:
    """A 64-bit hash of every string's UTF-8 bytes, the same on every machine and in every version; null is not allowed.

    It orders rows and must not name them: unlike sha256 (five times slower at 10^7 rows) it can be forged. Eight
    bytes at a time: state = (state ^ word) * odd, state ^= state >> 32, then the finish of MurmurHash3.
    """
    lengths = strings.str.len_bytes().to_numpy().astype(np.int64)
    starts = np.cumsum(lengths) - lengths
    text = strings.str.join("").item().encode() + bytes(8)
    words = np.ndarray(len(text) - 7, dtype="<u8", buffer=text, strides=(1,))  # the 8 bytes from each byte on
    state = lengths.astype(np.uint64) * _ODD + np.uint64(seed)
    rows = np.arange(len(lengths))
    for at in range(0, int(lengths.max(initial=0)), 8):
        rows = rows[lengths[rows] > at]
        word = words[starts[rows] + at] & _FIRST_BYTES[np.minimum(lengths[rows] - at, 8)]
        mixed = (state[rows] ^ word) * _ODD
        state[rows] = mixed ^ (mixed >> np.uint64(32))
    for factor in _FINISH:
        state = (state ^ (state >> np.uint64(33))) * factor
    return state ^ (state >> np.uint64(33))


_ODD = np.uint64(0x9E3779B97F4A7C15)
_FINISH = (np.uint64(0xFF51AFD7ED558CCD), np.uint64(0xC4CEB9FE1A85EC53))
_FIRST_BYTES = np.array([(1 << 8 * n) - 1 for n in range(9)], dtype=np.uint64)


def _batches(path: Path, config: DataConfig) -> Iterator[pl.DataFrame]:
    """IDENTITY, modality and series_text of the table: trimmed strings, "" for null and for columns it lacks."""
    _check_path(path)
    try:
        names = _column_names(_header(path), path, config)
        columns = [_text(names.get(ours)).alias(ours) for ours in REQUIRED + OPTIONAL]
        for frame in _frames(path, sorted(set(names.values()))):
            ours = frame.select(columns)
            series_path = pl.col("series_path").str.strip_chars_end("/")
            yield ours.select(modality_name(), series_path, series_text(), "pmbb_id", "series_id", "nifti_path")
    except (pl.exceptions.PolarsError, pa.ArrowException, OSError) as error:
        # What polars quotes after a backtick is content of the table.
        cause = str(error).partition("`")[0].strip().partition("\n")[0]
        raise CatalogError(
            f"catalogue {path} cannot be read ({type(error).__name__}: {cause}); needed: a table with a header row, "
            "csv in UTF-8 with commas, or parquet; repair or export it again"
        ) from error


def _check_path(path: Path) -> None:
    if not path.is_file():
        found = "is a folder" if path.is_dir() else "does not exist"
        raise CatalogError(f"catalogue {path} {found}; set data.catalog_path to a .csv, .csv.gz or .parquet file")
    if not path.name.lower().endswith(SUFFIXES):
        raise CatalogError(f"catalogue {path} is of an unknown kind; needed: {', '.join(SUFFIXES)} (data.catalog_path)")


def _header(path: Path) -> list[str]:
    if _is_parquet(path):
        names: list[str] = pq.read_schema(path).names
        return names
    return _scan_csv(path).collect_schema().names()


def _frames(path: Path, columns: list[str]) -> Iterator[pl.DataFrame]:
    if _is_parquet(path):
        # pyarrow decodes page by page; polars 2.1 whole row groups: 1.2 GB instead of 0.3 on groups of 10^6 rows.
        with pq.ParquetFile(path, pre_buffer=False) as table:
            yield from map(pl.DataFrame, table.iter_batches(BATCH_ROWS, columns=columns))
    else:
        # Polars 2.1 inflates .csv.gz as it reads: 0.3 GB for 10^7 rows, however slow the consumer.
        query = _scan_csv(path).select(columns)
        yield from query.collect_batches(chunk_size=BATCH_ROWS, maintain_order=False, lazy=True)


def _scan_csv(path: Path) -> pl.LazyFrame:
    return pl.scan_csv(path, infer_schema=False, glob=False)


def _is_parquet(path: Path) -> bool:
    return path.name.lower().endswith(".parquet")


def _text(column: str | None) -> pl.Expr:
    if column is None:
        return pl.lit("")
    return pl.col(column).cast(pl.String).str.strip_chars().fill_null("")


def _column_names(found: list[str], path: Path, config: DataConfig) -> dict[str, str]:
    """Our name -> the table's, for every column to be read."""
    if unknown := sorted(set(config.columns) - {*REQUIRED, *OPTIONAL}):
        raise CatalogError(f"data.columns names {', '.join(unknown)}; known: {', '.join(REQUIRED + OPTIONAL)}")
    names = {ours: config.columns.get(ours, ours) for ours in REQUIRED + OPTIONAL}
    reads_text = config.drop_time_series or config.drop_localizers or config.drop_derived
    needed = [*REQUIRED, *config.columns, *(["series_description"] if reads_text else [])]
    if missing := [ours for ours in dict.fromkeys(needed) if names[ours] not in found]:
        nearest = {ours: _nearest(names[ours], found) for ours in missing}
        raise CatalogError(
            f"catalogue {path} has no column {', '.join(names[ours] for ours in missing)}; "
            f"found: {', '.join(found)}; needed: {', '.join(dict.fromkeys(needed))}; "
            f"map them with data.columns, e.g. data.columns={nearest}"
        )
    unread = () if reads_text else ("series_description", "exam_type")
    return {ours: theirs for ours, theirs in names.items() if theirs in found and ours not in unread}


def _nearest(name: str, found: list[str]) -> str:
    by_lower = {theirs.lower(): theirs for theirs in found}
    return by_lower[difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=0.0)[0]] if found else "?"


def _reasons_to_drop(config: DataConfig) -> dict[str, pl.Expr]:
    text = pl.col("series_text")
    no_path = (pl.col("series_path") == "") & (pl.col("nifti_path") == "")
    reasons = {
        "no_patient_or_path": (pl.col("pmbb_id") == "") | no_path,
        "modality": ~has_modality(config.modality_filter),
        "time_series": is_time_series(text) if config.drop_time_series else None,
        "localizer": is_localizer(text) if config.drop_localizers else None,
        "derived": is_derived(text) if config.drop_derived else None,
    }
    return {name: reason for name, reason in reasons.items() if reason is not None}


def _keep(batch: pl.DataFrame, config: DataConfig, dropped: Counter[str]) -> pl.DataFrame:
    for name, reason in _reasons_to_drop(config).items():
        before = batch.height
        batch = batch.filter(~reason)
        dropped[name] += before - batch.height
    return batch


def _most_common(counts: Counter[str]) -> Counter[str]:
    return Counter(dict(counts.most_common(MODALITIES_REMEMBERED)))


def _nothing_left(path: Path, report: CatalogReport, config: DataConfig) -> str:
    left, stages = report.rows, [f"{report.rows} rows read"]
    for name, count in report.dropped.items():
        left -= count
        stages.append(f"{left} after {name}")
    found = ", ".join(f"{name or 'blank'} ({count})" for name, count in list(report.modalities.items())[:8])
    return (
        f"catalogue {path} leaves no scan: {', '.join(stages)}; modalities found: {found or 'none'}; needed: at least "
        f"one row of data.modality_filter={','.join(config.modality_filter)} that no data.drop_* switch takes away"
    )


def _resolve_all(rows: pl.DataFrame, folder: Path) -> tuple[list[ScanRecord], list[UnresolvedRow]]:
    def resolve(record: ScanRecord) -> ScanRecord | UnresolvedRow:
        try:
            file = resolve_nifti(record.series_path, folder, record.nifti_path)
        except ScanRejected as error:
            return UnresolvedRow(replace(record, nifti_path=""), error.reason, error.detail)
        return replace(record, nifti_path=str(file))

    records = [_record(*row) for row in rows.select(*IDENTITY, "modality").iter_rows()]
    with ThreadPoolExecutor(16) as threads:  # an archive on a network answers in milliseconds, one by one
        found = list(threads.map(resolve, records))
    resolved = [row for row in found if isinstance(row, ScanRecord)]
    return resolved, [row for row in found if isinstance(row, UnresolvedRow)]


def _record(pmbb_id: str, series_id: str, series_path: str, nifti_path: str, modality: str) -> ScanRecord:
    """The record of a row, its ``nifti_path`` still as the table has it."""
    return ScanRecord(
        scan_id=short_id("scan", pmbb_id, series_id, series_path, nifti_path),
        series_id=short_id("series", pmbb_id, series_id or series_path or nifti_path),
        modality=modality,
        nifti_path=nifti_path,
        series_path=series_path,
        subject_id=short_id("subject", pmbb_id),
    )


def _is_nifti(path: Path) -> bool:
    return path.name.lower().endswith(NIFTI_SUFFIXES) and _is_file(path)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # no permission, or a name too long
        return False
