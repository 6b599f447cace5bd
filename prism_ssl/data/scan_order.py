"""In which order a shard's scans are opened: an endless, seeded sequence of passes."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from prism_ssl.utils.seeds import generator_for


class ScanOrder:
    """Passes over a shard, each a new seeded permutation.

    Within one epoch a scan is handed out at most once, so (epoch, scan) names a tenure uniquely. The position
    (epoch, index) is the whole state: an order restored from it continues with the same scans.
    """

    def __init__(self, scan_ids: Sequence[str], seed: int, epoch: int = 0, index: int = 0) -> None:
        self._ids = sorted(scan_ids)
        self._seed = seed
        self.epoch, self.index = epoch, min(index, len(self._ids))  # the shard may have lost scans since
        self._pass = self._permutation(epoch)

    def next(self, unavailable: Collection[str]) -> tuple[str, int] | None:
        """The next (scan id, epoch) that is not ``unavailable``; None when every scan is."""
        if all(scan_id in unavailable for scan_id in self._ids):
            return None
        while True:
            if self.index == len(self._pass):
                self.epoch, self.index = self.epoch + 1, 0
                self._pass = self._permutation(self.epoch)
            scan_id = self._pass[self.index]
            self.index += 1
            if scan_id not in unavailable:
                return scan_id, self.epoch

    @property
    def handed_out(self) -> int:
        """Distinct scans that were handed out or passed over so far."""
        return self.index if self.epoch == 0 else len(self._ids)

    def __len__(self) -> int:
        return len(self._ids)

    def _permutation(self, epoch: int) -> list[str]:
        order = generator_for(self._seed, "scan-order", epoch).permutation(len(self._ids))
        return [self._ids[i] for i in order]
