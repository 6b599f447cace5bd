"""Pairs of views without their pixels, and deliberately broken ways to draw them.

Legend: Q pairs of all scans together, K = 8 targets ``TARGETS``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from prism_ssl.config.schema import ViewConfig
from prism_ssl.contracts import Float32, Float64, PreparedScan, RobustStats, VisitKey
from prism_ssl.data.scan import NEAR_ISOTROPIC, apply_affine, inverse, read_header, spacing_mm
from prism_ssl.data.views import Shape, View, draw_pair, pair_targets

TARGETS = ("dx", "dy", "dz", "rx", "ry", "rz", "wc", "ww")
"""Directions of displacement, rotation differences, window centre and width."""


@dataclass(frozen=True, eq=False)
class ScanGeometry:
    """A scan without its voxels."""

    scan_id: str
    affine: Float64
    shape: Shape
    stats: RobustStats

    @classmethod
    def of(cls, scan: PreparedScan) -> ScanGeometry:
        """From the header of a usable scan."""
        header = read_header(Path(scan.record.nifti_path))
        return cls(scan.record.scan_id, header.affine, header.volume_shape, scan.stats)

    @property
    def thick(self) -> bool:
        """Whether the scan has slices clearly thicker than its pixels are wide."""
        spacing = spacing_mm(self.affine)
        return bool(spacing.max() >= NEAR_ISOTROPIC * spacing.min())


Drawer = Callable[[ScanGeometry, int], tuple[View, View]]
"""(scan, visit) -> the two views of a pair."""


def honest_drawer(config: ViewConfig, n_patches: int, seed: int) -> Drawer:
    """Pairs of independent views, as the guide has them; pairs of one place are not among them."""

    def draw(scan: ScanGeometry, visit: int) -> tuple[View, View]:
        key = VisitKey(scan.scan_id, 0, visit)
        return draw_pair(scan.affine, scan.shape, scan.stats, config, n_patches, seed, key)

    return draw


def rounding_drawer(draw: Drawer) -> Drawer:
    """Broken: patch centres are rounded to the nearest voxel, and these positions are passed on."""

    def on_lattice(scan: ScanGeometry, view: View) -> View:
        voxels = np.round(apply_affine(inverse(scan.affine), view.patch_centers_mm()))
        positions = (apply_affine(scan.affine, voxels) - view.center_mm) @ view.rotation
        return dataclasses.replace(view, positions_mm=positions.astype(np.float32))

    def rounded(scan: ScanGeometry, visit: int) -> tuple[View, View]:
        a, b = draw(scan, visit)
        return on_lattice(scan, a), on_lattice(scan, b)

    return rounded


def entangling_drawer(draw: Drawer) -> Drawer:
    """Broken: the ball is larger the wider the window, as if both came from one random number."""

    def entangled_view(scan: ScanGeometry, view: View) -> View:
        size = np.float32(0.5 + 0.15 * view.window_width / scan.stats.std)
        return dataclasses.replace(view, positions_mm=view.positions_mm * size)

    def entangled(scan: ScanGeometry, visit: int) -> tuple[View, View]:
        a, b = draw(scan, visit)
        return entangled_view(scan, a), entangled_view(scan, b)

    return entangled


@dataclass(frozen=True, eq=False)
class PairSample:
    """Q pairs: positions [Q, 2, N, 3] in the prism frames, targets [Q, K] normalised, rotations [Q, 2, 3] degrees."""

    positions_mm: Float32
    targets: Float64
    rotation_deg: Float64
    scan: npt.NDArray[np.int64]
    scans: Sequence[ScanGeometry]

    @property
    def thick(self) -> npt.NDArray[np.bool_]:
        """[Q] whether the pair is of a scan with thick slices."""
        return np.array([scan.thick for scan in self.scans])[self.scan]


def draw_sample(scans: Sequence[ScanGeometry], draw: Drawer, pairs_per_scan: int, config: ViewConfig) -> PairSample:
    """``pairs_per_scan`` visits of every scan."""
    rows = [(number, visit) for number in range(len(scans)) for visit in range(pairs_per_scan)]
    pairs = [draw(scans[number], visit) for number, visit in rows]
    return PairSample(
        positions_mm=np.array([[view.positions_mm for view in pair] for pair in pairs]),
        targets=np.array([_targets(*pair, scans[n].stats, config) for pair, (n, _) in zip(pairs, rows, strict=True)]),
        rotation_deg=np.array([[view.rotation_deg for view in pair] for pair in pairs]),
        scan=np.array([number for number, _ in rows]),
        scans=scans,
    )


def _targets(a: View, b: View, stats: RobustStats, config: ViewConfig) -> Float64:
    """In the units of training: largest radius, largest angle, robust std."""
    targets = pair_targets(a, b)
    scaled = (
        targets.center_delta_mm / config.radius_mm_max,
        targets.rotation_delta_deg / config.rotation_max_deg,
        targets.window_delta / stats.std,
    )
    return np.concatenate(scaled).astype(np.float64)
