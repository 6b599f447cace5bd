"""Which limits are crossed, and that pruning stops as soon as none is."""

from __future__ import annotations

from pathlib import Path

import pytest

from prism_ssl.config.operations import QuotaConfig
from prism_ssl.train.guards.deletable_files import Places
from prism_ssl.train.guards.quota_limits import Finding, Reading, find_crossed, limits_crossed
from prism_ssl.utils.disk_usage import DiskUsage, disk_usage

MB = 10**6


def _reading(size: int = 0, inodes: int = 0, free: int = 10**12) -> Reading:
    return Reading(DiskUsage(size, inodes), free)


@pytest.mark.parametrize(
    ("config", "reading", "soft", "hard"),
    [
        (QuotaConfig(), _reading(10**15, 10**9), [], []),
        (QuotaConfig(home_soft_bytes=5), _reading(5), [], []),
        (QuotaConfig(home_soft_bytes=5), _reading(6), ["home_soft_bytes"], []),
        (QuotaConfig(home_hard_bytes=5), _reading(6), ["home_hard_bytes"], ["home_hard_bytes"]),
        (QuotaConfig(home_soft_bytes=5, home_hard_bytes=9), _reading(10), ["home_soft_bytes"], ["home_hard_bytes"]),
        (QuotaConfig(home_soft_inodes=5, home_hard_inodes=9), _reading(0, 6), ["home_soft_inodes"], []),
        (QuotaConfig(home_hard_inodes=9), _reading(0, 10), ["home_hard_inodes"], ["home_hard_inodes"]),
        (QuotaConfig(tmp_min_free_bytes=7), _reading(free=6), ["tmp_min_free_bytes"], ["tmp_min_free_bytes"]),
        (QuotaConfig(tmp_min_free_bytes=7), Reading(None, None), [], []),
    ],
)
def test_a_limit_is_crossed_only_above_it(
    config: QuotaConfig, reading: Reading, soft: list[str], hard: list[str]
) -> None:
    assert list(limits_crossed(config, reading, "soft")) == [f"quota.{name}" for name in soft]
    assert list(limits_crossed(config, reading, "hard")) == [f"quota.{name}" for name in hard]


@pytest.fixture
def places(tmp_path: Path) -> Places:
    """A home of about 10 MB: 4 MB of the user's own, and six unfinished writes of 1 MB in an old run."""
    old = tmp_path / "home" / "runs" / "old"
    old.mkdir(parents=True)
    for name in ("config.json", ".lock"):
        (old / name).touch()
    for number in range(6):
        (old / f".last.ckpt.{number}.tmp").write_bytes(bytes(MB))
    (tmp_path / "home" / "thesis").write_bytes(bytes(4 * MB))
    (tmp_path / "tmp").mkdir()
    return Places(tmp_path / "home", tmp_path / "tmp", tmp_path / "home" / "runs")


def _look(places: Places, **limits: int) -> Finding:
    return find_crossed(QuotaConfig(tmp_min_free_bytes=0, **limits), places, lambda: True)


def test_pruning_stops_as_soon_as_the_soft_limit_is_met(places: Places) -> None:
    finding = _look(places, home_soft_bytes=int(7.5 * MB))
    assert [leftover.path.name for leftover, _ in finding.removed] == [f".last.ckpt.{n}.tmp" for n in range(3)]
    assert finding.reading.home == disk_usage(places.home)
    assert finding.excess == {}


def test_a_note_says_why_and_what_was_removed(places: Places) -> None:
    note = _look(places, home_soft_bytes=8 * MB).note()
    assert note is not None
    assert note.startswith("the home directory holds 10.0 MB, quota.home_soft_bytes is 8.0 MB: removed 3.0 MB in 3 ")
    assert note.endswith("3 x unfinished write (.last.ckpt.0.tmp, .last.ckpt.1.tmp, .last.ckpt.2.tmp)")


def test_below_the_soft_limit_nothing_is_removed_and_nothing_said(places: Places) -> None:
    finding = _look(places, home_soft_bytes=20 * MB)
    assert (finding.removed, finding.note()) == ((), None)


def test_what_pruning_cannot_help_stays_an_excess_and_the_users_own_stays(places: Places) -> None:
    finding = _look(places, home_soft_bytes=MB, home_hard_bytes=2 * MB)
    assert len(finding.removed) == 6
    assert list(finding.excess) == ["quota.home_hard_bytes"]
    assert (places.home / "thesis").stat().st_size == 4 * MB


def test_a_full_temporary_root_costs_the_home_nothing_that_would_not_help(places: Places, tmp_path: Path) -> None:
    shared_memory = Path("/dev/shm")
    if not shared_memory.is_dir() or shared_memory.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("no second file system here")
    elsewhere = Places(places.home, shared_memory, places.runs)
    finding = find_crossed(QuotaConfig(tmp_min_free_bytes=2**60), elsewhere, lambda: True)
    assert list(finding.excess) == ["quota.tmp_min_free_bytes"]
    assert finding.removed == ()


def test_leftovers_outside_the_home_do_not_go_for_the_homes_sake(places: Places) -> None:
    stale = places.tmp_root / "scratch" / "pool-0-1"
    stale.mkdir(parents=True)
    (stale / ".lock").touch()
    _look(places, home_soft_bytes=MB)
    assert stale.exists()
    find_crossed(QuotaConfig(tmp_min_free_bytes=2**60), places, lambda: True)
    assert not stale.exists()
