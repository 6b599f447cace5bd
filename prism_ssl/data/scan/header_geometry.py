"""Voxel geometry of a NIfTI header: units, sform, qform and pixdim, and whether they agree."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from prism_ssl.contracts import Float64
from prism_ssl.data.scan import geometry
from prism_ssl.data.scan.reject_reasons import RejectReason
from prism_ssl.errors import ScanRejected

SPACING_TOLERANCE = 0.05
"""Largest relative difference between the spacing of the sform and that of pixdim (and with it of the qform)."""

SINGULAR_SHARE = 1e-3
"""Volume of a voxel over the product of its edges at which its axes count as dependent (a tilt of 89.9 degrees)."""

SHEARED_SHARE = 1e-3
"""A volume counts as sheared if a voxel's volume is below the product of its edges by this share (2.6 degrees tilt)."""

_SPACE_UNIT = 7  # the bits of xyzt_units that tell the unit of space
_MM_PER_UNIT = {1: 1000.0, 3: 0.001}  # metre, micron; 2 is mm, and no unit is read as mm (as ITK does)


@dataclass(frozen=True, eq=False)
class HeaderGeometry:
    """``affine`` [4, 4] maps voxel indices to RAS mm: that of the sform, else of the qform, else pixdim alone.

    ``pixdim_mm`` [3] is the spacing in pixdim, 0 where it has none. ``mm_per_unit`` is the unit of the header; all
    lengths here are in mm. ``qform_mirrors``: whether the qform mirrors the volume, None if the header does not say.
    """

    affine: Float64
    pixdim_mm: Float64
    mm_per_unit: float
    sform_code: int
    qform_code: int
    qform_mirrors: bool | None


def geometry_of(parsed: Any) -> HeaderGeometry:
    """The geometry of nibabel's header.

    Raises:
        ScanRejected: there is no sform, and pixdim has no spacing.
        ValueError: from nibabel, an invalid qform.
    """
    sform_code, qform_code = int(parsed["sform_code"]), int(parsed["qform_code"])
    pixdim = parsed["pixdim"]
    told = np.nan_to_num(np.abs(pixdim[1:4].astype(np.float64)), nan=0.0, posinf=0.0)
    mirrors = bool(pixdim[0] < 0) if qform_code > 0 and pixdim[0] != 0 else None
    if sform_code <= 0:
        if not np.all(pixdim[1:4] > 0):
            detail = f"pixdim is {times(pixdim[1:4])} mm and there is no sform; needed: above 0"
            raise ScanRejected(RejectReason.SPACING_NOT_POSITIVE, detail)
        pixdim[0] = -1 if pixdim[0] < 0 else 1  # the standard reads 0 as 1, nibabel refuses it
    affine = np.array(parsed.get_best_affine(), dtype=np.float64)
    mm_per_unit = _MM_PER_UNIT.get(int(parsed["xyzt_units"]) & _SPACE_UNIT, 1.0)
    affine[:3] *= mm_per_unit
    return HeaderGeometry(affine, told * mm_per_unit, mm_per_unit, sform_code, qform_code, mirrors)


def check_affine(affine: Float64) -> None:
    """Refuse an affine that cannot be inverted; a sheared one (gantry tilt) is fine."""
    if not np.all(np.isfinite(affine)):
        detail = f"{np.count_nonzero(~np.isfinite(affine))} of the affine's 16 numbers are not finite"
        raise ScanRejected(RejectReason.AFFINE_NOT_FINITE, detail)
    spacing_mm = geometry.spacing_mm(affine)
    box_mm3, cell_mm3 = float(np.prod(spacing_mm)), abs(float(np.linalg.det(affine[:3, :3])))
    if cell_mm3 <= SINGULAR_SHARE * box_mm3:
        detail = f"a voxel of {times(spacing_mm)} mm has a volume of {cell_mm3:g} mm3; needed: independent axes"
        raise ScanRejected(RejectReason.AFFINE_SINGULAR, detail)


def check_agreement(told: HeaderGeometry) -> None:
    """Refuse a header whose sform (one that passed ``check_affine``) contradicts its pixdim or its qform."""
    if told.sform_code <= 0:
        return
    if not _spacing_agrees(told.affine, told.pixdim_mm):
        qform = " and a qform" if told.qform_code > 0 else ""
        detail = (
            f"voxels are {times(geometry.spacing_mm(told.affine))} mm by the sform and {times(told.pixdim_mm)} mm by "
            f"pixdim{qform}; needed: the same within {SPACING_TOLERANCE:.0%} (or preflight.require_agreement=False)"
        )
        raise ScanRejected(RejectReason.CONFLICTING_GEOMETRY, detail)
    if told.qform_mirrors not in (None, float(np.linalg.det(told.affine[:3, :3])) < 0):
        detail = "only one of sform and qform mirrors the volume; needed: the same left and right"
        raise ScanRejected(RejectReason.CONFLICTING_GEOMETRY, detail)


def _spacing_agrees(affine: Float64, pixdim_mm: Float64) -> bool:
    """Along each axis, or for a sheared volume by voxel volume: a gantry tilt keeps that and may lengthen an axis."""
    spacing_mm = geometry.spacing_mm(affine)
    if np.all((np.abs(spacing_mm - pixdim_mm) <= SPACING_TOLERANCE * pixdim_mm) | (pixdim_mm == 0)):
        return True
    cell_mm3, told_mm3 = abs(float(np.linalg.det(affine[:3, :3]))), float(np.prod(pixdim_mm))
    sheared = cell_mm3 < (1 - SHEARED_SHARE) * float(np.prod(spacing_mm))
    return sheared and abs(cell_mm3 - told_mm3) <= SPACING_TOLERANCE * told_mm3


def times(values: Iterable[float]) -> str:
    """Format a shape or a spacing: 512 x 512 x 2.5."""
    return " x ".join(f"{value:g}" for value in values)
