"""Write DICOM from phantoms, with the habits of several vendors and with planted names, ids and dates."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.filewriter import dcmwrite
from pydicom.uid import (
    UID,
    CTImageStorage,
    EnhancedCTImageStorage,
    EnhancedMRImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGLosslessSV1,
    MRImageStorage,
    RLELossless,
    generate_uid,
)

from prism_ssl.contracts import Float64

PLANTED = {
    "PatientName": "Quenneville^Ottoline",
    "PatientID": "MRN7744112",
    "PatientBirthDate": "19610307",
    "AccessionNumber": "ACC998877",
    "StudyDate": "20190422",
    "SeriesDate": "20190422",
    "AcquisitionDate": "20190422",
    "AcquisitionTime": "134455.120000",
    "ReferringPhysicianName": "Zwingenberger^Anna",
    "InstitutionName": "Bramblewick Infirmary",
    "StudyID": "ST55671",
    "StudyDescription": "CT CHEST for Mrs Quenneville",
    "SeriesDescription": "AX LUNG B60f Quenneville 07.03.1961",
    "ImageComments": "tell Ottoline",
    "ManufacturerModelName": "Scanner of Bramblewick",
    "SequenceName": "MRN7744112",
    "BodyPartExamined": "OTTOLINE",
}
"""What must appear nowhere in an archive."""
PLANTED_WORDS = (
    *("Quenneville", "Ottoline", "MRN7744112", "7744112", "19610307", ".1961", "ACC998877", "20190422", "134455"),
    *("Zwingenberger", "Bramblewick", "ST55671"),
)

Change = Callable[[FileDataset, int], None]


@dataclass(frozen=True)
class SeriesPlan:
    """A stack of planes: ``voxels`` [slice, row, column], ``spacing_mm`` between columns, rows and slices, directions
    along a row and a column (LPS), ``shift_mm`` [3] of each slice against the one before, beside the step."""

    voxels: npt.NDArray[Any]
    modality: str = "CT"
    spacing_mm: tuple[float, float, float] = (1.5, 2.0, 3.0)
    along_row: tuple[float, float, float] = (1, 0, 0)
    along_column: tuple[float, float, float] = (0, 1, 0)
    origin_mm: tuple[float, float, float] = (-20.0, -31.0, -40.0)
    shift_mm: tuple[float, float, float] = (0, 0, 0)
    slope: float = 1.0
    intercept: float = -1000.0
    syntax: str = ExplicitVRLittleEndian
    tags: Mapping[str, Any] = field(default_factory=dict)
    change: Change | None = None
    uid: str = ""

    @property
    def step_mm(self) -> Float64:
        """From one slice to the next, LPS."""
        normal = np.cross(self.along_row, self.along_column)
        return np.asarray(normal * self.spacing_mm[2] + np.array(self.shift_mm), float)

    def position(self, number: int) -> Float64:
        """Centre of the first pixel of a slice, LPS."""
        return np.asarray(np.array(self.origin_mm) + number * self.step_mm, float)

    def to_ras(self) -> Float64:
        """(column, row, slice) -> RAS mm, [4, 4]."""
        affine = np.eye(4)
        columns = (np.array(self.along_row) * self.spacing_mm[0], np.array(self.along_column) * self.spacing_mm[1])
        affine[:3, :3] = np.stack([*columns, self.step_mm], axis=1)
        affine[:3, 3] = self.origin_mm
        return np.asarray(np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine, float)

    @property
    def values(self) -> Float64:
        """Rescaled values."""
        return np.asarray(self.voxels * self.slope + self.intercept, float)


def phantom(slices: int = 6, rows: int = 10, columns: int = 12, seed: int = 0) -> npt.NDArray[np.int16]:
    """Noise, so that no two voxels are exchanged unseen."""
    return np.random.default_rng(seed).integers(0, 3000, (slices, rows, columns)).astype(np.int16)


def ct(**changes: Any) -> SeriesPlan:
    """A CT of 6 slices."""
    return replace(SeriesPlan(phantom()), **changes)


def mr(**changes: Any) -> SeriesPlan:
    """An MR of 6 slices."""
    return replace(SeriesPlan(phantom(), "MR", slope=1.0, intercept=0.0), **changes)


def slices_of(plan: SeriesPlan) -> list[FileDataset]:
    """One file a slice."""
    uid: str = plan.uid or generate_uid()
    study = f"{uid[:60]}.9"
    made = []
    for number in range(len(plan.voxels)):
        dataset = empty(MRImageStorage if plan.modality == "MR" else CTImageStorage, plan.syntax)
        _fill(dataset, plan, uid, study)
        dataset.InstanceNumber = number + 1
        dataset.ImagePositionPatient = [f"{value:.6f}".rstrip("0") for value in plan.position(number)]
        dataset.ImageOrientationPatient = [*plan.along_row, *plan.along_column]
        dataset.PixelSpacing, dataset.SliceThickness = [plan.spacing_mm[1], plan.spacing_mm[0]], plan.spacing_mm[2]
        if plan.modality == "CT" or plan.slope != 1:
            dataset.RescaleSlope, dataset.RescaleIntercept = plan.slope, plan.intercept
        _set_pixels(dataset, plan.voxels[number : number + 1])
        for name, value in plan.tags.items():
            setattr(dataset, name, value)
        if plan.change is not None:
            plan.change(dataset, number)
        made.append(dataset)
    return made


def enhanced(plan: SeriesPlan, order: Sequence[int] | None = None, times: int = 1) -> FileDataset:
    """All slices, ``times`` times over, as frames of one file, in ``order``."""
    dataset = empty(EnhancedCTImageStorage if plan.modality == "CT" else EnhancedMRImageStorage, plan.syntax)
    uid = str(plan.uid or generate_uid())
    _fill(dataset, plan, uid, f"{uid[:60]}.9")
    places = [(number, time) for time in range(times) for number in (order or range(len(plan.voxels)))]
    shared, dataset.NumberOfFrames = Dataset(), len(places)
    shared.PlaneOrientationSequence = [item(ImageOrientationPatient=[*plan.along_row, *plan.along_column])]
    spacing = {"PixelSpacing": [plan.spacing_mm[1], plan.spacing_mm[0]], "SliceThickness": plan.spacing_mm[2]}
    shared.PixelMeasuresSequence = [item(**spacing, SpacingBetweenSlices=plan.spacing_mm[2])]
    scaling = {"RescaleSlope": plan.slope, "RescaleIntercept": plan.intercept, "RescaleType": "HU"}
    shared.PixelValueTransformationSequence = [item(**scaling)]
    frames = []
    for index, (number, time) in enumerate(places):
        frame, position = Dataset(), [float(value) for value in plan.position(number)]
        content = {"DimensionIndexValues": [1, number + 1, time + 1], "InStackPositionNumber": number + 1}
        stack = {"StackID": "1", "TemporalPositionIndex": time + 1, "FrameAcquisitionNumber": index + 1}
        frame.FrameContentSequence = [item(**content, **stack)]
        frame.PlanePositionSequence = [item(ImagePositionPatient=position)]
        frames.append(frame)
    dataset.SharedFunctionalGroupsSequence, dataset.PerFrameFunctionalGroupsSequence = [shared], frames
    _set_pixels(dataset, np.stack([plan.voxels[number] for number, _ in places]))
    for name, value in plan.tags.items():
        setattr(dataset, name, value)
    return dataset


def save(datasets: Iterable[FileDataset], folder: Path, name: str = "{}.dcm", preamble: bool = True) -> list[Path]:
    """Write each as a file; ``{}`` in ``name`` is its number."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for number, dataset in enumerate(datasets):
        paths.append(folder / name.format(number))
        if preamble:
            dcmwrite(paths[-1], dataset, enforce_file_format=True)
        else:
            bare = copy.copy(dataset)
            bare.preamble, bare.file_meta = None, FileMetaDataset()
            dcmwrite(paths[-1], bare, implicit_vr=True, little_endian=True)
    return paths


def item(**values: Any) -> Dataset:
    """An item of a sequence."""
    made = Dataset()
    for name, value in values.items():
        setattr(made, name, value)
    return made


def empty(kind: str, syntax: str) -> FileDataset:
    """A file of this kind and transfer syntax that says nothing yet."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.TransferSyntaxUID = UID(kind), UID(syntax)
    meta.MediaStorageSOPInstanceUID = generate_uid()
    dataset = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.SOPClassUID, dataset.SOPInstanceUID = kind, meta.MediaStorageSOPInstanceUID
    return dataset


def _fill(dataset: FileDataset, plan: SeriesPlan, uid: str, study: str) -> None:
    for name, value in PLANTED.items():
        setattr(dataset, name, value)
    dataset.Modality, dataset.Manufacturer = plan.modality, "SIEMENS"
    dataset.SeriesInstanceUID, dataset.StudyInstanceUID, dataset.FrameOfReferenceUID = uid, study, study
    dataset.ImageType, dataset.SeriesNumber, dataset.AcquisitionNumber = ["ORIGINAL", "PRIMARY", "AXIAL"], 3, 1
    dataset.PatientPosition, dataset.ConvolutionKernel = "HFS", "B60f" if plan.modality == "CT" else ""
    if plan.modality == "MR":
        dataset.EchoTime, dataset.RepetitionTime, dataset.ScanningSequence = 2.5, 9.0, "GR"


def _set_pixels(dataset: FileDataset, planes: npt.NDArray[Any]) -> None:
    """Planes [frame, row, column] in the transfer syntax of the file."""
    syntax, bits = dataset.file_meta.TransferSyntaxUID, planes.dtype.itemsize * 8
    dataset.Rows, dataset.Columns = planes.shape[1:]
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = bits, bits, bits - 1
    dataset.PixelRepresentation = int(planes.dtype.kind == "i")
    if syntax == JPEGLosslessSV1:
        dataset.PixelData = encapsulate([jpeg_lossless(plane) for plane in planes])
        dataset["PixelData"].VR, dataset["PixelData"].is_undefined_length = "OB", True
        return
    order: Literal[">", "<"] = ">" if syntax == ExplicitVRBigEndian else "<"
    dataset.PixelData = planes.astype(planes.dtype.newbyteorder(order)).tobytes()
    dataset["PixelData"].VR = "OW" if bits == 16 else "OB"
    if syntax == RLELossless:
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        dataset.compress(RLELossless, generate_instance_uid=False)


def jpeg_lossless(plane: npt.NDArray[Any]) -> bytes:
    """A plane as JPEG lossless, process 14 with selection value 1 (ITU-T T.81, annex H), 16 bits.

    All 17 categories of differences have a code of 5 bits.
    """
    rows, columns = plane.shape
    values = plane.astype(np.int64) & 0xFFFF
    bits = list[str]()
    for row in range(rows):
        for column in range(columns):
            if row == column == 0:
                predicted = 1 << 15
            else:
                predicted = int(values[row, column - 1] if column else values[row - 1, 0])
            difference = (int(values[row, column]) - predicted + 0x8000) % 0x10000 - 0x8000
            size = abs(difference).bit_length() if difference != -0x8000 else 16
            bits.append(f"{size:05b}")
            if 0 < size < 16:
                bits.append(f"{difference if difference > 0 else difference + (1 << size) - 1:0{size}b}")
    text = "".join(bits)
    text += "1" * (-len(text) % 8)
    data = bytes(int(text[at : at + 8], 2) for at in range(0, len(text), 8)).replace(b"\xff", b"\xff\x00")
    frame = bytes([16]) + rows.to_bytes(2, "big") + columns.to_bytes(2, "big") + bytes([1, 1, 0x11, 0])
    table = bytes([0, 0, 0, 0, 0, 17, *[0] * 11]) + bytes(range(17))
    scan = bytes([1, 1, 0, 1, 0, 0])
    segments = ((0xC3, frame), (0xC4, table), (0xDA, scan))
    head = b"".join(b"\xff" + bytes([mark]) + (len(body) + 2).to_bytes(2, "big") + body for mark, body in segments)
    coded = b"\xff\xd8" + head + data + b"\xff\xd9"
    return coded + b"\0" * (len(coded) % 2)


def tilted(degrees: float, **changes: Any) -> SeriesPlan:
    """A CT whose value is a linear function of the place, with the gantry tilted by so many degrees about x."""
    angle = math.radians(degrees)
    plan = ct(
        voxels=np.zeros((12, 40, 30), np.int16),
        along_column=(0.0, math.cos(angle), math.sin(angle)),
        spacing_mm=(2.0, 2.0, 3.0 * math.cos(angle)),
        **changes,
    )
    normal = np.cross(plan.along_row, plan.along_column)
    plan = replace(plan, shift_mm=tuple(np.array([0, 0, 3.0]) - normal * plan.spacing_mm[2]))
    grid = np.stack(np.meshgrid(*map(np.arange, plan.voxels.shape[::-1]), indexing="ij"))
    places = plan.to_ras()[:3, :3] @ grid.reshape(3, -1) + plan.to_ras()[:3, 3:]
    ramp = np.rint(1000 + ramp_hu(places.T)).astype(np.int16).reshape(grid.shape[1:])
    return replace(plan, voxels=np.ascontiguousarray(ramp.transpose(2, 1, 0)))


def ramp_hu(places_mm: Float64) -> Float64:
    """Value at RAS places [n, 3]."""
    return np.asarray(places_mm @ np.array([3.0, 5.0, 7.0]), float)


SYNTAXES = {
    "explicit little endian": ExplicitVRLittleEndian,
    "implicit": ImplicitVRLittleEndian,
    "big endian": ExplicitVRBigEndian,
    "RLE": RLELossless,
    "JPEG lossless": JPEGLosslessSV1,
}
