"""Keep the vectors of one scan's points on disk, chunk by chunk, so that a killed job computes none of them again."""

from __future__ import annotations

import json
import shutil
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from prism_ssl.contracts import Float32
from prism_ssl.utils.fs import private_folder, write_atomic

_TOLD, _VECTORS, _DONE = "told.json", "vectors.f32", "done.u32"


class PointStore:
    """Vectors [points, width] in ``folder``, and which chunks of them are there.

    Args:
        folder: of this scan alone.
        told: everything that determines the vectors; what an earlier job kept under other words is dropped.
        points, width: size of the whole.
        chunk: points of a chunk; the last one may have fewer.
    """

    def __init__(self, folder: Path, told: dict[str, Any], points: int, width: int, chunk: int) -> None:
        self._folder, self._chunk, self.points = folder, chunk, points
        words = json.dumps([told, points, width, chunk], sort_keys=True)
        if not (folder / _TOLD).is_file() or (folder / _TOLD).read_text() != words:
            shutil.rmtree(folder, ignore_errors=True)
            private_folder(folder)
            _fill(folder / _VECTORS, 4 * points * width)
            _fill(folder / _DONE, 4 * self.chunks)
            write_atomic(folder / _TOLD, words.encode())
        self.vectors: Float32 = _mapped(folder / _VECTORS, np.dtype(np.float32), (points, width))
        self._sums = _mapped(folder / _DONE, np.dtype(np.uint32), (self.chunks,))

    @property
    def chunks(self) -> int:
        """Chunks of the whole."""
        return -(-self.points // self._chunk)

    def missing(self) -> list[int]:
        """The chunks that are not there, or not whole."""
        return [chunk for chunk in range(self.chunks) if self._sums[chunk] != _sum(self.vectors[self.part(chunk)])]

    def count(self, chunks: Sequence[int]) -> int:
        """Points of these chunks."""
        return sum(self.part(chunk).stop - self.part(chunk).start for chunk in chunks)

    def part(self, chunk: int) -> slice:
        """The points of a chunk."""
        return slice(chunk * self._chunk, min((chunk + 1) * self._chunk, self.points))

    def put(self, chunk: int, vectors: Float32) -> None:
        """Keep the vectors of a chunk; they survive the death of this process from here on."""
        self.vectors[self.part(chunk)] = vectors
        self._sums[chunk] = _sum(self.vectors[self.part(chunk)])

    def remove(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self._folder)


def _sum(vectors: Float32) -> int:
    return zlib.crc32(np.ascontiguousarray(vectors).data) or 1  # 0: nothing was put there


def _fill(path: Path, size: int) -> None:
    with path.open("wb") as file:
        file.truncate(size)


def _mapped(path: Path, dtype: np.dtype[Any], shape: tuple[int, ...]) -> Any:
    return np.memmap(path, dtype, "r+", shape=shape) if shape[0] else np.empty(shape, dtype)
