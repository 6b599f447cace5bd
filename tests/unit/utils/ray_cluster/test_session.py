from __future__ import annotations

import inspect
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread

import pytest

from prism_ssl.errors import ClusterUnreachable, MachineTrouble
from prism_ssl.utils.ray_cluster import session as ray_session
from prism_ssl.utils.ray_cluster.session import refuse_dead_head, start_local

SETTINGS_FRAME = bytes((0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 100))


@contextmanager
def listener(*words: bytes) -> Iterator[str]:
    """The address of a server that says these words to the first who connects, and then hangs up; no words: nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            client, _ = server.accept()
            with client:
                client.recv(1024)
                for word in words:
                    client.sendall(word)

        thread = Thread(target=serve, daemon=True)
        if words:
            thread.start()
        yield f"127.0.0.1:{server.getsockname()[1]}"


def test_a_head_that_is_gone_is_named_at_once_and_one_that_greets_is_not() -> None:
    with listener(SETTINGS_FRAME[:4], SETTINGS_FRAME[4:]) as address:
        refuse_dead_head(address)
    with pytest.raises(ClusterUnreachable, match=rf"RAY_ADDRESS is {address} and no Ray head answers there .*unset"):
        refuse_dead_head(address)


@pytest.mark.parametrize("words", [(), (b"",), (b"HTTP/1.1 400 Bad Request\r\n\r\n",), (b"SSH-2.0-OpenSSH_9.6\r\n",)])
def test_another_listener_is_named(words: tuple[bytes, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_session, "_HEAD_ANSWERS_WITHIN_S", 0.2)
    with (
        listener(*words) as address,
        pytest.raises(ClusterUnreachable, match="what listens there is no Ray head"),
    ):
        refuse_dead_head(address)


def test_the_address_auto_without_a_head_is_named(tmp_path: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path; from prism_ssl.utils.ray_cluster.session import ray_session\n"
        "import ray._private.services as services; services.find_gcs_addresses = set  # whatever else runs here\n"
        "with ray_session(1, 2**27, Path(sys.argv[1])): pass"
    )
    told = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        env=os.environ | {"RAY_ADDRESS": "auto", "RAY_TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "ClusterUnreachable: RAY_ADDRESS is auto and no Ray head runs on this machine; start it" in told.stderr


@pytest.mark.parametrize("address", ["ray://127.0.0.1", "ray://127.0.0.1:1"])
def test_addresses_that_ray_looks_up_itself_are_left_to_it(address: str) -> None:
    refuse_dead_head(address)


@pytest.mark.parametrize(
    ("of_ray", "named"),
    [
        ("The current node timed out during startup. This could happen because", r"not up .*\(load \d+ on \d+ CPUs\)"),
        ("something else", "something else"),
    ],
)
def test_a_machine_too_busy_for_ray_is_named_and_other_errors_stay(
    of_ray: str, named: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import ray
    import ray._private.node as node

    assert ray_session._TOO_SLOW in inspect.getsource(node)  # so Ray says it

    def init(**_: object) -> None:
        raise RuntimeError(of_ray)

    monkeypatch.setattr(ray, "init", init)
    with pytest.raises(Exception, match=named) as raised:
        start_local(1, 2**27, tmp_path, dashboard=False)
    assert isinstance(raised.value, MachineTrouble) == ("load" in named)
