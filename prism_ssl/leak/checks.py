"""The leak checks: each gives a reader less than the encoder sees, and measures what it still predicts."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch

from prism_ssl.config.schema import PrismConfig
from prism_ssl.contracts import Float32, Float64, PreparedScan
from prism_ssl.data.checks import open_prepared
from prism_ssl.data.views import View
from prism_ssl.leak import pixels
from prism_ssl.leak.finding import Finding, recall_finding, worst_axis
from prism_ssl.leak.readers import READERS, blanked_features, pair_features, position_features, set_network
from prism_ssl.leak.slice_phase import rotation_from_phase_deg
from prism_ssl.leak.views import TARGETS, Drawer, PairSample, ScanGeometry, draw_sample, honest_drawer
from prism_ssl.model.backbone import PrismEncoder, build_encoder
from prism_ssl.utils.hashing import stable_int
from prism_ssl.utils.machine import usable_cpus

ROTATION, DISPLACEMENT = ("rx", "ry", "rz"), ("dx", "dy", "dz")
BLUR_BOUND, PHASE_BOUND, PADDED_ROTATION_BOUND, PADDED_DISPLACEMENT_BOUND = 0.10, 0.60, 0.10, 0.30
ANSWER_BOUND = 0.0

S = TypeVar("S")
T = TypeVar("T")


@dataclass(frozen=True)
class Effort:
    """Sample sizes: more pairs make the intervals narrower and the check slower."""

    position_pairs: int = 2400
    phase_pairs: int = 250
    noise_pairs: int = 660
    views_per_scan: int = 8
    phase_views_per_scan: int = 4
    n_patches: int = 128
    real_patches: int | None = None
    """Patches per view in ``check_real`` and ``check_answer``; None: as many as training uses."""
    answer_pairs: int = 240
    seed: int = 71


def check_positions(
    scans: Sequence[ScanGeometry], draw: Drawer, config: PrismConfig, effort: Effort, control: bool = False
) -> list[Finding]:
    """Predict every target from the positions of both views alone. A control is read by the ridge only."""
    sample = draw_sample(scans, draw, _per_scan(effort.position_pairs, scans), config.view)
    features = pair_features(position_features(sample.positions_mm))
    if control:
        predicted = READERS["ridge"](features, sample.targets)
        return [
            worst_axis("positions, ball tied to the window", "ridge", TARGETS, predicted, sample.targets, 0.0, True)
        ]
    found = {name: read(features, sample.targets) for name, read in READERS.items()}
    found["set network"] = set_network(sample.positions_mm[:, :, :64], sample.targets)
    return [
        worst_axis("positions only", name, TARGETS, predicted, sample.targets, 0.0) for name, predicted in found.items()
    ]


def check_blanked(
    scans: Sequence[ScanGeometry],
    draw: Drawer,
    config: PrismConfig,
    effort: Effort,
    encoder: PrismEncoder | None = None,
    control: bool = False,
) -> list[Finding]:
    """Constant patches at the true positions through an encoder (None: tiny, untrained); a ridge on its embeddings."""
    sample = draw_sample(scans, draw, _per_scan(effort.position_pairs, scans), config.view)
    encoder = encoder or _untrained(effort)
    features = pair_features(blanked_features(encoder, sample.positions_mm[:, :, :48]))
    predicted = READERS["ridge"](features, sample.targets)
    name = "pixels blanked, " + ("ball tied to the window" if control else "true positions")
    return [worst_axis(name, "encoder + ridge", TARGETS, predicted, sample.targets, 0.0, control)]


def check_lattice(
    scans: Sequence[ScanGeometry], draw: Drawer, config: PrismConfig, effort: Effort, control: bool = False
) -> list[Finding]:
    """Planes fitted to the patch centres of every view, with affine and slice distance known."""
    sample = draw_sample(scans, draw, _per_scan(effort.phase_pairs, scans), config.view)
    rows = [(q, side) for q in range(len(sample.scan)) for side in (0, 1)]
    read = np.array(list(_in_threads(lambda row: _lattice_rotation(sample, row[0], row[1], config), rows)))
    true = sample.rotation_deg.reshape(-1, 3)
    name = "centres rounded to voxels" if control else "patch-centre lattice"
    found = [worst_axis(name, "plane fit, all scans", ROTATION, read, true, 0.0, control)]
    thick = np.repeat(sample.thick, 2)
    if thick.any() and not control:
        found.append(worst_axis(name, "plane fit, thick slices", ROTATION, read[thick], true[thick], 0.0))
    return found


def check_noise(scans: Sequence[ScanGeometry], config: PrismConfig, effort: Effort) -> list[Finding]:
    """Noise in place of the voxels: what interpolation and padding reveal."""
    draw = honest_drawer(config.view, effort.n_patches, effort.seed)
    per_scan = _per_scan(effort.noise_pairs, scans)
    read_phase = _per_scan(effort.phase_pairs / 4, scans)
    each = list(_in_threads(lambda scan: _noise_views(scan, draw, per_scan, read_phase, config, effort), scans))
    blur, padding = (np.concatenate([views[part] for views in each]) for part in (0, 1))
    read, true = (np.concatenate([views[part] for views in each]) for part in (2, 3))
    targets = draw_sample(scans, draw, per_scan, config.view).targets
    turned, moved = targets[:, 3:6], targets[:, 0:3]
    found = []
    for name, reader in READERS.items():
        blurred, padded = pair_features(blur), pair_features(padding)
        said = reader(padded, np.concatenate([turned, moved], axis=1))
        found += [
            worst_axis("blur of white noise", name, ROTATION, reader(blurred, turned), turned, BLUR_BOUND),
            worst_axis("padding", name, ROTATION, said[:, :3], turned, PADDED_ROTATION_BOUND),
            worst_axis("padding", name, DISPLACEMENT, said[:, 3:], moved, PADDED_DISPLACEMENT_BOUND),
        ]
    ceiling = worst_axis("blur of white noise", "slice phase (ceiling)", ROTATION, read, true, None)
    return [*sorted(found, key=lambda finding: finding.check), ceiling]


def check_answer(
    scans: Sequence[ScanGeometry], config: PrismConfig, effort: Effort, encoder: PrismEncoder | None = None
) -> list[Finding]:
    """Whether the encoder itself uses the phase: it sees noise on the grid of each scan (no anatomy, all of the phase).

    A ridge predicts the rotation from its embeddings (None: tiny, untrained).
    """
    encoder = encoder or _untrained(effort)
    draw = honest_drawer(config.view, effort.real_patches or config.data.n_patches, effort.seed)
    per_scan = _per_scan(effort.answer_pairs, scans)
    each = list(_in_threads(lambda scan: _noise_embeddings(scan, draw, per_scan, config, effort, encoder), scans))
    turned = draw_sample(scans, draw, per_scan, config.view).targets[:, 3:6]
    predicted = READERS["ridge"](pair_features(np.concatenate(each)), turned)
    return [worst_axis("anatomy blanked, phase kept", "encoder + ridge", ROTATION, predicted, turned, ANSWER_BOUND)]


def check_real(scans: Sequence[PreparedScan], config: PrismConfig, effort: Effort) -> list[Finding]:
    """Real scans: the phase of their interpolation blur, and retrieval without an encoder."""
    draw = honest_drawer(config.view, effort.real_patches or config.data.n_patches, effort.seed)
    each = list(_in_threads(lambda scan: _real_views(scan, draw, config, effort), scans))
    read, true, histogram, mean_std = (np.concatenate([views[part] for views in each]) for part in range(4))
    series = _repeated([scan.record.series_id for scan in scans], effort.views_per_scan)
    modality = _repeated([scan.record.modality for scan in scans], effort.views_per_scan)
    spacing = _repeated([str(sorted(np.round(scan.spacing_mm, 2))) for scan in scans], effort.views_per_scan)
    everything = np.zeros_like(series)
    return [
        worst_axis("blur of the scans", "slice phase", ROTATION, read, true, PHASE_BOUND),
        recall_finding("chance", pixels.recall_within_group(everything, series), series),
        recall_finding("modality alone", pixels.recall_within_group(modality, series), series),
        recall_finding("spacing alone", pixels.recall_within_group(spacing, series), series),
        recall_finding("mean and std of the pixels", pixels.recall_at_1(mean_std, series), series),
        recall_finding("histogram of the pixels", pixels.recall_at_1(histogram, series), series),
    ]


# ---------------------------------------------------------------------- parts
def _lattice_rotation(sample: PairSample, pair: int, side: int, config: PrismConfig) -> Float64:
    points = sample.positions_mm[pair, side].astype(np.float64)
    affine = sample.scans[sample.scan[pair]].affine
    return rotation_from_phase_deg(points, np.ones(len(points)), affine, config.view.rotation_max_deg)[0]


def _noise_views(
    scan: ScanGeometry, draw: Drawer, n_pairs: int, n_phase: int, config: PrismConfig, effort: Effort
) -> tuple[Float64, Float64, Float64, Float64]:
    """Blur and padding features [n_pairs, 2, F]; rotation predicted and true [2 n_phase, 3]."""
    noise = pixels.noise_scan(scan, effort.seed)
    blur, padding, read, true = [], [], [], []
    for visit in range(n_pairs):
        for view in draw(scan, visit):
            patches = pixels.cut(noise, pixels.unclipped(view), config.data.patch_mm)
            blur.append(pixels.blur_features(patches, view.positions_mm))
            padding.append(pixels.padding_features(patches, view.positions_mm))
            if visit < n_phase:
                read.append(_phase_rotation(patches, view, scan.affine, config))
                true.append(view.rotation_deg)
    blur_pairs, padding_pairs = (np.array(features).reshape(n_pairs, 2, -1) for features in (blur, padding))
    return blur_pairs, padding_pairs, np.array(read), np.array(true)


def _noise_embeddings(
    scan: ScanGeometry, draw: Drawer, n_pairs: int, config: PrismConfig, effort: Effort, encoder: PrismEncoder
) -> Float64:
    """Embeddings of views of noise, [n_pairs, 2, D]."""
    noise = pixels.noise_scan(scan, effort.seed)
    embedded = []
    for visit in range(n_pairs):
        views = draw(scan, visit)
        patches = np.stack([pixels.cut(noise, pixels.unclipped(view), config.data.patch_mm) for view in views])
        positions = np.stack([view.positions_mm for view in views])
        with torch.inference_mode():
            embedded.append(encoder(torch.from_numpy(patches)[..., None], torch.from_numpy(positions)).double().numpy())
    return np.stack(embedded)


def _untrained(effort: Effort) -> PrismEncoder:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(effort.seed)
        return build_encoder("tiny")


def _real_views(
    prepared: PreparedScan, draw: Drawer, config: PrismConfig, effort: Effort
) -> tuple[Float64, Float64, Float64, Float64]:
    """Rotation predicted and true, histogram, mean and std; a row for each view."""
    scan = open_prepared(prepared, config)
    geometry = ScanGeometry(prepared.record.scan_id, scan.affine, scan.shape, scan.stats)
    views = [view for visit in range(math.ceil(effort.views_per_scan / 2)) for view in draw(geometry, visit)]
    read: list[Float64] = []
    rows: list[tuple[Float64, Float64]] = []
    for view in views[: effort.views_per_scan]:
        patches = pixels.cut(scan, view, config.data.patch_mm)
        rows.append((pixels.histogram_features(patches), pixels.mean_std_features(patches)))
        if len(read) < effort.phase_views_per_scan:
            read.append(_phase_rotation(patches, view, scan.affine, config))
    true = [view.rotation_deg for view in views[: len(read)]]
    histogram, mean_std = (np.array(column) for column in zip(*rows, strict=True))
    return np.array(read), np.array(true), histogram, mean_std


def _phase_rotation(patches: Float32, view: View, affine: Float64, config: PrismConfig) -> Float64:
    points, energies = pixels.block_energies(patches, view, affine, config.data.patch_mm)
    return rotation_from_phase_deg(points, energies, affine, config.view.rotation_max_deg)[0]


def _per_scan(pairs: float, scans: Sequence[ScanGeometry]) -> int:
    return max(1, math.ceil(pairs / len(scans)))


def _repeated(names: Sequence[str], times: int) -> npt.NDArray[np.int64]:
    return np.repeat(np.array([stable_int(name) for name in names], np.int64), times)


def _in_threads(call: Callable[[S], T], items: Iterable[S]) -> Iterator[T]:
    """Results in order; numpy and the kernel release the interpreter lock."""
    with ThreadPoolExecutor(usable_cpus()) as threads:
        yield from threads.map(call, items)
