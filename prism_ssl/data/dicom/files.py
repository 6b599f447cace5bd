"""Find files below folders, and read DICOM headers from them and from the members of zip and tar files."""

from __future__ import annotations

import io
import os
import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, NamedTuple

from prism_ssl.data.dicom.header import SNIFF_BYTES, looks_like_dicom, read_instance
from prism_ssl.data.dicom.instance import Instance
from prism_ssl.data.dicom.reasons import LeftOut

_CONTAINER_ERRORS = (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, RuntimeError, NotImplementedError)
"""RuntimeError: a zip with a password."""
_TAR_MAGIC, _TAR_MAGIC_AT = b"ustar", 257
_HEAD_BYTES = 512
_TAR_NAMES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")


class Place(NamedTuple):
    """A file, or the ``member`` of a zip or tar file ("" for a file of its own)."""

    path: str
    member: str


class Found(NamedTuple):
    """A file as the walk finds it; a path that is no UTF-8 keeps its bytes as surrogates."""

    path: str
    size: int
    mtime_ns: int


class Reading(NamedTuple):
    """What a file held: DICOM headers, and how many of its members were left out for each reason.

    A file of its own has one header or one reason.
    """

    path: str
    size: int
    mtime_ns: int
    instances: list[Instance]
    left_out: dict[str, int]


def files_below(folders: Sequence[Path], without: Sequence[Path]) -> Iterator[Found]:
    """Every file below ``folders``, in the order of names; links are followed, ``without`` is not entered."""
    seen, avoided = set[tuple[int, int]](), {os.path.realpath(path) for path in without}
    for folder in folders:
        if folder.is_file():
            yield from _found(str(folder))
            continue
        for root, names, files in os.walk(folder, followlinks=True):
            status = os.stat(root)  # noqa: PTH116  of a path with any bytes
            if (status.st_dev, status.st_ino) in seen or os.path.realpath(root) in avoided:
                names.clear()
                continue
            seen.add((status.st_dev, status.st_ino))
            names.sort()
            for name in sorted(files):
                yield from _found(os.path.join(root, name))  # noqa: PTH118


def _found(path: str) -> Iterator[Found]:
    try:
        status = os.stat(path)  # noqa: PTH116
    except OSError:
        yield Found(path, -1, 0)  # a link that leads nowhere: ``read_file`` gives the reason
        return
    yield Found(path, status.st_size, status.st_mtime_ns)


def read_file(found: Found) -> Reading:
    """The DICOM headers in one file; never raises for what the file holds."""
    path, size, mtime_ns = found
    try:
        with Path(path).open("rb") as file:
            head = file.read(_HEAD_BYTES)
            file.seek(0)
            if _is_zip(head) or _is_tar(head, path):
                return Reading(path, size, mtime_ns, *_members_read(found))
            instance = read_instance(file, path, "", size, mtime_ns)
    except OSError:
        return Reading(path, size, mtime_ns, [], {LeftOut.NOT_READABLE: 1})
    if instance is not None:
        return Reading(path, size, mtime_ns, [instance], {})
    reason = LeftOut.DAMAGED_HEADER if head[128:132] == b"DICM" else LeftOut.NOT_DICOM
    return Reading(path, size, mtime_ns, [], {reason: 1})


def _is_zip(head: bytes) -> bool:
    return head[:4] in (b"PK\x03\x04", b"PK\x05\x06")


def _is_tar(head: bytes, path: str) -> bool:
    return head[_TAR_MAGIC_AT:][: len(_TAR_MAGIC)] == _TAR_MAGIC or path.lower().endswith(_TAR_NAMES)


def _members_read(found: Found) -> tuple[list[Instance], dict[str, int]]:
    instances, left = list[Instance](), dict[str, int]()

    def note(reason: LeftOut) -> None:
        left[reason] = left.get(reason, 0) + 1

    try:
        with _members(found.path) as members:
            for name, size, file in members:
                head = file.read(_HEAD_BYTES)
                if _is_zip(head) or _is_tar(head, name):
                    note(LeftOut.NESTED_CONTAINER)
                elif not looks_like_dicom(head[:SNIFF_BYTES]):
                    note(LeftOut.NOT_DICOM)
                else:
                    whole = io.BytesIO(head + file.read())
                    instance = read_instance(whole, found.path, name, size, found.mtime_ns)
                    if instance is None:
                        note(LeftOut.DAMAGED_HEADER if head[128:132] == b"DICM" else LeftOut.NOT_DICOM)
                    else:
                        instances.append(instance)
    except _CONTAINER_ERRORS:
        note(LeftOut.DAMAGED_CONTAINER)  # what was read before the damage is kept
    return instances, left


@contextmanager
def _members(path: str) -> Iterator[Iterator[tuple[str, int, IO[bytes]]]]:
    """(name, length, open file) of every file in a zip or tar, in its order."""
    with Path(path).open("rb") as probe:
        is_zip = _is_zip(probe.read(4))
    if is_zip:
        with zipfile.ZipFile(path) as packed:
            yield (
                (each.filename, each.file_size, packed.open(each)) for each in packed.infolist() if not each.is_dir()
            )
        return
    with tarfile.open(path) as rolled:
        yield (
            (each.name, each.size, file)
            for each in rolled
            if each.isfile() and (file := rolled.extractfile(each)) is not None
        )


def fetched(places: Sequence[Place], scratch: Path) -> list[Path]:
    """A file for every place, in their order; members are written to ``scratch``, under numbers.

    Raises:
        OSError: a file or member is gone, or unreadable.
    """
    wanted, made = set(places), {place: Path(place.path) for place in places if not place.member}
    for container in dict.fromkeys(place.path for place in places if place.member):
        try:
            with _members(container) as members:
                for name, _, file in members:
                    place = Place(container, name)
                    if place in wanted and place not in made:
                        made[place] = scratch / f"{len(made):06d}"
                        made[place].write_bytes(file.read())
        except _CONTAINER_ERRORS as error:
            raise OSError(f"a zip or tar file is damaged ({type(error).__name__})") from error
    if gone := len(wanted - made.keys()):
        raise OSError(f"{gone} of {len(places)} members are gone")
    return [made[place] for place in places]
