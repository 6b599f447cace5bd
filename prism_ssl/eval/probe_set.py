"""Probe set: fixed views of held-out scans on which every encoder is evaluated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from prism_ssl.config.schema import PrismConfig
from prism_ssl.contracts import PATCH_PX, PATCH_SCALE, BrokenScan, Float64, PreparedScan, PrismBatch, ScanRecord
from prism_ssl.data.extract import extract_view
from prism_ssl.data.phantoms import Place, phantom_truth
from prism_ssl.data.scan import ReadLimits, archive_root, open_scan, out_of_memory
from prism_ssl.data.views import View, body_places, draw_view, draw_view_at, pair_targets
from prism_ssl.eval.place.position import relative_positions
from prism_ssl.utils.hashing import stable_int
from prism_ssl.utils.seeds import generator_for


@dataclass(frozen=True, eq=False)
class ProbeSet:
    """V views of S scans. The views of a scan follow each other; views 2i and 2i + 1 are pair i.

    ``places`` is known for catalogues of phantoms only. ``left_out`` are the scans that did not open.
    """

    scans: list[ScanRecord]  # [S]
    scan_of_view: npt.NDArray[np.int64]  # [V]
    views: list[View]  # [V]
    patches: npt.NDArray[np.int16]  # [V, N, H, W], fixed point as in a chunk
    intensity_scale: npt.NDArray[np.float64]  # [V] robust std of the scan
    places: list[Place | None]  # [V]
    positions: Float64  # [V, 3] of ``relative_positions``; NaN where a scan shows too little of a body
    left_out: list[BrokenScan]

    @property
    def n_pairs(self) -> int:
        """Pairs of views."""
        return len(self.views) // 2

    def pairs(self, start: int, stop: int, device: torch.device) -> PrismBatch:
        """Pairs ``start`` to ``stop`` (exclusive) as a training batch on ``device``."""
        a, b = self.views[2 * start : 2 * stop : 2], self.views[2 * start + 1 : 2 * stop : 2]
        targets = [pair_targets(*pair) for pair in zip(a, b, strict=True)]
        rows = slice(2 * start, 2 * stop, 2)
        records = [self.scans[scan] for scan in self.scan_of_view[rows]]
        center_delta_mm = _tensor([target.center_delta_mm for target in targets], device)
        return PrismBatch(
            patches_a=self._patches(2 * start, 2 * stop, device),
            positions_a=_tensor([view.positions_mm for view in a], device),
            patches_b=self._patches(2 * start + 1, 2 * stop, device),
            positions_b=_tensor([view.positions_mm for view in b], device),
            center_distance_mm=center_delta_mm.norm(dim=1),
            center_delta_mm=center_delta_mm,
            rotation_delta_deg=_tensor([target.rotation_delta_deg for target in targets], device),
            window_delta=_tensor([target.window_delta for target in targets], device),
            intensity_scale=_tensor([self.intensity_scale[rows]], device)[0],
            series_label=torch.tensor([stable_int(record.series_id) for record in records], device=device),
            subject_label=torch.tensor([stable_int(record.subject_id) for record in records], device=device),
            center_a_mm=_tensor([view.center_mm for view in a], device),
            center_b_mm=_tensor([view.center_mm for view in b], device),
            rotation_a_deg=_tensor([view.rotation_deg for view in a], device),
            window_a=_tensor([np.array([view.window_center, view.window_width]) for view in a], device),
            window_known=torch.ones(len(records), dtype=torch.bool, device=device),
            scan_id=[record.scan_id for record in records],
            series_id=[record.series_id for record in records],
            visits=[],
        )

    def _patches(self, start: int, stop: int, device: torch.device) -> torch.Tensor:
        every_second = torch.from_numpy(self.patches[start:stop:2]).to(device)
        return every_second.to(torch.float32).mul_(1.0 / PATCH_SCALE)[..., None]


def build_probe_set(held_out: Sequence[PreparedScan], config: PrismConfig, catalog: Path) -> ProbeSet:
    """Views of at most ``eval.probe_scans`` of the held-out scans, the first in an order hashed with ``eval.seed``.

    View v of a scan follows from (``eval.seed``, scan id, v) and the settings of views alone. A scan that does not
    open, or cannot be sampled, is listed in ``left_out`` and not replaced. Raises ``ArchiveUnreachable``
    and ``MachineTrouble``.
    """
    settings = config.eval
    n_views, n_patches = settings.views_per_scan, config.held_out_patches
    chosen = sorted(held_out, key=lambda scan: stable_int("probe", settings.seed, scan.record.scan_id))
    chosen = chosen[: settings.probe_scans]
    root = archive_root(scan.record.nifti_path for scan in chosen) if chosen else ""
    limits = ReadLimits(root, config.data.open_timeout_s, config.data.outage_patience_s)
    patches = np.empty((len(chosen) * n_views, n_patches, PATCH_PX, PATCH_PX), np.int16)
    scans, views, left_out = list[PreparedScan](), list[View](), list[BrokenScan]()
    positions = list[Float64]()
    for scan in chosen:
        rows = patches[len(views) : len(views) + n_views]
        try:
            found, where = _sampled(scan, n_patches, rows, config, limits)
        except MemoryError as error:
            raise out_of_memory("for the probe set", error) from error
        except (ValueError, ArithmeticError) as error:  # ScanRejected is a ValueError
            left_out.append(BrokenScan(scan.record.scan_id, "probe set", f"{type(error).__name__}: {error}"))
        else:
            scans.append(scan)
            views += found
            positions.append(where)
    return ProbeSet(
        scans=[scan.record for scan in scans],
        scan_of_view=np.repeat(np.arange(len(scans)), n_views),
        views=views,
        patches=patches[: len(views)],
        intensity_scale=np.repeat([scan.stats.std for scan in scans], n_views),
        places=_places(catalog, scans, views, n_views),
        positions=np.concatenate([np.empty((0, 3)), *positions]),
        left_out=left_out,
    )


def _sampled(
    scan: PreparedScan, n_patches: int, out: npt.NDArray[np.int16], config: PrismConfig, limits: ReadLimits
) -> tuple[list[View], Float64]:
    """The views of one scan, and their positions; their patches are written to ``out``."""
    path, limit = Path(scan.record.nifti_path), config.preflight.max_volume_bytes
    opened = limits.read(lambda: open_scan(path, scan.stats, limit))
    asked, seed, scan_id = config.view, config.eval.seed, scan.record.scan_id
    on_body = body_places(opened, asked.radius_mm_floor, generator_for(seed, "probe", scan_id))
    views = []
    for number, patches in enumerate(out):
        rng = generator_for(seed, "probe", scan_id, number)
        if len(on_body) and config.eval.centers == "foreground":
            center_mm = on_body[rng.integers(len(on_body))]
            view = draw_view_at(center_mm, opened.affine, opened.shape, opened.stats, asked, n_patches, rng)
        else:
            view = draw_view(opened.affine, opened.shape, opened.stats, asked, n_patches, rng)
        extract_view(opened, view, config.data.patch_mm, patches)
        views.append(view)
    return views, relative_positions(np.array([view.center_mm for view in views]), on_body)


def _places(catalog: Path, scans: list[PreparedScan], views: list[View], n_views: int) -> list[Place | None]:
    truth = phantom_truth(catalog)
    if truth is None:
        return [None] * len(views)
    places: list[Place | None] = []
    for scan in scans:
        centers_mm = [view.center_mm for view in views[len(places) : len(places) + n_views]]
        places += truth.places(scan.record, centers_mm) or [None] * n_views
    return places


def _tensor(arrays: Sequence[npt.NDArray[np.floating]], device: torch.device) -> torch.Tensor:
    return torch.from_numpy(np.stack(arrays).astype(np.float32, copy=False)).to(device)
