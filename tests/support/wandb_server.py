"""W&B test server on the loopback for the real client: ``with WandbServer()``, or run this file.

It serves what the client of a training run and of an analysis ask for, keeps every byte that it received, and can be
told to fail. Nothing leaves the machine.
"""

from __future__ import annotations

import argparse
import base64
import gzip
import json
import sys
import threading
import urllib.parse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal

if not __package__:  # run as a script
    sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.support.graphql_document import parse
from tests.support.wandb_graph import WandbGraph

API_KEY = "loopback" * 5
"""A key of the form that the client demands (40 characters); the server accepts any such unless told otherwise."""

Fault = Literal["error", "drop", "stall"]


@dataclass
class Received:
    """A request as it came; ``operation`` is the name of its GraphQL operation, if it is one."""

    method: str
    path: str
    body: bytes = field(repr=False)
    operation: str = ""


class WandbServer(WandbGraph):
    """The server; as a context manager it listens while the block lasts.

    Args:
        port: 0 takes a free one.
        api_key: the only key that is accepted; None accepts every key.
    """

    def __init__(self, port: int = 0, api_key: str | None = None) -> None:
        super().__init__()
        self.received: list[Received] = []
        self.failed: list[Received] = []
        self.api_key = api_key
        self.refused: set[str] = set()
        """Fields of the graph that are answered with an error for good, which the client does not retry."""
        self._fault: Fault | None = None
        self._faulty: Callable[[Received], bool] = lambda request: True
        self._released = threading.Event()
        self._http = _Listener(("127.0.0.1", port), self)
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}"
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)

    def __enter__(self) -> WandbServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._released.set()
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()

    def environment(self, temporary: Path, api_key: str = API_KEY) -> dict[str, str]:
        """Variables under which a client talks to this server, quickly, and leaves its files below ``temporary``."""
        folders = ("DIR", "CACHE_DIR", "DATA_DIR", "ARTIFACT_DIR", "CONFIG_DIR")
        return {
            "WANDB_BASE_URL": self.url,
            "WANDB_API_KEY": api_key,
            "WANDB_ERROR_REPORTING": "false",
            "WANDB_X_FILE_STREAM_TRANSMIT_INTERVAL": "1",  # whole seconds: 0.5 is taken for the default of 15
            "WANDB_X_FILE_STREAM_RETRY_WAIT_MIN_SECONDS": "1",
            **{f"WANDB_{name}": str(temporary / name.lower()) for name in folders},
        }

    # ------------------------------------------------------------------ faults
    @contextmanager
    def failing(self, fault: Fault, matching: str = "") -> Iterator[None]:
        """While the block lasts, requests fail: ``error`` is HTTP 500, ``drop`` closes the connection without a word,
        ``stall`` answers only after the block. ``matching`` narrows it to paths or operations that contain it.
        """
        self.begin_failing(fault, matching)
        try:
            yield
        finally:
            self.recover()

    def begin_failing(self, fault: Fault, matching: str = "") -> None:
        """As ``failing``, until ``recover``."""
        with self.changed:
            self._released = threading.Event()
            self._faulty = lambda request: matching in request.path or matching in request.operation
            self._fault = fault

    def recover(self) -> None:
        """Answer again; stalled requests are let go."""
        with self.changed:
            self._fault = None
            self._released.set()

    def fault_of(self, request: Received) -> Fault | None:
        """What is to happen to this request; a stalled one is held here."""
        with self.changed:
            fault = self._fault if self._fault and self._faulty(request) else None
            if fault:
                self.failed.append(request)
                self.changed.notify_all()
        if fault == "stall":
            self._released.wait()
            return "drop"
        return fault

    # ------------------------------------------------------------------ looking
    def wait_until(self, condition: Callable[[], object], timeout_s: float = 30.0) -> None:
        """Wait until something that arrived makes ``condition`` true; fails when it does not in time."""
        with self.changed:
            met = self.changed.wait_for(condition, timeout_s)
        assert met, (
            f"not within {timeout_s} s; received: {[(r.method, r.path, r.operation) for r in self.received[-20:]]}"
        )

    def holding(self, text: str) -> list[str]:
        """Paths of the requests and stored files in which ``text`` occurs."""
        needle = text.encode()
        requests = [request.path for request in self.received if needle in request.body or text in request.path]
        return requests + [key for key, blob in self.blobs.items() if needle in blob]

    @property
    def run(self) -> Any:
        """The only run."""
        (run,) = self.runs.values()
        return run

    def state(self) -> dict[str, Any]:
        """What is known, as plain values."""
        runs = {
            name: {"state": run.state, "exit_code": run.exit_code, "project": run.project}
            | {"config": run.settings, "summary": run.summary, "history": run.history, "fields": run.fields}
            for name, run in self.runs.items()
        }
        artifacts = [
            {"collection": a.collection, "version": a.version, "aliases": sorted(a.aliases), "state": a.state}
            for a in self.artifacts.values()
        ]
        return {"runs": runs, "artifacts": artifacts}

    # ------------------------------------------------------------------ answering
    def answer(self, request: Received, authorization: str | None) -> tuple[int, bytes]:
        """Status and body of the reply."""
        path = urllib.parse.unquote(request.path)
        if path.startswith("/storage/"):
            return self._storage(request, path.removeprefix("/storage/"))
        if path == "/state":
            with self.changed:
                return 200, json.dumps(self.state()).encode()
        if not self._authorized(authorization):
            return 401, b'{"errors": [{"message": "user is not logged in"}]}'
        if path == "/graphql":
            return self._graphql(json.loads(request.body))
        if path.endswith("/file_stream"):
            with self.changed:
                self.stream(path.split("/")[-2], json.loads(request.body))
            return 200, b"{}"
        return 404, b"{}"

    def _authorized(self, authorization: str | None) -> bool:
        kind, _, code = (authorization or "").partition(" ")
        if kind != "Basic":
            return False
        return self.api_key is None or base64.b64decode(code).decode() == f"api:{self.api_key}"

    def _graphql(self, message: dict[str, Any]) -> tuple[int, bytes]:
        try:
            with self.changed:
                document = parse(message["query"])
                if self.refused & {chosen.name for chosen in document.selections}:
                    raise ValueError("refused")
                data = document.execute(self.root(), message.get("variables") or {})
        except (ValueError, KeyError, TypeError) as error:
            text = f"{type(error).__name__}: {error}"
            return 400, json.dumps({"errors": [{"message": text}]}).encode()
        return 200, json.dumps({"data": data}).encode()

    def _storage(self, request: Received, key: str) -> tuple[int, bytes]:
        with self.changed:
            if request.method == "PUT":
                self.blobs[key] = request.body
                return 200, b""
            return (200, self.blobs[key]) if key in self.blobs else (404, b"")


class _Listener(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def __init__(self, address: tuple[str, int], owner: WandbServer) -> None:
        super().__init__(address, _Handler)
        self.owner = owner

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), ConnectionError):  # a client that went away is no fault of ours
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Listener

    def do_GET(self) -> None:
        self._serve()

    do_POST = do_PUT = do_HEAD = do_GET  # noqa: N815

    def log_message(self, format: str, *arguments: Any) -> None:
        """Silent: what arrived is in ``received``."""

    def _serve(self) -> None:
        owner = self.server.owner
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        request = Received(self.command, self.path, body)
        if self.path == "/graphql":
            request.operation = parse(json.loads(body)["query"]).name
        with owner.changed:
            owner.received.append(request)
        fault = owner.fault_of(request)
        if fault == "drop":
            self.close_connection = True
            return
        status, reply = (500, b"{}") if fault else owner.answer(request, self.headers.get("Authorization"))
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(reply)))
        self.end_headers()
        self.wfile.write(reply)
        with owner.changed:
            owner.changed.notify_all()


def main() -> None:
    """Serve until interrupted; the first line printed is the URL. ``GET /state`` tells what has arrived."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--port", type=int, default=0)
    arguments = parser.parse_args()
    with WandbServer(arguments.port) as server:
        print(server.url, flush=True)
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            return


if __name__ == "__main__":
    main()
