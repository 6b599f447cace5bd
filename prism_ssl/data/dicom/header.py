"""Read the header of one DICOM file into an ``Instance``, without its pixels; write a copy under another number.

The only module that knows pydicom. Values that break DICOM's rules are taken as missing, never as an error.
"""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
import pydicom
from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, MRImageStorage

from prism_ssl.data.dicom.instance import NATIVE, Frame, Instance, Vector

SNIFF_BYTES = 132
_MAGIC, _MAGIC_AT = b"DICM", 128
_WITHOUT_PREAMBLE = (b"\x08\x00", b"\x02\x00", b"\x00\x08")
"""A file without preamble begins with a tag of group 8 or 2, in either byte order."""
_CAPTURES = "1.2.840.10008.5.1.4.1.1.7"
_FLOAT_PIXELS = ("0008", "0009")

TEXTS = (
    *("Manufacturer", "ManufacturerModelName", "ConvolutionKernel", "ContrastBolusAgent", "ScanningSequence"),
    *("SequenceVariant", "SequenceName", "BodyPartExamined", "SeriesDescription", "StudyDescription"),
)
NUMBERS = (
    *("SliceThickness", "EchoTime", "RepetitionTime", "InversionTime", "FlipAngle", "MagneticFieldStrength", "KVP"),
    "BitsStored",
)
_ENHANCED = {"EchoTime": "EffectiveEchoTime"}
"""What enhanced objects call it, where the name differs."""
NAMES = (
    *("PatientName", "PatientMotherBirthName", "ReferringPhysicianName", "PerformingPhysicianName", "OperatorsName"),
    "PhysiciansOfRecord",
)
"""Names of people; some are words of protocols too, such as Sharp."""
IDENTITY = (
    *NAMES,
    *("PatientID", "PatientBirthDate", "OtherPatientIDs", "AccessionNumber", "StudyDate", "SeriesDate", "StudyID"),
    *("AcquisitionDate", "InstitutionName", "InstitutionAddress", "StationName", "PatientAddress"),
    *("InstitutionalDepartmentName", "DeviceSerialNumber", "DateOfSecondaryCapture"),
)
"""Fields whose words must appear in no text that is written."""
_VOLUME_KEYS = {
    "acquisition": "AcquisitionNumber",
    "time": "TemporalPositionIdentifier",
    "b_value": "DiffusionBValue",
    "trigger": "TriggerTime",
    "acquired": "AcquisitionTime",
}
_PLANE = ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "EchoTime", "EchoNumbers", "ImageType")
_OTHERS = (
    *("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "Modality"),
    "InstanceNumber",
    *("Rows", "Columns", "SamplesPerPixel", "PhotometricInterpretation", "BitsAllocated", "PixelRepresentation"),
    "HighBit",
    *("NumberOfFrames", "BurnedInAnnotation", "RescaleSlope", "RescaleIntercept", "RescaleType"),
    *("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence", "SpecificCharacterSet"),
)
_TAGS = [
    tag_for_keyword(name) or 0 for name in (*TEXTS, *NUMBERS, *IDENTITY, *_VOLUME_KEYS.values(), *_PLANE, *_OTHERS)
]


def looks_like_dicom(first: bytes) -> bool:
    """Whether a file that begins so is read as DICOM; ``first`` holds ``SNIFF_BYTES``."""
    return first[_MAGIC_AT:] == _MAGIC or first[:2] in _WITHOUT_PREAMBLE


def read_instance(file: IO[bytes], path: str, member: str, size: int, mtime_ns: int) -> Instance | None:
    """The header of a file; None if it is damaged, or no DICOM after all.

    Args:
        file: seekable, at its beginning.
        size: its length in bytes.
    """
    first = file.read(SNIFF_BYTES)
    file.seek(0)
    if not looks_like_dicom(first):
        return None
    try:
        with _silent():
            head = pydicom.dcmread(
                file, stop_before_pixels=True, force=first[_MAGIC_AT:] != _MAGIC, specific_tags=_TAGS
            )
            syntax = str(head.file_meta.get("TransferSyntaxUID", "")) if hasattr(head, "file_meta") else ""
            frames = tuple(_frames(head))
            pixels = _pixels(head, file, size, syntax, len(frames))
            if not (_sop_class(head) or _text(head, "Modality")):
                return None
            return _instance(head, frames, syntax, pixels, {"path": path, "member": member, "size": size}, mtime_ns)
    except Exception:  # noqa: BLE001  the edge of a file: pydicom raises whatever a damaged header leads it to
        return None


def write_numbered(source: Path, target: Path, number: int) -> None:
    """A copy of a file with another InstanceNumber, and with its values in all bits that a pixel has.

    dcm2niix cuts the values of all slices to as many bits as the first one stores.

    Raises:
        OSError: the file cannot be read or written.
    """
    with _silent():
        try:
            whole = pydicom.dcmread(source, force=True)
            whole.InstanceNumber = number
            if not hasattr(whole.file_meta, "TransferSyntaxUID"):
                whole.file_meta.TransferSyntaxUID = UID(NATIVE[0])
            _use_all_bits(whole)
            _fill_ids(whole, number)
            pydicom.dcmwrite(target, whole, enforce_file_format=True)
        except (AttributeError, ValueError, TypeError) as error:
            raise OSError(f"a file cannot be numbered ({type(error).__name__})") from error


def _fill_ids(whole: Dataset, number: int) -> None:
    """Give a file that names neither its kind nor itself what every file must have."""
    kind = _sop_class(whole) or MRImageStorage
    whole.file_meta.MediaStorageSOPClassUID = UID(kind)
    if not (_text(whole, "SOPInstanceUID") or _text(whole.file_meta, "MediaStorageSOPInstanceUID")):
        whole.file_meta.MediaStorageSOPInstanceUID = UID(f"1.2.{number}")


def _use_all_bits(whole: Dataset) -> None:
    stored, syntax = _number(whole, "BitsStored"), whole.file_meta.TransferSyntaxUID
    if whole.get("BitsAllocated") != 16 or stored is None or not 0 < stored < 16 or syntax not in NATIVE:
        return
    kind = np.dtype(np.int16 if whole.get("PixelRepresentation") else np.uint16)
    kind = kind.newbyteorder(">" if syntax == ExplicitVRBigEndian else "<")
    unused = 16 - int(stored)
    values = np.frombuffer(whole.PixelData, kind)
    whole.PixelData = (values << unused >> unused).astype(kind).tobytes()
    whole.BitsStored, whole.HighBit = 16, 15


@contextmanager
def _silent() -> Iterator[None]:
    """Without pydicom's warnings, which quote values of the header."""
    logger = logging.getLogger("pydicom")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _instance(
    head: Dataset, frames: tuple[Frame, ...], syntax: str, pixels: str, place: dict[str, Any], mtime_ns: int
) -> Instance:
    texts = {name: _text(head, name) for name in (*TEXTS, *IDENTITY)}
    number = _number(head, "InstanceNumber")
    places = next(_places(head))
    found = {name: _first_number(places, _ENHANCED.get(name), name) for name in NUMBERS}
    numbers = {name: value for name, value in found.items() if value is not None}
    return Instance(
        **place,
        mtime_ns=mtime_ns,
        patient=texts["PatientID"],
        study=_text(head, "StudyInstanceUID"),
        series=_text(head, "SeriesInstanceUID"),
        sop=_text(head, "SOPInstanceUID"),
        sop_class=_sop_class(head),
        syntax=syntax or NATIVE[0],
        modality=_text(head, "Modality").upper(),
        number=None if number is None else int(number),
        rows=int(_number(head, "Rows") or 0),
        columns=int(_number(head, "Columns") or 0),
        samples=int(_number(head, "SamplesPerPixel") or 1),
        photometric=_text(head, "PhotometricInterpretation").upper(),
        bits=int(_number(head, "BitsAllocated") or 0),
        signed=int(_number(head, "PixelRepresentation") or 0),
        pixels=pixels,
        burned_in=_text(head, "BurnedInAnnotation").upper() == "YES",
        captured=_sop_class(head).startswith(_CAPTURES),
        frames=frames,
        texts={name: value for name, value in texts.items() if value},
        numbers=numbers,
    )


def _pixels(head: Dataset, file: IO[bytes], size: int, syntax: str, frames: int) -> str:
    """Whether the file goes on, behind its header, for as long as its pixels need, and whether these are whole numbers
    in the lowest bits."""
    stored, highest = _number(head, "BitsStored"), _number(head, "HighBit")
    if stored is not None and highest is not None and highest != stored - 1:
        return "shifted"
    if syntax == DeflatedExplicitVRLittleEndian:
        return "ok"
    at = file.tell()
    tag = file.read(4)
    file.seek(at)
    if not tag:
        return "none"
    order: Literal["big", "little"] = "big" if syntax == ExplicitVRBigEndian else "little"
    group, element = (int.from_bytes(tag[2 * i : 2 * i + 2], order) for i in range(2))
    if group != 0x7FE0 or f"{element:04x}" in _FLOAT_PIXELS:
        return "float" if group == 0x7FE0 else "none"
    values = math.prod(int(_number(head, name) or 1) for name in ("Rows", "Columns", "SamplesPerPixel"))
    needed = values * frames * int(_number(head, "BitsAllocated") or 0) // 8
    return "short" if (syntax or NATIVE[0]) in NATIVE and size - at < needed else "ok"


# ---------------------------------------------------------------------- frames
def _frames(head: Dataset) -> Iterator[Frame]:
    if head.get("PerFrameFunctionalGroupsSequence"):
        yield from map(_frame, _places(head))
    else:
        count = max(1, int(_number(head, "NumberOfFrames") or 1))
        yield from [_frame([head])] * count  # old multi-frame objects say nothing of their planes


def _places(head: Dataset) -> Iterator[list[Dataset]]:
    """Where to look for the values of each frame, the first place first."""
    shared = next(iter(head.get("SharedFunctionalGroupsSequence") or []), Dataset())
    for each in head.get("PerFrameFunctionalGroupsSequence") or [Dataset()]:
        yield [*_macros(each), *_macros(shared), head]


def _macros(groups: Dataset) -> Iterator[Dataset]:
    """The items of all functional groups; makers put whole headers of their own beside them."""
    for element in groups:
        yield from element.value if element.VR == "SQ" and not element.tag.is_private else ()


def _frame(places: list[Dataset]) -> Frame:
    def first(name: str) -> Any:
        return next((place[name].value for place in places if name in place), None)

    keys = {name: str(first(tag)) for name, tag in _VOLUME_KEYS.items() if first(tag) not in (None, "")}
    time = first("TemporalPositionIndex")
    if time is not None:
        keys["time"] = str(time)
    if len(places) > 1:
        keys.pop("acquired", None)
    image_type = first("FrameType") or first("ImageType") or ()
    image_type = (image_type,) if isinstance(image_type, str) else image_type
    echo = first("EffectiveEchoTime") if first("EffectiveEchoTime") is not None else first("EchoTime")
    slope, intercept = (_float(first(name)) for name in ("RescaleSlope", "RescaleIntercept"))
    return Frame(
        position=_vector(first("ImagePositionPatient"), 3),
        orientation=_vector(first("ImageOrientationPatient"), 6),
        spacing=_vector(first("PixelSpacing"), 2),
        slope=slope,
        intercept=intercept,
        rescale_type=str(first("RescaleType") or "").strip().upper(),
        echo=str(echo if echo is not None else ""),
        image_type=tuple(str(word).strip().upper() for word in image_type),
        volume_keys=tuple(sorted(keys.items())),
    )


# ---------------------------------------------------------------------- values
def _text(head: Dataset, name: str) -> str:
    value = head.get(name)
    if value is None:
        return ""
    several = value if isinstance(value, (list, tuple, pydicom.multival.MultiValue)) else [value]
    return "\\".join(str(each).replace("\0", "").strip() for each in several).strip()


def _sop_class(head: Dataset) -> str:
    """What kind of object this is; a DICOMDIR says it before its header only."""
    return _text(head, "SOPClassUID") or _text(getattr(head, "file_meta", Dataset()), "MediaStorageSOPClassUID")


def _first_number(places: Iterable[Dataset], *names: str | None) -> float | None:
    return next((_number(place, name) for place in places for name in names if name and name in place), None)


def _number(head: Dataset, name: str) -> float | None:
    value = head.get(name)
    return _float(value[0] if isinstance(value, pydicom.multival.MultiValue) and len(value) else value)


def _float(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def _vector(values: Iterable[Any] | None, length: int | None = None) -> Vector | None:
    try:
        numbers = [_float(value) for value in values or ()]
    except TypeError:
        return None
    whole = tuple(number for number in numbers if number is not None)
    return whole if numbers and len(whole) == len(numbers) == (length or len(whole)) else None
