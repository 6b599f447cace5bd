"""The actor that embeds points: it opens a scan, finds the points, and streams their vectors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from prism_ssl.config.schema import PrismConfig
from prism_ssl.contracts import Float32, Float64, ScanRecord
from prism_ssl.data.checks import inspect_and_open
from prism_ssl.data.scan import OpenScan, read_within
from prism_ssl.embed.field.encode import CHUNK_POINTS, PointEncoder
from prism_ssl.embed.field.places import NO_POINT, Places, Request
from prism_ssl.embed.gpu_faults import broken_gpu_ends_process
from prism_ssl.embed.scan import Row, row_of_failure, without_embedding
from prism_ssl.embed.weights import EncoderFiles


@dataclass(frozen=True)
class FieldSettings:
    """What determines a vector, besides weights, scan and point."""

    config: PrismConfig
    seed: int


class PointWorker:
    """An encoder in a process of its own, on the GPU where it has one; the last scan stays open."""

    def __init__(self, files: EncoderFiles, request: Request, settings: FieldSettings, threads: int) -> None:
        self._request, self._settings = request, settings
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        torch.set_num_threads(1)
        self._encode = PointEncoder(files.build(), settings.config, settings.seed, device, threads)
        self._open: tuple[str, OpenScan] | None = None

    def places(self, record: ScanRecord) -> Places | Row:
        """The points of a scan, or its row with the reason why there are none."""
        stamp = ""
        try:
            stamp = self._request.stamp(record)
            places = self._request.places(self._scan(record), record, self._settings.config.view)
        except Exception as error:  # noqa: BLE001  the edge of a task: one odd file must not lose the other rows
            return row_of_failure(record, error, stamp)
        if not len(places.points_mm):
            return without_embedding(record, NO_POINT, "no point of this scan is to be embedded", stamp)
        return places

    def vectors(self, record: ScanRecord, points_mm: Float64, chunks: Sequence[int]) -> Iterator[Float32]:
        """The vectors [n, D] of the ``chunks`` of a scan's points [M, 3], in this order.

        A broken GPU ends the process.
        """
        parts = [points_mm[chunk * CHUNK_POINTS : (chunk + 1) * CHUNK_POINTS] for chunk in chunks]
        wanted = np.concatenate(parts)
        with broken_gpu_ends_process():
            yield from self._encode(self._scan(record), wanted)

    def _scan(self, record: ScanRecord) -> OpenScan:
        if self._open is None or self._open[0] != record.nifti_path:
            self._open = None  # before the next one is in memory
            config, path = self._settings.config, record.nifti_path
            limit_s = config.data.open_timeout_s
            self._open = path, read_within(limit_s, lambda: inspect_and_open(path, record.modality, config))[1]
        return self._open[1]
