"""Ground truth of phantoms: the organ at any point of any of their scans."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy.typing as npt

from prism_ssl.contracts import ScanRecord
from prism_ssl.data.phantoms.anatomy import Organ, Region
from prism_ssl.data.phantoms.writer import MARKER_FILE, PHANTOM_VERSION, Protocol, make_phantom, schedule, series_folder


@dataclass(frozen=True, slots=True)
class Place:
    """Where a point lies in the body. RAS coordinates of one region are comparable between phantoms, to some 10 mm."""

    region: Region
    organ: Organ


class PhantomTruth:
    """The bodies behind the scans of one folder of phantoms."""

    def __init__(self, n_subjects: int, seed: int) -> None:
        self._seed = seed
        self._series: dict[str, tuple[int, Protocol]] = {
            str(series_folder(subject, protocol)): (subject, protocol) for subject, protocol in schedule(n_subjects)
        }

    def places(self, record: ScanRecord, points_mm: Sequence[npt.ArrayLike]) -> list[Place] | None:
        """The place of each RAS point [3] of a scan; None when the scan is not one of these phantoms."""
        if record.series_path not in self._series:
            return None
        subject, protocol = self._series[record.series_path]
        phantom = make_phantom(protocol, self._seed, subject)
        return [Place(protocol.region, phantom.organ_at(point)) for point in points_mm]


def phantom_truth(catalog: Path) -> PhantomTruth | None:
    """The ground truth of a catalogue that ``write_phantoms`` of this version has written; None for any other."""
    marker = catalog.parent / MARKER_FILE
    if not marker.is_file():
        return None
    written = json.loads(marker.read_text())
    if written.get("version") != PHANTOM_VERSION:
        return None
    return PhantomTruth(written["n_subjects"], written["seed"])
