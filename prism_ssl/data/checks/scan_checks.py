"""The checks that one scan must pass, cheapest first; without Ray, so that each can be run alone.

A check is a function that raises ``ScanRejected`` with a reason and the numbers behind it, or returns nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from prism_ssl.config.operations import PreflightConfig
from prism_ssl.config.schema import PrismConfig
from prism_ssl.contracts import Float32, RobustStats
from prism_ssl.data.scan import (
    SMALLEST_FLOAT,
    OpenScan,
    RejectReason,
    ScanHeader,
    check_agreement,
    check_openable,
    load_voxels,
    read_header,
    robust_stats,
    stats_sample,
    times,
)
from prism_ssl.data.views import largest_radius_mm
from prism_ssl.errors import ScanRejected

SIGNED_LEVEL = 0.05
"""An MR voxel is clearly negative below minus this share of the sample's 99.5 percentile of magnitude ..."""

SIGNED_SHARE_MAX = 0.05
"""... and an MR with more than this share of such voxels is a statistical or parametric map."""

CT_AIR_HU_MIN = -1200.0
"""Noisy air lies above this; lower values are a CT's padding, which does not prove HU."""

DENSE_HU, DENSE_SHARE_MAX = 700.0, 0.25
"""In HU, at most this share of a body's non-air voxels is denser than this; with the intercept lost, water is too."""

NEAR_INTEGER = 1e-3
"""Largest distance from an integer at which a float counts as one: labels that were rescaled or resampled."""


@dataclass(frozen=True, eq=False)
class Volume:
    """Input of the voxel checks; ``lowest`` and ``highest`` are rescaled values of the whole volume."""

    modality: str
    header: ScanHeader
    voxels: npt.NDArray[Any]
    lowest: float
    highest: float

    def sampled_values(self) -> Float32:
        """Rescaled values of a part of the voxels, see ``stats_sample``."""
        raw = stats_sample(self.voxels).astype(np.float32)
        values: Float32 = raw * np.float32(self.header.slope) + np.float32(self.header.intercept)
        return values


def inspect(path: str, modality: str, config: PrismConfig) -> tuple[ScanHeader, RobustStats]:
    """Read a whole file, run all checks, and return its header and statistics.

    Raises:
        ScanRejected: the first check that it fails.
    """
    header, scan = inspect_and_open(path, modality, config)
    return header, scan.stats


def inspect_and_open(path: str, modality: str, config: PrismConfig) -> tuple[ScanHeader, OpenScan]:
    """As ``inspect``, but return the open scan, ready for sampling, so that the file is read only once."""
    header = read_header(path)
    for check_header in HEADER_CHECKS:
        check_header(header, config)
    voxels = load_voxels(path, header)
    volume = Volume(modality, header, voxels, *_finite_range(voxels, header))
    for check_volume in VOLUME_CHECKS:
        check_volume(volume, config.preflight)
    stats = robust_stats(voxels, header.slope, header.intercept)
    return header, OpenScan(voxels, header.slope, header.intercept, header.affine, stats)


def _shape_fits(header: ScanHeader, config: PrismConfig) -> None:
    shape, needed = header.volume_shape, config.preflight.min_slices
    text = times(shape)
    thin = sum(n < needed for n in shape)
    if thin == 1 and 1 in shape:
        raise ScanRejected(RejectReason.SCOUT_SINGLE_SLICE, f"shape is {text}; needed: a volume, not one slice")
    if thin > 1:
        raise ScanRejected(RejectReason.SHAPE_TOO_SMALL, f"shape is {text}; needed: {needed} voxels on each axis")
    if thin == 1:
        detail = f"shape is {text}; needed: {needed} slices (preflight.min_slices)"
        raise ScanRejected(RejectReason.TOO_FEW_SLICES, detail)


def _openable(header: ScanHeader, config: PrismConfig) -> None:
    check_openable(header, config.preflight.max_volume_bytes)


def _geometry_agrees(header: ScanHeader, config: PrismConfig) -> None:
    if config.preflight.require_agreement:
        check_agreement(header.geometry)


def _spacing_believable(header: ScanHeader, config: PrismConfig) -> None:
    lowest, highest = config.preflight.spacing_mm_min, config.preflight.spacing_mm_max
    if not all(lowest <= mm <= highest for mm in header.spacing_mm):
        unit = header.geometry.mm_per_unit
        counted = "" if unit == 1 else f" (the header counts in units of {unit:g} mm: xyzt_units)"
        detail = f"spacing is {times(header.spacing_mm)} mm{counted}; needed: {lowest:g} to {highest:g} mm"
        raise ScanRejected(RejectReason.SPACING_OUT_OF_RANGE, detail)


def _orientation_known(header: ScanHeader, config: PrismConfig) -> None:
    told = header.geometry
    if config.preflight.require_orientation and told.sform_code <= 0 and told.qform_code <= 0:
        detail = "sform_code and qform_code are 0; needed: one of them (or preflight.require_orientation=False)"
        raise ScanRejected(RejectReason.NO_ORIENTATION, detail)


def _ball_fits(header: ScanHeader, config: PrismConfig) -> None:
    found, needed = largest_radius_mm(header.affine, header.volume_shape), config.view.radius_mm_floor
    if found < needed:
        detail = f"the largest ball has a radius of {found:.1f} mm; needed: {needed:g} mm (view.radius_mm_floor)"
        raise ScanRejected(RejectReason.SHAPE_TOO_SMALL, detail)


HEADER_CHECKS: tuple[Callable[[ScanHeader, PrismConfig], None], ...] = (
    _shape_fits,
    _openable,
    _geometry_agrees,
    _spacing_believable,
    _orientation_known,
    _ball_fits,
)
"""Run before any data is decompressed."""


def _finite_range(voxels: npt.NDArray[Any], header: ScanHeader) -> tuple[float, float]:
    """Lowest and highest rescaled value; refuses a volume with a voxel that is not finite."""
    with np.errstate(invalid="ignore"):
        raw = float(voxels.min()), float(voxels.max())  # a NaN comes out of both, an infinity out of one
    _not_integers_read_as_floats(voxels, raw)
    if not np.all(np.isfinite(raw)):
        broken = sum(int(np.count_nonzero(~np.isfinite(plane))) for plane in voxels)
        if broken == voxels.size:
            raise ScanRejected(RejectReason.NAN_FILLED, f"none of {voxels.size} voxels is finite")
        detail = f"{broken} of {voxels.size} voxels are not finite; needed: none"
        raise ScanRejected(RejectReason.NON_FINITE_VOXELS, detail)
    ends = sorted(header.slope * value + header.intercept for value in raw)
    return ends[0], ends[1]


def _not_integers_read_as_floats(voxels: npt.NDArray[Any], raw_ends: tuple[float, float]) -> None:
    """Refuse integers with a float data type: small ones read as tiny floats, and negative ones as NaN."""
    highest = max(map(abs, raw_ends))
    if not math.isfinite(highest):
        highest = max(
            float(np.abs(plane, where=np.isfinite(plane), out=np.zeros_like(plane)).max()) for plane in voxels
        )
    if 0 < highest < SMALLEST_FLOAT:
        detail = f"no voxel is larger than {highest:.3g}: the voxels are integers, and the header calls them floats"
        raise ScanRejected(RejectReason.NIFTI_LOAD_FAILED, detail)


def _varies(volume: Volume, _config: PreflightConfig) -> None:
    if volume.lowest == volume.highest:
        raise ScanRejected(RejectReason.CONSTANT_INTENSITY, f"all voxels are {volume.lowest:g}")


def _not_a_label_map(volume: Volume, config: PreflightConfig) -> None:
    if not config.reject_label_maps:
        return
    limit = config.label_map_values
    found = _distinct(stats_sample(volume.voxels))
    for plane in volume.voxels:  # the whole volume is searched only if the sample has few values
        if found.size > limit:
            return
        found = np.union1d(found, _distinct(plane))
    if found.size <= limit:
        detail = f"{found.size} distinct values; needed: more than {limit} (preflight.label_map_values)"
        raise ScanRejected(RejectReason.LABEL_MAP, detail)


def _distinct(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The distinct values; floats that all lie close to integers, and not all to 0, are rounded."""
    if values.dtype.kind == "f":
        whole = np.rint(values)
        if whole.any() and np.abs(values - whole).max() <= NEAR_INTEGER:
            values = whole
    return np.unique(values)


def _ct_in_hu(volume: Volume, config: PreflightConfig) -> None:
    if not config.require_hu or volume.modality != "CT":
        return
    values = volume.sampled_values()
    values = values[values >= CT_AIR_HU_MIN]
    air = values <= config.ct_air_hu
    share = float(air.mean()) if values.size else 0.0
    if share >= config.ct_air_share_min and not _only_padding(values[air], values[~air]):
        return
    detail = (
        f"values are {volume.lowest:g} to {volume.highest:g}, and {share:.2%} of them, padding left out, are air at or "
        f"below {config.ct_air_hu:g} HU; needed: {config.ct_air_share_min:.2%} (not in HU, or not a CT)"
    )
    raise ScanRejected(RejectReason.CT_NOT_IN_HU, detail)


def _only_padding(air: Float32, others: Float32) -> bool:
    """Whether the seeming air is a single value, without noise, and much of the rest is denser than soft tissue."""
    return air.size > 0 and air.min() == air.max() and float(np.mean(others > DENSE_HU)) > DENSE_SHARE_MAX


def _mr_not_signed(volume: Volume, config: PreflightConfig) -> None:
    if not config.reject_signed_mr or volume.modality != "MR" or volume.lowest >= 0:
        return
    sample = volume.sampled_values()
    level = SIGNED_LEVEL * float(np.percentile(np.abs(sample), 99.5))
    share = float(np.mean(sample < -level))
    if share > SIGNED_SHARE_MAX:
        detail = f"{share:.0%} of the voxels are below {-level:.3g}; needed: at most {SIGNED_SHARE_MAX:.0%} in an MR"
        raise ScanRejected(RejectReason.NOT_ANATOMICAL, detail)


VOLUME_CHECKS: tuple[Callable[[Volume, PreflightConfig], None], ...] = (
    _varies,
    _not_a_label_map,
    _ct_in_hu,
    _mr_not_signed,
)
"""Run once the whole file has been read and every voxel is finite."""
