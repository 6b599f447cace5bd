"""Find files below folders, and read DICOM headers from them and from the members of zip and tar files."""

from __future__ import annotations

import io
import os
import shutil
import stat
import tarfile
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, NamedTuple

from prism_ssl.data.dicom.header import SNIFF_BYTES, looks_like_dicom, read_instance
from prism_ssl.data.dicom.instance import Instance, series_key
from prism_ssl.data.dicom.reasons import LeftOut
from prism_ssl.utils.fs import folders_below

_TAR_MAGIC, _TAR_MAGIC_AT = b"ustar", 257
_HEAD_BYTES = 512
_TAR_NAMES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
_PACKED = (b"\x1f\x8b", b"\x1f\x9d", b"BZh", b"\xfd7zXZ\0", b"7z\xbc\xaf\x27\x1c", b"Rar!\x1a\x07", b"\x28\xb5\x2f\xfd")
"""gzip, compress, bzip2, xz, 7z, rar, zstd: each may hold DICOM, but is no zip or tar by its name."""
_HEADER_BYTES = 2**26
"""So much of a member is read for its header: a small zip can hold a member that fills the memory."""
_UNREADABLE = -1
"""Size of what cannot be looked at."""


class Place(NamedTuple):
    """A file, or the ``member`` of a zip or tar file ("" for a file of its own); see ``_members`` for its name."""

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


class Headers(NamedTuple):
    """A ``Reading`` as the ledger keeps it; of each instance: series key, image id and JSON."""

    path: str
    size: int
    mtime_ns: int
    instances: list[tuple[str, str, str]]
    left_out: dict[str, int]


def headers_of(reading: Reading) -> Headers:
    """The reading in the form that the ledger keeps. Call it in the process that read the file, to share the work."""
    told = [(series_key(each), each.sop, each.to_json()) for each in reading.instances]
    return Headers(*reading[:3], told, reading.left_out)


def files_below(folders: Sequence[Path], without: Sequence[Path]) -> Iterator[Found]:
    """Every file below ``folders``, in the order of names; links are followed, ``without`` is not entered.

    Folders that cannot be listed come last, as files that cannot be read. Pipes, sockets and devices are passed over.
    """
    avoided = {(status.st_dev, status.st_ino) for path in without if path.exists() and (status := path.stat())}
    failed = list[OSError]()
    for folder in folders:
        if folder.is_file():
            yield from _found(str(folder))
            continue
        for root, _, files in folders_below(folder, avoided, failed.append):
            for name in files:
                yield from _found(os.path.join(root, name))  # noqa: PTH118
    yield from (Found(str(error.filename), _UNREADABLE, 0) for error in failed)


def _found(path: str) -> Iterator[Found]:
    try:
        status = os.stat(path)  # noqa: PTH116
    except OSError:
        yield Found(path, _UNREADABLE, 0)  # a link that leads nowhere, for example
        return
    if stat.S_ISREG(status.st_mode):
        yield Found(path, status.st_size, status.st_mtime_ns)


def read_file(found: Found) -> Reading:
    """The DICOM headers in one file; never raises for what the file holds."""
    path, size, mtime_ns = found
    try:
        if size == _UNREADABLE:
            raise OSError
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
    return Reading(path, size, mtime_ns, [], {_reason(head, path): 1})


def _reason(head: bytes, name: str) -> LeftOut:
    """Why a file that is no zip or tar, and has no header that can be read, is left out."""
    if head[128:132] == b"DICM":
        return LeftOut.DAMAGED_HEADER
    return LeftOut.PACKED if head.startswith(_PACKED) and not name.lower().endswith(".nii.gz") else LeftOut.NOT_DICOM


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
                    note(_reason(head, name))
                else:
                    begin = io.BytesIO(head + file.read(_HEADER_BYTES))
                    instance = read_instance(begin, found.path, name, size, found.mtime_ns)
                    if instance is None:
                        note(_reason(head, name))
                    else:
                        instances.append(instance)
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the file system, not the content
        note(LeftOut.DAMAGED_CONTAINER)  # what was read before the damage is kept
    return instances, left


@contextmanager
def _members(path: str) -> Iterator[Iterator[tuple[str, int, IO[bytes]]]]:
    """(name, length, open file) of every file in a zip or tar, in its order; the second of a name is numbered."""
    with Path(path).open("rb") as probe:
        is_zip = _is_zip(probe.read(4))
    if is_zip:
        with zipfile.ZipFile(path) as packed:
            yield _numbered(
                (each.filename, each.file_size, packed.open(each)) for each in packed.infolist() if not each.is_dir()
            )
        return
    with tarfile.open(path) as rolled:
        yield _numbered(
            (each.name, each.size, file)
            for each in rolled
            if each.isfile() and (file := rolled.extractfile(each)) is not None
        )


def _numbered(members: Iterable[tuple[str, int, IO[bytes]]]) -> Iterator[tuple[str, int, IO[bytes]]]:
    times = Counter[str]()
    for name, size, file in members:
        times[name] += 1
        yield name if times[name] == 1 else f"{name}\0{times[name]}", size, file


def fetched(places: Sequence[Place], scratch: Path) -> list[Path]:
    """A file for every place, in their order; members are written to ``scratch``, under numbers.

    Raises:
        OSError: a file or member is gone, or unreadable.
    """
    made = {place: Path(place.path) for place in places if not place.member}
    for container in dict.fromkeys(place.path for place in places if place.member):
        wanted = {place for place in places if place.path == container}
        try:
            with _members(container) as members:
                while wanted:  # what follows the last one may be damaged
                    name, _, file = next(members)
                    if (place := Place(container, name)) in wanted:
                        wanted.remove(place)
                        made[place] = scratch / f"{len(made):06d}"
                        with made[place].open("wb") as copy:
                            shutil.copyfileobj(file, copy)
        except OSError:
            raise
        except Exception as error:
            raise OSError(f"a zip or tar file is damaged, or has changed ({type(error).__name__})") from error
    return [made[place] for place in places]
