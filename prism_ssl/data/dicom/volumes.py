"""Divide the files of one series into volumes, and name the reason of each part that is none; pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass

from prism_ssl.data.dicom.instance import Instance
from prism_ssl.data.dicom.reasons import LeftOut, Refusal
from prism_ssl.data.dicom.series_rules import refusal_of
from prism_ssl.data.dicom.stack import Stack, doubled, has_geometry, same_grid, stacked

PHASES_MAX = 6
"""A series with more acquisitions of one place than this is a time series; a multi-phase CT has two to four."""
VOLUME_KEYS = (("acquisition", True), ("b_value", False), ("time", False), ("trigger", False), ("acquired", True))
"""What may tell slices at one place apart, and whether each part is then a volume of its own (else: a time series)."""


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
    """The parts of one series. A file that is there twice counts once.

    Args:
        series: files with one patient, series id and modality.
        modalities: those to keep.
        min_slices: fewest planes of a volume.
    """
    once = {instance.told(): instance for instance in series}
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
    for label, part, refusal in _without_doubles(grid):
        named = f"{name} {label}".strip()
        if refusal is None:
            refusal = _too_few(len(part), min_slices)
        if refusal is None:
            made = stacked([instance.frames[0] for instance in part], tilt_allowed=part[0].modality == "CT")
            if isinstance(made, Stack):
                yield Part(named, tuple(part[i] for i in made.order), stack=made)
                continue
            refusal = made
        yield Part(named, tuple(part), refusal=refusal)


def _without_doubles(grid: list[Instance]) -> list[tuple[str, list[Instance], Refusal | None]]:
    """The grid divided so that no two slices of a part lie at one place, by the first key that does it."""
    frames = [instance.frames[0] for instance in grid]
    twice = doubled(frames)
    if not twice:
        return [("", grid, None)]
    if twice == len(grid) - 1 > 1:
        return [("", grid, Refusal(LeftOut.TIME_SERIES, f"{len(grid)} images of one slice"))]
    for key, whole in VOLUME_KEYS:
        parts = _by_volume_key(grid, key)
        if min(map(len, parts.values())) < 2 or any(
            doubled([each.frames[0] for each in part]) for part in parts.values()
        ):
            continue
        if whole and len(parts) <= PHASES_MAX:
            return [(f"{key} {value}", part, None) for value, part in parts.items()]
        return [("", grid, Refusal(LeftOut.TIME_SERIES, f"{len(parts)} volumes of one place, told apart by {key}"))]
    return [("", grid, None)]


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
    times = Counter[str]()
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
        if made is None:
            made = stacked(frames, tilt_allowed=instance.modality == "CT")
        stack, refusal = (made, None) if isinstance(made, Stack) else (None, made)
        yield Part(named, (instance,), stack=stack, refusal=refusal)


def _several(instance: Instance) -> Refusal:
    keys = [dict(frame.volume_keys) for frame in instance.frames]
    for key, _ in VOLUME_KEYS:
        values = {each.get(key, "") for each in keys}
        if len(values) > 1 and key != "acquired":
            told = f"{len(values)} volumes of one place in one file, told apart by {key}"
            return Refusal(LeftOut.TIME_SERIES, told)
    return Refusal(LeftOut.SEVERAL_VOLUMES, f"{len(keys)} frames of one file show one place several times")
