from __future__ import annotations

import errno
import os
from pathlib import Path
from threading import Event

import pytest

from prism_ssl.contracts import PreparedScan
from prism_ssl.data.scan.bounded_reads import ReadLimits, archive_root, read_within, within
from prism_ssl.data.scan.nifti import OpenScan
from prism_ssl.data.scan.read_errors import read_failure
from prism_ssl.errors import ArchiveUnreachable, HostOutOfMemory, MachineTrouble, ScanRejected
from tests.support.pool_fakes import let_fail, make_hang, opened, write_scans

LONG_S = 60.0


class NoPauses(Event):
    """Pauses end at once, and are remembered."""

    def __init__(self) -> None:
        super().__init__()
        self.pauses_s: list[float | None] = []

    def wait(self, timeout: float | None = None) -> bool:
        self.pauses_s.append(timeout)
        return self.is_set()


@pytest.fixture
def scan(tmp_path: Path) -> PreparedScan:
    """One of three of an archive."""
    return write_scans(tmp_path / "volume" / "archive", 3)[0]


def read_limits(scan: PreparedScan, outage_patience_s: float = LONG_S, open_timeout_s: float = LONG_S) -> ReadLimits:
    return ReadLimits(archive_root([scan.record.nifti_path]), open_timeout_s, outage_patience_s, NoPauses())


def pauses_s(limits: ReadLimits) -> list[float | None]:
    assert isinstance(limits.closing, NoPauses)
    return limits.closing.pauses_s


def test_a_call_within_its_limit_returns_or_raises_as_ever(tmp_path: Path) -> None:
    assert within(LONG_S, lambda: 7) == 7
    with pytest.raises(ZeroDivisionError):
        within(LONG_S, lambda: 1 / 0)


def test_a_scan_that_hangs_is_rejected_when_its_time_is_over(scan: PreparedScan) -> None:
    make_hang(scan)
    with pytest.raises(ScanRejected, match=r"open_timed_out: not read after 0\.05 s \(data\.open_timeout_s\)"):
        read_within(0.05, lambda: opened(scan))
    let_fail(scan)


def test_an_archive_that_was_away_is_read_when_it_is_back(scan: PreparedScan, tmp_path: Path) -> None:
    volume, elsewhere, tries = tmp_path / "volume", tmp_path / "elsewhere", 0
    volume.rename(elsewhere)

    def read() -> OpenScan:
        nonlocal tries
        tries += 1
        if tries == 4:
            elsewhere.rename(volume)
        return opened(scan)

    waited = read_limits(scan)
    assert waited.read(read).shape == (40, 36, 30)
    assert waited.retries == 3
    assert pauses_s(waited) == [0.5, 1.0, 2.0]


def test_an_empty_mount_point_counts_as_away(scan: PreparedScan, tmp_path: Path) -> None:
    for path in (tmp_path / "volume" / "archive").iterdir():
        path.unlink()
    with pytest.raises(ArchiveUnreachable, match=r"away for 0 s \(data\.outage_patience_s\).* is its volume mounted\?"):
        read_limits(scan, outage_patience_s=0).read(lambda: opened(scan))


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.ENOTCONN, errno.ENETDOWN])
def test_a_volume_that_fails_is_waited_for(scan: PreparedScan, number: int) -> None:
    outage = read_limits(scan, outage_patience_s=0)
    with pytest.raises(ArchiveUnreachable, match="No scan was put in quarantine"):
        outage.read(lambda: _fail(number))


def test_storage_that_fails_for_one_scan_while_others_are_read_is_about_that_scan(scan: PreparedScan) -> None:
    bad_block = read_limits(scan, outage_patience_s=1.0)
    others = write_scans(Path(scan.record.series_path), 3)[1:]

    def read() -> OpenScan:
        bad_block.read(lambda: opened(others[0]))
        return _fail(errno.EIO)

    with pytest.raises(ScanRejected, match="not_readable: reading it failed for 1 s while other scans were read"):
        bad_block.read(read)


@pytest.mark.parametrize("number", [errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.EAGAIN, None])
def test_what_this_machine_lacks_is_waited_for_and_never_a_scans_fault(scan: PreparedScan, number: int | None) -> None:
    tries = 0

    def read() -> OpenScan:
        nonlocal tries
        tries += 1
        if tries < 3:
            raise MemoryError if number is None else OSError(number, "arranged")
        return opened(scan)

    waited = read_limits(scan)
    assert waited.read(read).shape == (40, 36, 30)
    assert waited.retries == 2
    lasting = HostOutOfMemory if number in (errno.ENOMEM, None) else MachineTrouble
    with pytest.raises(lasting, match="no scan was blamed"):
        read_limits(scan, outage_patience_s=0).read(lambda: _fail(number))


def test_an_archive_that_is_closed_to_this_user_is_away(scan: PreparedScan, tmp_path: Path) -> None:
    (tmp_path / "volume" / "archive").rename(tmp_path / "elsewhere")  # root may list any folder: so it is gone instead
    with pytest.raises(ArchiveUnreachable, match="the file cannot be read: Permission denied"):
        read_limits(scan, outage_patience_s=0).read(lambda: _fail(errno.EACCES))


def test_a_scan_that_is_missing_or_forbidden_among_others_is_its_own_fault(scan: PreparedScan) -> None:
    alone = read_limits(scan)
    with pytest.raises(ScanRejected, match="not_readable"):
        alone.read(lambda: _fail(errno.EACCES))
    Path(scan.record.nifti_path).unlink()
    with pytest.raises(ScanRejected, match="missing_path"):
        alone.read(lambda: opened(scan))
    assert pauses_s(alone) == []


def test_closing_ends_the_waiting(scan: PreparedScan, tmp_path: Path) -> None:
    (tmp_path / "volume").rename(tmp_path / "elsewhere")
    closed = read_limits(scan)
    closed.closing.set()
    with pytest.raises(ArchiveUnreachable):
        closed.read(lambda: opened(scan))


def test_the_root_is_the_folder_of_all_scans() -> None:
    assert archive_root(["/a/b/c/1.nii", "/a/b/d/2.nii"]) == "/a/b"
    assert archive_root(["/a/b/c/1.nii"]) == "/a/b/c"


def _fail(number: int | None) -> OpenScan:
    """As ``open_scan`` does when a system call, or (None) Python itself, fails."""
    raise read_failure(MemoryError() if number is None else OSError(number, os.strerror(number)))
