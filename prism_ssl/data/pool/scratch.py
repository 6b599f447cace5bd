"""Scratch store: decoded volumes as raw files on local disk, mapped when a scan is opened again."""

from __future__ import annotations

import dataclasses
import math
import os
import shutil
from contextlib import suppress
from pathlib import Path
from threading import Lock

import numpy as np

from prism_ssl.data.scan import OpenScan
from prism_ssl.utils.disk_usage import free_bytes
from prism_ssl.utils.fs import FolderLock, private_folder


class ScratchStore:
    """The scratch files of one process, in a folder of its own that is removed by ``close``.

    A full budget or a full disk is no failure: the scan then stays in memory. Nor is a file that vanished or cannot be
    mapped: ``get`` then returns None. ``prism_ssl.utils.fs.remove_stale_folders`` removes the folder of a dead process.
    Safe for use from several threads.

    Args:
        parent: where the folder is created.
        budget_bytes: most bytes that its files may hold together; 0: off.
        keep_free_bytes: space that its files leave free on their disk, whatever the budget.
    """

    def __init__(self, parent: Path, name: str, budget_bytes: int, keep_free_bytes: int = 0) -> None:
        self._folder = private_folder(parent / f"{name}-{os.getpid()}")
        self._owner = FolderLock(self._folder)
        self._owner.acquire()
        self._budget, self._keep_free = budget_bytes, keep_free_bytes
        self._kept: dict[str, OpenScan] = {}  # their voxels are empty: a held map per scan would exhaust map counts
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._lock = Lock()
        self.used_bytes = 0
        self.hits = self.lost = 0

    def get(self, scan_id: str) -> OpenScan | None:
        """The scan, its voxels mapped from disk; None when it is not stored."""
        with self._lock:
            kept = self._kept.get(scan_id)
            if kept is None:
                return None
            mapped = self._mapped(scan_id, kept)
            self.hits += mapped is not None
            return mapped

    def put(self, scan_id: str, scan: OpenScan) -> OpenScan:
        """Keep the voxels on disk when they fit and return the mapped scan, else return ``scan`` itself."""
        size = scan.voxels.nbytes
        with self._lock:
            if self.used_bytes + size > self._budget or isinstance(scan.voxels, np.memmap):
                return scan
            self.used_bytes += size
        path = self._folder / scan_id
        try:
            if self._keep_free and free_bytes(self._folder) - size < self._keep_free:
                with self._lock:
                    self.used_bytes -= size
                return scan
            path.write_bytes(scan.voxels.data)  # ndarray.tofile silently loses the last bytes when they do not fit
        except OSError:  # the disk is full before the budget is, or fails, or the folder is gone: store nothing more
            with suppress(OSError):
                path.unlink(missing_ok=True)
            with self._lock:
                self.used_bytes -= size
                self._budget = self.used_bytes
            return scan
        kept = dataclasses.replace(scan, voxels=np.empty((0, 0, 0), scan.voxels.dtype))
        with self._lock:
            self._kept[scan_id], self._shapes[scan_id] = kept, scan.voxels.shape
            return self._mapped(scan_id, kept) or scan

    def close(self) -> None:
        """Remove every file; maps that are still in use stay readable."""
        shutil.rmtree(self._folder, ignore_errors=True)
        self._owner.release()

    def _mapped(self, scan_id: str, kept: OpenScan) -> OpenScan | None:
        """Needs the lock. None, and the entry is dropped, where the file is gone, truncated, or cannot be mapped."""
        path, shape = self._folder / scan_id, self._shapes[scan_id]
        try:
            voxels = np.memmap(path, kept.voxels.dtype, mode="r", shape=shape)
        except (OSError, ValueError):
            del self._kept[scan_id], self._shapes[scan_id]
            self.used_bytes -= math.prod(shape) * kept.voxels.itemsize
            self.lost += 1
            with suppress(OSError):
                path.unlink(missing_ok=True)
            return None
        return dataclasses.replace(kept, voxels=voxels)
