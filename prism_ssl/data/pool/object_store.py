"""Watch how much Ray's object store spills to this node's disk when it is full."""

from __future__ import annotations

from pathlib import Path

import ray

_SPILLED = "ray_spilled_objects*/*"


class SpillWatch:
    """Measures the folder to which Ray spills objects when the store is full; needs a Ray session."""

    def __init__(self) -> None:
        here = ray.get_runtime_context().get_node_id()
        sockets = [Path(node["ObjectStoreSocketName"]) for node in ray.nodes() if node["NodeID"] == here]
        self._session = sockets[0].parents[1] if sockets else None
        self._most_bytes = 0

    def most_bytes(self) -> int:
        """Largest size of that folder at any call so far; spilled chunks are read back ten times slower."""
        if self._session is not None:
            self._most_bytes = max(self._most_bytes, sum(map(_size, self._session.glob(_SPILLED))))
        return self._most_bytes


def spill_note(spilled_bytes: float, store_bytes: int) -> str:
    """Warning for the user, with the settings to change."""
    return (
        f"Ray's object store ({store_bytes / 2**20:.0f} MiB requested) was full: {spilled_bytes / 2**20:.0f} MiB went "
        "to disk and is read back ten times slower; lower data.chunks_in_flight or train.batch_size, or give the "
        "cluster a larger store (PRISM_OBJECT_STORE_MIB in slurm/site.sh)"
    )


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:  # deleted meanwhile, or unreadable
        return 0
