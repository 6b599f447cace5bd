"""Request and report of an import."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from prism_ssl.data.dicom.texts import MODALITIES
from prism_ssl.errors import ConfigError


@dataclass(frozen=True)
class ImportRequest:
    """What to import. ``private`` holds salt, ledger and key, and must not be given away with the archive ``out``.

    Raises:
        ConfigError: a modality is unknown, ``min_slices`` is below 2, or the folders contradict each other.
    """

    folders: tuple[Path, ...]
    out: Path
    private: Path
    modalities: tuple[str, ...] = ("CT", "MR")
    min_slices: int = 12
    keep_descriptions: bool = False

    def __post_init__(self) -> None:
        """Check the values: under a modality that is none, every series would leave the archive."""
        if unknown := sorted(set(self.modalities) - MODALITIES):
            raise ConfigError(f"--modality {' '.join(unknown)} is no modality of DICOM; needed: such as CT MR")
        if self.min_slices < 2:
            raise ConfigError(f"--min-slices is {self.min_slices}; needed: 2 or more")
        if self.out in self.folders:
            raise ConfigError(
                f"{self.out} is to be searched for DICOM, and is the archive, which is not searched; needed: another "
                "--out, which may be a folder in it"
            )
        if self.private == self.out or self.private.is_relative_to(self.out):
            raise ConfigError(
                f"--private {self.private} is in the archive; needed: a folder that is not given away with it"
            )


@dataclass(frozen=True)
class ImportReport:
    """Counts over the archive: ``volumes`` by modality, ``left_out`` parts of series by reason, ``files`` without a
    header by reason. ``read`` files, ``converted`` volumes, and series of volumes ``without_patient`` are this
    import's."""

    volumes: Counter[str]
    patients: int
    left_out: Counter[str]
    files: Counter[str]
    read: int
    converted: int
    without_patient: int
