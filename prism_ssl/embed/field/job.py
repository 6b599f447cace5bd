"""Embed the points of every scan of a catalogue in Ray actors; a job that was killed goes on where it was."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import ray
from ray.exceptions import RayError, RayTaskError

from prism_ssl.contracts import Float32, ScanRecord
from prism_ssl.data.catalog import load_records
from prism_ssl.data.scan import RejectReason, write_volume
from prism_ssl.embed.field.actor import FieldSettings
from prism_ssl.embed.field.encode import CHUNK_POINTS
from prism_ssl.embed.field.places import FieldRequest, Places, Request
from prism_ssl.embed.field.progress import PointProgress
from prism_ssl.embed.field.scan_field import field_file
from prism_ssl.embed.field.store import PointStore
from prism_ssl.embed.field.workers import Worker, Workers
from prism_ssl.embed.gpu_faults import EMBEDDING_FAILED, reason_of
from prism_ssl.embed.scan import known_fields, without_embedding
from prism_ssl.embed.table import EmbeddingTable
from prism_ssl.embed.weights import EncoderFiles
from prism_ssl.errors import MachineTrouble, PrismError
from prism_ssl.utils.hashing import content_hash, short_id

CRASHES_MAX = 2
"""A scan that kills its process this often is listed."""
_SILENCE_S = 1800.0  # a chunk takes seconds, opening a scan has limits of its own
_AHEAD = 8  # chunks that an actor computes before the driver has taken them
_BLOCK_BYTES = 64 * 2**20  # of a field that are in memory at a time


@dataclass(frozen=True)
class FieldReport:
    """``rows`` of the table; ``scans`` done and ``points`` computed by this job; ``reused`` scans were done before."""

    rows: int
    scans: int
    points: int
    reused: int
    rejected: Counter[str]


def embed_points(
    files: EncoderFiles, width: int, request: Request, settings: FieldSettings, out: Path, words: dict[str, Any]
) -> FieldReport:
    """Embed what is requested of every scan of ``settings.config.data``, and write the table ``out``; needs Ray.

    A field of each scan lies beside the table, see ``field_file``. ``words`` is what determines the request.

    Raises:
        CatalogError: the catalogue cannot be used.
        ConfigError: ``out`` is of another checkpoint or other settings, or in use.
    """
    config = settings.config
    told = _told(files, settings) | words
    table = EmbeddingTable(out, told, width, columns=request.columns)
    try:
        selection = load_records(config.data, config.data.selection_seed)
        wanted = [record for record in selection.records if _is_asked(request, record)]
        for unresolved in selection.unresolved:
            if _is_asked(request, unresolved.record):
                table.add(without_embedding(unresolved.record, unresolved.reason, unresolved.detail))
        pending = [record for record in wanted if not _is_settled(request, record, table, out)]
        job = _Job(files, width, request, settings, table, content_hash(told))
        job.run(pending)
        rows, rejected = table.finish()
    finally:
        table.close()
    return FieldReport(rows, job.scans, job.points, len(wanted) - len(pending), rejected)


def _told(files: EncoderFiles, settings: FieldSettings) -> dict[str, Any]:
    config = settings.config
    limits = asdict(replace(config.preflight, concurrency=None))
    how = [asdict(config.view), limits, config.data.n_patches, config.data.patch_mm, config.train.precision]
    return {"checkpoint_hash": files.sha256[:16], "seed": settings.seed, "way_to_draw_views": content_hash(how)}


def _is_asked(request: Request, record: ScanRecord) -> bool:
    return record.scan_id in getattr(request, "rows_of", {record.scan_id})


def _is_settled(request: Request, record: ScanRecord, table: EmbeddingTable, out: Path) -> bool:
    try:
        done = table.settled(record.scan_id, request.stamp(record))
    except PrismError:
        return False  # the actor gives the reason
    whole = not _keeps_field(request) or table.is_rejected(record.scan_id)
    return done and (whole or field_file(out.parent, record.scan_id).exists())


def _keeps_field(request: Request) -> bool:
    return isinstance(request, FieldRequest) and request.keep_field


@dataclass(eq=False)
class _Turn:
    """A scan and the actor that works on it."""

    record: ScanRecord
    worker: Worker
    crashes: int
    places: Places | None = None
    store: PointStore | None = None
    chunks: Iterator[int] = field(default_factory=lambda: iter(()))


class _Job:
    """The driver's side: which actor works on which scan, and where the vectors go."""

    def __init__(
        self,
        files: EncoderFiles,
        width: int,
        request: Request,
        settings: FieldSettings,
        table: EmbeddingTable,
        told: str,
    ) -> None:
        self.scans = self.points = 0
        self._width, self._request, self._table, self._told = width, request, table, told
        self._workers = Workers([ray.put(each) for each in (files, request, settings)])
        self._stores = table.parts_folder

    def run(self, records: Sequence[ScanRecord]) -> None:
        """Settle all scans, several at a time."""
        waiting = deque((record, 0) for record in records)
        idle = deque(self._workers.start(len(records)))
        busy: dict[Any, _Turn] = {}
        with PointProgress(len(records)) as self._progress:
            while waiting or busy:
                while waiting and idle:
                    record, crashes = waiting.popleft()
                    turn = _Turn(record, idle.popleft(), crashes)
                    busy[turn.worker.actor.places.remote(record)] = turn
                answered, _ = ray.wait(list(busy), num_returns=1, timeout=_SILENCE_S)
                if not answered:
                    raise MachineTrouble(
                        f"none of the {len(busy)} processes that embed has answered for {_SILENCE_S:g} s; the same "
                        "command goes on with what is kept"
                    )
                ready = answered[0]
                turn = busy.pop(ready)
                try:
                    following = self._advance(turn, ready)
                except RayTaskError as error:
                    self._reject(turn, reason_of(error.cause), str(error).strip().splitlines()[-1])
                    following = None
                except RayError:  # the actor, or what it had computed, is gone
                    waiting.extend(self._after_loss(turn, idle, len(busy)))
                    continue
                if following is None:
                    idle.append(turn.worker)
                else:
                    busy[following] = turn

    def _after_loss(self, turn: _Turn, idle: deque[Worker], busy: int) -> list[tuple[ScanRecord, int]]:
        """Replace a lost actor unless its node is lost too; returns its scan where it is to be tried again.

        A scan is charged with the death of its process, not with that of a node.
        """
        worker = self._workers.again(turn.worker)
        if worker is not None:
            idle.append(worker)
        elif not idle and not busy:
            raise MachineTrouble(
                "the last node of the Ray cluster that could embed is lost; the same command goes on with what is kept"
            )
        crashes = turn.crashes + (worker is not None)
        if crashes < CRASHES_MAX:
            return [(turn.record, crashes)]
        detail = f"the process that read it was killed {CRASHES_MAX} times; out of memory, or a file "
        self._reject(turn, RejectReason.CHECK_CRASHED, detail + "that crashes the reader")
        return []

    def _advance(self, turn: _Turn, ready: Any) -> Any:
        """Take what an actor has ready; returns what to wait for next, None when the scan is settled."""
        if turn.places is None:
            places = ray.get(ready, timeout=_SILENCE_S)
            if not isinstance(places, Places):
                self._table.add(places)
                self._progress.settled()
                return None
            return self._begin(turn, places)
        assert turn.store is not None
        try:
            vectors = ray.get(next(ready), timeout=_SILENCE_S)
        except StopIteration:
            return self._finish(turn)
        if not np.isfinite(vectors).all():
            self._reject(turn, EMBEDDING_FAILED, "a vector is not finite")
            turn.store.remove()
            return None
        turn.store.put(next(turn.chunks), vectors)
        self.points += len(vectors)
        self._progress.computed(len(vectors))
        return ready

    def _begin(self, turn: _Turn, places: Places) -> Any:
        record = turn.record
        told = {"told": self._told, "stamp": self._request.stamp(record), "points": short_id(str(_digest(places)))}
        turn.places = places
        turn.store = PointStore(self._stores / record.scan_id, told, len(places.points_mm), self._width, CHUNK_POINTS)
        missing = turn.store.missing()
        self._progress.planned(len(places.points_mm), turn.store.count(missing))
        if not missing:
            return self._finish(turn)
        turn.chunks = iter(missing)
        ahead = {"num_returns": "streaming", "_generator_backpressure_num_objects": _AHEAD}
        return turn.worker.actor.vectors.options(**ahead).remote(record, places.points_mm, missing)

    def _finish(self, turn: _Turn) -> None:
        assert turn.places is not None
        assert turn.store is not None
        if _keeps_field(self._request):
            write_field(field_file(self._table.out.parent, turn.record.scan_id), turn.places, turn.store.vectors)
        known = known_fields(turn.record, self._request.stamp(turn.record))
        self._table.add(*(known | row for row in self._request.rows(turn.places, turn.store.vectors)))
        self._table.flush()  # before the vectors are gone
        turn.store.remove()
        self.scans += 1
        self._progress.settled()

    def _reject(self, turn: _Turn, reason: str, detail: str) -> None:
        self._table.add(without_embedding(turn.record, reason, detail, self._request.stamp(turn.record)))
        self._progress.settled()


def write_field(path: Path, places: Places, vectors: Float32) -> None:
    """Write vectors [M, D] at their places of the lattice as .nii.gz with channels last; 0 where there is none."""
    assert places.lattice is not None
    nx, ny, nz = places.lattice.shape
    width = vectors.shape[1]
    per_block = max(1, _BLOCK_BYTES // (4 * nx * ny * nz))

    def blocks() -> Iterator[Float32]:
        for some in _cut(width, per_block):
            block = np.zeros((len(some), nx * ny * nz), np.float32)
            block[:, places.flat] = vectors[:, some[0] : some[-1] + 1].T
            yield block.reshape(len(some), nz, ny, nx)

    write_volume(path, places.lattice.affine, places.lattice.shape, width, blocks())


def _cut(n: int, size: int) -> Iterator[Sequence[int]]:
    return (range(start, min(start + size, n)) for start in range(0, n, size))


def _digest(places: Places) -> str:
    return content_hash([places.points_mm.shape, places.points_mm.tobytes().hex()])
