"""Embed a whole catalogue in a streaming Ray Data job that resumes after a kill."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import ray
import ray.data

from prism_ssl.contracts import ScanRecord
from prism_ssl.data.catalog import load_records
from prism_ssl.data.scan import RejectReason
from prism_ssl.embed.scan import (
    EmbedSettings,
    Row,
    ViewEncoder,
    cut_views,
    file_stamp,
    without_embedding,
)
from prism_ssl.embed.table import EmbeddingTable
from prism_ssl.embed.weights import EncoderFiles
from prism_ssl.errors import PrismError
from prism_ssl.model.backbone import PRESETS
from prism_ssl.utils.hashing import content_hash
from prism_ssl.utils.isolated_map import items_per_task, map_in_actors, map_rows, survey, tasks_at_once
from prism_ssl.utils.progress import with_progress

SCANS_PER_TASK = 4
"""Most scans of one Ray task; eight views of 1,024 patches are 4 MB a scan on their way to the encoder."""

CutViews = Callable[[ScanRecord, EmbedSettings], Row]


@dataclass(frozen=True)
class EmbedReport:
    """``rows`` of the table have an embedding, ``embedded`` of them from this job; ``rejected`` counts by reason.

    ``reused`` scans, with an embedding or without, were done by an earlier job.
    """

    rows: int
    embedded: int
    reused: int
    rejected: Counter[str]


def embed_catalog(
    exported: EncoderFiles, settings: EmbedSettings, out: Path, cut: CutViews = cut_views, width: int | None = None
) -> EmbedReport:
    """Embed every scan of ``settings.config.data``, and write ``out`` (see ``table``). Needs a Ray session.

    ``width`` of the embeddings; None: that of the encoder's preset.

    A scan that cannot be used, even one that kills its process, is listed, and no other scan loses its row.

    Raises:
        CatalogError: the catalogue cannot be used.
        ConfigError: ``out`` is of another checkpoint or other settings, or in use.
    """
    config = settings.config
    selection = load_records(config.data, config.data.selection_seed)
    width = width or PRESETS[exported.description["preset"]].width
    table = EmbeddingTable(out, _told(exported, settings), width)
    try:
        pending = [record for record in selection.records if not _is_settled(record, table)]
        for unresolved in selection.unresolved:
            table.add(without_embedding(unresolved.record, unresolved.reason, unresolved.detail))
        embedded = 0
        found = _embed_all(pending, exported, settings, cut)
        for row in with_progress(found, len(pending), "embedding", _has_embedding, ("embedded", "left out")):
            table.add(row)
            embedded += _has_embedding(row)
        rows, rejected = table.finish()
    finally:
        table.close()
    return EmbedReport(rows, embedded, len(selection.records) - len(pending), rejected)


def _told(exported: EncoderFiles, settings: EmbedSettings) -> dict[str, Any]:
    config = settings.config
    limits = asdict(dataclasses.replace(config.preflight, concurrency=None))
    how = [asdict(config.view), limits, config.data.n_patches, config.data.patch_mm, config.train.precision]
    return {
        "checkpoint_hash": exported.sha256[:16],
        "views": settings.views,
        "seed": settings.seed,
        "way_to_draw_views": content_hash(how),
    }


def _is_settled(record: ScanRecord, table: EmbeddingTable) -> bool:
    try:
        return table.settled(record.scan_id, file_stamp(record))
    except PrismError:
        return False  # cut_views gives the reason


def _has_embedding(row: Row) -> bool:
    return row["reason"] is None


def _embed_all(
    pending: Sequence[ScanRecord], exported: EncoderFiles, settings: EmbedSettings, cut: CutViews
) -> Iterator[Row]:
    """Rows in the order of completion; a scan that kills its process twice gets a reason instead of an embedding."""
    left = {record.scan_id: record for record in pending}
    cpus, gpus = tasks_at_once(), int(ray.cluster_resources().get("GPU", 0))
    weights = ray.put(exported)

    def cut_row(item: dict[str, Any]) -> Row:
        return cut(ScanRecord(**item), settings)

    def pipeline(records: ray.data.Dataset, width: int) -> ray.data.Dataset:
        encoders = max(1, min(gpus or cpus // 2, width))
        views = map_rows(records, cut_row, width if gpus else max(1, min(width, cpus - encoders)))
        return map_in_actors(views, ViewEncoder, (weights, settings), encoders, gpus=min(gpus, 1))

    per_task = items_per_task(len(pending), cpus, SCANS_PER_TASK)
    for row in survey([asdict(record) for record in pending], "scan_id", pipeline, per_task, cpus):
        left.pop(row["scan_id"])
        yield row
    for record in left.values():
        detail = "the process that read it was killed twice; out of memory, or a file that crashes the reader"
        yield without_embedding(record, RejectReason.CHECK_CRASHED, detail)
