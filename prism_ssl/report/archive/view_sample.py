"""Sample of views under the current settings: the first pairs that training would draw from some scans."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from prism_ssl.config.schema import PrismConfig
from prism_ssl.contracts import PATCH_PX, PATCH_SCALE, PreparedScan, VisitKey
from prism_ssl.data.checks import open_prepared
from prism_ssl.data.extract import EMPTY, extract_view, kinds_of, measure_visibility, warm_up
from prism_ssl.data.pool import SceneSource, ScratchStore
from prism_ssl.data.scan import OpenScan, read_within
from prism_ssl.data.views import Scene, draw_training_pair
from prism_ssl.errors import PrismError
from prism_ssl.report.archive.pictures import mosaic_picture, slice_picture_or_none
from prism_ssl.utils.progress import with_progress
from prism_ssl.utils.time import Stopwatch

SCANS, PAIRS = 24, 16
"""Scans of the sample, and pairs drawn from each."""
BLACK_SHARE = 0.9
"""Share of the pixels at the dark end of the window from which a view counts as black."""


@dataclass(frozen=True)
class SampledScan:
    """Pictures of a scan (its middle slice, patches of a view that is cut out of it), and its times."""

    scan_id: str
    modality: str
    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    volume_bytes: int
    slice_uri: str | None
    patches_uri: str | None
    open_s: float
    view_ms: float


@dataclass(frozen=True, eq=False)
class ViewSample:
    """``views``: scan_id, modality, radius_mm, black and outside (shares of the pixels), shrunk, empty, two_series.

    ``failed``: sampled scans that could not be opened.
    """

    scans: list[SampledScan]
    views: pl.DataFrame
    failed: int

    @property
    def open_s(self) -> float:
        """Median seconds to open a scan, with the other series of its pairs where the settings ask for one."""
        return statistics.median(scan.open_s for scan in self.scans)

    @property
    def view_ms(self) -> float:
        """Median milliseconds to cut out one view, in one thread."""
        return statistics.median(scan.view_ms for scan in self.scans)


_SCHEMA = {
    "scan_id": pl.String, "modality": pl.String, "radius_mm": pl.Float64, "black": pl.Float64, "outside": pl.Float64,
    "shrunk": pl.Boolean, "empty": pl.Boolean, "two_series": pl.Boolean,
}  # fmt: skip


def sample_views(scans: Sequence[PreparedScan], config: PrismConfig, tmp_root: Path) -> ViewSample:
    """Draw the first pairs of the first ``SCANS`` scans, as a run with ``config`` would in its first epoch.

    One scan is open at a time (two where pairs are of two series). Curves of ``view.random_contrast`` are left out.
    """
    chosen = list(scans[:SCANS])
    scratch = ScratchStore(tmp_root / "scratch", "archive-page", 0)
    try:
        source = SceneSource(
            {scan.record.scan_id: scan for scan in chosen},
            lambda scan: read_within(config.data.open_timeout_s, lambda: open_prepared(scan, config)),
            scratch,
            config.view,
            config.train.seed,
        )
        warm_up(np.int16)
        told = (_told(scan, source, config) for scan in chosen)
        found = list(with_progress(told, len(chosen), "views", lambda one: one is not None, ("drawn", "failed")))
    finally:
        scratch.close()
    drawn = [one for one in found if one is not None]
    views = pl.DataFrame([row for _, rows in drawn for row in rows], schema=_SCHEMA, orient="row")
    return ViewSample([scan for scan, _ in drawn], views, len(found) - len(drawn))


Row = tuple[str, str, float, float, float, bool, bool, bool]


def _told(scan: PreparedScan, source: SceneSource, config: PrismConfig) -> tuple[SampledScan, list[Row]] | None:
    try:
        return _drawn(scan, source, config)
    except (PrismError, OSError, MemoryError, ValueError, ArithmeticError):  # as a pool counts a scan as broken
        return None


def _drawn(scan: PreparedScan, source: SceneSource, config: PrismConfig) -> tuple[SampledScan, list[Row]]:
    scan_id, watch = scan.record.scan_id, Stopwatch()
    scene = source.open(scan_id).scene
    open_s, patches = watch.ms() / 1e3, np.empty((config.data.n_patches, PATCH_PX, PATCH_PX), np.int16)
    patches_uri, times_ms, rows = None, list[float](), list[Row]()
    for cut_from, view_ms, row in _views(scene, scan, config, patches):
        if patches_uri is None and cut_from.voxels is scene.scan.voxels:
            patches_uri = mosaic_picture(patches)
        times_ms.append(view_ms)
        rows.append(row)
    pictured = SampledScan(
        scan_id=scan_id,
        modality=scan.record.modality,
        shape=scan.shape,
        spacing_mm=scan.spacing_mm,
        volume_bytes=scan.volume_bytes,
        slice_uri=slice_picture_or_none(
            scan.record.nifti_path, config.data.open_timeout_s, in_hu=scan.record.modality == "CT"
        ),
        patches_uri=patches_uri,
        open_s=open_s,
        view_ms=statistics.median(times_ms[2:]),  # the first ones may compile for this type of voxels
    )
    return pictured, rows


def _views(
    scene: Scene, scan: PreparedScan, config: PrismConfig, patches: npt.NDArray[np.int16]
) -> Iterator[tuple[OpenScan, float, Row]]:
    """For each view of the first ``PAIRS`` pairs: the scan it is cut out of, the milliseconds that took, its row; its
    pixels are in ``patches``."""
    record, data = scan.record, config.data
    for visit in range(PAIRS):
        key = VisitKey(record.scan_id, 0, visit)
        pair = draw_training_pair(scene, config.view, data.n_patches, config.train.seed, key)
        for view, cut_from in zip(pair.views, pair.scans, strict=True):
            watch = Stopwatch()
            extract_view(cut_from, view, data.patch_mm, patches)
            view_ms, visibility = watch.ms(), measure_visibility(cut_from, view, data.patch_mm, patches)
            black = float(np.mean(patches == -PATCH_SCALE))
            shrunk, empty = view.radius_mm < config.view.radius_mm_min, EMPTY in kinds_of(visibility.bits)
            two_series, outside = pair.scans[0] is not pair.scans[1], visibility.outside_share
            row = (record.scan_id, record.modality, view.radius_mm, black, outside, shrunk, empty, two_series)
            yield cut_from, view_ms, row


def by_modality(views: pl.DataFrame) -> pl.DataFrame:
    """A row for each modality, and one for all where there are several: counts, and shares of the views."""
    shares = {
        "scans": pl.col("scan_id").n_unique(),
        "views": pl.len(),
        "black_pixels": pl.col("black").mean(),
        "black_views": (pl.col("black") >= BLACK_SHARE).mean(),
        "empty_views": pl.col("empty").mean(),
        "at_edge": (pl.col("outside") > 0).mean(),
        "outside_pixels": pl.col("outside").mean(),
        "shrunk": pl.col("shrunk").mean(),
        "radius_mm": pl.col("radius_mm").median(),
        "two_series": pl.col("two_series").mean(),
    }
    each = views.group_by("modality").agg(**shares).sort("modality")
    whole = views.select(modality=pl.lit("all"), **shares)
    return pl.concat([each, whole]) if each.height > 1 else each
