"""Pool actor: runs the warm pool's state machine, draws and extracts pairs, returns chunks."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from prism_ssl.config.schema import ExtractOn, ViewConfig
from prism_ssl.contracts import BrokenScan, PairChunk, PreparedScan, UncutChunk
from prism_ssl.data.extract import extract_view, kinds_of, measure_visibility, warm_up
from prism_ssl.data.pool.chunks import empty_chunk, put_lattice, put_targets, put_volume
from prism_ssl.data.pool.counters import join_counters
from prism_ssl.data.pool.dashboard import POOL_EXPORTS
from prism_ssl.data.pool.opener import Landing, Opened, ScanOpener
from prism_ssl.data.pool.scene_source import SceneSource
from prism_ssl.data.pool.scratch import ScratchStore
from prism_ssl.data.pool.warm_pool import Draw, PoolSettings, WarmPool
from prism_ssl.data.scan import OpenScan, ReadLimits, VolumeMemory, archive_root, open_scan, out_of_memory
from prism_ssl.data.views import Scene, TrainingPair, apply_curve, draw_training_pair
from prism_ssl.errors import PoolStalled, PrismError, ReplacementFailed, ScanRejected
from prism_ssl.utils.ray_cluster.metrics_port import LiveMetrics
from prism_ssl.utils.time import Stopwatch


@dataclass(frozen=True)
class ActorSettings:
    """Settings of a pool actor; see ``DataConfig`` and ``ViewConfig``."""

    pool: PoolSettings
    view: ViewConfig
    n_patches: int
    patch_mm: float
    max_volume_bytes: int
    scratch_bytes: int
    scratch_folder: str
    stall_timeout_s: float
    extract_on: ExtractOn = "cpu"
    scratch_keep_free_bytes: int = 0
    open_timeout_s: float = 120.0
    outage_patience_s: float = 120.0


class PoolActor:
    """A warm pool over one shard; runs as a Ray actor, and as a plain object in tests.

    A scan that cannot be opened (``ScanRejected``) raises ``ReplacementFailed`` from the next call in strict mode;
    otherwise it is listed in the next chunk's ``broken``. Any other error is no scan's fault and raised unchanged, in
    both modes. Errors in threads are always reported here.
    """

    def __init__(
        self,
        shard: Sequence[PreparedScan],
        settings: ActorSettings,
        name: str,
        cursor: dict[str, Any] | None = None,
        number: int = 0,
    ) -> None:
        self._scans = {scan.record.scan_id: scan for scan in shard}
        self._settings = settings
        self._pool = WarmPool(list(self._scans), settings.pool, cursor)
        self._scratch = ScratchStore(
            Path(settings.scratch_folder), name, settings.scratch_bytes, settings.scratch_keep_free_bytes
        )
        self._patience = ReadLimits(
            archive_root(one.record.nifti_path for scan in shard for one in (scan, *scan.others)),
            settings.open_timeout_s,
            settings.outage_patience_s,
        )
        self._memory = VolumeMemory(keep=settings.pool.slots)
        source = SceneSource(self._scans, self._read, self._scratch, settings.view, settings.pool.seed)
        self._opener = ScanOpener(source.open, settings.pool.max_prefetch_replacements)
        self._scenes: dict[str, Scene] = {}
        self._mirrored: set[str] = set()  # scans whose volume the consumer has, for as long as they stay in the pool
        self._volumes_handed_over = 0
        self._broken: list[BrokenScan] = []
        self._counted_before: dict[str, float] = (cursor or {}).get("totals", {})
        self._blocked_ms_total = 0.0
        self._open_ms_total = 0.0
        self._live = LiveMetrics(POOL_EXPORTS, ("pool", number), pause_s=1.0)  # Ray collects every 10 s

    def ready(self) -> int:
        """Start filling the pool, and load the kernel while the first scans open; returns the process id."""
        self._obey(self._opener.finished())
        warm_up(np.int16)  # what CT and most MR is stored as
        return os.getpid()

    def next_chunk(self, n_pairs: int) -> PairChunk | UncutChunk:
        """``n_pairs`` pairs from the open slots in turn; blocks only while no slot can serve.

        ``extract_on`` decides whether their patches are cut out here or left to the consumer.
        """
        chunk = empty_chunk(n_pairs, self._settings.n_patches, self._settings.extract_on)
        watch = Stopwatch()
        filled = 0
        while filled < n_pairs:
            self._obey(self._opener.finished())
            draw = self._pool.draw()
            if draw is None:
                chunk.blocked_ms += self._wait_for_a_scan()
            elif self._fill(chunk, filled, draw):
                filled += 1
        self._let_go_of_retired_scans()
        if isinstance(chunk, UncutChunk):
            chunk.mirrored = frozenset(self._mirrored)
        chunk.sampling_ms = watch.ms() - chunk.blocked_ms
        self._blocked_ms_total += chunk.blocked_ms
        chunk.counters, chunk.cursor = self._counters(), self._pool.cursor() | {"totals": self._totals()}
        self._live.show(join_counters([chunk.counters]))
        chunk.broken, self._broken = self._broken, []
        return chunk

    def close(self) -> list[BrokenScan]:
        """Stop the threads and remove the scratch folder; returns the failures that no chunk has reported."""
        self._patience.closing.set()
        ends = self._opener.close()
        errors = [(end.load.scan_id, end.error) for end in ends if end.error is not None]
        self._scenes.clear()
        self._scratch.close()
        for _, error in errors:
            if not isinstance(error, PrismError):
                raise error
        others = [broken for end in ends if end.opened is not None for broken in end.opened.broken]
        failed = [_broken(scan_id, error) for scan_id, error in errors if isinstance(error, ScanRejected)]
        return self._broken + others + failed

    # ------------------------------------------------------------------ opening
    def _read(self, prepared: PreparedScan) -> OpenScan:
        path, limit = Path(prepared.record.nifti_path), self._settings.max_volume_bytes
        return self._patience.read(lambda: open_scan(path, prepared.stats, limit, self._memory))

    def _obey(self, landings: list[Landing]) -> None:
        for landing in landings:
            if landing.error is not None:
                if not isinstance(landing.error, ScanRejected):
                    raise landing.error
                broken = _broken(landing.load.scan_id, landing.error)
                self._pool.failed(landing.load.slot, broken.stage, broken.cause)
                self._broken.append(broken)
            elif landing.opened is not None:
                self._open_ms_total += landing.open_ms
                self._scenes[landing.load.scan_id] = landing.opened.scene
                self._pool.landed(landing.load.slot)
                self._note_other_series(landing.opened)
        self._order_scans()

    def _note_other_series(self, opened: Opened) -> None:
        """Report other series that are broken; the scan itself serves without them."""
        for broken in opened.broken:
            if self._settings.pool.strict:
                raise ReplacementFailed(broken.scan_id, broken.stage, broken.cause)
            self._broken.append(broken)

    def _order_scans(self) -> None:
        self._let_go_of_retired_scans()  # scans that are opened now can reuse their memory
        for load in self._pool.to_open():
            self._opener.start(load)

    def _wait_for_a_scan(self) -> float:
        watch = Stopwatch()
        self._order_scans()  # a draw that found nothing may have chosen another scan
        limit_s = self._settings.stall_timeout_s
        landings = self._opener.finished(block_s=limit_s)
        if not landings:
            raise PoolStalled(
                f"no scan could be opened within {limit_s:.0f} s while {self._opener.busy} were being opened; "
                "is the archive's file system reachable? raise data.stall_timeout_s if it is only slow"
            )
        self._obey(landings)
        return watch.ms()

    def _let_go_of_retired_scans(self) -> None:
        held = self._pool.open_scan_ids()
        self._scenes = {scan_id: scene for scan_id, scene in self._scenes.items() if scan_id in held}
        self._mirrored &= held

    # ------------------------------------------------------------------ sampling
    def _fill(self, chunk: PairChunk | UncutChunk, row: int, draw: Draw) -> bool:
        """Put one pair into ``row``; False when the scan turned out to be broken (lenient mode)."""
        scan_id = draw.key.scan_id
        scene, settings = self._scenes[scan_id], self._settings
        try:
            pair = draw_training_pair(scene, settings.view, settings.n_patches, settings.pool.seed, draw.key)
            for side in (0, 1):
                self._look(chunk, row, side, pair)
        except MemoryError as error:
            raise out_of_memory("to cut views out of a scan", error) from error
        except (ValueError, ArithmeticError) as error:
            broken = _broken(scan_id, error, "extract")
            self._pool.broke(draw.slot, broken.stage, broken.cause)
            self._broken.append(broken)
            return False
        if isinstance(chunk, UncutChunk) and scan_id not in self._mirrored:
            put_volume(chunk, scan_id, scene.scan)
            self._mirrored.add(scan_id)
            self._volumes_handed_over += 1
        put_targets(chunk, row, pair, scene.scan, self._scans[scan_id].record, draw.key)
        for bits in chunk.sight_bits[row].tolist():
            self._pool.counters.saw(kinds_of(bits))
        return True

    def _look(self, chunk: PairChunk | UncutChunk, row: int, side: int, pair: TrainingPair) -> None:
        """Put the pixels of a view into the chunk, or the transform by which the consumer cuts them out."""
        scan, view, curve = pair.scans[side], pair.views[side], pair.curves[side]
        chunk.positions_mm[row, side] = view.positions_mm
        if isinstance(chunk, PairChunk):
            extract_view(scan, view, self._settings.patch_mm, chunk.patches[row, side])
            visibility = measure_visibility(scan, view, self._settings.patch_mm, chunk.patches[row, side])
            if curve is not None:
                apply_curve(curve, chunk.patches[row, side])
        else:
            put_lattice(chunk, row, side, scan, view, self._settings.patch_mm)
            visibility = measure_visibility(scan, view, self._settings.patch_mm)
        chunk.sight_bits[row, side] = visibility.bits

    def _totals(self) -> dict[str, float]:
        """Running totals that the cursor passes on to the actor of a resumed run, or to a dead actor's successor."""
        totals = {
            "replacement_wait_time_ms_total": self._blocked_ms_total,
            "open_time_ms_total": self._open_ms_total,
            "open_retries": self._patience.retries,
            "volumes_handed_over": self._volumes_handed_over,
            "scratch_hits": self._scratch.hits,
            "scratch_lost": self._scratch.lost,
        }
        return {name: self._counted_before.get(name, 0.0) + value for name, value in totals.items()}

    def _counters(self) -> dict[str, float]:
        return {
            **asdict(self._pool.counters),
            **self._totals(),
            "scans_seen": self._pool.scans_seen,
            "scans_in_shard": len(self._scans),
            "slots": len(self._pool.slots),
            "open_scans": len(self._pool.open_scan_ids()),
            "scans_opening": self._opener.busy,
            "scratch_bytes": self._scratch.used_bytes,
            "rss_bytes": psutil.Process().memory_info().rss,
            "metrics_failed": float(self._live.problem is not None),
        }


def _broken(scan_id: str, error: BaseException, stage: str = "open") -> BrokenScan:
    return BrokenScan(scan_id, stage, f"{type(error).__name__}: {error}")
