"""MONAI's door: views lie where the affine says, whatever was done to the array before, and their embeddings follow."""

from __future__ import annotations

import gzip
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from prism_ssl.data.scan import apply_affine, open_scan
from prism_ssl.embed.field.encode import PointEncoder
from prism_ssl.embed.field.lattice import on_grid
from prism_ssl.errors import ConfigError, ScanRejected
from prism_ssl.model.backbone import build_encoder
from prism_ssl.model.export import load_encoder, save_encoder
from tests.conftest import REPOSITORY
from tests.support.position_encoder import (
    N_PATCHES,
    PATCH_MM,
    layout_shift,
    settings_for,
    write_scan,
    x_scan,
    x_told,
    x_volume,
)
from tests.unit.embed.field.test_lattice import SCANS

pytest.importorskip("monai")
from monai.data.meta_tensor import MetaTensor
from monai.transforms.compose import Compose
from monai.transforms.croppad.dictionary import CenterSpatialCropd
from monai.transforms.io.dictionary import LoadImaged
from monai.transforms.spatial.dictionary import Orientationd
from monai.transforms.utility.dictionary import EnsureChannelFirstd

from prism_ssl.embed.monai_transforms import PrismEmbedd, PrismViewsd, scan_of

LOAD = [LoadImaged("image"), EnsureChannelFirstd("image")]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained encoder of few small patches."""
    folder = tmp_path_factory.mktemp("here") / "runs" / "trial"
    folder.mkdir(parents=True)
    torch.manual_seed(5)
    told = {"preset": "tiny", "n_patches": N_PATCHES, "patch_mm": PATCH_MM, "config": settings_for("x.csv").to_dict()}
    save_encoder(build_encoder("tiny"), folder, told)
    return folder


def points_in(name: str, count: int) -> Any:
    affine, shape = SCANS[name]
    return apply_affine(affine, np.array(shape) * np.random.default_rng(0).uniform(0.4, 0.6, (count, 3)))


@pytest.mark.parametrize("name", ["plain", "thick slices", "oblique"])
@pytest.mark.parametrize("lps", [False, True])
def test_a_view_lies_where_the_affine_says(name: str, lps: bool, source: Path) -> None:
    affine, shape = SCANS[name]
    told = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine if lps else affine
    image = MetaTensor(torch.from_numpy(x_volume(affine, shape).T.copy()), affine=torch.from_numpy(told))
    image.meta["space"] = "LPS" if lps else "RAS"
    points = points_in(name, 20)
    found = PrismViewsd("image", source, points_key="at")({"image": image, "at": points})
    assert found["image_patches"].shape == (20, N_PATCHES, 16, 16, 1)
    np.testing.assert_allclose(found["image_centers_mm"], points, atol=0.01)
    mean = found["image_patches"].flatten(1).mean(dim=1)[:, None].numpy()
    shift_mm = 11.0 * layout_shift()[0]  # pixels lie symmetrically about the centre of their patch
    np.testing.assert_allclose(x_told(scan_of(image), mean), points[:, 0] + shift_mm, atol=0.03)
    assert scan_of(image).stats.median == pytest.approx(x_scan(affine, shape).stats.median, abs=20)


def test_the_embeddings_are_those_of_prism_field_whatever_was_done_to_the_array(source: Path, tmp_path: Path) -> None:
    affine, shape = SCANS["oblique"]
    pattern = np.random.default_rng(1).integers(0, 500, shape[::-1]).astype(np.int16)
    file, points = write_scan(tmp_path / "scan", pattern, affine), points_in("oblique", 40)
    encoder = PointEncoder(load_encoder(source), settings_for("x.csv"), 0, torch.device("cpu"), 1)
    wanted = np.concatenate(list(encoder(open_scan(file), on_grid(points))))
    both = [PrismViewsd("image", source, points_key="at"), PrismEmbedd("image", source)]
    for between in ([], [Orientationd("image", "PIR", labels=None)]):
        found = Compose([*LOAD, *between, *both])({"image": file, "at": torch.from_numpy(points)})
        np.testing.assert_allclose(found["image_embedding"], wanted, atol=2e-4)
    assert np.abs(np.diff(wanted, axis=0)).max() > 0.05
    cropped = Compose([*LOAD, CenterSpatialCropd("image", (60, 70, 26)), both[0]])
    middle = apply_affine(affine, np.array([(40.0, 45.0, 14.5)]))
    whole = Compose([*LOAD, both[0]])({"image": file, "at": middle})
    part = cropped({"image": file, "at": middle})
    same = (whole["image_patches"] - part["image_patches"]).abs().flatten(1).median()
    assert same < 0.01


def test_random_views_follow_from_the_state_of_monai(source: Path, tmp_path: Path) -> None:
    affine, shape = SCANS["plain"]
    file = write_scan(tmp_path / "scan", x_volume(affine, shape), affine)
    draw = Compose([*LOAD, PrismViewsd("image", source, views=3)])
    one, again, other = (draw.set_random_state(seed)({"image": file})["image_centers_mm"] for seed in (1, 1, 2))
    assert one.shape == (3, 3)
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    inside = apply_affine(np.linalg.inv(affine), one.numpy())
    assert (inside >= 0).all()
    assert (inside <= np.array(shape) - 1).all()


def test_an_image_that_is_no_scan_is_refused(source: Path) -> None:
    draw = PrismViewsd("image", source)
    for image in (torch.zeros(9, 9, 9), MetaTensor(torch.zeros(2, 9, 9, 9)), MetaTensor(torch.zeros(9, 9))):
        with pytest.raises(ConfigError, match="needed: a MetaTensor"):
            draw({"image": image})
    broken = MetaTensor(torch.ones(1, 30, 30, 30))
    with pytest.raises(ScanRejected, match="foreground std is 0"):
        draw({"image": broken})
    broken[0, 3, 3, 3] = torch.nan
    with pytest.raises(ScanRejected, match="not finite"):
        draw({"image": broken})
    broken = MetaTensor(torch.rand(30, 30, 30))
    broken.meta["space"] = "scanner"
    with pytest.raises(ConfigError, match="needed: RAS or LPS"):
        draw({"image": broken})


def test_the_example_of_the_docs_runs(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    affine, shape = SCANS["plain"]
    plain = write_scan(tmp_path / "scan", x_volume(affine, shape), affine)
    (tmp_path / "scan" / "scan.nii.gz").write_bytes(gzip.compress(plain.read_bytes()))
    blocks = re.findall(r"^```python\n(.*?)^```$", (REPOSITORY / "docs/take-away.md").read_text(), re.M | re.S)
    (example,) = (block for block in blocks if "monai" in block)
    assert len(example.splitlines()) <= 10
    monkeypatch.chdir(source.parents[1])  # where runs/trial is
    exec(example.replace("/archive", str(tmp_path)), {})
    assert "torch.Size([4, 16, 16, 16, 1])" in capsys.readouterr().out
