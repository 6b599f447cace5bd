"""Divide the files of one series into volumes, and name the reason of each part that is none; pure."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from prism_ssl.data.dicom.instance import NATIVE, Frame, Instance, bits_stored
from prism_ssl.data.dicom.reasons import LeftOut, Refusal
from prism_ssl.data.dicom.series_rules import refusal_of
from prism_ssl.data.dicom.stack import (
    SAME_PLACE_MM,
    Stack,
    distances_mm,
    doubled,
    has_geometry,
    same_grid,
    stacked,
    stations,
)

PHASES_MAX = 6
"""A series with more acquisitions of one place than this is a time series; a multi-phase CT has two to four."""
VOLUME_KEYS = (("b_value", False), ("acquisition", True), ("time", False), ("trigger", False), ("acquired", True))
"""What may tell slices at one place apart, and whether each part is then a volume of its own (else: a time series)."""
_UNTOLD_TIMES = 3
"""So many images at every place are a time series even if nothing tells them apart; two may be a copy."""
_OF_SEVERAL_RANGES = (LeftOut.MISSING_SLICES, LeftOut.UNEVEN_SPACING, LeftOut.SHEARED_STACK)


@dataclass(frozen=True, eq=False)
class Part:
    """Files of one series that belong together: a volume with its ``stack``, or left out for ``refusal``.

    ``name`` tells the parts of a series apart and is the same for the same files.
    """

    name: str
    instances: tuple[Instance, ...]
    stack: Stack | None = None
    refusal: Refusal | None = None


def volumes_of(series: Sequence[Instance], modalities: Sequence[str], min_slices: int) -> list[Part]:
    """The parts of one series. Of a file that is there twice the first copy counts, or the first that is whole.

    Args:
        series: files with one patient, series id and modality.
        modalities: those to keep.
        min_slices: fewest planes of a volume.
    """
    once: dict[Hashable, Instance] = {}
    for instance in series:
        known = once.setdefault(told := instance.told(), instance)
        if known.pixels != "ok" and instance.pixels == "ok":
            once[told] = instance
    kept = sorted(once.values(), key=lambda each: (each.sop, each.frames[0].position or (), each.path, each.member))
    found = list[Part]()
    for key, instances in _by_kind(kept).items():
        name = " ".join(map(str, key))
        refusal = refusal_of(instances, modalities)
        if refusal is None and not all(has_geometry(frame) for each in instances for frame in each.frames):
            refusal = Refusal(
                LeftOut.NO_GEOMETRY, f"position, orientation or spacing is not given in {len(instances)} files"
            )
        if refusal is not None:
            found.append(Part(name, tuple(instances), refusal=refusal))
            continue
        found += _multi_frame_parts(name, [each for each in instances if each.multi_frame], min_slices)
        found += _stack_parts(name, [each for each in instances if not each.multi_frame], min_slices)
    return found


def _kind(instance: Instance) -> tuple[Hashable, ...]:
    """What all slices of a volume share exactly."""
    frame = instance.frames[0]
    echo = frame.echo if instance.modality != "CT" else ""
    kernel = instance.texts.get("ConvolutionKernel", "")
    size = (instance.rows, instance.columns, instance.bits, instance.signed)
    sort = (instance.sop_class, instance.photometric, instance.multi_frame)
    return (*size, *sort, "\\".join(frame.image_type), echo, kernel)


def _by_kind(instances: Sequence[Instance]) -> dict[tuple[Hashable, ...], list[Instance]]:
    groups: dict[tuple[Hashable, ...], list[Instance]] = {}
    for instance in instances:
        groups.setdefault(_kind(instance), []).append(instance)
    return groups


# ---------------------------------------------------------------------- one plane a file
def _stack_parts(name: str, instances: list[Instance], min_slices: int) -> list[Part]:
    if not instances:
        return []
    grids = list[list[Instance]]()
    for instance in instances:
        near = next((grid for grid in grids if same_grid(grid[0].frames[0], instance.frames[0])), None)
        if near is None:
            grids.append(near := [])
        near.append(instance)
    if len(grids) > 1 and max(map(len, grids)) < min_slices:
        told = f"{len(instances)} slices in {len(grids)} orientations; needed: {min_slices} in one"
        return [Part(name, tuple(instances), refusal=Refusal(LeftOut.VARYING_ORIENTATION, told))]
    return [
        part for number, grid in enumerate(grids) for part in _grid_parts(f"{name} grid {number}", grid, min_slices)
    ]


def _grid_parts(name: str, grid: list[Instance], min_slices: int) -> Iterator[Part]:
    for place, indices in stations([instance.frames[0] for instance in grid]).items():
        station = f"{name} station {place}" if place else name
        for label, part, refusal in _without_doubles([grid[i] for i in indices]):
            named = f"{station} {label}".strip()
            refusal = refusal or _too_few(len(part), min_slices)
            if refusal is None:
                yield from _ranges(named, part, min_slices)
            else:
                yield Part(named, tuple(part), refusal=refusal)


def _ranges(name: str, part: list[Instance], min_slices: int) -> list[Part]:
    """The stack of a part; if it is none, those of its acquisitions, such as two ranges of a body; else its refusal."""
    made = _stack(part)
    if isinstance(made, Stack):
        return [Part(name, tuple(part[i] for i in made.order), stack=made)]
    for key in ("acquisition", "acquired") if made.reason in _OF_SEVERAL_RANGES else ():
        ranges = _by_volume_key(part, key)
        if 2 <= len(ranges) <= PHASES_MAX and min(map(len, ranges.values())) >= min_slices:
            stacks = {value: _stack(slices) for value, slices in ranges.items()}
            parts = [
                Part(f"{name} {key} {value}", tuple(ranges[value][i] for i in stack.order), stack=stack)
                for value, stack in stacks.items()
                if isinstance(stack, Stack)
            ]
            if len(parts) == len(ranges):
                return parts
    return [Part(name, tuple(part), refusal=made)]


def _stack(slices: Sequence[Instance]) -> Stack | Refusal:
    # dcm2niix cuts all values to the bits of the first slice; only what is not packed can be written with all bits.
    if len(bits := bits_stored(slices)) > 1 and any(each.syntax not in NATIVE for each in slices):
        told = f"{min(bits):g} to {max(bits):g} bits stored in packed pixels; needed: one number of bits"
        return Refusal(LeftOut.UNSUPPORTED_PIXELS, told)
    return stacked([each.frames[0] for each in slices], tilt_allowed=slices[0].modality == "CT")


def _without_doubles(grid: list[Instance]) -> list[tuple[str, list[Instance], Refusal | None]]:
    """The grid divided so that no two slices of a part lie at one place, by the first key that does it."""
    frames = [instance.frames[0] for instance in grid]
    twice = doubled(frames)
    if not twice:
        return [("", grid, _several_times(frames))]
    if twice == len(grid) - 1 > 1:
        return [("", grid, Refusal(LeftOut.TIME_SERIES, f"{len(grid)} images of one slice"))]
    if refusal := _diffusion(frames):
        return [("", grid, refusal)]
    for key, whole in VOLUME_KEYS:
        parts = _by_volume_key(grid, key)
        if min(map(len, parts.values())) < 2 or any(
            doubled([each.frames[0] for each in part]) for part in parts.values()
        ):
            continue
        if whole and len(parts) <= PHASES_MAX:
            return [(f"{key} {value}", part, None) for value, part in parts.items()]
        return [("", grid, Refusal(LeftOut.TIME_SERIES, f"{len(parts)} volumes of one place, told apart by {key}"))]
    return [("", grid, _equally_often(frames))]


def _equally_often(frames: Sequence[Frame]) -> Refusal | None:
    """Why planes of which three or more lie at each place are a time series, though nothing tells them apart."""
    distances = np.sort(distances_mm(frames))
    firsts = np.flatnonzero(np.diff(distances, prepend=-np.inf) >= SAME_PLACE_MM)
    times = set(np.diff(firsts, append=len(frames)).tolist())
    if len(times) == 1 and (most := times.pop()) >= _UNTOLD_TIMES:
        return Refusal(LeftOut.TIME_SERIES, f"{most} images at each of {len(firsts)} places, told apart by nothing")
    return None


def _several_times(frames: Sequence[Frame]) -> Refusal | None:
    """Why planes look like one volume and are several: those of one time or b-value lie between those of another.

    Stations that follow each other are one volume.
    """
    upwards: list[int] = np.argsort(distances_mm(frames)).tolist() if frames else []
    for key in ("b_value", "time"):
        values = [value for i in upwards if (value := dict(frames[i].volume_keys).get(key)) is not None]
        counts, changes = Counter(values), sum(a != b for a, b in itertools.pairwise(values))
        if len(counts) > 1 and min(counts.values()) > 1 and changes >= len(counts):
            return Refusal(LeftOut.TIME_SERIES, f"{len(counts)} interleaved volumes, told apart by {key}")
    return None


def _diffusion(frames: Sequence[Frame]) -> Refusal | None:
    """Why planes that lie at one place several times are diffusion: their b-values differ, or are above 0."""
    values = {dict(frame.volume_keys).get("b_value", "") for frame in frames}
    if len(values) > 1 or values - {"", "0", "0.0"}:
        return Refusal(LeftOut.TIME_SERIES, f"diffusion: {len(frames)} images or volumes, b-values: {len(values)}")
    return None


def _by_volume_key(grid: Sequence[Instance], key: str) -> dict[str, list[Instance]]:
    parts: dict[str, list[Instance]] = {}
    for instance in grid:
        parts.setdefault(dict(instance.frames[0].volume_keys).get(key, ""), []).append(instance)
    return parts


def _too_few(slices: int, min_slices: int) -> Refusal | None:
    if slices == 1:
        return Refusal(LeftOut.SINGLE_SLICE, "1 slice")
    if slices < min_slices:
        return Refusal(LeftOut.TOO_FEW_SLICES, f"{slices} slices; needed: {min_slices} (--min-slices)")
    return None


# ---------------------------------------------------------------------- several planes a file
def _multi_frame_parts(name: str, instances: list[Instance], min_slices: int) -> Iterator[Part]:
    times, stacks = Counter[str](), list[Part]()
    for instance in instances:
        times[instance.sop] += 1
        named, frames = f"{name} file {instance.sop} {times[instance.sop]}", instance.frames
        first = frames[0]
        made: Stack | Refusal | None = _too_few(len(frames), min_slices)
        if made is None and not all(same_grid(first, frame) for frame in frames):
            made = Refusal(LeftOut.VARYING_ORIENTATION, f"{len(frames)} frames of one file differ in their orientation")
        if made is None and doubled(frames):
            made = _several(instance)
        if made is None and len({frame.image_type for frame in frames}) > 1:
            made = Refusal(LeftOut.SEVERAL_VOLUMES, f"{len(frames)} frames of one file are of several kinds")
        # dcm2niix keeps the slope of every file, but of several frames in one the last one's only.
        if made is None and len(scales := {(frame.slope, frame.intercept) for frame in frames}) > 1:
            made = Refusal(LeftOut.UNSUPPORTED_PIXELS, f"{len(scales)} scalings in one file; dcm2niix keeps one")
        if made is None:
            made = stacked(frames, tilt_allowed=instance.modality == "CT")
        if isinstance(made, Stack):
            stacks.append(Part(named, (instance,), stack=made))
        else:
            yield Part(named, (instance,), refusal=made)
    for group in _of_one_place(stacks):
        refusal = _times_in_files([part.instances[0].frames[0] for part in group])
        if refusal is None:
            yield from group
        else:
            yield Part(f"{group[0].name} and others", tuple(part.instances[0] for part in group), refusal=refusal)


def _of_one_place(parts: Sequence[Part]) -> list[list[Part]]:
    groups = list[list[Part]]()
    for part in parts:
        near = next((group for group in groups if _same_place(group[0].stack, part.stack)), None)
        if near is None:
            groups.append(near := [])
        near.append(part)
    return groups


def _same_place(a: Stack | None, b: Stack | None) -> bool:
    assert a is not None
    assert b is not None
    return len(a.order) == len(b.order) and bool(np.allclose(a.affine(), b.affine(), rtol=0, atol=SAME_PLACE_MM))


def _times_in_files(frames: Sequence[Frame]) -> Refusal | None:
    """Why files that each hold a volume of one place are a time series; None if they are phases.

    Args:
        frames: the first one of each file.
    """
    if len(frames) > 1 and (refusal := _diffusion(frames)):
        return refusal
    for key, whole in VOLUME_KEYS:
        values = len({dict(frame.volume_keys).get(key, "") for frame in frames})
        if whole and values == len(frames) <= PHASES_MAX:
            return None
        if not whole and values > 1:
            return Refusal(LeftOut.TIME_SERIES, f"{len(frames)} files with one volume each, told apart by {key}")
    if len(frames) > PHASES_MAX:
        return Refusal(LeftOut.TIME_SERIES, f"{len(frames)} files with one volume each, all of one place")
    return None


def _several(instance: Instance) -> Refusal:
    keys = [dict(frame.volume_keys) for frame in instance.frames]
    for key, _ in VOLUME_KEYS:
        values = {each.get(key, "") for each in keys}
        if len(values) > 1 and key != "acquired":
            told = f"{len(values)} volumes of one place in one file, told apart by {key}"
            return Refusal(LeftOut.TIME_SERIES, told)
    return Refusal(LeftOut.SEVERAL_VOLUMES, f"{len(keys)} frames of one file show one place several times")
