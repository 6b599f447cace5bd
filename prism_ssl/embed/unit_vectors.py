"""Unit vectors of an index, kept on disk: a table is decoded and normalised by its first search, not by every one.

They lie below the temporary root and are mapped into memory. When the index changes, they are made again. A small
index, or one for which the disk has no room, is decoded by every search.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from prism_ssl.contracts import Float32
from prism_ssl.embed.index import BLOCK_ROWS, IDS, PLACE, Block, blocks_of
from prism_ssl.errors import ConfigError
from prism_ssl.utils.fs import owned_folder, private_folder, temporary_root
from prism_ssl.utils.hashing import short_id

KEPT_FROM_BYTES = 2**26
"""Size of an index whose unit vectors are kept: a smaller one is decoded in a fraction of a second."""
_TOLD, _ROWS, _VECTORS = "told.json", "rows.arrow", "vectors.f32"

Blocks = Callable[[str | None], Iterator[Block]]
"""The blocks of an index: all of them, or those of one scan id."""


def unit_blocks(index: Path) -> Blocks:
    """The vectors of an index with length 1; those of length 0 stay so. Raises ``ConfigError`` as ``blocks_of``."""
    try:
        kept = _kept(index)
    except OSError:  # no room, or no file system to map from; the index itself is read below, and its errors told
        kept = None
    return partial(_mapped_blocks, kept) if kept else partial(_unit_blocks, index)


def _unit_blocks(index: Path, only: str | None) -> Iterator[Block]:
    for block in blocks_of(index, only):
        length: Float32 = np.sqrt(np.einsum("md,md->m", block.vectors, block.vectors))[:, None]
        length[length == 0] = 1.0
        unit: Float32 = block.vectors / length
        yield replace(block, vectors=unit)


def _kept(index: Path) -> Path | None:
    """The folder with the unit vectors of an index, made if needed; None where they are not to be kept."""
    files = sorted(index.glob("*.nii.gz")) if index.is_dir() else [index]
    size = sum(file.stat().st_size for file in files)
    if size < KEPT_FROM_BYTES:
        return None
    stamps = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    told = {"index": str(index.absolute()), "stamp": short_id(json.dumps(stamps))}
    try:
        root = private_folder(temporary_root() / "search")
    except ConfigError:
        return None
    folder = root / short_id(told["index"])
    if _told(folder).items() >= told.items():
        (folder / _TOLD).touch()  # in use: see deletable_files
        return folder
    _remove_useless(root)
    if shutil.disk_usage(root).free < 3 * size:  # a .nii.gz may grow by half
        return None
    with owned_folder(temporary_root() / "search_unfinished") as unfinished:
        _write(index, unfinished / "index", told)
        shutil.rmtree(folder, ignore_errors=True)
        (unfinished / "index").rename(folder)
    return folder


def _told(folder: Path) -> dict[str, Any]:
    try:
        told: dict[str, Any] = json.loads((folder / _TOLD).read_text())
    except (OSError, ValueError):
        return {}
    return told


def _remove_useless(root: Path) -> None:
    """Remove what is kept of indexes that are no longer there."""
    for folder in root.iterdir():
        if (told := _told(folder)) and not Path(told["index"]).exists():
            shutil.rmtree(folder, ignore_errors=True)


def _write(index: Path, folder: Path, told: dict[str, Any]) -> None:
    private_folder(folder)
    schema = pa.schema([(name, pa.string()) for name in IDS] + [(name, pa.float64()) for name in PLACE])
    width = 0
    with (
        (folder / _VECTORS).open("wb") as vectors,
        pa.OSFile(str(folder / _ROWS), "wb") as file,
        pa.ipc.new_file(file, schema) as rows,
    ):
        for block in _unit_blocks(index, None):
            width = block.vectors.shape[1]
            np.ascontiguousarray(block.vectors, np.float32).tofile(vectors)
            places = [pl.Series(name, block.places_mm[:, axis]) for axis, name in enumerate(PLACE)]
            rows.write_table(block.ids.with_columns(places).to_arrow().cast(schema))
    (folder / _TOLD).write_text(json.dumps(told | {"width": width}))


def _mapped_blocks(folder: Path, only: str | None) -> Iterator[Block]:
    width = _told(folder)["width"]
    vectors: Float32 = np.memmap(folder / _VECTORS, np.float32, "r").reshape(-1, width)
    start = 0
    with pa.memory_map(str(folder / _ROWS)) as source:
        for rows in _joined(pa.ipc.open_file(source)):
            part, start = vectors[start : start + rows.height], start + rows.height
            if only is not None:
                mine = rows["scan_id"] == only
                rows, part = rows.filter(mine), part[mine.to_numpy()]
            yield Block(rows.select(IDS), rows.select(PLACE).to_numpy(), part)


def _joined(file: Any) -> Iterator[pl.DataFrame]:
    """The rows of a file; batches of few rows, as tables of ``prism embed`` have, are joined."""
    batches = list[Any]()
    for number in range(file.num_record_batches):
        batches.append(file.get_batch(number))
        if sum(batch.num_rows for batch in batches) >= BLOCK_ROWS or number == file.num_record_batches - 1:
            yield pl.DataFrame(pa.Table.from_batches(batches))
            batches = []
