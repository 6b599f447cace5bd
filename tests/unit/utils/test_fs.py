"""Files that are whole or absent, locks that end with their process, and the smallest memory limit."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from prism_ssl.errors import ConfigError
from prism_ssl.utils.fs import (
    TMP_ROOT,
    FolderLock,
    atomic_file,
    everything_below,
    home_folder,
    kept_root,
    private_folder,
    remove_stale_folders,
    temporary_root,
    user_name,
    write_atomic,
)

HOLD = "import sys; from pathlib import Path; from prism_ssl.utils.fs import FolderLock\n" \
       "lock = FolderLock(Path(sys.argv[1])); print(lock.acquire(), flush=True); sys.stdin.read()"  # fmt: skip


class Crash(Exception):
    pass


def _holder(folder: Path) -> subprocess.Popen[str]:
    """A process that holds the lock of ``folder`` until it is killed."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "True\n"
    return process


def _kill(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGKILL)
    process.communicate()


# ---------------------------------------------------------------------- files
def test_a_file_is_the_old_one_until_the_block_ends_well(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    write_atomic(path, b"old")
    with atomic_file(path) as file:
        file.write(b"new")
        file.flush()
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


def test_the_bytes_are_on_the_disk_before_the_name_and_the_name_before_the_return(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, synced = tmp_path / "last.ckpt", list[tuple[bool, int | None, bool]]()

    def note(descriptor: int) -> None:
        about = os.fstat(descriptor)
        folder = stat.S_ISDIR(about.st_mode)
        synced.append((folder, None if folder else about.st_size, path.exists()))

    monkeypatch.setattr(os, "fsync", note)
    write_atomic(path, b"new")
    assert synced == [(False, 3, False), (True, None, True)]


@pytest.mark.parametrize("old", [b"old", None])
def test_a_block_that_raises_leaves_what_was_there_and_nothing_else(tmp_path: Path, old: bytes | None) -> None:
    path = tmp_path / "last.ckpt"
    if old is not None:
        path.write_bytes(old)

    def die_halfway() -> None:
        with atomic_file(path) as file:
            file.write(b"half of the new")
            raise Crash("power cut")

    with pytest.raises(Crash, match="power cut"):
        die_halfway()
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == ({} if old is None else {"last.ckpt": old})


def test_a_private_folder_is_closed_to_others_also_when_it_was_open_before(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir(mode=0o755)
    assert private_folder(tmp_path / "run").stat().st_mode & 0o777 == 0o700
    assert private_folder(tmp_path / "a" / "b").stat().st_mode & 0o777 == 0o700


# ---------------------------------------------------------------------- locks
def test_one_process_at_a_time_holds_a_folder_and_a_kill_frees_it(tmp_path: Path) -> None:
    lock, other = FolderLock(tmp_path), _holder(tmp_path)
    try:
        assert not lock.acquire()
    finally:
        _kill(other)
    assert lock.acquire()
    assert not FolderLock(tmp_path).acquire()
    lock.release()
    lock.release()
    assert FolderLock(tmp_path).acquire()


def test_only_folders_of_dead_owners_are_removed(tmp_path: Path) -> None:
    for name in ("alive", "dead", "foreign"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "volume.raw").write_bytes(b"voxels")
    alive = _holder(tmp_path / "alive")
    try:
        _kill(_holder(tmp_path / "dead"))
        assert remove_stale_folders(tmp_path) == 1
        assert {folder.name for folder in tmp_path.iterdir()} == {"alive", "foreign"}
        assert (tmp_path / "alive" / "volume.raw").exists()
    finally:
        _kill(alive)
    assert remove_stale_folders(tmp_path / "never made") == 0


# ---------------------------------------------------------------------- places and limits
def test_the_temporary_root_is_that_of_the_user_and_the_job(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGNAME", "prism-ssl-test")
    monkeypatch.setenv("SLURM_JOB_ID", "4711")
    root = Path("/tmp/prism-ssl-test/prism_ssl")
    try:
        assert temporary_root() == root / "4711"
        assert (root / "4711").stat().st_mode & 0o777 == 0o700
        monkeypatch.delenv("SLURM_JOB_ID")
        assert temporary_root() == root
    finally:
        for folder in (root / "4711", root, root.parent):
            folder.rmdir()


def test_a_user_without_a_name_or_a_home_is_given_both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nameless = 4_000_000_000
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME", "HOME", TMP_ROOT):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "getuid", lambda: nameless)
    assert user_name() == str(nameless)
    assert home_folder() == Path(os.devnull)
    with everything_below(tmp_path):
        assert os.environ["LOGNAME"] == str(nameless)
        assert home_folder() == tmp_path
    assert "HOME" not in os.environ


def test_a_temporary_root_that_cannot_be_used_is_named_with_an_option_that_helps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    monkeypatch.setenv("LOGNAME", str(tmp_path / "a file"))  # in place of /tmp/$USER
    (tmp_path / "a file").write_text("somebody else's")
    for folder in (temporary_root, kept_root):
        with pytest.raises(ConfigError, match=r"temporary root .*a file/prism_ssl cannot be used .*--run\.tmp-root"):
            folder()
    given = temporary_root(str(tmp_path / "given"))
    with everything_below(given):
        assert temporary_root() == kept_root() == given
    with pytest.raises(ConfigError, match="cannot be used"):
        temporary_root()


def test_compiled_code_and_pictures_go_below_the_given_temporary_root(tmp_path: Path) -> None:
    (tmp_path / "a file").write_text("somebody else's")
    code = (
        "import sys; from prism_ssl.utils.fs import everything_below, temporary_root\n"
        "with everything_below(temporary_root(sys.argv[1])):\n"
        "    import prism_ssl.data.extract.cpu, prism_ssl.inspect.view_panel"
    )
    environment = {name: value for name, value in os.environ.items() if name not in ("MPLCONFIGDIR", "NUMBA_CACHE_DIR")}
    environment |= {"LOGNAME": str(tmp_path / "a file")}
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "given")], env=environment, check=True)
    found = {path.name.partition("-")[0] for path in (tmp_path / "given" / "prism_ssl").iterdir()}
    assert {"numba", "matplotlib"} <= found


def test_a_given_temporary_root_is_left_alone_but_for_a_private_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "4711")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    (tmp_path / "here").chmod(0o1777)
    assert temporary_root("here") == tmp_path / "here" / "prism_ssl"
    assert (tmp_path / "here").stat().st_mode & 0o7777 == 0o1777
    assert (tmp_path / "here" / "prism_ssl").stat().st_mode & 0o777 == 0o700
