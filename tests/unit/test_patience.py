from __future__ import annotations

import errno
from pathlib import Path
from threading import Event

import pytest

from prism_ssl.contracts import PreparedScan
from prism_ssl.data.nifti import OpenScan
from prism_ssl.data.patience import Patience, archive_root, read_within, within
from prism_ssl.data.reject_reason import RejectReason
from prism_ssl.errors import ArchiveUnreachable, ScanRejected
from tests.pool_fakes import let_fail, make_hang, opened, write_scans

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


def patience(scan: PreparedScan, outage_patience_s: float = LONG_S, open_timeout_s: float = LONG_S) -> Patience:
    return Patience(archive_root([scan.record.nifti_path]), open_timeout_s, outage_patience_s, NoPauses())


def pauses_s(patience: Patience) -> list[float | None]:
    assert isinstance(patience.closing, NoPauses)
    return patience.closing.pauses_s


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

    waited = patience(scan)
    assert waited.read(read).shape == (40, 36, 30)
    assert waited.retries == 3
    assert pauses_s(waited) == [0.5, 1.0, 2.0]


def test_an_empty_mount_point_counts_as_away(scan: PreparedScan, tmp_path: Path) -> None:
    for path in (tmp_path / "volume" / "archive").iterdir():
        path.unlink()
    with pytest.raises(ArchiveUnreachable, match=r"away for 0 s \(data\.outage_patience_s\).* is its volume mounted\?"):
        patience(scan, outage_patience_s=0).read(lambda: opened(scan))


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.ENOTCONN])
def test_a_volume_that_fails_is_waited_for(scan: PreparedScan, number: int) -> None:
    outage = patience(scan, outage_patience_s=0)
    with pytest.raises(ArchiveUnreachable, match="No scan was put in quarantine"):
        outage.read(lambda: _fail(number))


def test_a_scan_that_is_missing_or_forbidden_among_others_is_its_own_fault(scan: PreparedScan) -> None:
    alone = patience(scan)
    with pytest.raises(ScanRejected, match="not_readable"):
        alone.read(lambda: _fail(errno.EACCES))
    Path(scan.record.nifti_path).unlink()
    with pytest.raises(ScanRejected, match="missing_path"):
        alone.read(lambda: opened(scan))
    assert pauses_s(alone) == []


def test_closing_ends_the_waiting(scan: PreparedScan, tmp_path: Path) -> None:
    (tmp_path / "volume").rename(tmp_path / "elsewhere")
    closed = patience(scan)
    closed.closing.set()
    with pytest.raises(ArchiveUnreachable):
        closed.read(lambda: opened(scan))


def test_the_root_is_the_folder_of_all_scans() -> None:
    assert archive_root(["/a/b/c/1.nii", "/a/b/d/2.nii"]) == "/a/b"
    assert archive_root(["/a/b/c/1.nii"]) == "/a/b/c"


def _fail(number: int) -> OpenScan:
    """As ``open_scan`` does when the system call fails."""
    error = OSError(number, "arranged")
    raise ScanRejected(RejectReason.NOT_READABLE, f"the file cannot be read: {error.strerror}") from error
