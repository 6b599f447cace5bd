"""Count per scan how many views were drawn and how many show nothing: views_by_scan.json in the run folder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from prism_ssl.contracts import VisitChunk
from prism_ssl.data.extract import EMPTY, KINDS, kinds_of
from prism_ssl.utils.fs import write_atomic

NAMES = ("views", EMPTY, *KINDS)


def views_file(run_dir: Path, rank: int) -> Path:
    """File in which a training worker counts the views of its own scans."""
    return run_dir / (f"views_by_scan-worker-{rank}.json" if rank else "views_by_scan.json")


class ViewTally:
    """Counts per scan; the file lists the scans by share of views that show nothing, then by number of views.

    Args:
        file: where ``save`` writes.
        go_on: continue the counts in the file.
    """

    def __init__(self, file: Path, go_on: bool) -> None:
        self._file = file
        self.counts: dict[str, dict[str, int]] = {}
        self._noted: list[tuple[str, list[int]]] = []
        if go_on:
            with suppress(OSError, ValueError):  # only for users to look at; if unreadable, counting starts again
                self.counts = json.loads(file.read_text())

    def note(self, chunks: Sequence[VisitChunk]) -> None:
        """Keep the views of a batch; ``count`` counts them once the batch was trained on."""
        self._noted = [
            (visit.scan_id, sides)
            for chunk in chunks
            for visit, sides in zip(chunk.visits, chunk.sight_bits.tolist(), strict=True)
        ]

    def count(self) -> None:
        """Count the views that were noted last."""
        for scan_id, sides in self._noted:
            counts = self.counts.setdefault(scan_id, dict.fromkeys(NAMES, 0))
            counts["views"] += len(sides)
            for kind in (kind for bits in sides for kind in kinds_of(bits)):
                counts[kind] += 1
        self._noted = []

    def save(self) -> None:
        """Write the file atomically; a failure is ignored."""
        worst_first = sorted(self.counts.items(), key=lambda one: (-one[1][EMPTY] / one[1]["views"], -one[1]["views"]))
        with suppress(OSError):
            write_atomic(self._file, (json.dumps(dict(worst_first), indent=1) + "\n").encode())
