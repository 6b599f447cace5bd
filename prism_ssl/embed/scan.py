"""Embed one scan: the mean of the embeddings of its V views, and their spread."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import ray
import torch

from prism_ssl.config.schema import PrismConfig
from prism_ssl.contracts import PATCH_PX, PATCH_SCALE, ScanRecord
from prism_ssl.data.checks import file_signature, inspect_and_open
from prism_ssl.data.extract import extract_view
from prism_ssl.data.scan import OpenScan, RejectReason, read_within
from prism_ssl.data.views import draw_view
from prism_ssl.embed.gpu_faults import EMBEDDING_FAILED, broken_gpu_ends_process, reason_of
from prism_ssl.embed.weights import EncoderFiles
from prism_ssl.errors import ArchiveUnreachable, MachineTrouble, ScanRejected
from prism_ssl.model.precision import inference_autocast
from prism_ssl.utils.hashing import short_id
from prism_ssl.utils.seeds import generator_for

_STAMP_S = 120.0  # longest wait for the size and time of a file, as data.open_timeout_s for its content
_WEIGHTS_S = 600.0  # also with the object store of a busy cluster

Row = dict[str, Any]


@dataclass(frozen=True)
class EmbedSettings:
    """Everything besides scan and weights that determines an embedding.

    ``config`` has the views, limits and ``train.precision`` of the encoder's training.
    """

    config: PrismConfig
    views: int
    seed: int


def file_stamp(record: ScanRecord) -> str:
    """Stamp that changes with the file of a record; raises ``ScanRejected`` when there is no file, or none answers."""
    signature = read_within(_STAMP_S, lambda: file_signature(record.nifti_path))
    return short_id(*(str(part) for part in signature))


def without_embedding(record: ScanRecord, reason: str, detail: str, stamp: str = "") -> Row:
    """The row of a scan without an embedding, with the reason."""
    return _row(record, stamp) | {"reason": str(reason), "detail": detail}


def row_of_failure(record: ScanRecord, error: Exception, stamp: str = "") -> Row:
    """The row of a scan that ``error`` kept from being embedded."""
    if isinstance(error, ScanRejected):
        return without_embedding(record, error.reason, error.detail, stamp)
    if isinstance(error, ArchiveUnreachable):
        return without_embedding(record, RejectReason.NOT_READABLE, str(error), stamp)
    if isinstance(error, (MachineTrouble, MemoryError)):  # the next job tries again, as above
        return without_embedding(record, RejectReason.CHECK_CRASHED, str(error) or "out of memory", stamp)
    text = str(error).replace(record.nifti_path, "the file")
    return without_embedding(record, RejectReason.NIFTI_LOAD_FAILED, f"{type(error).__name__}: {text}", stamp)


def cut_views(record: ScanRecord, settings: EmbedSettings) -> Row:
    """The row of a scan with the pixels and positions of its views, or the reason why there are none; never raises."""
    stamp = ""
    try:
        stamp = file_stamp(record)
        config, path = settings.config, record.nifti_path
        _, scan = read_within(config.data.open_timeout_s, lambda: inspect_and_open(path, record.modality, config))
        patches, positions = _views(scan, record.scan_id, settings)
    except Exception as error:  # noqa: BLE001  the edge of a task: one odd file must not lose the other rows
        return row_of_failure(record, error, stamp)
    return _row(record, stamp) | {"patches": patches.tobytes(), "positions": positions.tobytes()}


class ViewEncoder:
    """The encoder in a process of its own, on the GPU where it has one. Takes rows of ``cut_views``.

    The views of a scan form a batch of their own, so an embedding does not depend on other scans.
    """

    def __init__(self, exported: ray.ObjectRef[EncoderFiles], settings: EmbedSettings) -> None:
        self._settings = settings
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._encoder = ray.get(exported, timeout=_WEIGHTS_S).build().to(self._device)

    def __call__(self, row: Row) -> Row:
        """The row with ``embedding`` and ``spread`` in place of the pixels, or with a reason; never raises.

        A broken GPU ends the process.
        """
        patches, positions = row.pop("patches"), row.pop("positions")
        if row["reason"] is not None:
            return row
        try:
            with broken_gpu_ends_process():
                embeddings = self._encode(patches, positions)
        except Exception as error:  # noqa: BLE001  the edge of a task, as above
            return row | {"reason": reason_of(error), "detail": f"{type(error).__name__}: {error}"}
        mean = embeddings.mean(dim=0)
        if not torch.isfinite(mean).all():
            return row | {"reason": EMBEDDING_FAILED, "detail": "the embedding is not finite"}
        spread = (embeddings - mean).square().sum(dim=1).mean().sqrt()
        return row | {"embedding": mean.numpy(), "spread": float(spread)}

    def _encode(self, patches: bytes, positions: bytes) -> torch.Tensor:
        views, n_patches = self._settings.views, self._settings.config.data.n_patches
        pixels = np.frombuffer(patches, np.int16).reshape(views, n_patches, PATCH_PX, PATCH_PX, 1)
        centres_mm = np.frombuffer(positions, np.float32).reshape(views, n_patches, 3)
        with torch.no_grad(), inference_autocast(self._settings.config.train.precision, self._device):
            answer: torch.Tensor = self._encoder(
                torch.from_numpy(pixels.copy()).to(self._device).float().mul_(1.0 / PATCH_SCALE),
                torch.from_numpy(centres_mm.copy()).to(self._device),
            )
        return answer.float().cpu()


def known_fields(record: ScanRecord, stamp: str) -> Row:
    """The columns of a scan that are known before it is read; no path."""
    known = {name: value for name, value in asdict(record).items() if name not in ("nifti_path", "series_path")}
    return known | {"file_stamp": stamp}


def _row(record: ScanRecord, stamp: str) -> Row:
    empty = {"patches": b"", "positions": b"", "embedding": None, "spread": None, "reason": None, "detail": None}
    return known_fields(record, stamp) | empty


def _views(scan: OpenScan, scan_id: str, settings: EmbedSettings) -> tuple[np.ndarray, np.ndarray]:
    """Pixels [V, N, H, W] int16 and positions [V, N, 3] float32; view v follows from (seed, scan id, v)."""
    config, n_patches = settings.config, settings.config.data.n_patches
    patches = np.empty((settings.views, n_patches, PATCH_PX, PATCH_PX), np.int16)
    positions = np.empty((settings.views, n_patches, 3), np.float32)
    for number in range(settings.views):
        rng = generator_for(settings.seed, "embed", scan_id, number)
        view = draw_view(scan.affine, scan.shape, scan.stats, config.view, n_patches, rng)
        extract_view(scan, view, config.data.patch_mm, patches[number])
        positions[number] = view.positions_mm
    return patches, positions
