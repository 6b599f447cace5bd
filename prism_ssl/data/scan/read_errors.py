"""Attribute a read error to the scan, the storage or this machine."""

from __future__ import annotations

import errno
import os
import resource
from typing import Literal

import psutil

from prism_ssl.data.scan.reject_reasons import RejectReason
from prism_ssl.errors import ArchiveUnreachable, HostOutOfMemory, MachineTrouble, PrismError, ScanRejected
from prism_ssl.utils.machine import memory_limit_bytes

Blame = Literal["scan", "storage", "machine"]

_MISSING = {errno.ENOENT, errno.ENOTDIR}
_SCAN = _MISSING | {
    errno.EACCES, errno.EPERM, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.EINVAL, errno.EFBIG,
    errno.EOVERFLOW, errno.ESPIPE, errno.EILSEQ,
}  # fmt: skip
"""Errors of the path and its permissions."""
_MACHINE = {
    errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.EAGAIN, errno.ENOBUFS, errno.ENOLCK, errno.ENOSPC, errno.EDQUOT,
}  # fmt: skip
"""Errors of resources that this machine has run out of."""


def blame(number: int | None) -> Blame:
    """What is to blame for an error number of the system.

    Unknown ones count against the storage, which is retried (EIO, ESTALE, ETIMEDOUT, EHOSTDOWN and all others of a
    network file system). None comes from Python's own checks of the path, for example.
    """
    if number is None or number in _SCAN:
        return "scan"
    return "machine" if number in _MACHINE else "storage"


def read_failure(error: OSError | MemoryError) -> PrismError:
    """The project's error for an error that ended the reading of a scan.

    ``ScanRejected`` only where the scan is to blame; ``ArchiveUnreachable`` for the storage, ``HostOutOfMemory`` and
    ``MachineTrouble`` for this machine.
    """
    if isinstance(error, MemoryError) or error.errno == errno.ENOMEM:
        return out_of_memory("to open a scan", error)
    whose = blame(error.errno)
    if whose == "machine":
        return MachineTrouble(
            f"a scan could not be opened: {error.strerror} ({_files_open(error)}); no scan was blamed, and it was "
            "tried again: see what else runs on this machine, or lower data.workers; the same command resumes"
        )
    if whose == "storage":
        return ArchiveUnreachable(f"the storage of the archive failed: {error.strerror or error}")
    if error.errno in _MISSING:
        return ScanRejected(RejectReason.MISSING_PATH, "the file does not exist")
    return ScanRejected(RejectReason.NOT_READABLE, f"the file cannot be read: {error.strerror}")


def out_of_memory(wanted: str, error: BaseException) -> HostOutOfMemory:
    """The error for a machine, or a job, whose memory is full; ``wanted`` says what for."""
    (limit, who), free = memory_limit_bytes(), psutil.virtual_memory().available
    return HostOutOfMemory(
        f"no memory was left {wanted} ({error or type(error).__name__}): {free / 2**30:.1f} GiB are free on "
        f"this machine, {who} allows {limit / 2**30:.1f} GiB; no scan was blamed. Lower "
        "data.warm_pool_size or data.workers (in preflight preflight.concurrency), or ask for more memory; the same "
        "command resumes"
    )


def _files_open(error: OSError) -> str:
    if error.errno not in (errno.EMFILE, errno.ENFILE):
        return os.strerror(error.errno or 0)
    return f"at most {resource.getrlimit(resource.RLIMIT_NOFILE)[0]} files, ulimit -n"
