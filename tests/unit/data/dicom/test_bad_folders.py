"""Each arranged bad folder ends in its named reason, nothing crashes, and nothing that identifies is written."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import os
import sqlite3
import tarfile
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from pydicom.dataset import FileDataset
from pydicom.uid import ExplicitVRLittleEndian, JPEGLosslessSV1, generate_uid

from prism_ssl.data.dicom import dcm2niix, files_below, read_file
from prism_ssl.data.dicom import files as dicom_files
from tests.support.dicom_files import ct, empty, enhanced, item, mr, phantom, save, slices_of
from tests.support.dicom_imports import imported, left_out, planted_in

Arrange = Callable[[Path], object]


def _series(plan: Callable[[], Any] = ct, **tags: Any) -> Arrange:
    """A series whose files all have these tags; None takes a tag away."""

    def change(dataset: FileDataset, _: int) -> None:
        for name, value in tags.items():
            if value is None:
                delattr(dataset, name)
            else:
                setattr(dataset, name, value)

    def arrange(folder: Path) -> object:
        made = plan()
        datasets = slices_of(made)
        for number, dataset in enumerate(datasets):
            change(dataset, number)
        return save(datasets, folder)

    return arrange


def _changed(change: Callable[[FileDataset, int], None], plan: Callable[..., Any] = ct) -> Arrange:
    return lambda folder: save(slices_of(plan(change=change)), folder)


def _syntax(uid: str) -> Arrange:
    def arrange(folder: Path) -> None:
        for path in save(slices_of(ct()), folder):
            data = path.read_bytes()
            assert data.count(b"1.2.840.10008.1.2.1\0") == 1
            padded = uid.encode() + b"\0" * (len(uid) % 2)
            old = b"\x02\x00\x10\x00UI\x14\x001.2.840.10008.1.2.1\0"
            new = b"\x02\x00\x10\x00UI" + len(padded).to_bytes(2, "little") + padded
            length = int.from_bytes(data[140:144], "little") + len(new) - len(old)
            path.write_bytes(data[:140] + length.to_bytes(4, "little") + data[144:].replace(old, new))

    return arrange


def _without(*numbers: int) -> Arrange:
    def arrange(folder: Path) -> None:
        for number, path in enumerate(save(slices_of(ct(voxels=phantom(10))), folder)):
            if number in numbers:
                path.unlink()

    return arrange


def _times(tag: str, volumes: int, values: Callable[[int], Any] = lambda number: number) -> Arrange:
    """Volumes of one place, told apart by a tag."""

    def arrange(folder: Path) -> None:
        uid = generate_uid()
        for time in range(volumes):
            plan = mr(uid=uid, tags={tag: values(time)}, voxels=phantom(seed=time))
            save(slices_of(plan), folder, f"{time}-{{}}")

    return arrange


def _told_by(volumes: int, tags: Callable[[int], dict[str, Any]]) -> Arrange:
    """Volumes of one place, told apart by several tags, or by none."""

    def arrange(folder: Path) -> None:
        uid = generate_uid()
        for time in range(volumes):
            save(slices_of(mr(uid=uid, tags=tags(time), voxels=phantom(seed=time))), folder, f"{time}-{{}}")

    return arrange


def _files_of_frames(volumes: int, tags: Callable[[int], dict[str, Any]] = lambda _: {}) -> Arrange:
    """Volumes of one place, each in a file of frames, as scanners write dynamic series today."""

    def arrange(folder: Path) -> None:
        uid = generate_uid()
        plans = [mr(uid=uid, tags=tags(time), voxels=phantom(seed=time)) for time in range(volumes)]
        save([enhanced(plan) for plan in plans], folder)

    return arrange


def _between_each_other(tag: str) -> Arrange:
    """Two volumes, the slices of one in the middle between those of the other: together they look like one stack."""

    def arrange(folder: Path) -> None:
        uid = generate_uid()
        for time in range(2):
            plan = mr(uid=uid, tags={tag: time}, voxels=phantom(seed=time), origin_mm=(0, 0, 1.5 * time))
            save(slices_of(plan), folder, f"{time}-{{}}")

    return arrange


def _zip(folder: Path) -> Path:
    source = folder / "source"
    paths = save(slices_of(ct()), source)
    with zipfile.ZipFile(folder / "scans.zip", "w") as packed:
        for path in paths:
            packed.write(path, path.name)
            path.unlink()
    return folder / "scans.zip"


def _damaged_zip(folder: Path) -> None:
    path = _zip(folder)
    path.write_bytes(path.read_bytes()[:-200])


def _locked_zip(folder: Path) -> None:
    path = _zip(folder)
    data = bytearray(path.read_bytes())
    for magic, at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        place = data.find(magic)
        while place >= 0:
            data[place + at] |= 1
            place = data.find(magic, place + 4)
    path.write_bytes(data)


def _zip_in_zip(folder: Path) -> None:
    inner = _zip(folder)
    with zipfile.ZipFile(folder / "outer.zip", "w") as packed:
        packed.write(inner, "inner.zip")
    inner.unlink()


def _cut_tar(folder: Path) -> None:
    paths = save(slices_of(ct()), folder / "source")
    with tarfile.open(folder / "scans.tar.gz", "w:gz") as rolled:
        for path in paths:
            rolled.add(path, path.name)
            path.unlink()
    whole = (folder / "scans.tar.gz").read_bytes()
    (folder / "scans.tar.gz").write_bytes(whole[: len(whole) * 2 // 3])


def _damaged_xz(folder: Path) -> None:
    path = save(slices_of(ct(voxels=phantom(3, 200, 200)))[:3], folder)
    with tarfile.open(folder / "scans.tar.xz", "w:xz") as rolled:
        for each in path:
            rolled.add(each, each.name)
            each.unlink()
    data = bytearray((folder / "scans.tar.xz").read_bytes())
    data[-20_000:-19_000] = bytes(1000)
    (folder / "scans.tar.xz").write_bytes(data)


def _dicomdir(folder: Path) -> None:
    directory = empty("1.2.840.10008.1.3.10", ExplicitVRLittleEndian)
    del directory.SOPClassUID, directory.SOPInstanceUID
    directory.FileSetID = "QUENNEVILLE"
    save([directory], folder, "DICOMDIR")


def _pipe(folder: Path) -> None:
    save(slices_of(ct())[:1], folder)
    os.mkfifo(folder / "pipe.dcm")


def _deeper_than_paths_go(folder: Path) -> None:
    """As a folder without permission, but for root too."""
    folder.mkdir(parents=True)
    here = os.open(folder, os.O_RDONLY)
    for _ in range(20):
        os.mkdir("x" * 250, dir_fd=here)
        inner = os.open("x" * 250, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = inner
    os.close(here)


def _bytes(data: bytes, name: str = "file.dcm") -> Arrange:
    def arrange(folder: Path) -> None:
        folder.mkdir(parents=True)
        (folder / name).write_bytes(data)

    return arrange


def _cut(keep: Callable[[int], int], which: int = 3) -> Arrange:
    def arrange(folder: Path) -> None:
        path = save(slices_of(ct()), folder)[which]
        data = path.read_bytes()
        path.write_bytes(data[: keep(len(data))])

    return arrange


def _link(folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "scan.dcm").symlink_to(folder / "gone.dcm")


def _odd_name(folder: Path) -> None:
    path = save(slices_of(ct())[:1], folder)[0]
    os.rename(path, os.fsencode(folder) + b"/\xff\xfe.dcm")  # noqa: PTH104  a path of bytes


def _colour(dataset: FileDataset, _: int) -> None:
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation, dataset.PlanarConfiguration = 3, "RGB", 0
    dataset.BitsAllocated = dataset.BitsStored = 8
    dataset.HighBit, dataset.PixelRepresentation = 7, 0
    dataset.PixelData = bytes(dataset.Rows * dataset.Columns * 3)


def _float_pixels(dataset: FileDataset, _: int) -> None:
    del dataset.PixelData
    dataset.FloatPixelData, dataset.BitsAllocated = bytes(dataset.Rows * dataset.Columns * 4), 32


def _wide(bits: int) -> Callable[[FileDataset, int], None]:
    def change(dataset: FileDataset, _: int) -> None:
        dataset.BitsAllocated = dataset.BitsStored = bits
        dataset.HighBit, dataset.PixelData = bits - 1, bytes(dataset.Rows * dataset.Columns * 4)

    return change


def _signed_bytes(dataset: FileDataset, _: int) -> None:
    dataset.BitsAllocated = dataset.BitsStored = 8
    dataset.HighBit, dataset.PixelRepresentation = 7, 1
    dataset.PixelData = bytes(dataset.Rows * dataset.Columns)


def _high(dataset: FileDataset, _: int) -> None:
    dataset.BitsStored, dataset.HighBit = 12, 15


def _packed(pack: Callable[[bytes], bytes]) -> Arrange:
    def arrange(folder: Path) -> None:
        (path,) = save(slices_of(ct())[:1], folder)
        path.write_bytes(pack(path.read_bytes()))

    return arrange


def _zip_of_packed(data: bytes) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as packed:
        packed.writestr("a.dcm.bz2", bz2.compress(data))
    return made.getvalue()


def _bits_a_slice(dataset: FileDataset, number: int) -> None:
    dataset.BitsStored = 12 + number % 2
    dataset.HighBit = dataset.BitsStored - 1


def _slope_a_frame(folder: Path) -> None:
    dataset = enhanced(mr())
    del dataset.SharedFunctionalGroupsSequence[0].PixelValueTransformationSequence
    for number, frame in enumerate(dataset.PerFrameFunctionalGroupsSequence):
        frame.PixelValueTransformationSequence = [item(RescaleSlope=1 + number, RescaleIntercept=0)]
    save([dataset], folder)


def _no_image(sop_class: str, modality: str) -> Arrange:
    def change(dataset: FileDataset, _: int) -> None:
        dataset.SOPClassUID, dataset.Modality = sop_class, modality
        del dataset.PixelData, dataset.Rows, dataset.Columns

    return _changed(change)


def _radial(dataset: FileDataset, number: int) -> None:
    angle = number * np.pi / 14
    dataset.ImageOrientationPatient = [float(np.cos(angle)), float(np.sin(angle)), 0, 0, 0, -1]


def _moved(place: Callable[[int], list[float]]) -> Callable[[FileDataset, int], None]:
    def change(dataset: FileDataset, number: int) -> None:
        dataset.ImagePositionPatient = place(number)

    return change


def _one_place(dataset: FileDataset, number: int) -> None:
    dataset.ImagePositionPatient, dataset.AcquisitionNumber = [0, 0, 0], number


def _two_echoes_in_one_file(folder: Path) -> None:
    dataset = enhanced(mr(), times=2)
    for number, frame in enumerate(dataset.PerFrameFunctionalGroupsSequence):
        frame.FrameContentSequence[0].TemporalPositionIndex = 1
        frame.MREchoSequence = [item(EffectiveEchoTime=10.0 * (1 + number // 6))]
    save([dataset], folder)


def _dixon_in_one_file(folder: Path) -> None:
    dataset = enhanced(mr(), times=2)
    del dataset.SharedFunctionalGroupsSequence[0].PixelValueTransformationSequence
    for number, frame in enumerate(dataset.PerFrameFunctionalGroupsSequence):
        fat = number // 6
        frame.FrameContentSequence[0].TemporalPositionIndex = 1
        frame.MRImageFrameTypeSequence = [item(FrameType=["ORIGINAL", "PRIMARY", "DIXON", ("WATER", "FAT")[fat]])]
        frame.PixelValueTransformationSequence = [item(RescaleSlope=1 + fat, RescaleIntercept=0)]
    save([dataset], folder)


def _doubled(folder: Path) -> None:
    plan = ct(uid=generate_uid())
    save(slices_of(plan), folder)
    save(slices_of(plan)[2:4], folder, "again-{}")


def _stack_of_frames(folder: Path) -> None:
    dataset = enhanced(ct())
    del dataset.PerFrameFunctionalGroupsSequence, dataset.SharedFunctionalGroupsSequence
    dataset.ImagePositionPatient, dataset.ImageOrientationPatient = [0, 0, 0], [1, 0, 0, 0, 1, 0]
    dataset.PixelSpacing, dataset.RescaleSlope, dataset.RescaleIntercept = [1, 1], 1, 0
    save([dataset], folder)


def _broken_jpeg(dataset: FileDataset, _: int) -> None:
    data = bytearray(dataset.PixelData)
    at = data.index(b"\xff\xd8")
    data[at + 2 : at + 40] = bytes(38)
    dataset.PixelData = bytes(data)


BAD: dict[str, tuple[Arrange, str]] = {
    "an empty file": (_bytes(b""), "not_dicom"),
    "a text": (_bytes(b"Quenneville was here\n" * 99), "not_dicom"),
    "a web page of an error": (_bytes(b"<html><body>403</body></html>" * 20, "IM0001"), "not_dicom"),
    "a NIfTI": (_bytes((348).to_bytes(4, "little") + bytes(1000), "scan.nii"), "not_dicom"),
    "a packed slice": (_packed(gzip.compress), "packed"),
    "a packed slice in a zip": (_packed(_zip_of_packed), "packed"),
    "a packed NIfTI": (_bytes(gzip.compress(bytes(400)), "scan.nii.gz"), "not_dicom"),
    "garbage behind the magic word": (_bytes(bytes(128) + b"DICM" + bytes(range(256)) * 4), "damaged_header"),
    "only the magic word": (_bytes(bytes(128) + b"DICM"), "damaged_header"),
    "a damaged zip": (_damaged_zip, "damaged_container"),
    "a zip with a password": (_locked_zip, "damaged_container"),
    "a zip in a zip": (_zip_in_zip, "nested_container"),
    "a damaged xz": (_damaged_xz, "damaged_container too_few_slices"),
    "half a tar": (_cut_tar, "damaged_container too_few_slices"),
    "a name that is no UTF-8": (_odd_name, "single_slice"),
    "a link that leads nowhere": (_link, "not_readable"),
    "a folder that cannot be listed": (_deeper_than_paths_go, "not_readable"),
    "a pipe beside a slice": (_pipe, "single_slice"),
    "the table of contents of a disc": (_dicomdir, "not_an_image"),
    "a structured report": (_no_image("1.2.840.10008.5.1.4.1.1.88.22", "SR"), "not_an_image"),
    "contours": (_no_image("1.2.840.10008.5.1.4.1.1.481.3", "RTSTRUCT"), "not_an_image"),
    "a CT without rows": (_series(Rows=None), "not_an_image"),
    "a modality that is none": (_series(Modality="OTTOLINE"), "other_modality"),
    "a PET": (_series(Modality="PT"), "other_modality"),
    "an ultrasound": (_series(Modality="US"), "other_modality"),
    "a captured screen": (_series(SOPClassUID="1.2.840.10008.5.1.4.1.1.7"), "secondary_capture"),
    "a dose report": (_series(ImageType=["DERIVED", "SECONDARY", "SCREEN SAVE"]), "secondary_capture"),
    "text in the pixels": (_series(BurnedInAnnotation="YES"), "burned_in_text"),
    "colours": (_changed(_colour), "colour"),
    "a palette": (_series(PhotometricInterpretation="PALETTE COLOR"), "colour"),
    "headers without pixels": (_series(PixelData=None), "no_pixels"),
    "a slice cut in its pixels": (_cut(lambda size: size - 50), "truncated_pixels"),
    "float pixels": (_changed(_float_pixels), "unsupported_pixels"),
    "32 bits": (_changed(_wide(32)), "unsupported_pixels"),
    "8 bits with a sign": (_changed(_signed_bytes, mr), "unsupported_pixels"),
    "values in the highest bits": (_changed(_high), "unsupported_pixels"),
    "frames that are scaled differently": (_slope_a_frame, "unsupported_pixels"),
    "packed slices that store different numbers of bits": (
        lambda folder: save(slices_of(ct(change=_bits_a_slice, syntax=JPEGLosslessSV1)), folder), "unsupported_pixels",
    ),
    "1 bit": (_changed(_wide(1)), "unsupported_pixels"),
    "JPEG 2000 with high throughput": (_syntax("1.2.840.10008.1.2.4.201"), "unsupported_transfer_syntax"),
    "a video": (_syntax("1.2.840.10008.1.2.4.102"), "unsupported_transfer_syntax"),
    "a maker's own encoding": (_syntax("1.2.840.113619.5.2"), "unsupported_transfer_syntax"),
    "a topogram": (_series(ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]), "localizer"),
    "planning images by name": (_series(mr, SeriesDescription="3-plane loc Quenneville"), "localizer"),
    "a projection": (_series(ImageType=["DERIVED", "SECONDARY", "MIP"]), "projection"),
    "a mosaic": (_series(mr, ImageType=["ORIGINAL", "PRIMARY", "M", "MOSAIC"]), "mosaic"),
    **{
        f"an MR of type {word}": (_series(mr, ImageType=["ORIGINAL", "PRIMARY", word, "FFE"]), "not_magnitude")
        for word in ("P", "PHASE", "PHASE MAP", "R", "REAL", "I", "IMAGINARY")
    },
    "no positions": (_series(ImagePositionPatient=None), "no_geometry"),
    "no orientation": (_series(ImageOrientationPatient=None), "no_geometry"),
    "directions that are not at right angles": (_series(ImageOrientationPatient=[1, 0, 0, 1, 0, 0]), "no_geometry"),
    "a spacing of 0": (_series(PixelSpacing=[0, 0]), "no_geometry"),
    "no spacing": (_series(PixelSpacing=None), "no_geometry"),
    "a CT without its scaling": (_series(RescaleSlope=None, RescaleIntercept=None), "ct_not_in_hu"),
    "effective atomic numbers": (_series(RescaleType="Z_EFF"), "ct_not_in_hu"),
    "one slice": (lambda folder: save(slices_of(ct())[:1], folder), "single_slice"),
    "four slices": (lambda folder: save(slices_of(ct())[:4], folder), "too_few_slices"),
    "an enhanced file of one frame": (lambda folder: save([enhanced(ct(voxels=phantom(1)))], folder), "single_slice"),
    "radial slices": (_changed(_radial, mr), "varying_orientation"),
    "bolus tracking": (_changed(_one_place), "time_series"),
    "a dynamic series": (_times("TemporalPositionIdentifier", 4), "time_series"),
    "diffusion": (_times("DiffusionBValue", 3, lambda number: 500.0 * number), "time_series"),
    "diffusion, an acquisition a b-value": (
        _told_by(3, lambda n: {"DiffusionBValue": 500.0 * n, "AcquisitionNumber": n}), "time_series",
    ),
    "diffusion, an acquisition a direction": (
        _told_by(4, lambda n: {"DiffusionBValue": 1000.0 * (n > 0), "AcquisitionNumber": n}), "time_series",
    ),
    "directions of one b-value": (
        _told_by(3, lambda n: {"DiffusionBValue": 1000.0, "AcquisitionNumber": n}), "time_series",
    ),
    "a beating heart": (_times("TriggerTime", 5, lambda number: 40.0 * number), "time_series"),
    "eight acquisitions": (_times("AcquisitionNumber", 8), "time_series"),
    "frames of three times": (lambda folder: save([enhanced(mr(), times=3)], folder), "time_series"),
    "a file of frames a time": (_files_of_frames(7), "time_series"),
    "a file of frames a b-value": (_files_of_frames(3, lambda n: {"DiffusionBValue": 500.0 * n}), "time_series"),
    "a file of frames and an acquisition a b-value": (
        _files_of_frames(3, lambda n: {"DiffusionBValue": 500.0 * n, "AcquisitionNumber": n}), "time_series",
    ),
    "functional images without a time": (_told_by(3, lambda _: {}), "time_series"),
    "two volumes that nothing tells apart": (_told_by(2, lambda _: {}), "doubled_slices"),
    "interleaved slices of two times": (_between_each_other("TemporalPositionIdentifier"), "time_series"),
    "interleaved slices of two b-values": (_between_each_other("DiffusionBValue"), "time_series"),
    "a mosaic whose image type was taken away": (
        _changed(_moved(lambda _: [0, 0, 0]), lambda change: mr(voxels=phantom(6, 40, 40), change=change)),
        "time_series",
    ),
    "two echoes in one file": (_two_echoes_in_one_file, "several_volumes"),
    "water and fat in one file, scaled differently": (_dixon_in_one_file, "several_volumes"),
    "slices that are there twice": (_doubled, "doubled_slices"),
    "one slice missing": (_without(4), "missing_slices"),
    "two gaps": (_without(2, 3, 6), "missing_slices"),
    "growing distances": (_changed(_moved(lambda n: [0, 0, 3.0 * n + 0.1 * n * n])), "uneven_spacing"),
    "two distances": (_changed(_moved(lambda n: [0, 0, 3.0 * n if n < 4 else 4.2 * n - 4.8])), "uneven_spacing"),
    "a sheared MR": (_changed(_moved(lambda n: [0, 1.2 * n, 3.0 * n]), mr), "sheared_stack"),
    "slices moved to and fro": (_changed(_moved(lambda n: [4.0 * (n % 2), 0, 3.0 * n])), "sheared_stack"),
    "old frames without places": (_stack_of_frames, "several_volumes"),
    "a JPEG that is none": (
        lambda folder: save(slices_of(ct(syntax=JPEGLosslessSV1, change=_broken_jpeg)), folder),
        "conversion_failed",
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One import of all bad folders."""
    base = tmp_path_factory.mktemp("bad")
    for number, (arrange, _) in enumerate(BAD.values()):
        arrange(base / "in" / f"{number} Quenneville")
    report = imported(base)
    assert report.volumes.total() == 0
    assert report.left_out.total() == left_out(base).height
    return base


@pytest.fixture(scope="module")
def reasons(archive: Path) -> dict[int, set[str]]:
    """Number of the folder -> the reasons of its series and files, by way of the private key."""
    why: dict[int, set[str]] = {}
    of_series = dict(left_out(archive).select("series_id", "reason").iter_rows())
    for series, folder in pl.read_csv(archive / "private" / "out.key.csv").select("series_id", "folder").iter_rows():
        why.setdefault(_number(folder), set()).add(of_series[series])
    with sqlite3.connect(archive / "private" / "out.sqlite") as ledger:
        for path, told in ledger.execute("select path, left_out from files"):
            why.setdefault(_number(path), set()).update(json.loads(told))
    return why


def _number(path: str) -> int:
    return int(path.partition("/in/")[2].split()[0])


@pytest.mark.parametrize("name", BAD)
def test_a_bad_folder_ends_in_its_reason(name: str, reasons: dict[int, set[str]]) -> None:
    assert reasons[list(BAD).index(name)] == set(BAD[name][1].split())


def test_nothing_that_identifies_is_written(archive: Path) -> None:
    assert planted_in(archive / "out") == []
    assert "Ottoline" in (archive / "private" / "out.sqlite").read_text(errors="ignore")  # it was there to be found


def test_the_converter_is_the_program_itself() -> None:
    """A script would hide the signal that ended it."""
    assert Path(str(dcm2niix())).read_bytes()[:4] == b"\x7fELF"


FAKES = {
    "conversion_crashed": "kill -SEGV $$",
    "conversion_timed_out": "sleep 60",
    "conversion_failed": "echo Quenneville; exit 3",
}


@pytest.mark.parametrize("reason", FAKES)
def test_a_converter_that_breaks_costs_only_its_series(
    reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from prism_ssl.data.dicom import converter

    program = tmp_path / "dcm2niix"
    program.write_text(f'#!/bin/bash\nif grep -lq "^" "${{@: -1}}"/000007.dcm 2>/dev/null; then {FAKES[reason]}; fi\n')
    with program.open("a") as script:
        script.write(f'exec {converter.dcm2niix()} "$@"\n')
    program.chmod(0o755)
    monkeypatch.setattr(converter, "dcm2niix", lambda: str(program))
    monkeypatch.setattr(converter, "TIME_LIMIT_S", 1.0)
    save(slices_of(ct(voxels=phantom(8))), tmp_path / "in" / "broken")
    save(slices_of(ct()), tmp_path / "in" / "whole")
    report = imported(tmp_path)
    assert (dict(report.left_out), report.volumes.total()) == ({reason: 1}, 1)
    assert planted_in(tmp_path / "out") == []
    monkeypatch.undo()
    assert imported(tmp_path).volumes.total() == (1 if reason == "conversion_failed" else 2)


def test_a_volume_that_is_not_where_dicom_puts_it_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from prism_ssl.data.dicom import stack

    real = stack.Stack.affine

    def shifted(self: stack.Stack) -> Any:
        affine = real(self)
        affine[2, 3] += 0.06
        return affine

    monkeypatch.setattr(stack.Stack, "affine", shifted)
    save(slices_of(ct()), tmp_path / "in")
    assert dict(imported(tmp_path).left_out) == {"conversion_disagrees": 1}
    assert list((tmp_path / "out").rglob("*.nii.gz")) == []


def test_what_lies_before_the_damage_is_imported(tmp_path: Path) -> None:
    whole, cut = save(slices_of(ct()), tmp_path / "whole"), save(slices_of(ct()), tmp_path / "cut")
    (tmp_path / "in").mkdir()
    with tarfile.open(tmp_path / "in" / "scans.tar", "w") as rolled:
        for path in (*whole, *cut):
            rolled.add(path, f"{path.parent.name}/{path.name}")
    with (tmp_path / "in" / "scans.tar").open("r+b") as file:
        file.truncate(sum(path.stat().st_size + 1024 for path in whole) + 2000)
    report = imported(tmp_path)
    assert report.volumes == {"CT": 1}
    assert report.files == {"damaged_container": 1}


def test_a_member_that_inflates_to_much_more_than_a_header_fills_no_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dicom_files, "_HEADER_BYTES", 2**16)
    slice_ = save(slices_of(ct())[:1], tmp_path)[0].read_bytes()
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as packed:
        packed.writestr("bomb.dcm", slice_ + bytes(2**24))
    tracemalloc.start()
    (found,) = files_below([tmp_path / "bomb.zip"], without=())
    assert len(read_file(found).instances) == 1
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**22


def test_a_folder_that_nobody_may_read_is_told(tmp_path: Path) -> None:
    paths = save(slices_of(ct()), tmp_path / "in")
    paths[3].chmod(0)
    if os.access(paths[3], os.R_OK):
        pytest.skip("root reads every file")
    assert imported(tmp_path).files["not_readable"] == 1
