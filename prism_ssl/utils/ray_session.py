"""The Ray cluster of a process: the one that is given, or a local one that leaves nothing behind.

This module does not import Ray when it is imported: Ray reads its authentication settings once, at its first import.
"""

from __future__ import annotations

import logging
import os
import secrets
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from prism_ssl.errors import ClusterUnreachable
from prism_ssl.utils.fs import owned_folder
from prism_ssl.utils.last_rites import after_death
from prism_ssl.utils.machine import usable_cpus

_SOCKET_PATH_BYTES = 107 - 63  # the kernel's limit, less what Ray appends to its temporary folder

_HEAD_ANSWERS_WITHIN_S = 10.0


@contextmanager
def ray_environment(tmp_root: Path) -> Iterator[None]:
    """Settings that Ray reads at its first import, for a process that will start or join a cluster.

    A local cluster gets token authentication with a 0600 token file that lives as long as the block: Ray's default
    writes a world-readable token to the home, and its ports listen on every interface of a shared node.
    What the environment already says (``RAY_AUTH_MODE``, ``RAY_ADDRESS``) is left alone.
    """
    assert "ray" not in sys.modules, "ray_environment must be entered before Ray is imported"
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    if os.environ.get("RAY_ADDRESS") or os.environ.get("RAY_AUTH_MODE"):
        yield
        return
    with owned_folder(tmp_root / "ray_token") as folder:
        path = folder / "token"
        path.touch(mode=0o600)
        path.write_text(secrets.token_hex(32))
        os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN_PATH=str(path))
        try:
            yield
        finally:
            os.environ.pop("RAY_AUTH_MODE", None)
            os.environ.pop("RAY_AUTH_TOKEN_PATH", None)


@contextmanager
def ray_session(cpus: int, object_store_bytes: int, tmp_root: Path) -> Iterator[None]:
    """A usable Ray: the session that is already there, the cluster of ``RAY_ADDRESS``, or a local one.

    A local cluster has at least ``cpus`` logical CPUs. It is shut down and removed from disk on every way out, also
    when this process is killed.
    """
    import ray

    _quiet_ray()
    if ray.is_initialized():
        yield
    elif os.environ.get("RAY_ADDRESS"):
        refuse_dead_head(os.environ["RAY_ADDRESS"])
        try:
            with _own_answer_to_sigterm():
                ray.init(address=os.environ["RAY_ADDRESS"], logging_level=logging.WARNING, log_to_driver=False)
            yield
        finally:
            ray.shutdown()
    else:
        with owned_folder(_short_parent(tmp_root)) as folder, after_death(folder, tmp_root):
            try:
                with _own_answer_to_sigterm():
                    ray.init(
                        address="local",
                        num_cpus=max(cpus, usable_cpus()),
                        object_store_memory=object_store_bytes,
                        include_dashboard=False,
                        logging_level=logging.WARNING,
                        log_to_driver=False,
                        _temp_dir=str(folder),
                    )
                yield
            finally:
                ray.shutdown()


@contextmanager
def _own_answer_to_sigterm() -> Iterator[None]:
    """``ray.init`` answers SIGTERM by ``sys.exit(15)``, then and ever after; where the process has an answer of its
    own, that one holds again after the block, and a SIGTERM in the block is ``KeyboardInterrupt``."""
    before = signal.getsignal(signal.SIGTERM)
    if threading.current_thread() is not threading.main_thread() or not callable(before):
        yield
        return
    try:
        yield
    except SystemExit as error:
        if error.code == signal.SIGTERM:
            raise KeyboardInterrupt from None
        raise
    finally:
        signal.signal(signal.SIGTERM, before)


def refuse_dead_head(address: str) -> None:
    """Raise ``ClusterUnreachable`` where nothing listens: joining a dead head takes Ray more than five minutes."""
    host, _, port = address.rpartition(":")
    if not (host and port.isdigit()):
        return  # "auto" or "ray://...", which Ray looks up by itself
    try:
        socket.create_connection((host, int(port)), timeout=_HEAD_ANSWERS_WITHIN_S).close()
    except OSError as error:
        raise ClusterUnreachable(
            f"RAY_ADDRESS is {address} and no Ray head answers there ({error.strerror or error}); start it, or unset "
            "RAY_ADDRESS to use a local cluster"
        ) from error


def _short_parent(tmp_root: Path) -> Path:
    parent = tmp_root / "r"
    if len(str(parent)) + 10 <= _SOCKET_PATH_BYTES:
        return parent
    return Path("/tmp") / f"prism-{os.getuid()}"


def _quiet_ray() -> None:
    """What Ray says below a warning is about Ray, not about the run."""
    for name in ("ray", "ray.train", "ray.data", "ray.tune"):
        logging.getLogger(name).setLevel(logging.WARNING)
