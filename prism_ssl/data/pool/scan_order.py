"""Order in which a shard's scans are opened: an endless, seeded sequence of passes."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from prism_ssl.utils.hashing import short_id
from prism_ssl.utils.seeds import generator_for

_KEY_LENGTH = 32  # 128 bits: no two scans of a shard share a key


@dataclass(frozen=True, slots=True)
class Position:
    """Position in an order: in pass ``epoch``, past every scan with a key of at most ``after``.

    ``done`` names scans of this pass that an earlier version, which counted scans instead of using keys, handed out;
    empty in any later pass.
    """

    epoch: int = 0
    after: str = ""
    done: tuple[str, ...] = ()


class ScanOrder:
    """Passes over a shard, each in an order of its own.

    The place of a scan in a pass depends only on (seed, epoch, scan id): scans that join or leave the shard move no
    other one. Within one epoch a scan is handed out at most once, so (epoch, scan) names a tenure uniquely. The
    ``position`` is the whole state: an order restored from it continues with the same scans.
    """

    def __init__(self, scan_ids: Sequence[str], seed: int, position: Position | None = None) -> None:
        self._ids = sorted(scan_ids)
        self._seed = seed
        self.position: Position
        self._pass: list[tuple[str, str]]
        self._index: int
        self._begin(position or Position())

    def next(self, unavailable: Collection[str]) -> tuple[str, int] | None:
        """The next (scan id, epoch) that is not ``unavailable``; None when every scan is."""
        if all(scan_id in unavailable for scan_id in self._ids):
            return None
        while True:
            if self._index == len(self._pass):
                self._begin(Position(self.position.epoch + 1))
            key, scan_id = self._pass[self._index]
            self._index += 1
            self.position = replace(self.position, after=key)
            if scan_id not in unavailable:
                return scan_id, self.position.epoch

    @property
    def handed_out(self) -> int:
        """Distinct scans that were handed out or passed over so far."""
        return len(self._ids) - (len(self._pass) - self._index if self.position.epoch == 0 else 0)

    def __len__(self) -> int:
        return len(self._ids)

    def _begin(self, position: Position) -> None:
        self.position, done = position, set(position.done)
        self._pass = sorted((self._key(position.epoch, name), name) for name in self._ids if name not in done)
        self._index = bisect_right([key for key, _ in self._pass], position.after)

    def _key(self, epoch: int, scan_id: str) -> str:
        return short_id("scan-order", str(self._seed), str(epoch), scan_id, length=_KEY_LENGTH)


def position_by_index(
    scan_ids: Sequence[str], seed: int, epoch: int, index: int, held: Collection[tuple[str, int]]
) -> Position:
    """The position in a checkpoint of an earlier version, which counted the scans of a pass.

    The ``index`` is valid only for the shard it was counted in. If the scans that the pool ``held``, each with its
    epoch, contradict it, the shard has changed: then the next pass begins, so that no scan repeats.
    """
    order = generator_for(seed, "scan-order", epoch).permutation(len(scan_ids))
    ids = sorted(scan_ids)  # once: a shard may hold 10^5
    done = [ids[i] for i in order[:index]]
    same = all(scan_id in ids and (of != epoch or scan_id in done) for scan_id, of in held)
    return Position(epoch, done=tuple(done)) if same else Position(epoch + 1)
