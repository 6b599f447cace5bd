"""The public scans of the study: repositories, commits, licences, and where their series lie."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class PublicSeries:
    """One series: its row of the catalogue, and its file (NIfTI) or folder (DICOM) in a repository."""

    patient: str
    modality: Literal["CT", "MR"]
    description: str
    exam: str
    body_part: str
    path: str

    @property
    def folder(self) -> str:
        """Folder of the series in the archive that is laid out."""
        return f"{self.patient}/{self.description.lower()}"

    @property
    def is_dicom(self) -> bool:
        """Whether it is a folder of DICOM files; else a NIfTI file."""
        return not self.path.endswith(".nii.gz")


@dataclass(frozen=True)
class Repository:
    """A public repository on GitHub, the commit that the study was made with, and the licence of its images."""

    name: str
    commit: str
    licence: str
    series: tuple[PublicSeries, ...]

    @property
    def folder(self) -> str:
        """Name of its clone below the folder of clones."""
        return self.name.replace("/", "+")


def _sarcomas() -> Iterator[PublicSeries]:
    """CT (of a PET-CT) and T1-weighted MR of one limb, in one frame of reference."""
    for number in (*range(1, 14), *range(15, 22), *range(24, 34), 35, *range(37, 42)):
        patient, folder = f"STS{number:03d}", f"ibsi_validation/dicom/STS_{number:03d}"
        yield PublicSeries(patient, "CT", "CT_SOFTTISSUE", "PET CT EXTREMITY", "extremity", f"{folder}/CT/image")
        yield PublicSeries(patient, "MR", "MR_T1", "MRI EXTREMITY", "extremity", f"{folder}/MR_T1/image")


def _brains() -> Iterator[PublicSeries]:
    """One T1-weighted brain a subject."""
    for number in range(1, 61):
        path = f"sub-{number:02d}/anat/sub-{number:02d}_T1w.nii.gz"
        yield PublicSeries(f"DEP{number:02d}", "MR", "T1W", "MRI BRAIN", "brain", path)


def _sclerosis() -> Iterator[PublicSeries]:
    """Brains at two visits, in up to three contrasts that share a frame of reference."""
    whole = ("FLAIR", "T1W", "T2W")
    contrasts = {
        (1, 1): whole, (1, 2): whole, (3, 1): ("FLAIR", "T2W"), (3, 2): whole, (4, 1): whole, (9, 2): ("FLAIR",),
        (12, 1): whole, (12, 2): whole,
    }  # fmt: skip
    for (patient, visit), names in contrasts.items():
        for name in names:
            path = f"longitudinal/raw/patient{patient:02d}/study{visit}_{name}.nii.gz"
            yield PublicSeries(f"OMS{patient:02d}", "MR", f"STUDY{visit}_{name}", "MRI BRAIN", "brain", path)


def _gliomas() -> Iterator[PublicSeries]:
    folder = "src/BrainIAC/data/sample/processed"
    for name in ("t1c", "t1n", "t2f", "t2w"):
        yield PublicSeries("UPENNGBM1", "MR", name.upper(), "MRI BRAIN", "brain", f"{folder}/00001_{name}.nii.gz")
    yield PublicSeries("PIXAR009", "MR", "T1W", "MRI BRAIN", "brain", f"{folder}/subpixar009_T1w.nii.gz")


def _chests() -> Iterator[PublicSeries]:
    for group, subject in (("COVID-19", "P001"), ("COVID-19", "P002"), ("Cap", "cap001"), ("Cap", "cap002")):
        path = f"Sample data/{group} subjects/{subject}"
        yield PublicSeries(f"CMD{subject}", "CT", "CT_CHEST_2MM", "CT CHEST", "chest", path)


def _breasts() -> Iterator[PublicSeries]:
    for folder in (
        "p1_d045f565-e0be-432c-aaab-8296b169c529",
        "p2_9cfd047c-14f1-45c3-aadc-02ec90feeae9",
        "p3_aec1f10a-a315-409e-b099-0e1c0bdc0077",
    ):
        path = f"dataset/mm/{folder}"
        yield PublicSeries(f"UTA4{folder[:2]}", "MR", "T1_FL3D_BREAST", "MRI BREAST", "breast", path)


_LUNG = PublicSeries("LIDC0314", "CT", "CT_CHEST_1MM", "CT CHEST", "chest", "dicom/andrei_abdomen/data")

REPOSITORIES = (
    Repository("theibsi/data_sets", "6da96021bc91", "CC BY 3.0", tuple(_sarcomas())),
    Repository("aaronsossin/DepressionMRI_AI", "baa0d5f0b804", "CC0", tuple(_brains())),
    Repository("muschellij2/open_ms_data", "65704901f606", "CC BY", tuple(_sclerosis())),
    Repository("AIM-KannLab/BrainIAC", "e90fefd4ca13", "CC BY 4.0, one CC0", tuple(_gliomas())),
    Repository("ShahinSHH/COVID-CT-MD", "52699790020e", "CC BY 4.0", tuple(_chests())),
    Repository("MIMBCD-UI/dataset-uta4-dicom", "5fbb58427453", "see its COPYING", tuple(_breasts())),
    Repository("FNNDSC/data", "d2960f20b1df", "CC BY 3.0 (TCIA LIDC-IDRI)", (_LUNG,)),
)
"""166 series of 111 patients."""
