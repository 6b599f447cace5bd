"""Convert the DICOM files of one volume with dcm2niix, clean its header and compress it; nothing else calls it."""

from __future__ import annotations

import functools
import importlib.util
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from prism_ssl.data.scan import gzip_file
from prism_ssl.errors import ConfigError, ScanRejected
from prism_ssl.utils.fs import atomic_file

TIME_LIMIT_S = 600.0
"""dcm2niix is stopped after this time; a volume takes seconds."""
_KILLED_S = 30.0
_CORRECTED = ("_Tilt", "_Eq")
"""dcm2niix names volumes so that it corrected for gantry tilt, or for slices that are unevenly apart."""
_OPTIONS = ("-z", "n", "-b", "n", "-l", "o", "-m", "y", "-f", "x")
"""Uncompressed, so that the header can be cleaned; no sidecar file; values as stored, whatever ``~/.dcm2nii.ini`` says;
all files are one volume."""
_TEXT_FIELDS = ((4, 32), (148, 252), (328, 344))
"""Bytes of a NIfTI-1 header that hold text; dcm2niix writes times and comments of the acquisition there."""


def dcm2niix() -> str | None:
    """The converter of this environment, else of the system.

    Of the package it is the program itself: the script ``bin/dcm2niix`` starts a Python for every volume, and does not
    tell which signal ended the program.
    """
    package = importlib.util.find_spec("dcm2niix")
    beside = sys.executable if package is None or package.origin is None else package.origin
    program = Path(beside).with_name("dcm2niix")
    return str(program) if program.is_file() else shutil.which("dcm2niix")


@functools.cache
def converter_version() -> str:
    """Version of dcm2niix, such as "v1.0.20260724".

    Raises:
        ConfigError: it is not installed, or does not start.
    """
    program = dcm2niix()
    told = None
    if program is not None:
        try:
            said = subprocess.run([program, "-v"], check=False, capture_output=True, timeout=60, text=True)
            told = re.search(r"v\d+\.\d+\.\d+", said.stdout)
        except (OSError, subprocess.TimeoutExpired):
            told = None
    if told is None:
        raise ConfigError(
            "dcm2niix is not installed, or does not start; needed: make install, or pip install -e '.[dicom]'"
        )
    return told.group()


def converted(files: Iterable[Path], scratch: Path) -> list[Path]:
    """The ``.nii`` files that dcm2niix makes of ``files``, the likeliest first: corrected ones, then by size.

    Args:
        files: DICOM files of one volume; they are linked, not copied.
        scratch: an empty folder that the caller removes.

    Raises:
        ScanRejected: ``conversion_timed_out``, ``conversion_crashed`` (by a signal), or ``conversion_failed``.
        OSError: a file is gone.
    """
    slices, made = scratch / "slices", scratch / "made"
    slices.mkdir()
    made.mkdir()
    for number, file in enumerate(files):  # strict: dcm2niix makes up a slice that is missing
        (slices / f"{number:06d}.dcm").symlink_to(file.resolve(strict=True))
    command = [str(dcm2niix()), *_OPTIONS, "-o", str(made), str(slices)]
    code = _run(command, TIME_LIMIT_S)
    volumes = sorted(made.glob("*.nii"), key=lambda path: (-is_corrected(path), -path.stat().st_size))
    if code < 0:
        raise ScanRejected("conversion_crashed", f"dcm2niix was ended by signal {-code}")
    if not volumes:
        raise ScanRejected("conversion_failed", f"dcm2niix made no volume (exit code {code})")
    return volumes


def place_volume(volume: Path, target: Path) -> None:
    """Empty the text fields of a ``.nii`` file, and compress it into ``target``, whole or not at all."""
    with volume.open("r+b") as file:
        for begin, end in _TEXT_FIELDS:
            file.seek(begin)
            file.write(bytes(end - begin))
        file.seek(0)
        with atomic_file(target) as packed:
            gzip_file(file, packed)


def is_corrected(path: Path) -> bool:
    """Whether dcm2niix resampled the planes of a volume that it made."""
    return any(word in path.name for word in _CORRECTED)


def _run(command: list[str], limit_s: float) -> int:
    """Exit code; the converter and what it started are ended after ``limit_s``. What it says may name patients."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        return process.wait(limit_s)
    except subprocess.TimeoutExpired:
        raise ScanRejected("conversion_timed_out", f"dcm2niix did not end within {limit_s:g} s") from None
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            with suppress(subprocess.TimeoutExpired):  # a process that waits for a dead disk outlives even that
                process.wait(_KILLED_S)
