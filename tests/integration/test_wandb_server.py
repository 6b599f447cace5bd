"""The test server against the real client: what is logged, uploaded and read back is what the server holds."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import wandb

from tests.conftest import REPOSITORY
from tests.support.graphql_document import parse
from tests.support.wandb_server import API_KEY, WandbServer


def _start(**settings: Any) -> Any:
    return wandb.init(
        project="prism-ssl", id="abc", resume="allow", settings=wandb.Settings(silent=True, console="off"), **settings
    )


def _upload(run: Any, folder: Path, content: bytes) -> Any:
    path = folder / "file.bin"
    path.write_bytes(content)
    artifact = wandb.Artifact("checkpoint-abc", "checkpoint")
    artifact.add_file(str(path), name="last.ckpt", policy="immutable", skip_cache=True)
    return run.log_artifact(artifact).wait(timeout=30)


def test_rows_config_summary_and_the_end_arrive(wandb_server: WandbServer) -> None:
    run = _start(config={"loss.w_distance": 0.5}, group="sweep", tags=["a"])
    for step in (10, 20):
        run.log({"global_step": step, "loss/total": 1 / step})
    run.finish(exit_code=3)

    told = wandb_server.run
    assert told.global_steps == [10, 20]
    assert told.settings == {"loss.w_distance": 0.5}
    assert told.summary["loss/total"] == 0.05
    assert (told.state, told.exit_code, told.fields["groupName"]) == ("failed", 3, "sweep")


def test_a_resumed_run_goes_on_in_the_same_place(wandb_server: WandbServer) -> None:
    for step in (1, 2):
        run = _start()
        assert (run.resumed, run.starting_step) == (step == 2, step - 1)
        run.log({"global_step": step, "loss/total": 1.0})
        run.finish()
    assert wandb_server.run.global_steps == [1, 2]
    assert wandb_server.run.state == "finished"


def test_an_artifact_comes_back_whole_and_old_versions_can_be_pruned(wandb_server: WandbServer, tmp_path: Path) -> None:
    run = _start()
    for content in (b"first", b"second", b"second"):
        uploaded = _upload(run, tmp_path, content)
    assert uploaded.version == "v1", "the same content is no new version"

    artifact = run.use_artifact("checkpoint-abc:latest")
    folder = artifact.download(root=str(tmp_path / "down"), skip_cache=True)
    artifact.verify(folder)
    assert (Path(folder) / "last.ckpt").read_bytes() == b"second"
    for version in wandb.Api().artifacts("checkpoint", "tester/prism-ssl/checkpoint-abc"):
        if not version.aliases:
            version.delete()
    run.finish()
    assert [version.version for version in wandb_server.versions("checkpoint-abc")] == [1]


def test_what_is_damaged_on_the_server_does_not_verify(wandb_server: WandbServer, tmp_path: Path) -> None:
    run = _start()
    _upload(run, tmp_path, b"content")
    (key,) = (key for key in wandb_server.blobs if key.endswith("last.ckpt"))
    wandb_server.blobs[key] = b"damaged"
    artifact = run.use_artifact("checkpoint-abc:latest")
    folder = artifact.download(root=str(tmp_path / "down"), skip_cache=True)
    with pytest.raises(ValueError, match=r"Digest mismatch"):
        artifact.verify(folder)
    run.finish()


def test_the_api_reads_runs_config_summary_and_history(wandb_server: WandbServer) -> None:
    for number in range(3):
        run = wandb.init(project="prism-ssl", id=f"r{number}", group=f"g{number % 2}", config={"loss.w": number},
                         settings=wandb.Settings(silent=True, console="off"))  # fmt: skip
        run.log({"global_step": 1, "a": number})
        run.log({"global_step": 2, "b": number})
        run.finish(exit_code=number)
    api = wandb.Api()
    runs = api.runs("tester/prism-ssl", filters={"group": "g0"}, lazy=False)
    assert [(run.id, run.state, run.config, run.summary["a"]) for run in runs] == [
        ("r0", "finished", {"loss.w": 0}, 0),
        ("r2", "failed", {"loss.w": 2}, 2),
    ]
    assert [run.id for run in api.runs("prism-ssl", order="-created_at")] == ["r2", "r1", "r0"]
    told = api.run("tester/prism-ssl/r1")
    assert [row["global_step"] for row in told.scan_history(use_cache=False)] == [1, 2]
    assert [row["b"] for row in told.scan_history(keys=["global_step", "b"], use_cache=False)] == [1]
    assert api.run("tester/prism-ssl/r0").update_state("failed")
    assert wandb_server.runs["r0"].state == "failed"
    with pytest.raises(ValueError, match="Could not find project other"):
        len(api.runs("tester/other"))


def test_a_wrong_key_is_refused(wandb_server: WandbServer) -> None:
    wandb_server.api_key = "another" + API_KEY
    with pytest.raises(wandb.Error, match="401"):
        _start()
    assert wandb_server.runs == {}


@pytest.mark.parametrize("fault", ["error", "drop", "stall"])
def test_a_fault_is_felt_and_nothing_is_lost_once_it_is_over(wandb_server: WandbServer, fault: Any) -> None:
    run = _start(config={"a": 1})
    with wandb_server.failing(fault, matching="file_stream"):
        run.log({"global_step": 1, "loss/total": 1.0})
        wandb_server.wait_until(lambda: wandb_server.failed)
        assert wandb_server.run.global_steps == []
    run.finish()
    assert wandb_server.run.global_steps == [1]


def test_everything_received_can_be_searched(wandb_server: WandbServer, tmp_path: Path) -> None:
    run = _start(config={"a": "needle-in-config"})
    run.log({"global_step": 1, "text": "needle-in-row"})
    _upload(run, tmp_path, b"needle-in-artifact")
    run.finish()
    for where, path in {"config": "/graphql", "row": "file_stream", "artifact": "last.ckpt"}.items():
        assert any(path in holder for holder in wandb_server.holding(f"needle-in-{where}"))
    assert wandb_server.holding("needle-nowhere") == []


def test_the_server_runs_from_the_command_line() -> None:
    server = subprocess.Popen(
        [sys.executable, str(REPOSITORY / "tests/support/wandb_server.py"), "--port", "0"],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert server.stdout is not None
        url = server.stdout.readline().strip()
        with urllib.request.urlopen(f"{url}/state", timeout=10) as reply:
            assert json.loads(reply.read()) == {"runs": {}, "artifacts": []}
    finally:
        server.terminate()
        server.wait(timeout=10)
        assert server.stdout is not None
        server.stdout.close()


def test_a_document_gets_what_it_asks_for_and_null_for_what_is_unknown() -> None:
    document = parse(
        """query Q($id: ID!, $more: Boolean = false) {  # a comment
             found: node(id: $id, sizes: [1, 2.5], at: {x: "a\\"b"}) {
               ...Part  unknown  extra @include(if: $more)  kept @skip(if: $more)
               ... on Thing { inner { deep } }
             } }
           fragment Part on Thing { name }"""
    )
    node = {"name": "n", "extra": 1, "kept": 2, "inner": [{"deep": True, "not_asked": 0}]}
    seen: list[Any] = []

    def find(id: str, sizes: list[float], at: dict[str, str]) -> dict[str, Any]:
        seen.append((id, sizes, at))
        return node

    expected = {"name": "n", "unknown": None, "kept": 2, "inner": [{"deep": True}]}
    assert document.execute({"node": find}, {"id": "7"}) == {"found": expected}
    assert seen == [("7", [1, 2.5], {"x": 'a"b'})]
    with pytest.raises(ValueError, match="ends too early"):
        parse("query { a { b ")
