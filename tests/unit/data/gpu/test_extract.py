"""The torch kernel against the same slow oracle as the compiled one."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from prism_ssl.contracts import Float64
from prism_ssl.data.gpu.extract import DeviceVolume, extract_views
from prism_ssl.data.scan.nifti import OpenScan
from prism_ssl.data.views.pixel_transform import levels, pixel_to_voxel
from prism_ssl.data.views.view_pairs import View
from tests.unit.data.extract.test_cpu import AFFINES, extracted, looking_at, noise_scan, oracle, scattered_view
from tests.unit.data.test_collate import DEVICES

TOLERANCE = 1e-4  # of half the window; no fixed point here


def cut(scan: OpenScan, views: list[View], patch_mm: float = 16.0, device: str = "cpu") -> Float64:
    volume = DeviceVolume(torch.tensor(scan.voxels.ravel(), device=device), scan.shape, wrap=0.0)
    windows = [levels(scan, view) for view in views]
    patches = extract_views(
        volume,
        torch.tensor(np.stack([pixel_to_voxel(scan, view, patch_mm) for view in views]), device=device),
        torch.tensor([[w.gain, w.offset, w.outside] for w in windows], dtype=torch.float32, device=device),
        torch.tensor(np.stack([view.positions_mm for view in views]), device=device),
    )
    assert patches.dtype == torch.float32
    return patches.cpu().numpy().astype(np.float64)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("patch_mm", [4.0, 16.0, 45.0])
@pytest.mark.parametrize("affine", AFFINES.values(), ids=AFFINES)
def test_agrees_with_scipy_inside_on_the_border_and_outside(affine: Float64, patch_mm: float, device: str) -> None:
    scan = noise_scan("int16", affine, slope=0.5, intercept=-200.0)
    view = scattered_view(scan)
    (patches,) = cut(scan, [view], patch_mm, device)
    np.testing.assert_allclose(patches, oracle(scan, view, patch_mm), atol=TOLERANCE)


def test_each_view_of_a_call_has_its_own_lattice_and_window() -> None:
    scan = noise_scan("float32", AFFINES["sheared"])
    views = [scattered_view(scan, rotation_deg=(angle, -9.0, 4.0)) for angle in (6.0, -3.0)]
    views.append(View(views[0].center_mm + 5, 60.0, views[0].rotation_deg, 20.0, 150.0, views[0].positions_mm[::-1]))
    for patches, view in zip(cut(scan, views), views, strict=True):
        np.testing.assert_allclose(patches, oracle(scan, view, 16.0), atol=TOLERANCE)


def test_a_pixel_beside_not_a_number_is_the_middle_of_the_window_as_in_the_compiled_kernel() -> None:
    scan = noise_scan("float32", np.eye(4))
    scan.voxels[11, 15, 20] = np.nan
    view = looking_at((19.5, 17.5, 11.0), (0.0, 200.0))
    (patches,) = cut(scan, [view])
    np.testing.assert_allclose(patches, extracted(scan, view), atol=2e-5)
    assert (patches == 0).sum() == 4


@pytest.mark.parametrize("nowhere", [-1e30, -1e9, 1e9, 1e18])
def test_a_view_far_from_the_scan_sees_air(nowhere: float) -> None:
    scan = noise_scan("int16", np.eye(4))
    view = looking_at((nowhere, 17.5, 11.0), (scan.stats.lowest + 10, 40.0))
    np.testing.assert_allclose(cut(scan, [view]), -0.5, atol=1e-6)
