"""The Ray cluster of a run: the one that is given, or a local one that leaves nothing behind."""

from __future__ import annotations

import logging
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from prism_ssl.utils.fs import FolderLock, private_folder, remove_stale_folders

_SOCKET_PATH_BYTES = 107 - 63  # the kernel's limit, less what Ray appends to its temporary folder


@contextmanager
def ray_session(cpus: int, object_store_bytes: int, tmp_root: Path) -> Iterator[None]:
    """A usable Ray: the session that is already there, the cluster of ``RAY_ADDRESS``, or a local one.

    A local cluster listens with token authentication (the token is a 0600 file that ends with the run), has at
    least ``cpus`` logical CPUs, and is shut down and removed from disk on every way out.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    import ray

    _quiet_ray()
    if ray.is_initialized():
        yield
        return
    if os.environ.get("RAY_ADDRESS"):
        with _shutdown_at_end():
            ray.init(address=os.environ["RAY_ADDRESS"], log_to_driver=False)
            yield
        return
    parent = private_folder(_short_parent(tmp_root))
    remove_stale_folders(parent)
    folder = private_folder(parent / str(os.getpid()))
    lock = FolderLock(folder)
    lock.acquire()
    try:
        with _token(folder), _shutdown_at_end():
            ray.init(
                address="local",
                num_cpus=max(cpus, os.cpu_count() or 1),
                object_store_memory=object_store_bytes,
                include_dashboard=False,
                log_to_driver=False,
                _temp_dir=str(folder),
            )
            yield
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        lock.release()


@contextmanager
def _shutdown_at_end() -> Iterator[None]:
    import ray

    try:
        yield
    finally:
        ray.shutdown()


@contextmanager
def _token(folder: Path) -> Iterator[None]:
    """Token authentication for this cluster only; Ray would otherwise write a world-readable one to the home."""
    path = folder / "token"
    path.touch(mode=0o600)
    path.write_text(secrets.token_hex(32))
    before = {name: os.environ.get(name) for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN_PATH")}
    os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN_PATH=str(path))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _short_parent(tmp_root: Path) -> Path:
    parent = tmp_root / "r"
    if len(str(parent)) + 10 <= _SOCKET_PATH_BYTES:
        return parent
    return Path("/tmp") / f"prism-{os.getuid()}"


def _quiet_ray() -> None:
    """What Ray says below a warning is about Ray, not about the run."""
    for name in ("ray", "ray.train", "ray.data", "ray.tune"):
        logging.getLogger(name).setLevel(logging.WARNING)
