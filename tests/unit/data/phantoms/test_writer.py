from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from prism_ssl.config.schema import PrismConfig
from prism_ssl.data.checks.scan_checks import inspect
from prism_ssl.data.phantoms.anatomy import Organ
from prism_ssl.data.phantoms.writer import (
    PROTOCOLS,
    Phantom,
    Protocol,
    full_size_ct,
    make_phantom,
    schedule,
    write_phantoms,
)
from prism_ssl.data.scan.nifti import open_scan
from prism_ssl.errors import ScanRejected
from tests.support.broken_files import EXPECTED, BrokenKind, sound_bytes, write_broken

ALL_PROTOCOLS = [protocol for protocols in PROTOCOLS.values() for protocol in protocols]
by_name = pytest.mark.parametrize("protocol", ALL_PROTOCOLS, ids=lambda protocol: protocol.description)


def _rescaled(phantom: Phantom) -> np.ndarray[Any, np.dtype[np.float64]]:
    return phantom.voxels * float(phantom.protocol.slope) + phantom.protocol.intercept


def _files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@by_name
def test_a_phantom_is_stored_as_its_protocol_says(protocol: Protocol, tmp_path: Path) -> None:
    path = tmp_path / "scan.nii"
    path.write_bytes(make_phantom(protocol, seed=0).to_bytes())
    reader: Any = nib
    image = reader.load(path)
    assert "".join(reader.orientations.aff2axcodes(image.affine)) == protocol.axcodes
    assert image.get_data_dtype() == np.dtype(protocol.dtype)
    assert min(image.shape) >= 40
    assert max(image.shape) <= 150
    scan = open_scan(path)
    np.testing.assert_allclose(sorted(scan.spacing_mm), sorted(protocol.spacing_mm), rtol=1e-6)
    np.testing.assert_allclose(scan.slope * scan.voxels.astype(float) + scan.intercept, image.get_fdata().T)


@by_name
def test_preflight_keeps_every_phantom(protocol: Protocol, tmp_path: Path) -> None:
    path = tmp_path / "scan.nii"
    path.write_bytes(make_phantom(protocol, seed=1).to_bytes())
    _, stats = inspect(str(path), protocol.modality, PrismConfig())
    assert stats.std > 20


def test_the_protocols_differ_in_type_order_orientation_and_contrast() -> None:
    assert {p.modality for p in ALL_PROTOCOLS} == {"CT", "MR"}
    assert {p.axcodes for p in ALL_PROTOCOLS} >= {"RAS", "LPS", "LAS", "PSR"}
    assert {p.dtype for p in ALL_PROTOCOLS} >= {"<i2", "<u2", "|u1", "<f4", ">i2"}


def test_anatomy_is_where_a_reader_expects_it() -> None:
    trunk = make_phantom(PROTOCOLS["trunk"][0], seed=3)
    head = make_phantom(PROTOCOLS["head"][0], seed=3)
    assert trunk.organ_at((66, 4, -40)) is Organ.LIVER  # on the patient's right
    assert trunk.organ_at((-98, -28, -22)) is Organ.SPLEEN
    assert trunk.organ_at((0, -62, 15)) is Organ.BONE
    assert trunk.organ_at((-36, 26, 36)) is Organ.BLOOD
    assert trunk.organ_at((0, 2000, 0)) is Organ.AIR
    assert head.organ_at((32, 84, -22)) is Organ.EYE
    assert head.organ_at((0, -52, -60)) is Organ.CEREBELLUM
    assert head.organ_at((40, 0, 30)) is Organ.WHITE_MATTER


@pytest.mark.parametrize(("organ", "hounsfield"), [(Organ.LIVER, 110), (Organ.LUNG, -820), (Organ.AIR, -1000)])
def test_a_ct_is_in_hounsfield_units(organ: Organ, hounsfield: float) -> None:
    phantom = make_phantom(PROTOCOLS["trunk"][2], seed=0)
    assert np.median(_rescaled(phantom)[phantom.labels == organ]) == pytest.approx(hounsfield, abs=12)


def test_fluid_is_dark_in_t1_and_bright_in_t2() -> None:
    for protocol, brighter in ((PROTOCOLS["head"][0], Organ.WHITE_MATTER), (PROTOCOLS["head"][2], Organ.CSF)):
        phantom = make_phantom(protocol, seed=0)
        mean = {o: _rescaled(phantom)[phantom.labels == o].mean() for o in (Organ.CSF, Organ.WHITE_MATTER)}
        assert max(mean, key=lambda organ: mean[organ]) is brighter


def test_series_of_one_subject_show_the_same_body() -> None:
    ct, mr = (make_phantom(PROTOCOLS["trunk"][n], seed=5, subject=7) for n in (0, 1))
    points = np.random.default_rng(0).uniform((-150, -100, -150), (150, 100, 150), (300, 3))
    same = np.mean([ct.organ_at(point) == mr.organ_at(point) for point in points])
    other = make_phantom(PROTOCOLS["trunk"][1], seed=5, subject=8)
    different = np.mean([ct.organ_at(point) == other.organ_at(point) for point in points])
    assert same > 0.9 > different


def test_equal_seeds_write_equal_folders(tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        write_phantoms(tmp_path / name, n_subjects=2, seed=seed)
    assert _files(tmp_path / "a") == _files(tmp_path / "b")
    assert _files(tmp_path / "a").keys() == _files(tmp_path / "c").keys()
    assert _files(tmp_path / "a") != _files(tmp_path / "c")


def test_the_catalogue_has_the_columns_of_an_archive_and_relative_folders(tmp_path: Path) -> None:
    catalog = write_phantoms(tmp_path, n_subjects=4, seed=0)
    with catalog.open() as file:
        rows = list(csv.DictReader(file))
    assert catalog == tmp_path / "catalog.csv"
    assert list(rows[0]) == ["pmbb_id", "modality", "series_path", "series_description", "exam_type"]
    assert [row["pmbb_id"] for row in rows] == ["PH0000", "PH0000", "PH0001", "PH0002", "PH0003", "PH0003"]
    assert all(len(list((tmp_path / row["series_path"]).glob("*.nii.gz"))) == 1 for row in rows)


def test_from_the_seventeenth_subject_on_each_is_seen_by_ct_and_by_mr() -> None:
    seen: dict[int, list[str]] = {}
    for subject, protocol in schedule(48):
        seen.setdefault(subject, []).append(protocol.modality)
    assert [len(seen[subject]) for subject in range(16)] == [2 if subject % 3 == 0 else 1 for subject in range(16)]
    assert all(sorted(seen[subject]) == ["CT", "MR"] for subject in range(16, 48))


def test_a_complete_folder_is_reused_and_an_incomplete_one_is_completed(tmp_path: Path) -> None:
    write_phantoms(tmp_path, n_subjects=2, seed=0)
    scan = next(tmp_path.rglob("*.nii.gz"))
    before = scan.stat().st_mtime_ns
    write_phantoms(tmp_path, n_subjects=2, seed=0)
    assert scan.stat().st_mtime_ns == before
    scan.unlink()
    (tmp_path / ".phantoms.json").unlink()  # as a run that was killed leaves it
    write_phantoms(tmp_path, n_subjects=2, seed=0)
    assert scan.is_file()


def test_the_size_can_be_chosen() -> None:
    phantom = full_size_ct(shape=(64, 48, 40))
    assert phantom.voxels.shape == (40, 48, 64)
    assert phantom.voxels.dtype == np.int16


@pytest.mark.parametrize("kind", BrokenKind)
def test_a_broken_file_is_broken_as_its_name_says(kind: BrokenKind, tmp_path: Path) -> None:
    path = write_broken(tmp_path, kind)
    with pytest.raises(ScanRejected, match=f"^{EXPECTED[kind]}: "):
        inspect(str(path), "CT", PrismConfig())
    assert path.stat().st_size < 10**6 * 6


def test_the_file_that_broken_ones_begin_as_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "scan.nii"
    path.write_bytes(sound_bytes())
    header, stats = inspect(str(path), "CT", PrismConfig())
    assert header.volume_shape == (32, 32, 32)
    assert stats.median == pytest.approx(40, abs=2)
