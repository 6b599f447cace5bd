"""Register scans with SimpleITK, and carry points of one to the same place of the other."""

from __future__ import annotations

import importlib.util
from typing import Any

import numpy as np
from scipy.ndimage import map_coordinates

from prism_ssl.contracts import Float32, Float64
from prism_ssl.data.scan import OpenScan, apply_affine
from prism_ssl.data.views import bounds_mm

STEP_MM = 3.0
"""Voxels of the images that are registered."""

_LPS = np.array([-1.0, -1.0, 1.0])  # ITK counts to the left and to the back
_OF_RANGE = (1.0, 99.0)  # percentiles: a few bright voxels would stretch the histograms that are compared
_BINS, _SHARE, _SEED = 32, 0.1, 1  # of the mutual information, and of the voxels that it is estimated from
_SHRINK, _SMOOTH_MM = [4, 2, 1], [6, 3, 0]  # coarse to fine


def registration_is_here() -> bool:
    """Whether SimpleITK is installed."""
    return importlib.util.find_spec("SimpleITK") is not None


def carry_points(points_mm: Float64, reference: OpenScan, scan: OpenScan) -> Float64:
    """The places [M, 3] in ``scan`` that show what the RAS points [M, 3] of ``reference`` show.

    An affine map on mutual information (Mattes et al. 2001), from the centres of mass, so the two may differ in
    contrast. A deformation would follow the anatomy closer, and would squeeze a body into a scan that shows less of
    it. Raises RuntimeError where the two cannot be registered.
    """
    affine = _affine(_image(reference), _image(scan))
    there = [affine.TransformPoint(point) for point in (points_mm * _LPS).tolist()]
    carried: Float64 = np.array(there, np.float64).reshape(-1, 3) * _LPS
    return carried


def _affine(fixed: Any, moving: Any) -> Any:
    import SimpleITK

    found = SimpleITK.CenteredTransformInitializer(
        fixed, moving, SimpleITK.AffineTransform(3), SimpleITK.CenteredTransformInitializerFilter.MOMENTS
    )
    method = SimpleITK.ImageRegistrationMethod()
    method.SetMetricAsMattesMutualInformation(_BINS)
    method.SetMetricSamplingStrategy(method.RANDOM)
    method.SetMetricSamplingPercentage(_SHARE, _SEED)
    method.SetInterpolator(SimpleITK.sitkLinear)
    method.SetShrinkFactorsPerLevel(_SHRINK)
    method.SetSmoothingSigmasPerLevel(_SMOOTH_MM)
    method.SmoothingSigmasAreSpecifiedInPhysicalUnitsOn()
    method.SetOptimizerAsRegularStepGradientDescent(
        learningRate=1.0, minStep=1e-3, numberOfIterations=100, gradientMagnitudeTolerance=1e-6
    )
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetInitialTransform(found, inPlace=True)
    method.SetNumberOfThreads(1)  # with more, sums differ in their last digits from run to run
    method.Execute(fixed, moving)
    return found


def _image(scan: OpenScan) -> Any:
    """The scan on an upright grid, on which a sheared one can lie too, as an image of ITK."""
    import SimpleITK

    low, high = bounds_mm(scan)
    counts = np.maximum(np.ceil((high - low) / STEP_MM).astype(int), 1)
    values = _sampled(scan, low, counts)
    values = np.clip(values, *np.percentile(values, _OF_RANGE))
    values -= values.min()  # the centre of mass weighs by value: air of a CT must weigh nothing
    image = SimpleITK.GetImageFromArray(values.transpose(2, 1, 0))
    image.SetSpacing([STEP_MM] * 3)
    image.SetOrigin(((low + STEP_MM / 2) * _LPS).tolist())
    image.SetDirection(np.diag(_LPS).ravel().tolist())
    return image


def _sampled(scan: OpenScan, low_mm: Float64, counts: Any) -> Float32:
    """Means over cells of ``STEP_MM``, of eight points each: [nx, ny, nz]; outside the scan its darkest value.

    Sheet by sheet, so that memory does not grow with the scan's length.
    """
    darkest, (nx, ny, nz) = float(scan.voxels.min()), counts
    cells: Float32 = np.empty((nx, ny, nz), np.float32)
    for sheet in range(nx):
        axes = (np.arange(2 * sheet, 2 * sheet + 2), np.arange(2 * ny), np.arange(2 * nz))
        fine = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
        index = apply_affine(scan.to_voxel, low_mm + (fine + 0.5) * STEP_MM / 2)
        values = map_coordinates(scan.voxels, index[:, ::-1].T, order=1, output=np.float32, cval=darkest)
        cells[sheet] = values.reshape(2, ny, 2, nz, 2).mean(axis=(0, 2, 4))
    return cells * np.float32(scan.slope) + np.float32(scan.intercept)
