"""Types shared between packages, with one legend of shapes, frames and units.

Shape legend
    B   pairs in a batch            n   pairs in a chunk (B / workers)
    N   patches of one view         H, W  pixels of a patch (16 x 16)
    P   width of the projection     D   width of an embedding

Frames
    voxel   continuous index (i, j, k) along the on-disk axes, voxel centres at integers
    RAS     millimetres, x to the patient's Right, y Anterior, z Superior (NIfTI world)
    prism   millimetres about the centre of a view, axes turned by the view's rotation

Intensities are rescaled units (slope and intercept applied; HU for CT) until the window
maps them to [-1, 1]. In a chunk they travel as int16 fixed point, see ``PATCH_SCALE``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:  # pool actors import this module and must not pay for torch
    import torch

PATCH_PX = 16
"""Pixels along each side of a patch (H = W)."""

PATCH_SCALE = 32767
"""Fixed-point scale of a chunk's patches: windowed value = int16 / PATCH_SCALE."""

PLACE_POINTS = 16
"""Points of a pair of series in the place test; a random guess finds the matching view with probability 1 / 16."""

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class ScanRecord:
    """One series of the catalogue.

    Only ``scan_id``, ``series_id``, ``subject_id`` (all hashed) and ``modality`` may leave the machine.
    """

    scan_id: str
    series_id: str
    modality: str
    nifti_path: str
    series_path: str
    subject_id: str


@dataclass(frozen=True, slots=True)
class RobustStats:
    """Intensity statistics of a scan in rescaled units, insensitive to air and outliers.

    ``lowest`` stands for everything outside the volume; ``median`` and ``std`` describe the foreground.
    """

    lowest: float
    median: float
    std: float


@dataclass(frozen=True, slots=True)
class PreparedScan:
    """A scan that passed preflight, with preflight's findings; equal ``content`` means equal voxels.

    ``others`` are series of the same patient that views of the same place may come from (``view.other_series_share``).
    """

    record: ScanRecord
    stats: RobustStats
    volume_bytes: int
    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    content: str = ""
    others: tuple[PreparedScan, ...] = ()


@dataclass(frozen=True, slots=True)
class VisitKey:
    """Names one visit of one scan; with the run's seed it fixes both views of the pair.

    ``epoch`` counts the passes over the shard, ``visit`` the pairs drawn since the scan was last opened.
    """

    scan_id: str
    epoch: int
    visit: int


@dataclass(frozen=True, slots=True)
class BrokenScan:
    """A scan that failed at run time: at which stage, and the class and text of the error."""

    scan_id: str
    stage: str
    cause: str


@dataclass(slots=True)
class VisitChunk:
    """A pool actor's output: n pairs of views, without their pixels. Axis 1 of ``positions_mm`` is (a, b).

    ``blocked_ms`` is the time this chunk waited for a scan to open, ``sampling_ms`` the time spent
    drawing and extracting; ``counters`` are the actor's running totals, ``cursor`` its resume state, ``broken``
    the scans that failed since its last chunk (lenient mode). ``sight_bits`` flags empty views, see
    ``prism_ssl.data.extract.visibility``.
    """

    positions_mm: Float32  # [n, 2, N, 3] prism frame
    center_delta_mm: Float32  # [n, 3] RAS, b - a
    rotation_delta_deg: Float32  # [n, 3] b - a
    window_delta: Float32  # [n, 2] centre, width; b - a, rescaled units
    intensity_scale: Float32  # [n] robust std of the scan
    series_label: npt.NDArray[np.int64]  # [n]
    subject_label: npt.NDArray[np.int64]  # [n]
    center_a_mm: Float32  # [n, 3] RAS
    rotation_a_deg: Float32  # [n, 3]
    window_a: Float32  # [n, 2] centre, width; rescaled units
    window_known: npt.NDArray[np.bool_]  # [n]
    series_id: list[str]
    visits: list[VisitKey]
    sight_bits: npt.NDArray[np.uint8]  # [n, 2]
    blocked_ms: float
    sampling_ms: float
    counters: dict[str, float]
    cursor: dict[str, Any]
    broken: list[BrokenScan]


@dataclass(slots=True)
class PairChunk(VisitChunk):
    """Pairs whose patches the actor has cut out (``data.extract_on: cpu``)."""

    patches: npt.NDArray[np.int16]  # [n, 2, N, H, W]


@dataclass(frozen=True, slots=True)
class VolumeFile:
    """Raw voxels [nz, ny, nx] in a file of their own, in the layout of ``OpenScan``."""

    path: str
    dtype: str
    shape: tuple[int, ...]

    def map(self) -> npt.NDArray[Any]:
        """The voxels, read-only; they stay readable after the file is removed. Raises ``FileNotFoundError``."""
        return np.memmap(self.path, np.dtype(self.dtype), mode="r", shape=self.shape)


@dataclass(slots=True)
class UncutChunk(VisitChunk):
    """Pairs without patches: the consumer cuts them out of its own copy of the volumes (``data.extract_on: cuda``).

    ``volumes`` holds, by scan id, the volumes that the consumer does not have yet. After this chunk it needs only the
    volumes of this actor that are in ``mirrored``. See ``prism_ssl.data.views.pixel_transform`` for the two arrays.
    """

    pixel_to_voxel: Float64  # [n, 2, 3, 6]
    levels: Float32  # [n, 2, 3] gain, offset, outside
    volumes: dict[str, npt.NDArray[Any] | VolumeFile]
    mirrored: frozenset[str]

    def map_volumes(self) -> None:
        """Map the volumes that lie in files. Raises ``FileNotFoundError`` when one is gone."""
        for scan_id, volume in self.volumes.items():
            if isinstance(volume, VolumeFile):
                self.volumes[scan_id] = volume.map()


@dataclass(frozen=True, slots=True)
class PairFacts:
    """Ground truth of B pairs of views: how they differ, and which patient and series they show.

    Where the two views are from two series of the patient, which share a frame of reference, ``series_label`` is that
    of the series in the pool's slot. ``window_known`` is False where the two windows cannot be compared.
    """

    center_distance_mm: torch.Tensor  # [B]
    center_delta_mm: torch.Tensor  # [B, 3] RAS, b - a
    rotation_delta_deg: torch.Tensor  # [B, 3]
    window_delta: torch.Tensor  # [B, 2] centre, width
    intensity_scale: torch.Tensor  # [B]
    series_label: torch.Tensor  # [B] int64
    subject_label: torch.Tensor  # [B] int64
    center_a_mm: torch.Tensor  # [B, 3] RAS
    center_b_mm: torch.Tensor  # [B, 3] RAS
    rotation_a_deg: torch.Tensor  # [B, 3]
    window_a: torch.Tensor  # [B, 2] centre, width; rescaled units
    window_known: torch.Tensor  # [B] bool


@dataclass(frozen=True, slots=True)
class PrismBatch(PairFacts):
    """A training batch on its device. Patches are float in [-1, 1]."""

    patches_a: torch.Tensor  # [B, N, H, W, 1]
    positions_a: torch.Tensor  # [B, N, 3] mm, prism frame
    patches_b: torch.Tensor  # [B, N, H, W, 1]
    positions_b: torch.Tensor  # [B, N, 3] mm, prism frame
    scan_id: list[str]
    series_id: list[str]
    visits: list[VisitKey]


@dataclass(frozen=True, slots=True)
class PrismOutput:
    """The model's predictions for a batch. K is 4 (distance, dx, dy, dz) for regression, 3 signs for classification."""

    distance: torch.Tensor  # [B, K]
    rotation: torch.Tensor  # [B, 3]
    window_center: torch.Tensor  # [B, 1]
    window_width: torch.Tensor  # [B, 1]
    projection_a: torch.Tensor  # [B, P] unit norm
    projection_b: torch.Tensor  # [B, P] unit norm
    embedding_a: torch.Tensor  # [B, D]
    embedding_b: torch.Tensor  # [B, D]
    masked_error: torch.Tensor  # [B] share of the variance in hidden patches that is missed; 1 where none is hidden


RunStatus = Literal["running", "ok", "interrupted", "failed"]


@dataclass(frozen=True)
class RunSummary:
    """The outcome of a run.

    ``status`` is ``ok`` only when every step ran, no replacement failed in strict mode and no actor or
    thread died; ``interrupted`` when it stopped early on request, wrote a checkpoint and can be resumed; otherwise
    ``cause`` says why. ``totals`` holds the final value of every scalar of the guide's throughput section, ``losses``
    the last logged losses beside their chance levels, ``probe`` the last held-out evaluation (the ``probe/`` scalars
    without their prefix), ``tracking`` the mode, run id and URL of the tracked run, and ``problem`` where not
    everything could be tracked. ``not_judged`` names the alarms that need more steps than the run had; None when there
    are none.
    """

    run: str
    status: RunStatus
    cause: str | None
    steps_done: int
    max_steps: int
    resumed_from_step: int | None
    run_dir: str
    checkpoint: str | None = None
    encoder: str | None = None
    totals: dict[str, float] = field(default_factory=dict)
    losses: dict[str, dict[str, float]] = field(default_factory=dict)
    data: dict[str, float] = field(default_factory=dict)
    probe: dict[str, float] = field(default_factory=dict)
    tracking: dict[str, str] = field(default_factory=dict)
    alarms: list[str] = field(default_factory=list)
    not_judged: str | None = None
    restarts: int = 0
    """Restarts after a broken scan was quarantined, over all starts of the command."""
