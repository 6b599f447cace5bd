"""Facts on an archive: counts of the table's rows by kind, and one row for each selected scan."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from functools import cached_property, partial

import polars as pl

from prism_ssl.config.schema import DataConfig
from prism_ssl.contracts import ScanRecord
from prism_ssl.data.catalog import CatalogReport, Selection, described_rows
from prism_ssl.data.checks import ManifestRow
from prism_ssl.data.scan import read_header, within
from prism_ssl.errors import PrismError
from prism_ssl.report.archive.kinds import COLUMNS, UNKNOWN, kinds

KIND_COLUMNS = ("body_part", "body_part_by", "contrast", "contrast_by")
_HEADERS_AT_ONCE, _HEADERS_PER_LOOK = 16, 64
_BATCHES_ADDED = 50
_VERDICT_TYPES = {"str": pl.String, "int": pl.Int64, "float": pl.Float64}


@dataclass(frozen=True, eq=False)
class ArchiveFacts:
    """``rows``: modality, ``KIND_COLUMNS``, count; over every row of the table with a modality that is kept.

    ``scans``: a row for each selected scan, in the order of the selection: the fields of ``ManifestRow``, patient,
    ``KIND_COLUMNS``, dtype and orientation ("unknown" where the header cannot be read).
    """

    report: CatalogReport
    rows: pl.DataFrame
    scans: pl.DataFrame

    @cached_property
    def usable(self) -> pl.DataFrame:
        """The scans that can be trained on."""
        return self.scans.filter(pl.col("reason").is_null())

    @cached_property
    def refused(self) -> pl.DataFrame:
        """The others."""
        return self.scans.filter(pl.col("reason").is_not_null())


def archive_facts(selection: Selection, verdicts: Mapping[str, ManifestRow], data: DataConfig) -> ArchiveFacts:
    """Facts on a selection and preflight's verdicts on it; reads the table, and the header of each selected file.

    Raises as ``load_records``.
    """
    lost = [row.record for row in selection.unresolved]
    records = [*selection.records, *lost]
    rows, kinds_of = _kinds(records, data)
    of_records = pl.DataFrame(
        {"scan_id": [each.scan_id for each in records], "patient": [each.subject_id for each in records]},
        schema={"scan_id": pl.String, "patient": pl.String},
    )
    scans = of_records.join(_verdicts(selection, verdicts), on="scan_id", how="left", maintain_order="left")
    scans = scans.join(kinds_of, on="scan_id", how="left", maintain_order="left")
    told = _headers(selection.records, data.open_timeout_s)
    scans = scans.join(told, on="scan_id", how="left", maintain_order="left")
    unknown = pl.col("body_part", "contrast", "dtype", "orientation").fill_null(UNKNOWN)
    scans = scans.with_columns(unknown, pl.col("body_part_by", "contrast_by").fill_null(""))
    return ArchiveFacts(selection.report, rows, scans)


def _kinds(records: Sequence[ScanRecord], data: DataConfig) -> tuple[pl.DataFrame, pl.DataFrame]:
    """(modality, kinds, count) of all rows whose modality is kept; (scan_id, kinds) of ``records``."""
    kept = [name.strip().upper() for name in data.modality_filter]
    counts, found = list[pl.DataFrame](), list[pl.DataFrame]()
    for batch in described_rows(data, records, COLUMNS):
        texts = [name for name in batch.columns if name != "scan_id"]
        each = batch.filter(pl.col("modality").is_in(kept)).group_by(texts).agg(count=pl.len())  # texts repeat
        counts.append(each.select("modality", *kinds(), "count"))
        if len(counts) >= _BATCHES_ADDED:
            counts = [_added(counts)]
        of_records = batch.filter(pl.col("scan_id").is_not_null()).select("scan_id", *kinds())
        found.append(pl.DataFrame(of_records.to_arrow()))  # a filtered frame holds on to its whole batch
    return _added(counts), pl.concat(found).unique("scan_id", keep="first", maintain_order=True)


def _added(counts: Sequence[pl.DataFrame]) -> pl.DataFrame:
    return pl.concat(counts).group_by("modality", *KIND_COLUMNS).agg(pl.col("count").sum())


def _verdicts(selection: Selection, verdicts: Mapping[str, ManifestRow]) -> pl.DataFrame:
    schema = {field.name: _VERDICT_TYPES[str(field.type).split(" ")[0]] for field in fields(ManifestRow)}
    of_files = [verdicts[record.scan_id] for record in selection.records]
    lost = [
        ManifestRow(
            row.record.scan_id, row.place, row.record.modality, size=0, mtime_ns=0, config_hash="", reason=row.reason,
            detail=row.detail,
        )
        for row in selection.unresolved
    ]  # fmt: skip
    rows = [*of_files, *lost]
    columns = (pl.Series(name, [getattr(row, name) for row in rows], kind) for name, kind in schema.items())
    return pl.DataFrame(columns)  # column by column: all of them as lists would take 160 bytes a row


def _headers(records: Sequence[ScanRecord], limit_s: float) -> pl.DataFrame:
    """scan_id, dtype, orientation of the files whose header can be read."""
    starts = range(0, len(records), _HEADERS_PER_LOOK)
    bundles = (records[start : start + _HEADERS_PER_LOOK] for start in starts)
    with ThreadPoolExecutor(_HEADERS_AT_ONCE) as threads:  # each look into a network archive takes milliseconds
        found = list(threads.map(partial(_bundle, limit_s), bundles))
    rows = [row for bundle in found for row in bundle]
    schema = dict.fromkeys(("scan_id", "dtype", "orientation"), pl.String)
    return pl.DataFrame(rows, schema=schema, orient="row")


def _bundle(limit_s: float, records: Sequence[ScanRecord]) -> list[tuple[str, str, str]]:
    try:
        return within(limit_s, lambda: list(_header_facts(records)))
    except (TimeoutError, PrismError):  # preflight has told already that they cannot be read in time
        return []


def _header_facts(records: Sequence[ScanRecord]) -> Iterator[tuple[str, str, str]]:
    for record in records:
        try:
            header = read_header(record.nifti_path)
            kind = "colours" if header.dtype.names else header.dtype.newbyteorder("=").name
            orientation = header.orientation or UNKNOWN
        except PrismError:
            continue
        yield record.scan_id, sys.intern(kind), sys.intern(orientation)  # a few words, not a copy for every scan
