"""Draw the pairs that a run trains on: independent views of a scan, or two views of one place, maybe of two series."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from prism_ssl.config.schema import ViewConfig
from prism_ssl.contracts import Float64, VisitKey
from prism_ssl.data.scan import OpenScan, apply_affine
from prism_ssl.data.views.places import body_places, shared_places
from prism_ssl.data.views.random_affine import changed, random_affine
from prism_ssl.data.views.random_curve import random_curve
from prism_ssl.data.views.view_pairs import View, draw_pair, draw_view, draw_view_at
from prism_ssl.utils.seeds import generator_for


@dataclass(frozen=True, eq=False)
class Scene:
    """What pairs are drawn from: a scan, points of the body in it, and maybe another series of the patient.

    ``body_mm`` [M, 3] RAS is empty where the settings do not ask for it. ``shared_mm`` [M, 3] RAS are points that the
    scan and ``other`` both show; there is none without ``other``.
    """

    scan: OpenScan
    body_mm: Float64
    other: OpenScan | None
    shared_mm: Float64
    _last: dict[bytes, Scene] = field(default_factory=dict, init=False, repr=False)

    def of_changed_patient(self, change: Float64) -> Scene:
        """The scene of the patient that ``random_affine`` makes of the scene's own.

        The last one is kept: all pairs of an epoch have the same, and its geometry is computed once.
        """
        key = change.tobytes()
        if key not in self._last:
            self._last.clear()
            other = None if self.other is None else changed(self.other, change)
            body_mm, shared_mm = apply_affine(change, self.body_mm), apply_affine(change, self.shared_mm)
            self._last[key] = Scene(changed(self.scan, change), body_mm, other, shared_mm)
        return self._last[key]


@dataclass(frozen=True, eq=False)
class TrainingPair:
    """Two views (a, b), the scan that each is cut out of, and the curve that its intensities pass (None: none)."""

    views: tuple[View, View]
    scans: tuple[OpenScan, OpenScan]
    curves: tuple[Float64 | None, Float64 | None]

    @property
    def window_known(self) -> bool:
        """Whether the two windows can be compared: both on one scan, and no curve."""
        return self.scans[0] is self.scans[1] and all(curve is None for curve in self.curves)


def asks_for_body(config: ViewConfig) -> bool:
    """Whether pairs of these settings need points of the body."""
    return config.centers == "foreground" or config.same_place_share > 0


def scene_of(scan: OpenScan, other: OpenScan | None, config: ViewConfig, seed: int, scan_id: str) -> Scene:
    """The scene of a scan; ``other`` is left out where no shared frame of reference is plausible.

    ``seed`` and ``scan_id`` fix the points.
    """
    none, floor_mm = np.empty((0, 3)), config.radius_mm_floor
    if not asks_for_body(config):
        return Scene(scan, none, None, none)
    body_mm = body_places(scan, floor_mm, generator_for(seed, scan_id, "body"))
    if other is None:
        return Scene(scan, body_mm, None, none)
    shared = shared_places(scan, other, floor_mm, generator_for(seed, scan_id, "shared"))
    if shared.points_mm is None or not (shared.room_mm >= floor_mm).any():
        return Scene(scan, body_mm, None, none)
    return Scene(scan, body_mm, other, shared.points_mm[shared.room_mm >= floor_mm])


def draw_training_pair(scene: Scene, config: ViewConfig, n_patches: int, seed: int, key: VisitKey) -> TrainingPair:
    """The pair of one visit; the scene, ``seed`` and ``key`` fix the draws.

    A pair of one series is the same whether or not there is another one. Without the settings ``centers``,
    ``same_place_share``, ``random_contrast`` and those of ``random_affine`` it is ``draw_pair``.
    """
    change = random_affine(config, seed, key.scan_id, key.epoch)
    if change is not None:
        scene = scene.of_changed_patient(change)
    scan = scene.scan
    if not asks_for_body(config) and not config.random_contrast:
        views = draw_pair(scan.affine, scan.shape, scan.stats, config, n_patches, seed, key)
        return TrainingPair(views, (scan, scan), (None, None))
    kind = generator_for(seed, key.scan_id, key.epoch, key.visit, "kind")
    # Always all of these draws, so that none depends on what another one chose.
    same_place, two_series, swapped, curved_a, curved_b, place_a, place_b = kind.random(7)
    jitter_mm = config.same_place_mm * kind.uniform(-1.0, 1.0, 3)
    scans, centers = (scan, scan), _centers(scene, config, place_a, place_b)
    if same_place < config.same_place_share:
        if scene.other is not None and two_series < config.other_series_share:
            scans = (scan, scene.other) if swapped < 0.5 else (scene.other, scan)
        center_mm = _place(scene, place_a, of_both=scans[0] is not scans[1])
        centers = center_mm, center_mm + jitter_mm
    sides = (generator_for(seed, key.scan_id, key.epoch, key.visit, side) for side in (0, 1))
    a, b = (_view(of, center, config, n_patches, side) for of, center, side in zip(scans, centers, sides, strict=True))
    shares = (curved_a, curved_b)
    first, second = (random_curve(kind) if share < config.random_contrast else None for share in shares)
    return TrainingPair((a, b), scans, (first, second))


def _centers(scene: Scene, config: ViewConfig, a: float, b: float) -> tuple[Float64 | None, Float64 | None]:
    """Independent centres on the body, chosen by two numbers in [0, 1); None: anywhere."""
    if config.centers == "anywhere" or not len(scene.body_mm):
        return None, None
    return _place(scene, a, of_both=False), _place(scene, b, of_both=False)


def _place(scene: Scene, chosen: float, of_both: bool) -> Float64:
    """The place that a number in [0, 1) chooses: of the body, or of those that both series show."""
    places = scene.shared_mm if of_both else scene.body_mm
    if not len(places):  # no point of the body has room for a ball
        places = apply_affine(scene.scan.affine, (np.asarray(scene.scan.shape)[None] - 1) / 2)
    place: Float64 = places[int(chosen * len(places))]
    return place


def _view(scan: OpenScan, center_mm: Float64 | None, config: ViewConfig, n: int, rng: np.random.Generator) -> View:
    if center_mm is None:
        return draw_view(scan.affine, scan.shape, scan.stats, config, n, rng)
    return draw_view_at(center_mm, scan.affine, scan.shape, scan.stats, config, n, rng)
