"""Masks told from frozen fields: a field that knows the label finds it, and one that does not stays at chance."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import polars as pl
import pytest

from prism_ssl.data.scan import write_volume
from prism_ssl.embed.probe.command import main
from tests.support.position_encoder import write_scan

SHAPE, PATIENTS = (12, 11, 10), 6
AFFINE = np.diag([8.0, 8.0, 8.0, 1.0])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Fields whose first channel is high within a ball that the mask labels 2, and fields of noise."""
    rng = np.random.default_rng(0)
    index = np.moveaxis(np.indices(SHAPE), 0, -1)
    ids = [f"scan{n}" for n in range(PATIENTS)]
    for number, scan in enumerate(ids):
        ball = np.linalg.norm(index - rng.uniform(4, 7, 3), axis=-1) < 3
        labels = np.kron(ball.transpose(2, 1, 0), np.ones((2, 2, 2))).astype(np.uint8) * 2
        if number == 5:
            labels[:] = 0  # fitted on, not scored
        fine = np.diag([4.0, 4.0, 4.0, 1.0])
        fine[:3, 3] = -2.0  # two voxels of the mask to one of the lattice, centres alike
        write_scan(tmp_path / "masks" / scan, labels, fine)
        for name, signal in (("fields", 2.0), ("random", 0.0)):
            vectors = rng.normal(size=(*SHAPE, 4)).astype(np.float32)
            vectors[..., 0] += signal * ball
            vectors[:3] = 0  # air
            (tmp_path / name).mkdir(exist_ok=True)
            write_volume(tmp_path / name / f"{scan}.nii.gz", AFFINE, SHAPE, 4, [vectors.transpose(3, 2, 1, 0)])
    table = pl.DataFrame({"scan_id": ids, "subject_id": [f"p{n}" for n in range(PATIENTS)], "modality": "CT"})
    for name in ("fields", "random"):
        table.write_parquet(tmp_path / name / "volumes.parquet")
    return tmp_path


def test_fields_that_know_the_label_find_it(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = ["--fields", f"{folder}/fields", "--masks", f"{folder}/masks", "--out", f"{folder}/p"]
    line += ["--beside-fields", f"random={folder}/random", "--mask-label", "2"]
    assert main([*line, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)["masks"]
    assert (told["scans"], told["patients"], told["points"]) == (PATIENTS, 5, PATIENTS * 9 * 11 * 10)
    good, random = told["rows"]
    assert good["auroc"]["value"] > 0.85
    assert good["dice"]["value"] > 0.4
    assert 0.4 < random["auroc"]["value"] < 0.6
    assert random["better_auroc"]["low"] > 0
    page = (folder / "p" / "probe.md").read_text()
    assert "## Label of the masks" in page
    assert "with `--weights pixels`, and add `--beside-fields pixels=FOLDER`." in page
    of_all = []
    for number in range(PATIENTS - 1):
        mask = nib.Nifti1Image.from_filename(folder / "masks" / f"scan{number}" / f"scan{number}.nii")
        labels = mask.get_fdata()[::2, ::2, ::2][3:]
        of_all.append(2 * (labels == 2).sum() / ((labels == 2).sum() + labels.size))
    assert told["dice_chance"] == pytest.approx(np.mean(of_all))


def test_fields_of_other_points_are_not_compared(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    coarse = np.diag([16.0, 16.0, 16.0, 1.0])
    vectors = np.ones((4, 5, 5, 6), np.float32)
    write_volume(folder / "random" / "scan3.nii.gz", coarse, (6, 5, 5), 4, [vectors])
    line = ["--fields", f"{folder}/fields", "--masks", f"{folder}/masks", "--beside-fields", f"random={folder}/random"]
    assert main(line) == 2
    told = " ".join(capsys.readouterr().err.split())
    assert "990 points in scan scan3, the fields random have 150, at other places; needed: fields of one" in told


def test_folders_that_do_not_fit_are_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--fields", f"{folder}/fields"]) == 2
    assert "--fields is given without --masks" in capsys.readouterr().err
    assert main(["--fields", f"{folder}/fields", "--masks", f"{folder}/random"]) == 2
    assert main(["--fields", f"{folder}/masks", "--masks", f"{folder}/masks"]) == 2
    assert "holds no volumes.parquet" in capsys.readouterr().err
    assert main(["--fields", f"{folder}/fields", "--masks", f"{folder}/masks", "--mask-label", "9"]) == 2
    assert "no lattice point in the label" in capsys.readouterr().err
