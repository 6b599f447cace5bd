"""Import DICOM in this process, and read what an archive holds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from prism_ssl.contracts import Float64
from prism_ssl.data.dicom import CATALOG_FILE, LEFT_OUT_FILE, ImportReport, ImportRequest, import_dicom
from prism_ssl.data.scan import OpenScan, apply_affine, open_scan
from tests.support.dicom_files import PLANTED_WORDS, SeriesPlan

Item = dict[str, Any]


def here(items: Sequence[Item], work: Callable[[Item], Item], _most: int) -> Iterator[Item]:
    """A ``Spread`` without Ray."""
    return map(work, items)


def imported(base: Path, spread: Any = here, **changes: Any) -> ImportReport:
    """Import ``base/in`` into ``base/out``; five slices are enough."""
    if not (base / "scratch").exists():
        (base / "scratch").mkdir()
    request = replace(ImportRequest((base / "in",), base / "out", base / "private", min_slices=5), **changes)
    return import_dicom(request, spread, base / "scratch")


def catalog(base: Path) -> pl.DataFrame:
    """The table of the archive."""
    return pl.read_parquet(base / "out" / CATALOG_FILE)


def left_out(base: Path) -> pl.DataFrame:
    """What was left out."""
    return pl.read_csv(base / "out" / LEFT_OUT_FILE)


def scans(base: Path) -> list[OpenScan]:
    """Every volume of the archive, in the order of the table."""
    rows = catalog(base).iter_rows(named=True)
    return [open_scan(base / "out" / row["series_path"] / f"{row['series_id']}.nii.gz") for row in rows]


def difference(scan: OpenScan, plan: SeriesPlan) -> float:
    """Greatest difference of a value to the planned one at its place; asserts that voxel centres agree to 0.01 mm."""
    grid = np.stack(np.meshgrid(*map(np.arange, plan.voxels.shape[::-1]), indexing="ij")).reshape(3, -1).T
    places = apply_affine(plan.to_ras(), grid.astype(float))
    voxels = apply_affine(scan.to_voxel, places)
    whole = np.rint(voxels).astype(int)
    assert sorted(scan.shape) == sorted(plan.voxels.shape)
    assert np.abs((voxels - whole) * scan.spacing_mm).max() < 0.01
    found = scan.voxels[whole[:, 2], whole[:, 1], whole[:, 0]] * scan.slope + scan.intercept
    return float(np.abs(found - plan.values.transpose(2, 1, 0).ravel()).max())


def values_and_places(scan: OpenScan) -> tuple[Float64, Float64]:
    """Rescaled value [n], and RAS place [n, 3], of every voxel."""
    grid = np.stack(np.meshgrid(*map(np.arange, scan.shape), indexing="ij")).reshape(3, -1).T
    values = scan.voxels.transpose(2, 1, 0).ravel() * scan.slope + scan.intercept
    return np.asarray(values, float), apply_affine(scan.affine, grid.astype(float))


def planted_in(archive: Path, words: Sequence[str] = PLANTED_WORDS) -> list[str]:
    """Planted words, and ids of DICOM, in the names and the bytes (unpacked too) of all files of the archive."""
    import gzip

    found = []
    for path in [archive, *archive.rglob("*")]:
        texts = [path.name.encode()]
        if path.is_file():
            texts.append(path.read_bytes())
            if path.suffix == ".gz":
                texts.append(gzip.decompress(texts[-1]))
            if path.suffix == ".parquet":
                texts.append(pl.read_parquet(path).write_csv().encode())
        for text in texts:
            sought = (*words, "1.2.826.0.1.3680043")
            found += [f"{word} in {path.name}" for word in sought if word.lower().encode() in text.lower()]
    return found
