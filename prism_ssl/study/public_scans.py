"""Lay out the study's public scans as an archive: ``prism public-scans CLONES --out FOLDER``."""

from __future__ import annotations

import argparse
import csv
import importlib.util
import shlex
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from prism_ssl.config.operations import PreflightConfig
from prism_ssl.errors import MachineTrouble, ScanRejected
from prism_ssl.study.sources import REPOSITORIES, PublicSeries, Repository

COLUMNS = ("pmbb_id", "modality", "series_path", "series_description", "exam_type", "body_part")
_OK, _NOTHING, _REFUSED = 0, 1, 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Lay out what the clones hold; 0 when there is any series, 1 without, 2 when it cannot work.

    A second call adds what was missing.
    """
    given = _parser().parse_args(list(sys.argv[1:] if arguments is None else arguments))
    console, errors = Console(), Console(stderr=True)
    if not _tools_are_here():
        errors.print(
            "dcm2niix or pydicom is not installed, and half of these scans are DICOM; "
            "needed: make install, or pip install -e '.[study]' in the clone",
            style="red",
            markup=False,
        )
        return _REFUSED
    try:
        return _lay_out_all(given.clones, given.out, console, errors)
    except (MachineTrouble, OSError) as error:
        errors.print(f"{type(error).__name__}: {error}; the same command goes on from here", style="red", markup=False)
        return _REFUSED


def _lay_out_all(clones: Path, out: Path, console: Console, errors: Console) -> int:
    rows, left = list[PublicSeries](), Counter[str]()
    for repository in REPOSITORIES:
        clone = clones / repository.folder
        if not clone.is_dir():
            errors.print(_how_to_clone(repository, clone), markup=False, highlight=False, soft_wrap=True)
            continue
        for series in repository.series:
            why = _lay_out(series, clone, out)
            if why is None:
                rows.append(series)
            else:
                left[f"{repository.name}: {why}"] += 1
    for why, count in left.items():
        errors.print(f"{count} series left out, {why}", markup=False)
    if not rows:
        return _NOTHING
    _write_catalog(rows, out / "catalog.csv")
    patients = len({series.patient for series in rows})
    told = (
        f"{len(rows)} series of {patients} patients in {out / 'catalog.csv'}\nnext: prism study {out / 'catalog.csv'}"
    )
    console.print(told, markup=False, soft_wrap=True)
    return _OK


def _parser() -> argparse.ArgumentParser:
    licences = "\n".join(f"  {each.name:<30} {each.licence}" for each in REPOSITORIES)
    parser = argparse.ArgumentParser(
        prog="prism public-scans",
        description="Lay out the public scans of the study as an archive: one .nii.gz a series, and catalog.csv.",
        epilog=f"The images keep their licences:\n{licences}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("clones", type=Path, help="folder with the clones, each named OWNER+NAME")
    parser.add_argument("--out", type=Path, default=Path("public-scans"), help="the archive")
    return parser


def _how_to_clone(repository: Repository, clone: Path) -> str:
    """The commands that bring the repository as it was when the study was made."""
    at = shlex.quote(str(clone))
    return f"git clone https://github.com/{repository.name} {at} && git -C {at} checkout -q {repository.commit}"


def _tools_are_here() -> bool:
    if importlib.util.find_spec("pydicom") is None:
        return False
    from prism_ssl.data.dicom import dcm2niix

    return dcm2niix() is not None


def _lay_out(series: PublicSeries, clone: Path, out: Path) -> str | None:
    """Bring one series to its place, whole or not at all; returns why it could not be, or None."""
    source, folder = clone / series.path, out / series.folder
    target = folder / f"{folder.name}.nii.gz"
    if target.is_file():
        return None
    if not source.exists():
        return "not in the clone"
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out, prefix=".converting-") as scratch:
        if series.is_dicom:
            return _convert(series, source, target, scratch)
        folder.mkdir(parents=True, exist_ok=True)
        part = Path(scratch) / "part"
        shutil.copyfile(source, part)
        part.replace(target)
    return None


def _convert(series: PublicSeries, source: Path, target: Path, scratch: str) -> str | None:
    """Bring a DICOM series to its place as ``prism import`` does; returns why it could not be, or None."""
    from prism_ssl.data.dicom import bring, files_below, job_of, read_file, volumes_of

    headers = [header for found in files_below([source], without=()) for header in read_file(found).instances]
    wanted = [header for header in headers if header.modality == series.modality]
    parts = volumes_of(wanted, (series.modality,), PreflightConfig().min_slices)
    whole = [part for part in parts if part.stack is not None]
    if not whole:
        reasons = dict.fromkeys(part.refusal.reason for part in parts if part.refusal is not None)
        return ", ".join(reasons) or "no such DICOM"
    largest = max(whole, key=lambda part: len(part.stack.order) if part.stack else 0)
    try:
        bring(job_of(largest, series.folder, str(target)), scratch)
    except ScanRejected as rejected:
        return rejected.reason
    return None


def _write_catalog(rows: Sequence[PublicSeries], path: Path) -> None:
    part = path.with_suffix(".part")
    with part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for series in rows:
            writer.writerow(
                (series.patient, series.modality, series.folder, series.description, series.exam, series.body_part)
            )
    part.replace(path)


if __name__ == "__main__":
    sys.exit(main())
