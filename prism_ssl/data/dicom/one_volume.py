"""Bring one volume into the archive: fetch its files, convert, compare with DICOM, clean the header, compress.

Whole or not at all; the work of one task.
"""

from __future__ import annotations

import itertools
import math
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from prism_ssl.contracts import Float64
from prism_ssl.data.dicom.converter import converted, is_corrected, place_volume
from prism_ssl.data.dicom.files import Place, fetched
from prism_ssl.data.dicom.header import write_numbered
from prism_ssl.data.dicom.instance import Instance, bits_stored
from prism_ssl.data.dicom.reasons import LeftOut
from prism_ssl.data.dicom.straighten import respaced, straightened
from prism_ssl.data.dicom.volumes import Part
from prism_ssl.data.scan import read_header, times
from prism_ssl.errors import MachineTrouble, ScanRejected

SAME_MM = 0.05
"""Corners of the volume must lie where DICOM puts them, to this many mm: scanners round positions to 0.1 mm."""
_BYTES_A_VOXEL = 8
"""Two volumes in the scratch folder (plain and corrected), each of 16 bits or, scaled by slice, of 32."""


@dataclass(frozen=True)
class Job:
    """A volume to convert.

    Attributes:
        places: its files, in the order of their position.
        target: the ``.nii.gz`` to write.
        shape: columns, rows, planes of DICOM.
        affine: (column, row, plane) -> RAS mm of DICOM, [4][4].
        tilted: the planes are shifted against each other, and are to be straightened.
        numbered: copies of the files are to be numbered, because dcm2niix orders them by an instance number, and theirs
            do not count the planes; or all bits are to be used, see ``write_numbered``.
    """

    volume: str
    places: tuple[Place, ...]
    target: str
    shape: tuple[int, int, int]
    affine: tuple[tuple[float, ...], ...]
    tilted: bool
    numbered: bool


def job_of(part: Part, volume: str, target: str) -> Job:
    """The conversion of a part with a stack into ``target``."""
    assert part.stack is not None
    first, stack = part.instances[0], part.stack
    return Job(
        volume=volume,
        places=tuple(Place(each.path, each.member) for each in part.instances),
        target=target,
        shape=(first.columns, first.rows, len(stack.order)),
        affine=tuple(tuple(line) for line in stack.affine().tolist()),
        tilted=stack.tilt_deg > 0,
        numbered=not _counted(part.instances) or len(bits_stored(part.instances)) > 1,
    )


def _counted(instances: Sequence[Instance]) -> bool:
    """Whether instance numbers go up, or down, from plane to plane: dcm2niix orders by them."""
    numbers = [each.number for each in instances if each.number is not None]
    steps = {(after > before) - (after < before) for before, after in itertools.pairwise(numbers)}
    return len(numbers) == len(instances) and steps in (set(), {1}, {-1})


def bring(job: Job, scratch_root: str) -> None:
    """Convert one volume into ``job.target``.

    Raises:
        ScanRejected: with a ``LeftOut`` reason; nothing is written.
        MachineTrouble: no space is left, or the archive or ``scratch_root`` cannot be written.
    """
    try:
        scratch = tempfile.TemporaryDirectory(dir=scratch_root, prefix="volume-")
    except OSError as error:
        told = error.strerror or type(error).__name__
        raise MachineTrouble(
            f"{scratch_root} cannot hold temporary files ({told}); on a cluster, --tmp-root must be a folder that all "
            "nodes see"
        ) from error
    with scratch as folder:
        volume = _converted(job, Path(folder))
        target = Path(job.target)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            place_volume(volume, target)
        except OSError as error:
            told = error.strerror or type(error).__name__
            raise MachineTrouble(f"a volume cannot be written to the archive ({told})") from error


def _converted(job: Job, scratch: Path) -> Path:
    """The volume with DICOM's geometry, in ``scratch``."""
    (scratch / "fetched").mkdir()
    try:
        files = fetched(job.places, scratch / "fetched")
        if job.numbered:
            files = _numbered(files, scratch)
        return _agreeing(converted(files, scratch), job)
    except ScanRejected:
        _refuse_full_disk(job, scratch)  # dcm2niix does not tell
        raise
    except OSError as error:
        _refuse_full_disk(job, scratch)
        told = error.strerror or type(error).__name__
        raise ScanRejected(LeftOut.NOT_READABLE, f"a file could not be read ({told})") from error


def _refuse_full_disk(job: Job, scratch: Path) -> None:
    free, needed = shutil.disk_usage(scratch).free, math.prod(job.shape) * _BYTES_A_VOXEL
    if free < needed:
        raise MachineTrouble(f"{free / 2**30:.2g} GiB are free for temporary files, {needed / 2**30:.2g} needed")


def _numbered(files: Sequence[Path], scratch: Path) -> list[Path]:
    (scratch / "numbered").mkdir()
    copies = [scratch / "numbered" / str(number) for number in range(1, len(files) + 1)]
    for number, (file, copy) in enumerate(zip(files, copies, strict=True), start=1):
        write_numbered(file, copy, number)
    return copies


def _agreeing(volumes: Sequence[Path], job: Job) -> Path:
    """The first volume that has DICOM's geometry, or can be given it (see ``respaced``, ``straightened``)."""
    told = list[str]()
    for volume in volumes:
        header = read_header(volume)
        try:
            shape = header.volume_shape
        except ScanRejected as rejected:
            raise ScanRejected(LeftOut.SEVERAL_VOLUMES, f"dcm2niix made several volumes: {rejected.detail}") from None
        if job.tilted and shape == job.shape:
            volume.write_bytes(straightened(volume, np.array(job.affine)))
            return volume
        difference = float("inf") if job.tilted else _corner_mm(shape, header.affine, job)
        if difference <= SAME_MM:
            return volume
        if not job.tilted and shape == job.shape and not is_corrected(volume):
            placed = respaced(volume, np.array(job.affine), SAME_MM)
            if placed is not None:
                volume.write_bytes(placed)
                return volume
        told.append(f"{times(shape)} voxels, {difference:.3g} mm away")
    raise ScanRejected(
        LeftOut.CONVERSION_DISAGREES,
        f"dcm2niix made {'; '.join(told)}; DICOM has {times(job.shape)} voxels within {SAME_MM} mm",
    )


def _corner_mm(shape: tuple[int, int, int], affine: Float64, job: Job) -> float:
    """Greatest distance from a corner of the volume to the nearest one of DICOM's; infinite for other sizes."""
    if sorted(shape) != sorted(job.shape):
        return float("inf")
    made, needed = _corners(shape, affine), _corners(job.shape, np.array(job.affine))
    return float(np.linalg.norm(made[:, None] - needed[None], axis=2).min(axis=1).max())


def _corners(shape: tuple[int, int, int], affine: Float64) -> Float64:
    ends = np.array(np.meshgrid(*((0, size - 1) for size in shape), indexing="ij")).reshape(3, 8)
    return np.asarray((affine[:3, :3] @ ends + affine[:3, 3:]).T, float)
