"""What to import, and what came of it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class ImportRequest:
    """What to import. ``private`` holds salt, ledger and key, and must not be given away with the archive ``out``."""

    folders: tuple[Path, ...]
    out: Path
    private: Path
    modalities: tuple[str, ...] = ("CT", "MR")
    min_slices: int = 12
    keep_descriptions: bool = False


@dataclass(frozen=True)
class ImportReport:
    """Counts over the archive: ``volumes`` by modality, ``left_out`` parts of series by reason, ``files`` without a
    header by reason. ``read`` files and ``converted`` volumes are this import's."""

    volumes: Counter[str]
    patients: int
    left_out: Counter[str]
    files: Counter[str]
    read: int
    converted: int
    without_patient: int
