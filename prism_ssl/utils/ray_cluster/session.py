"""Ray session of a process: the cluster of RAY_ADDRESS, or a local one that is removed afterwards.

Importing this module does not import Ray: Ray reads its authentication settings once, at its first import.
"""

from __future__ import annotations

import logging
import os
import secrets
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from prism_ssl.errors import ClusterUnreachable, MachineTrouble
from prism_ssl.utils.fs import everything_below, owned_folder
from prism_ssl.utils.machine import usable_cpus
from prism_ssl.utils.ray_cluster.cleanup_after_kill import after_death

_SOCKET_PATH_BYTES = 107 - 63  # the kernel's limit, less what Ray appends to its temporary folder

_HEAD_ANSWERS_WITHIN_S = 10.0
_SETTINGS, _FRAME_HEADER_BYTES = 4, 9  # of HTTP/2
_TOO_SLOW = "node timed out during startup"  # in Ray's words; it waits 30 s, whatever is set
_ADVICE = "start it, or unset RAY_ADDRESS to use a local cluster"


@contextmanager
def ray_environment(tmp_root: Path) -> Iterator[None]:
    """Set what Ray reads at its first import, for a process that will start or join a cluster.

    A local cluster gets token authentication with a 0600 token file that exists until the block ends: Ray's default
    writes a world-readable token to the home, and its ports listen on every interface of a shared node. Values already
    in the environment (``RAY_AUTH_MODE``, ``RAY_ADDRESS``) are kept.
    """
    assert "ray" not in sys.modules, "ray_environment must be entered before Ray is imported"
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    if os.environ.get("RAY_ADDRESS") or os.environ.get("RAY_AUTH_MODE"):
        with everything_below(tmp_root):
            yield
        return
    # Watched from here on: Ray's import and what follows take seconds in which the process may be killed.
    with (
        everything_below(tmp_root),
        owned_folder(tmp_root / "ray_token") as folder,
        after_death(folder, tmp_root),
    ):
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
def ray_session(cpus: int, object_store_bytes: int, tmp_root: Path, dashboard: bool = False) -> Iterator[str | None]:
    """A Ray session: the existing one, the cluster of ``RAY_ADDRESS``, or a local cluster.

    A local cluster has at least ``cpus`` logical CPUs. It is shut down and removed from disk on every exit, even if
    this process is killed. ``dashboard``: whether a local cluster gets Ray's dashboard, on the loopback and behind the
    token of ``ray_environment``; yields the dashboard's host and port, otherwise None.
    """
    import ray

    _quiet_ray()
    if ray.is_initialized():
        yield None
    elif os.environ.get("RAY_ADDRESS"):
        try:
            _join(os.environ["RAY_ADDRESS"])
            yield None
        finally:
            ray.shutdown()
    else:
        with owned_folder(_short_parent(tmp_root)) as folder, after_death(folder, tmp_root):
            try:
                context = start_local(max(cpus, usable_cpus()), object_store_bytes, folder, dashboard)
                yield (context.dashboard_url or None) if dashboard else None
            finally:
                ray.shutdown()


def start_local(cpus: int, object_store_bytes: int, folder: Path, dashboard: bool) -> Any:
    """Start a local cluster with its files in ``folder``; returns Ray's context.

    Raises:
        MachineTrouble: Ray's processes were not up in time, because others use the machine.
    """
    import ray

    try:
        with _own_answer_to_sigterm():
            return ray.init(
                address="local",
                num_cpus=cpus,
                object_store_memory=object_store_bytes,
                include_dashboard=dashboard,
                dashboard_host="127.0.0.1",
                logging_level=logging.WARNING,
                log_to_driver=False,
                _temp_dir=str(folder),
            )
    except Exception as error:
        if _TOO_SLOW not in str(error):
            raise
        raise MachineTrouble(
            f"Ray's processes were not up after half a minute (load {os.getloadavg()[0]:.0f} on {usable_cpus()} CPUs); "
            "other processes use this machine: run the same command again when they are done, or elsewhere"
        ) from error


def dashboard_words(address: str) -> str:
    """One line for the console: the dashboard's URL, and the command that prints its token."""
    token = os.environ.get("RAY_AUTH_TOKEN_PATH")
    return f"Ray dashboard: http://{address}, from this machine only" + (f"; its token: cat {token}" if token else "")


@contextmanager
def _own_answer_to_sigterm() -> Iterator[None]:
    """``ray.init`` installs a SIGTERM handler that calls ``sys.exit(15)``. If the process has a handler of its own, the
    block restores it at the end, and a SIGTERM inside the block raises ``KeyboardInterrupt``."""
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
    """Raise ``ClusterUnreachable`` if no Ray head answers: Ray itself would retry for ten minutes and more."""
    host, _, port = address.rpartition(":")
    if not (host and port.isdigit()) or "://" in address:
        return  # "ray://...", which Ray itself checks within seconds
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=_HEAD_ANSWERS_WITHIN_S) as head:
            answers = os.environ.get("RAY_USE_TLS") == "1" or _speaks_http2(head)
    except OSError as error:
        raise ClusterUnreachable(
            f"RAY_ADDRESS is {address} and no Ray head answers there ({error.strerror or error}); {_ADVICE}"
        ) from error
    if not answers:
        raise ClusterUnreachable(
            f"RAY_ADDRESS is {address} and what listens there is no Ray head: it does not answer as one within "
            f"{_HEAD_ANSWERS_WITHIN_S:.0f} s; {_ADVICE}"
        )


def _speaks_http2(server: socket.socket) -> bool:
    """Whether a server opens with a SETTINGS frame, as gRPC, which Ray uses, must (RFC 9113, sections 3.4 and 6.5)."""
    server.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, _SETTINGS, 0, 0, 0, 0, 0)))
    frame, deadline = b"", time.monotonic() + _HEAD_ANSWERS_WITHIN_S
    while len(frame) < _FRAME_HEADER_BYTES:
        server.settimeout(max(0.01, deadline - time.monotonic()))
        try:
            more = server.recv(_FRAME_HEADER_BYTES - len(frame))
        except TimeoutError:
            return False
        if not more:
            return False
        frame += more
    return frame[3] == _SETTINGS and frame[5:] == bytes(4)


def _join(address: str) -> None:
    """Join the cluster of RAY_ADDRESS; Ray's errors become ``ClusterUnreachable``."""
    import ray
    from ray._private.services import canonicalize_bootstrap_address

    try:
        found = canonicalize_bootstrap_address(address) if address == "auto" else address
    except ConnectionError:
        found = None
    if found is None or found == "auto":
        raise ClusterUnreachable(f"RAY_ADDRESS is {address} and no Ray head runs on this machine; {_ADVICE}")
    refuse_dead_head(found)
    try:
        with _own_answer_to_sigterm():
            ray.init(address=found, logging_level=logging.WARNING, log_to_driver=False)
    except Exception as error:
        raise ClusterUnreachable(
            f"RAY_ADDRESS is {address} and its cluster cannot be joined ({type(error).__name__}: "
            f"{str(error).strip().splitlines()[0] if str(error).strip() else 'no message'}); is its token in "
            f"RAY_AUTH_TOKEN_PATH, and does it run Ray {ray.__version__}? {_ADVICE}"
        ) from error


def _short_parent(tmp_root: Path) -> Path:
    parent = tmp_root / "r"
    if len(str(parent)) + 10 <= _SOCKET_PATH_BYTES:
        return parent
    return Path("/tmp") / f"prism-{os.getuid()}"


def _quiet_ray() -> None:
    """Silence Ray's messages below warnings: they concern Ray, not the run."""
    for name in ("ray", "ray.train", "ray.data", "ray.tune"):
        logging.getLogger(name).setLevel(logging.WARNING)
