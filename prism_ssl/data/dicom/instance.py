"""Header of one DICOM file, or of one member of a zip or tar file, as plain values for grouping and judging.

Lengths are in mm, positions and directions in DICOM's patient frame (LPS). "" and None stand for what is not there.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

Vector = tuple[float, ...]
NATIVE = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2")
"""Transfer syntaxes in which pixels lie as they are."""


@dataclass(frozen=True)
class Frame:
    """One image plane: position [3], orientation [6] (along a row, along a column) and spacing [2] (between rows,
    between columns).

    ``volume_keys`` tell planes at one place apart: name -> value, see ``volumes.VOLUME_KEYS``.
    """

    position: Vector | None
    orientation: Vector | None
    spacing: Vector | None
    slope: float | None
    intercept: float | None
    rescale_type: str
    echo: str
    image_type: tuple[str, ...]
    volume_keys: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Instance:
    """One file, or one member of a zip or tar.

    ``pixels`` is "ok", "none", "short", "float" or "shifted" (not in the lowest bits); ``texts`` are fields that may
    identify, and must be scrubbed before they are written anywhere.
    """

    path: str
    member: str
    size: int
    mtime_ns: int
    patient: str
    study: str
    series: str
    sop: str
    sop_class: str
    syntax: str
    modality: str
    number: int | None
    rows: int
    columns: int
    samples: int
    photometric: str
    bits: int
    signed: int
    pixels: str
    burned_in: bool
    captured: bool
    frames: tuple[Frame, ...]
    texts: dict[str, str] = field(default_factory=dict)
    numbers: dict[str, float] = field(default_factory=dict)

    @property
    def multi_frame(self) -> bool:
        """Whether the file holds several planes."""
        return len(self.frames) > 1

    def told(self) -> tuple[Any, ...]:
        """All that tells two images apart, without the place of the file."""
        return (self.patient, self.series, self.sop, self.number, self.rows, self.columns, self.bits, self.frames)

    def to_json(self) -> str:
        """The values as ASCII text; see ``from_json``."""
        told = {
            **vars(self),
            "frames": [vars(frame) for frame in self.frames],
        }  # asdict copies deeply: ten times slower
        return json.dumps(told, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Instance:
        """The instance that ``to_json`` told."""
        told = json.loads(text)
        frames = tuple(_frame(each) for each in told.pop("frames"))
        return cls(frames=frames, **told)


def _frame(told: dict[str, Any]) -> Frame:
    for name in ("position", "orientation", "spacing"):
        told[name] = None if told[name] is None else tuple(told[name])
    keys = tuple((name, value) for name, value in told.pop("volume_keys"))
    return Frame(image_type=tuple(told.pop("image_type")), volume_keys=keys, **told)


def bits_stored(instances: Iterable[Instance]) -> frozenset[float]:
    """In how many bits the files say that their values are."""
    return frozenset(bits for each in instances if (bits := each.numbers.get("BitsStored")) is not None)


def series_key(instance: Instance) -> str:
    """What the files of one series share; without a series id, files of one folder are one series."""
    folders = f"folder {os.path.dirname(instance.path)} {os.path.dirname(instance.member)}"  # noqa: PTH120
    series = instance.series or folders
    return safe("\x1f".join((instance.patient, instance.study, series, instance.modality)))


def safe(text: str) -> str:
    """The text with what SQLite cannot hold, bytes that are no UTF-8, written out."""
    return text.encode("utf-8", "backslashreplace").decode()
