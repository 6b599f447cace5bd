"""Read a hospital's table of series (the catalogue) and select the ScanRecords of a run.

Ids (hashes without a salt: who guesses a source can confirm it; they do not depend on the catalogue's path)
    scan_id     of pmbb_id, series_id, series_path and nifti_path as the table has them ("" where it has none)
    series_id   of pmbb_id and the first of series_id, series_path, nifti_path that is not blank
    subject_id  of pmbb_id
Two rows with the same four fields are one scan: one row is kept, the others are counted as duplicates.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from prism_ssl.config.schema import DataConfig
from prism_ssl.contracts import ScanRecord
from prism_ssl.data.filters import has_modality, is_derived, is_localizer, is_time_series, modality_name, series_text
from prism_ssl.data.table import (
    BATCH_ROWS,
    IDENTITY,
    OPTIONAL,
    REQUIRED,
    HashOrder,
    column_names,
    folder_table,
    refuse_other_texts,
    resolve_nifti,
)
from prism_ssl.errors import CatalogError, ScanRejected
from prism_ssl.utils.hashing import short_id

SUFFIXES = (".csv", ".csv.gz", ".parquet")

MODALITIES_REMEMBERED = 100

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class CatalogReport:
    """Counts of a catalogue's rows: rows = sum(dropped) + duplicates + distinct, and selected <= distinct.

    ``dropped`` counts each row under the first filter it fails, in the order they are applied;
    ``modalities`` counts the rows read by modality, before any filter (the 100 most frequent).
    """

    rows: int
    dropped: dict[str, int]
    duplicates: int
    distinct: int
    selected: int
    modalities: dict[str, int]
    assumed: str = ""
    """What was assumed to make a table of a folder; "" where there is a table."""

    def left_out(self) -> dict[str, int]:
        """Why rows were not selected, and how many: the sum is rows - selected."""
        beyond = {"duplicate": self.duplicates, "beyond_n_scans": self.distinct - self.selected}
        return {reason: count for reason, count in (self.dropped | beyond).items() if count}


@dataclass(frozen=True, slots=True)
class UnresolvedRow:
    """A selected row without a file to use; ``nifti_path`` of its record is "" and ``detail`` holds no path.

    ``place`` is the path at which its file was expected.
    """

    record: ScanRecord
    reason: str
    detail: str
    place: str = ""


@dataclass(frozen=True, slots=True)
class Selection:
    """The scans of a run in their seeded hash order, the selected rows without a file, and the counts."""

    records: list[ScanRecord]
    unresolved: list[UnresolvedRow]
    report: CatalogReport


def load_records(config: DataConfig, seed: int) -> Selection:
    """The scans that ``config`` selects: filtered, without duplicates, the first ``n_scans`` in hash order.

    The order depends on ``seed`` and each row's own fields. Shuffling the table changes nothing; a row appended to it
    displaces at most one selected scan. Only selected rows are looked up on disk. Memory: 8 bytes per row that passes
    the filters, the selected rows, and a few batches.

    Raises:
        CatalogError: the table is missing, unreadable or empty, lacks a column, or no row passes the filters.
    """
    if config.catalog_path is None:
        raise CatalogError("data.catalog_path is not given; pass --data.catalog-path TABLE (.csv, .csv.gz or .parquet)")
    table = _table(config)
    order = HashOrder(config.n_scans, seed)
    rows, dropped, modalities = 0, Counter[str](), Counter[str]()
    for batch in _batches(table, config):
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
        assumed=table.assumed,
    )
    if selected.is_empty():
        raise CatalogError(_nothing_left(table.path, report, config))
    folder = table.path.parent if table.made is None else table.path
    return Selection(*_resolve_all(selected, folder), report)


def series_texts(config: DataConfig, records: Sequence[ScanRecord]) -> dict[str, str]:
    """``scan_id`` -> the table's text on the series, "" where there is none. The text must not leave the machine.

    Raises as ``load_records``.
    """
    table, wanted = _table(config), {record.scan_id for record in records}
    paths, texts = _paths(records), dict[str, str]()
    for batch in _batches(table, config, with_text=True):
        rows = batch.join(paths, on="series_path", how="semi")
        texts |= zip(_scan_ids(rows), rows["series_text"], strict=True)
    return {scan: texts.get(scan, "") for scan in wanted}


def column_values(config: DataConfig, records: Sequence[ScanRecord], column: str) -> dict[str, str]:
    """``scan_id`` -> the text in ``column`` of the table; "" where the row has none.

    Raises:
        CatalogError: as ``load_records``, or the table has no such column.
    """
    table, wanted = _table(config), {record.scan_id for record in records}
    if column not in (found := _header(table)):
        raise CatalogError(f"catalogue {table.path} has no column {column!r}; found: {', '.join(found)}")
    paths, values = _paths(records), dict[str, str]()
    for batch in _batches(table, config, others=(column,)):
        rows = batch.join(paths, on="series_path", how="semi")
        values |= zip(_scan_ids(rows), rows[other_column(column)], strict=True)
    return {scan: values.get(scan, "") for scan in wanted}


def described_rows(config: DataConfig, records: Sequence[ScanRecord], others: Sequence[str]) -> Iterator[pl.DataFrame]:
    """What every row of the table, before any filter, says about its series, in batches. It must not leave the machine.

    Columns: ``scan_id`` (null unless the row is one of ``records``), modality, series_text, exam_type, and
    ``other_column(name)`` for each of ``others``, "" where the table lacks it.

    Raises as ``load_records``.
    """
    table, wanted = _table(config), {record.scan_id for record in records}
    paths, present = _paths(records), set(_header(table))
    for batch in _batches(table, config, with_text=True, others=[name for name in others if name in present]):
        numbered = batch.with_row_index("row")
        rows = numbered.join(paths, on="series_path", how="semi")
        ids = pl.Series("scan_id", [scan if scan in wanted else None for scan in _scan_ids(rows)], pl.String)
        found = rows.select("row", ids)
        absent = (pl.lit("").alias(other_column(name)) for name in others if name not in present)
        yield numbered.join(found, on="row", how="left").drop("row", *IDENTITY).with_columns(*absent)


def _paths(records: Sequence[ScanRecord]) -> pl.DataFrame:
    """Paths of the records, to be joined with each batch: ``is_in`` would convert them anew for each."""
    return pl.DataFrame({"series_path": list({record.series_path for record in records})}, {"series_path": pl.String})


def _scan_ids(rows: pl.DataFrame) -> list[str]:
    return [_scan_id(*row) for row in rows.select(IDENTITY).iter_rows()]


def _scan_id(pmbb_id: str, series_id: str, series_path: str, nifti_path: str) -> str:
    return short_id("scan", pmbb_id, series_id, series_path, nifti_path)


def other_column(name: str) -> str:
    """Name under which a column of the table stands beside ours."""
    return f"table.{name}"


@dataclass(frozen=True, eq=False)
class _Table:
    """A table; ``made`` of a folder without one, which is walked once, with what was ``assumed``."""

    path: Path
    made: pl.DataFrame | None = None
    assumed: str = ""


def _table(config: DataConfig) -> _Table:
    """The file that is named, or that lies in the named folder; a folder without one is its own table.

    Raises:
        CatalogError: there is none, or it is of an unknown kind.
    """
    path = Path(str(config.catalog_path)).expanduser().absolute()
    tables = (path / f"catalog{suffix}" for suffix in reversed(SUFFIXES)) if path.is_dir() else iter(())
    path = next((table for table in tables if table.is_file()), path)
    if path.is_dir():
        return _Table(path, *folder_table(path))
    _check_path(path)
    return _Table(path)


def _batches(
    table: _Table, config: DataConfig, with_text: bool = False, others: Sequence[str] = ()
) -> Iterator[pl.DataFrame]:
    """IDENTITY, modality, series_text and exam_type of the table, and its columns ``others`` as ``other_column``.

    All are trimmed strings, "" for null and for columns that the table lacks; lists are joined by a backslash. With
    ``with_text`` descriptions and ``others`` that cannot be read as text count as lacking, else they raise.
    """
    try:
        names = column_names(_header(table), table.path, config, with_text)
        lenient = {"series_description", "exam_type"} if with_text else set[str]()
        for frame in _frames(table, sorted({*names.values(), *others})):
            ours = frame.select(
                *(_text(frame, names.get(ours), ours in lenient).alias(ours) for ours in REQUIRED + OPTIONAL),
                *(_text(frame, name, with_text).alias(other_column(name)) for name in others),
            )
            series_path = pl.col("series_path").str.strip_chars_end("/")
            yield ours.select(
                modality_name(),
                series_path,
                series_text(),
                "pmbb_id",
                "series_id",
                "nifti_path",
                "exam_type",
                *map(other_column, others),
            )
    except (pl.exceptions.PolarsError, pa.ArrowException, OSError) as error:
        # After a backtick polars quotes content of the table.
        cause = str(error).partition("`")[0].strip().partition("\n")[0]
        raise CatalogError(
            f"catalogue {table.path} cannot be read ({type(error).__name__}: {cause}); needed: a table with a header "
            "row, csv in UTF-8 with commas, or parquet; repair or export it again"
        ) from error


def _check_path(path: Path) -> None:
    if not path.is_file():
        raise CatalogError(
            f"catalogue {path} does not exist; set data.catalog_path to a .csv, .csv.gz or .parquet file, or a folder"
        )
    if not path.name.lower().endswith(SUFFIXES):
        raise CatalogError(f"catalogue {path} is of an unknown kind; needed: {', '.join(SUFFIXES)} (data.catalog_path)")
    if not _is_parquet(path):
        refuse_other_texts(path)


def _header(table: _Table) -> list[str]:
    if table.made is not None:
        return table.made.columns
    if _is_parquet(table.path):
        names: list[str] = pq.read_schema(table.path).names
        return names
    return _scan_csv(table.path).collect_schema().names()


def _frames(table: _Table, columns: list[str]) -> Iterator[pl.DataFrame]:
    if table.made is not None:
        yield from table.made.select(columns).iter_slices(BATCH_ROWS)
    elif _is_parquet(table.path):
        # pyarrow decodes page by page; polars 2.1 whole row groups: 1.2 GB instead of 0.3 on groups of 10^6 rows.
        with pq.ParquetFile(table.path, pre_buffer=False) as file:
            yield from map(pl.DataFrame, file.iter_batches(BATCH_ROWS, columns=columns))
    else:
        # Polars 2.1 inflates .csv.gz as it reads: 0.3 GB for 10^7 rows, however slow the consumer.
        query = _scan_csv(table.path).select(columns)
        yield from query.collect_batches(chunk_size=BATCH_ROWS, maintain_order=False, lazy=True)


def _scan_csv(path: Path) -> pl.LazyFrame:
    return pl.scan_csv(path, infer_schema=False, glob=False)


def _is_parquet(path: Path) -> bool:
    return path.name.lower().endswith(".parquet")


def _text(frame: pl.DataFrame, column: str | None, lenient: bool) -> pl.Expr:
    if column is None:
        return pl.lit("")
    kind, text = frame.schema[column], pl.col(column)
    if isinstance(kind, (pl.List, pl.Array)):
        text = text.cast(pl.List(pl.String)).list.join("\\", ignore_nulls=True)
    text = text.cast(pl.String).str.strip_chars().fill_null("")
    return text if kind == pl.String or not lenient or _is_readable(frame, text) else pl.lit("")


def _is_readable(frame: pl.DataFrame, text: pl.Expr) -> bool:
    try:
        frame.select(text)
    except pl.exceptions.PolarsError:
        return False
    return True


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
    found = modalities_in_words(report.modalities)
    return (
        f"catalogue {path} leaves no scan: {', '.join(stages)}; modalities found: {found or 'none'}; needed: at least "
        f"one row of data.modality_filter={','.join(config.modality_filter)} that no data.drop_* switch takes away"
    )


def modality_words(modalities: Mapping[str, int]) -> dict[str, int]:
    """Counts by modality, the most frequent first; names other than short words count as "other", none as "blank"."""
    words = Counter[str]()
    for name, count in modalities.items():
        words[(name if re.fullmatch("[A-Z]{1,5}", name) else "other") if name else "blank"] += count
    return dict(sorted(words.items(), key=lambda word: (-word[1], word[0])))


def modalities_in_words(modalities: Mapping[str, int]) -> str:
    """The eight most frequent, such as "MRI (5), blank (1)"; see ``modality_words``."""
    return ", ".join(f"{name} ({count})" for name, count in list(modality_words(modalities).items())[:8])


def _resolve_all(rows: pl.DataFrame, folder: Path) -> tuple[list[ScanRecord], list[UnresolvedRow]]:
    def resolve(record: ScanRecord) -> ScanRecord | UnresolvedRow:
        try:
            file = resolve_nifti(record.series_path, folder, record.nifti_path)
        except ScanRejected as error:
            place = str(folder / (record.nifti_path or record.series_path))
            return UnresolvedRow(replace(record, nifti_path=""), error.reason, error.detail, place)
        return replace(record, nifti_path=str(file))

    records = [_record(*row) for row in rows.select(*IDENTITY, "modality").iter_rows()]
    with ThreadPoolExecutor(16) as threads:  # each look-up in a network archive takes milliseconds
        found = list(threads.map(resolve, records))
    resolved = [row for row in found if isinstance(row, ScanRecord)]
    return resolved, [row for row in found if isinstance(row, UnresolvedRow)]


def _record(pmbb_id: str, series_id: str, series_path: str, nifti_path: str, modality: str) -> ScanRecord:
    """The record of a row, with ``nifti_path`` as it is in the table."""
    return ScanRecord(
        scan_id=_scan_id(pmbb_id, series_id, series_path, nifti_path),
        series_id=short_id("series", pmbb_id, series_id or series_path or nifti_path),
        modality=modality,
        nifti_path=nifti_path,
        series_path=series_path,
        subject_id=short_id("subject", pmbb_id),
    )
