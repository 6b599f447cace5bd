"""Whatever the habits of the vendor, a value lies where DICOM puts it."""

from __future__ import annotations

import shutil
import tarfile
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.dataset import FileDataset
from pydicom.uid import UID, generate_uid

from prism_ssl.data.scan import apply_affine
from tests.support.dicom_files import (
    SYNTAXES,
    Change,
    SeriesPlan,
    ct,
    enhanced,
    item,
    mr,
    phantom,
    ramp_hu,
    save,
    slices_of,
    tilted,
)
from tests.support.dicom_imports import catalog, difference, imported, left_out, planted_in, scans, values_and_places

OBLIQUE = {"along_row": (0.8, 0.6, 0.0), "along_column": (0.0, 0.0, -1.0)}
SAGITTAL = {"along_row": (0.0, 1.0, 0.0), "along_column": (0.0, 0.0, -1.0)}

UNEVEN = {"along_row": (0.954761, 0.0, -0.297375), "along_column": (-0.044980, -0.988494, -0.144412)}

Arrange = Callable[[SeriesPlan, Path], Any]


def _files(plan: SeriesPlan, folder: Path) -> None:
    save(slices_of(plan), folder)


def _change(**tags: Any) -> Callable[[FileDataset, int], None]:
    def change(dataset: FileDataset, _: int) -> None:
        for name, value in tags.items():
            setattr(dataset, name, value)

    return change


def _reversed_numbers(dataset: FileDataset, number: int) -> None:
    dataset.InstanceNumber = 6 - number


def _interleaved_numbers(dataset: FileDataset, number: int) -> None:
    dataset.InstanceNumber = 1 + number // 2 + 3 * (number % 2)


def _wider_bits(dataset: FileDataset, number: int) -> None:
    dataset.BitsStored = 12 if number < 3 else 13
    dataset.HighBit = dataset.BitsStored - 1


def _nameless(plan: SeriesPlan, folder: Path) -> None:
    datasets = slices_of(plan)
    for dataset in datasets:
        del dataset.SOPInstanceUID, dataset.SOPClassUID
    save(datasets, folder, preamble=False)


def _rounded(dataset: FileDataset, _: int) -> None:
    dataset.ImagePositionPatient = [round(float(value), 1) for value in dataset.ImagePositionPatient]


def _acquisition_a_slice(dataset: FileDataset, number: int) -> None:
    dataset.AcquisitionNumber, dataset.AcquisitionTime = number, f"1344{number:02d}"


def _copies(plan: SeriesPlan, folder: Path) -> None:
    save(slices_of(plan), folder / "a")
    shutil.copytree(folder / "a", folder / "b")


def _zipped(plan: SeriesPlan, folder: Path) -> None:
    paths = save(slices_of(plan), folder)
    with zipfile.ZipFile(folder / "scans.zip", "w", zipfile.ZIP_DEFLATED) as packed:
        for number, path in enumerate(paths):
            packed.write(path, f"Quenneville/IM{number}")
            path.unlink()


def _one_name(plan: SeriesPlan, folder: Path) -> None:
    paths = save(slices_of(plan), folder)
    with zipfile.ZipFile(folder / "scans.zip", "w") as packed, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # zipfile tells
        for path in paths:
            packed.write(path, "IM0001")
            path.unlink()


def _with_another_header(plan: SeriesPlan, folder: Path) -> None:
    dataset = enhanced(plan)
    shared = dataset.SharedFunctionalGroupsSequence[0]
    shared.add_new(0x20050010, "LO", "MAKER")
    shared.add_new(0x2005100F, "SQ", [item(ImageType=["DERIVED", "SECONDARY", "MIP"])])
    save([dataset], folder)


def _with_a_link_back(plan: SeriesPlan, folder: Path) -> None:
    save(slices_of(plan), folder)
    (folder / "again").symlink_to(folder)


def _leading_out(plan: SeriesPlan, folder: Path) -> None:
    """Members that would lie elsewhere if somebody unpacked them by their names, and links to what is not there."""
    paths = save(slices_of(plan), folder)
    with tarfile.open(folder / "scans.tar", "w") as rolled:
        for number, path in enumerate(paths):
            member = rolled.gettarinfo(str(path))
            member.name = (
                f"../../../leads-out/{number}" if number % 2 else str(folder.parents[1] / f"leads-out-{number}")
            )
            with path.open("rb") as file:
                rolled.addfile(member, file)
            path.unlink()
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE):
            link = tarfile.TarInfo("link")
            link.type, link.linkname = kind, "/etc/passwd"
            rolled.addfile(link)


def _rolled(plan: SeriesPlan, folder: Path) -> None:
    paths = save(slices_of(plan), folder)
    with tarfile.open(folder / "scans.tgz", "w:gz") as rolled:
        for path in paths[:3]:  # half of the series in it, half beside it
            rolled.add(path, f"deep/er/{path.name}")
            path.unlink()


BRIGHTER = (phantom() + 4096 * (np.arange(6) > 2)[:, None, None]).astype(np.uint16)
"""Three slices of 12 bits, then three of 13."""

GOOD: dict[str, tuple[SeriesPlan, Arrange]] = {
    **{f"encoded as {name}": (ct(syntax=syntax), _files) for name, syntax in SYNTAXES.items()},
    "unsigned, with an intercept": (ct(voxels=phantom().astype(np.uint16), intercept=-1024.0), _files),
    "8 bits": (mr(voxels=(phantom() % 256).astype(np.uint8)), _files),
    "a slope": (ct(slope=0.5, intercept=-900.0), _files),
    "a rescale type that is unspecified": (ct(tags={"RescaleType": "US"}), _files),
    "a wrong slice thickness, no spacing between slices": (ct(tags={"SliceThickness": "7.5"}), _files),
    "a wrong spacing between slices": (mr(tags={"SpacingBetweenSlices": "9"}), _files),
    "instance numbers that count down": (ct(change=_reversed_numbers), _files),
    "instance numbers that jump to and fro": (ct(change=_interleaved_numbers), _files),
    "no instance numbers": (ct(tags={"InstanceNumber": None}), _files),
    "one instance number for all": (ct(syntax=SYNTAXES["RLE"], tags={"InstanceNumber": 1}), _files),
    "one SOPInstanceUID for all": (ct(tags={"SOPInstanceUID": generate_uid()}), _files),
    "no instance numbers and no ids": (ct(syntax=SYNTAXES["implicit"], tags={"InstanceNumber": None}), _nameless),
    "slices that store more bits than the first": (ct(voxels=BRIGHTER, change=_wider_bits), _files),
    "slices that store more bits, in big endian": (
        ct(voxels=BRIGHTER, change=_wider_bits, syntax=SYNTAXES["big endian"]), _files
    ),
    "an acquisition number a slice": (ct(change=_acquisition_a_slice), _files),
    "positions rounded to 0.1 mm": (ct(spacing_mm=(1.0, 1.0, 0.7), change=_rounded), _files),
    "sagittal": (mr(**SAGITTAL), _files),
    "oblique": (mr(**OBLIQUE), _files),
    "feet first": (ct(tags={"PatientPosition": "FFS"}), _files),
    "every file twice": (ct(), _copies),
    "no file extension": (ct(), lambda plan, folder: save(slices_of(plan), folder, "IM{}")),
    "no preamble": (
        ct(syntax=SYNTAXES["implicit"]), lambda plan, folder: save(slices_of(plan), folder, preamble=False)
    ),
    "in a zip": (ct(), _zipped),
    "in a zip, under one name": (ct(), _one_name),
    "half in a tar": (ct(), _rolled),
    "in a tar whose names lead out of it": (ct(), _leading_out),
    "a link that leads back": (ct(), _with_a_link_back),
    "names with quotes, line ends and other scripts": (
        ct(), lambda plan, folder: save(slices_of(plan), folder / "a 'b'\n\"c\" 患者 $(d) [e]*", "-f {}\t.dcm")
    ),
    "no series id": (ct(tags={"SeriesInstanceUID": ""}), _files),
    "an enhanced CT": (ct(), lambda plan, folder: save([enhanced(plan)], folder)),
    "an enhanced CT with a header of its maker's own": (ct(), _with_another_header),
    "an enhanced MR in another order": (
        mr(**OBLIQUE), lambda plan, folder: save([enhanced(plan, [*range(5, -1, -2), *range(4, -1, -2)])], folder)
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One import of a series of each habit; its slices name the habit's number as their echo time or voltage.

    The user has defaults of dcm2niix's own, which must change nothing.
    """
    base = tmp_path_factory.mktemp("good")
    (base / ".dcm2nii.ini").write_text("isMaximize16BitRange=1\n")
    for number, (plan, arrange) in enumerate(GOOD.values()):
        tag = {"KVP": number} if plan.modality == "CT" else {"RepetitionTime": number}
        folder = base / "in" / f"{number} Quenneville"
        arrange(SeriesPlan(**vars(plan) | {"tags": {**plan.tags, **tag}}), folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(base))
        imported(base)
    return base


@pytest.mark.parametrize("name", GOOD)
def test_every_voxel_has_the_value_that_dicom_gives_its_place(name: str, archive: Path) -> None:
    number = list(GOOD).index(name)
    told = [row["kvp"] if row["modality"] == "CT" else row["repetition_time_ms"] for row in catalog(archive).to_dicts()]
    assert number in told, left_out(archive).to_dicts()
    assert difference(scans(archive)[told.index(number)], GOOD[name][0]) == 0


def test_the_values_of_an_enhanced_file_are_found_where_it_keeps_them(archive: Path) -> None:
    number = list(GOOD).index("an enhanced CT")
    assert catalog(archive).filter(kvp=number)["slice_thickness_mm"].item() == GOOD["an enhanced CT"][0].spacing_mm[2]


def test_nothing_is_written_beside_the_archive(archive: Path) -> None:
    assert {path.name for path in archive.iterdir()} == {"in", "out", "private", "scratch", ".dcm2nii.ini"}
    assert [path for path in (archive / "scratch").rglob("*") if path.is_file()] == []


def test_the_good_archive_names_nobody(archive: Path) -> None:
    assert planted_in(archive / "out") == []


@pytest.mark.parametrize(("degrees", "told"), [(12, True), (-12, False), (25.5, False)])
def test_a_tilted_gantry_is_straightened(degrees: float, told: bool, tmp_path: Path) -> None:
    plan = tilted(degrees, tags={"GantryDetectorTilt": degrees} if told else {})
    save(slices_of(plan), tmp_path / "in")
    assert imported(tmp_path).volumes.total() == 1
    (scan,) = scans(tmp_path)
    axes = scan.affine[:3, :3] / scan.spacing_mm
    np.testing.assert_allclose(axes.T @ axes, np.eye(3), atol=1e-5)
    values, places = values_and_places(scan)
    outside = values == plan.values.min()
    wrong = np.abs(values - ramp_hu(places)) > 1.0  # rounded to HU, twice
    covered = plan.voxels.size
    # Rows at the edge mix with what no plane covers: one or two of 40, per plane.
    assert covered * 0.94 < np.count_nonzero(~wrong) <= covered
    assert np.count_nonzero(~outside) <= covered * 1.06
    assert catalog(tmp_path)["gantry_tilt_deg"].item() == pytest.approx(abs(degrees), abs=0.01)


@pytest.mark.parametrize("change", [None, _reversed_numbers, _interleaved_numbers])
@pytest.mark.parametrize(
    ("plan", "tag", "digits"),
    [
        (ct(voxels=phantom(40), spacing_mm=(1.5, 2.0, 0.625)), "ImagePositionPatient", 1),
        (ct(voxels=phantom(40), spacing_mm=(1.5, 2.0, 0.625), **SAGITTAL), "ImagePositionPatient", 1),
        (mr(voxels=phantom(40), spacing_mm=(1.5, 2.0, 5.0), **UNEVEN), "ImageOrientationPatient", 3),
    ],
)
def test_a_volume_whose_geometry_was_rounded_lies_where_dicom_puts_it(
    plan: SeriesPlan, tag: str, digits: int, change: Change | None, tmp_path: Path
) -> None:
    def rounded(dataset: FileDataset, number: int) -> None:
        setattr(dataset, tag, [round(float(value), digits) for value in getattr(dataset, tag)])
        if change is not None:
            change(dataset, number)

    save(slices_of(replace(plan, change=rounded)), tmp_path / "in")
    assert imported(tmp_path).volumes.total() == 1, left_out(tmp_path).to_dicts()
    (scan,) = scans(tmp_path)
    grid = np.stack(np.meshgrid(*map(np.arange, plan.voxels.shape[::-1]), indexing="ij")).reshape(3, -1).T
    voxels = apply_affine(scan.to_voxel, apply_affine(plan.to_ras(), grid.astype(float)))
    whole = np.rint(voxels).astype(int)
    assert np.linalg.norm((voxels - whole) * scan.spacing_mm, axis=1).max() < 0.15
    found = scan.voxels[whole[:, 2], whole[:, 1], whole[:, 0]] * scan.slope + scan.intercept
    np.testing.assert_array_equal(found, plan.values.transpose(2, 1, 0).ravel())


def test_a_slope_a_slice_is_kept(tmp_path: Path) -> None:
    plan = mr()

    def scale(dataset: FileDataset, number: int) -> None:
        dataset.RescaleSlope, dataset.RescaleIntercept = 1 + number / 8, 0

    save(slices_of(mr(change=scale)), tmp_path / "in")
    imported(tmp_path)
    slopes = 1 + np.arange(6)[:, None, None] / 8
    (scan,) = scans(tmp_path)
    expected = SeriesPlan(**vars(plan) | {"voxels": plan.voxels * slopes})
    assert difference(scan, expected) <= 1e-3 * float(expected.voxels.max())


def test_what_one_series_holds_is_told_apart(tmp_path: Path) -> None:
    uid = generate_uid()
    phases = [
        ct(uid=uid, voxels=phantom(seed=phase), tags={"AcquisitionNumber": phase, "KVP": phase}) for phase in (1, 2)
    ]
    scout = ct(uid=uid, voxels=phantom(1, 30, 40), tags={"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]})
    other = ct(uid=uid, voxels=phantom(seed=3), tags={"PatientID": "another", "KVP": 3})
    sharp = ct(uid=uid, voxels=phantom(seed=4), tags={"ConvolutionKernel": "B70f", "KVP": 4})
    for number, plan in enumerate((*phases, scout, other, sharp)):
        save(slices_of(plan), tmp_path / "in", f"{number}-{{}}")
    report = imported(tmp_path)
    assert (report.volumes.total(), report.patients, dict(report.left_out)) == (4, 2, {"localizer": 1})
    found = dict(zip(catalog(tmp_path)["kvp"].to_list(), scans(tmp_path), strict=True))
    for voltage, plan in ((1, phases[0]), (2, phases[1]), (3, other), (4, sharp)):
        assert difference(found[voltage], plan) == 0


def test_two_echoes_are_two_volumes(tmp_path: Path) -> None:
    uid = generate_uid()
    echoes = [mr(uid=uid, voxels=phantom(seed=echo), tags={"EchoTime": 10.0 * echo}) for echo in (1, 2)]
    for plan in echoes:
        save(slices_of(plan), tmp_path / "in", f"{plan.tags['EchoTime']}-{{}}")
    imported(tmp_path)
    found = dict(zip(catalog(tmp_path)["echo_time_ms"].to_list(), scans(tmp_path), strict=True))
    assert [difference(found[plan.tags["EchoTime"]], plan) for plan in echoes] == [0, 0]


def test_the_magnitude_of_a_series_stays_when_its_phase_is_left_out(tmp_path: Path) -> None:
    uid = generate_uid()
    for seed, word in enumerate("MP"):
        plan = mr(uid=uid, voxels=phantom(seed=seed), tags={"ImageType": ["ORIGINAL", "PRIMARY", word]})
        save(slices_of(plan), tmp_path / "in", f"{word}-{{}}")
    report = imported(tmp_path)
    assert (report.volumes, dict(report.left_out)) == ({"MR": 1}, {"not_magnitude": 1})
    assert difference(scans(tmp_path)[0], mr()) == 0


def test_phases_in_a_file_of_frames_each_are_volumes_of_their_own(tmp_path: Path) -> None:
    uid = generate_uid()
    phases = [ct(uid=uid, voxels=phantom(seed=phase), tags={"AcquisitionNumber": phase}) for phase in range(3)]
    save([enhanced(plan) for plan in phases], tmp_path / "in")
    assert imported(tmp_path).volumes == {"CT": 3}
    for plan in phases:
        assert min(difference(scan, plan) for scan in scans(tmp_path)) == 0


def test_stations_that_follow_each_other_are_one_volume(tmp_path: Path) -> None:
    body = mr(voxels=phantom(12))
    slices = slices_of(body)
    for number, dataset in enumerate(slices):
        dataset.TemporalPositionIdentifier = 1 + number // 6
    save(slices, tmp_path / "in")
    assert imported(tmp_path).volumes == {"MR": 1}
    assert difference(scans(tmp_path)[0], body) == 0


def _stations(folder: Path, *plans: SeriesPlan) -> None:
    for number, plan in enumerate(plans):
        save(slices_of(plan), folder, f"{number}-{{}}")


CORONAL = {"along_row": (1, 0, 0), "along_column": (0, 0, -1)}


@pytest.mark.parametrize("tags", [{"AcquisitionNumber": 1}, {}])
def test_stations_beside_each_other_are_volumes_of_their_own(tags: dict[str, Any], tmp_path: Path) -> None:
    uid = generate_uid()
    plans = [
        mr(uid=uid, **CORONAL, origin_mm=(-20, -31, -300.0 * k), voxels=phantom(seed=k), tags=tags) for k in range(3)
    ]
    _stations(tmp_path / "in", *plans[:2])
    assert imported(tmp_path).volumes == {"MR": 2}
    save(slices_of(plans[2]), tmp_path / "in", "2-{}")
    assert imported(tmp_path).converted == 1
    assert sorted(difference(scan, plan) for scan, plan in zip(_from_the_top(tmp_path), plans, strict=True)) == [0] * 3


def _in_order(folder: Path, *plans: SeriesPlan) -> None:
    """As ``_stations``, with image ids that go up from plane to plane."""
    for number, dataset in enumerate(each for plan in plans for each in slices_of(plan)):
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = UID(f"1.2.3.{1000 + number}")
        save([dataset], folder, f"{number}.dcm")


def test_phases_of_a_tilted_ct_whose_centres_are_a_little_apart_are_no_stations(tmp_path: Path) -> None:
    plans = [
        tilted(20, uid=generate_uid(), tags={"AcquisitionNumber": phase}, origin_mm=(-20.0 + 5 * phase, -31.0, -40.0))
        for phase in (1, 2)
    ]
    _in_order(tmp_path / "in", *(replace(plan, uid=plans[0].uid) for plan in plans))
    assert imported(tmp_path).volumes == {"CT": 2}


def test_a_time_series_that_drifts_in_its_plane_is_one(tmp_path: Path) -> None:
    uid = generate_uid()
    times = [
        mr(uid=uid, voxels=phantom(8, seed=k), origin_mm=(-20 + 0.8 * k, -31, -40), tags={"AcquisitionNumber": k + 1})
        for k in range(8)
    ]
    _in_order(tmp_path / "in", *times)
    assert dict(imported(tmp_path).left_out) == {"time_series": 1}


def _from_the_top(base: Path) -> list[Any]:
    return sorted(scans(base), key=lambda scan: -float(scan.affine[2, 3]))


@pytest.mark.parametrize(
    "second", [(-20.0, -31.0, 500.0), (-12.0, -31.0, -40.0 + 18.0)], ids=["a gap between them", "another centre"]
)
def test_ranges_of_one_series_are_volumes_of_their_own(second: tuple[float, float, float], tmp_path: Path) -> None:
    uid = generate_uid()
    plans = [
        ct(uid=uid, voxels=phantom(seed=1), tags={"AcquisitionNumber": 1}),
        ct(uid=uid, voxels=phantom(seed=2), tags={"AcquisitionNumber": 2}, origin_mm=second),
    ]
    _stations(tmp_path / "in", *plans)
    assert imported(tmp_path).volumes == {"CT": 2}
    found = reversed(_from_the_top(tmp_path))
    assert [difference(scan, plan) for scan, plan in zip(found, plans, strict=True)] == [0, 0]


def test_a_range_that_is_none_leaves_the_refusal_of_the_whole(tmp_path: Path) -> None:
    uid = generate_uid()
    second = {"AcquisitionNumber": 2}
    _stations(
        tmp_path / "in",
        ct(uid=uid, tags={"AcquisitionNumber": 1}),
        ct(uid=uid, voxels=phantom(4), tags=second, origin_mm=(-20, -31, 500)),
    )
    assert dict(imported(tmp_path).left_out) == {"missing_slices": 1}
