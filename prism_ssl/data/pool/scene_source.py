"""Open the scene of a scan: from scratch or the archive, with another series of the patient where pairs need one."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from threading import Lock

from prism_ssl.config.schema import ViewConfig
from prism_ssl.contracts import BrokenScan, PreparedScan
from prism_ssl.data.pool.opener import Opened
from prism_ssl.data.pool.scratch import ScratchStore
from prism_ssl.data.scan import OpenScan
from prism_ssl.data.views import scene_of
from prism_ssl.errors import ScanRejected

OTHERS_TRIED = 2
"""Other series of a patient that are opened, one after the other, to find one in the scan's frame of reference."""


class SceneSource:
    """Opens scenes; safe for use from several threads.

    Args:
        scans: the shard, by scan id.
        read: reads a scan from the archive.
        scratch: keeps decoded volumes.
        view: settings of the pairs.
        seed: fixes the places of a scene, together with the scan's id.
    """

    def __init__(
        self,
        scans: Mapping[str, PreparedScan],
        read: Callable[[PreparedScan], OpenScan],
        scratch: ScratchStore,
        view: ViewConfig,
        seed: int,
    ) -> None:
        self._scans, self._read, self._scratch, self._view, self._seed = scans, read, scratch, view, seed
        self._lock = Lock()
        self._locks: dict[str, Lock] = defaultdict(Lock)
        self._broken: set[str] = set()

    def open(self, scan_id: str) -> Opened:
        """The scan, with the first of the patient's other series that opens and shows the same places.

        Another series that does not open is reported once and not tried again.

        Raises:
            ScanRejected: the scan itself does not open.
        """
        prepared = self._scans[scan_id]
        scan, broken = self._open_one(prepared), list[BrokenScan]()
        for candidate in prepared.others[:OTHERS_TRIED]:
            other_id = candidate.record.scan_id
            if other_id in self._broken:
                continue
            try:
                other = self._open_one(candidate)
            except ScanRejected as error:
                self._broken.add(other_id)
                broken.append(BrokenScan(other_id, "open", f"{type(error).__name__}: {error}"))
                continue
            scene = scene_of(scan, other, self._view, self._seed, scan_id)
            if scene.other is not None:
                return Opened(scene, tuple(broken))
            del other, scene  # free its memory before the next one is read
        return Opened(scene_of(scan, None, self._view, self._seed, scan_id), tuple(broken))

    def _open_one(self, prepared: PreparedScan) -> OpenScan:
        scan_id = prepared.record.scan_id
        with self._lock:
            lock = self._locks[scan_id]
        # A series may be opened for its own slot and beside another scan at once: the second one waits for the file.
        with lock:
            return self._scratch.get(scan_id) or self._scratch.put(scan_id, self._read(prepared))
