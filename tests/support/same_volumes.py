"""Compare the volumes of two archives voxel by voxel: ``python -m tests.support.same_volumes ARCHIVE OTHER``."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

AFFINE_TOLERANCE = 1e-4

Volume = tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]
_load: Any = nib.load
_canonical: Any = nib.as_closest_canonical


def missing(archive: Path, other: Path) -> Iterator[Path]:
    """Files of ``archive`` that have no equal in ``other``: axes brought to the closest RAS, affine within 1e-4, every
    voxel. Names do not count."""
    shapes = {path: sorted(_load(path).shape) for path in sorted(other.rglob("*.nii.gz"))}
    for path in sorted(archive.rglob("*.nii.gz")):
        wanted = _volume(path)
        alike = [each for each, shape in shapes.items() if shape == sorted(wanted[0].shape)]
        if not any(_equal(wanted, _volume(each)) for each in alike):
            yield path


def _volume(path: Path) -> Volume:
    image = _canonical(_load(path))
    return np.asanyarray(image.dataobj), image.affine


def _equal(one: Volume, other: Volume) -> bool:
    return (
        one[0].shape == other[0].shape
        and np.allclose(one[1], other[1], rtol=0, atol=AFFINE_TOLERANCE)
        and np.array_equal(one[0], other[0])
    )


if __name__ == "__main__":
    first, second = map(Path, sys.argv[1:])
    without = list(missing(first, second))
    for each in without:
        print(f"no equal in {second}: {each}")
    total = len(list(first.rglob("*.nii.gz")))
    print(f"{total - len(without)} of {total} volumes of {first} have an equal in {second}")
    sys.exit(bool(without))
