"""The whole path on a CPU, and the law that an interruption changes nothing."""

from __future__ import annotations

import dataclasses
import io
import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from rich.console import Console

import prism_ssl
from prism_ssl.config.defaults import apply_overrides, phantom_cpu
from prism_ssl.config.schema import PrismConfig
from prism_ssl.data.archive import prepare_archive, select_scans
from prism_ssl.errors import CheckpointError, ConfigError, ReplacementFailed, RunInterrupted
from prism_ssl.eval.quality.evidence import read_evidence
from prism_ssl.records.run_files import is_probe, read_history, read_summary
from prism_ssl.train.checkpoint import load_checkpoint
from prism_ssl.train.run.loop_config import LoopConfig
from prism_ssl.train.train_loop import train_loop
from prism_ssl.train.trainer import train
from prism_ssl.train.worker import Attempt
from tests.support.wandb_server import WandbServer
from tune.evaluate_run import evaluate_run


def small(catalog: Path, root: Path, **overrides: object) -> PrismConfig:
    settings: dict[str, object] = {
        "data.catalog_path": str(catalog), "data.n_patches": 16, "data.warm_pool_size": 3, "data.visits_per_scan": 5,
        "data.stall_timeout_s": 60.0, "train.batch_size": 4, "train.log_every": 1, "train.checkpoint_every": 6,
        "train.max_steps": 12, "train.lr_warmup_steps": 2, "train.torch_threads": 1, "loss.supcon_warmup_steps": 3,
        "loss.supcon_ramp_steps": 3, "run.root": str(root / "runs"), "run.tmp_root": str(root / "tmp"),
        "tracking.mode": "disabled",
    }  # fmt: skip
    return apply_overrides(phantom_cpu(), settings | {key.replace("__", "."): v for key, v in overrides.items()})


@pytest.fixture
def one_thread() -> Iterator[None]:
    """The tests below train in this process; its number of threads is put back."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def loop_config(config: PrismConfig, root: Path, name: str, extract_without_gpu: bool = False) -> LoopConfig:
    archive = prepare_archive(select_scans(config, root / "tmp"), config, root / "preflight")
    run_dir = root / name
    run_dir.mkdir()
    return LoopConfig(
        config=config,
        shards=archive.shards,
        held_out=archive.held_out,
        catalog=archive.catalog,
        run_dir=run_dir,
        scratch_folder=root / "scratch",
        quarantine_file=archive.quarantine_file,
        checkpoint=None,
        extract_without_gpu=extract_without_gpu,
    )


def losses(run_dir: Path) -> list[tuple[int, float, float]]:
    rows = [row for row in read_history(run_dir) if "event" not in row and not is_probe(row)]
    return [(row["global_step"], row["loss/total"], row["loss/supcon"]) for row in rows]


def interrupt_after(steps: int, order: LoopConfig) -> None:
    with Attempt(order) as attempt:
        for _ in range(steps):
            batch, wait = attempt.next_batch()
            attempt.record(attempt.learn(batch), wait)
            attempt.checkpoint_if_due()
        raise KeyboardInterrupt


def ask_to_stop_after(steps: int, order: LoopConfig, stop_file: Path) -> None:
    with Attempt(order) as attempt:
        while True:
            batch, wait = attempt.next_batch()
            attempt.record(attempt.learn(batch), wait)
            steps -= 1
            if steps == 0:
                stop_file.touch()


def test_no_step_is_trained_where_the_encoder_could_not_be_exported(
    ray_local: None, phantom_catalog: Path, tmp_path: Path, one_thread: None
) -> None:
    order = loop_config(small(phantom_catalog, tmp_path), tmp_path, "run")
    (tmp_path / "export").touch()  # where the untrained encoder would be written
    with pytest.raises(CheckpointError, match="training would end with weights that nobody can load"):
        train_loop(order)
    summary = read_summary(order.run_dir)
    assert summary is not None
    assert (summary.status, summary.steps_done, read_history(order.run_dir)) == ("failed", 0, [])


def test_smoke_training_on_phantoms_ends_ok(ray_local: None, phantom_catalog: Path, tmp_path: Path) -> None:
    config = small(phantom_catalog, tmp_path, train__max_steps=120, train__log_every=20, train__checkpoint_every=50)
    output = io.StringIO()
    summary = train(config, Console(file=output, width=120))

    assert summary.status == "ok", summary.cause
    assert summary.steps_done == 120
    pictures = {row["event"]: row["text"] for row in read_history(Path(summary.run_dir)) if "event" in row}
    assert pictures.items() >= {"view_panel": "view_panel.png", "plots": "plots"}.items()
    assert summary.totals["replacement_completed_count"] > 10
    assert summary.totals["replacement_failed_count"] == 0
    assert summary.totals["coverage"] == 1.0
    assert read_summary(Path(summary.run_dir)) == summary
    rows = [row for row in read_history(Path(summary.run_dir)) if "event" not in row]
    assert [row["global_step"] for row in rows if not is_probe(row)] == [20, 40, 60, 80, 100, 120]
    assert [row["global_step"] for row in rows if is_probe(row)] == [120]
    assert -1 <= summary.probe["proxy_quality_low"] <= summary.probe["proxy_quality"] <= 1
    assert summary.probe["scans"] >= 8
    assert "held out: same place" in output.getvalue()
    evidence = read_evidence(Path(summary.run_dir))
    assert evidence is not None
    assert evidence.recall.mean() == pytest.approx(summary.probe["recall_at_1"])
    asked_again = evaluate_run(Path(summary.run_dir))
    again = {key: asked_again[key] for key in summary.probe}
    assert again == pytest.approx(summary.probe, rel=1e-5, abs=1e-6)  # processes with other numbers of threads
    elsewhere = evaluate_run(Path(summary.run_dir), catalog=phantom_catalog)
    assert elsewhere["scans"] == summary.data["scans_held_out"]  # it was trained on the other patients of this table
    assert evaluate_run(Path(summary.run_dir), trained=True)["scans"] == summary.data["scans_training"]
    assert rows[0]["weight/supcon"] == pytest.approx(0.2)
    assert summary.encoder is not None
    taken_away = prism_ssl.load_encoder(summary.encoder).state_dict()
    trained = load_checkpoint(Path(summary.run_dir) / "last.ckpt", torch.device("cpu")).learner["network"]
    assert all(torch.equal(taken_away[name], trained[f"encoder.{name}"]) for name in taken_away)
    card = (Path(summary.run_dir) / "model_card.md").read_text()
    assert f"training: {summary.data['scans_training']:.0f} scans" in card
    assert f"| same series, nearest view | {summary.probe['recall_at_1']:.2f} | " in card
    assert all(f"- {alarm}" in card for alarm in summary.alarms)
    scans = prepare_archive(select_scans(config, tmp_path / "tmp"), config, tmp_path / "runs" / ".preflight")
    records = [scan.record for scan in (*itertools.chain(*scans.shards), *scans.held_out)]
    exported = card + (Path(summary.run_dir) / "encoder.json").read_text()
    ids = {part for r in records for part in (r.scan_id, r.series_id, r.subject_id, r.series_path, str(tmp_path))}
    assert [part for part in ids if part in exported] == []
    assert (tmp_path / "tmp" / "prism_ssl" / "scratch").is_dir()
    assert not list((tmp_path / "tmp" / "prism_ssl" / "scratch").iterdir())
    assert "step    120" in output.getvalue()


def test_an_interruption_changes_nothing_in_deterministic_mode(
    ray_local: None, one_thread: None, phantom_catalog: Path, tmp_path: Path
) -> None:
    config = small(phantom_catalog, tmp_path, data__deterministic=True)
    whole = loop_config(config, tmp_path, "whole")
    totals = train_loop(whole).totals

    parts = loop_config(config, tmp_path, "parts")
    with pytest.raises(KeyboardInterrupt):
        interrupt_after(8, parts)  # two steps past the checkpoint at 6
    interrupted = read_summary(parts.run_dir)
    assert interrupted is not None
    assert interrupted.status == "failed"
    resumed = dataclasses.replace(parts, checkpoint=parts.run_dir / "last.ckpt")
    again = train_loop(resumed)
    assert again.resumed_from_step == 6

    assert again.totals.keys() == totals.keys()
    assert again.totals["pairs"] == totals["pairs"] == 12 * 4
    assert (again.totals["steps_timed"], totals["steps_timed"]) == (11, 12)
    for name in ("opened", "replacement_completed_count", "scans_seen"):  # scans are on their way at the end
        assert abs(again.totals[name] - totals[name]) <= 2 * 3, name
    for name in ("wall_s", "open_time_ms_total"):
        assert again.totals[name] > interrupted.totals[name] / 2, name
    assert again.totals["resume_s"] > totals["resume_s"] == 0
    assert totals["checkpoint_s"] > 0

    assert losses(parts.run_dir)[:8] == losses(whole.run_dir)[:8]
    assert losses(parts.run_dir)[8:] == losses(whole.run_dir)[6:]
    weights = [prism_ssl.load_encoder(run.run_dir).state_dict() for run in (whole, parts)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_views_cut_where_the_model_trains_give_the_losses_of_views_cut_by_the_actors(
    ray_local: None, one_thread: None, phantom_catalog: Path, tmp_path: Path
) -> None:
    """The same code that runs on a GPU, on CPU tensors; interrupted and resumed on the way."""
    config = small(phantom_catalog, tmp_path, data__deterministic=True)
    actors = loop_config(config, tmp_path, "actors")
    train_loop(actors)
    device = loop_config(
        apply_overrides(config, {"data.extract_on": "cuda"}), tmp_path, "device", extract_without_gpu=True
    )
    with pytest.raises(KeyboardInterrupt):
        interrupt_after(8, device)
    summary = train_loop(dataclasses.replace(device, checkpoint=device.run_dir / "last.ckpt"))

    assert summary.status == "ok"
    assert summary.resumed_from_step == 6
    assert summary.totals["volumes_handed_over"] > 2 * 3
    assert summary.totals["mirrored_bytes"] > 0
    resumed = losses(device.run_dir)[:6] + losses(device.run_dir)[8:]
    for found, expected in zip(resumed, losses(actors.run_dir), strict=True):
        assert found == pytest.approx(expected, rel=2e-3)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_cutting_on_a_gpu_that_is_not_there_is_refused_before_training(
    ray_local: None, one_thread: None, phantom_catalog: Path, tmp_path: Path
) -> None:
    config = small(phantom_catalog, tmp_path, data__extract_on="cuda", run__name="refused")
    with pytest.raises(ConfigError, match=r"data\.extract_on is 'cuda' and there is no CUDA device"):
        train(config, Console(file=io.StringIO()))
    summary = read_summary(tmp_path / "runs" / "refused")
    assert summary is not None
    assert (summary.status, summary.steps_done) == ("failed", 0)
    with pytest.raises(ConfigError, match="there is no CUDA device"):
        train_loop(loop_config(config, tmp_path, "run"))


def test_a_run_that_is_asked_to_stop_checkpoints_and_is_neither_ok_nor_failed(
    ray_local: None, one_thread: None, phantom_catalog: Path, tmp_path: Path
) -> None:
    order = loop_config(small(phantom_catalog, tmp_path), tmp_path, "run")
    order = dataclasses.replace(order, stop_file=tmp_path / "stop")
    with pytest.raises(RunInterrupted, match="was asked to stop"):
        ask_to_stop_after(2, order, tmp_path / "stop")
    summary = read_summary(order.run_dir)
    assert summary is not None
    assert (summary.status, summary.steps_done, summary.encoder) == ("interrupted", 2, None)
    (tmp_path / "stop").unlink()
    resumed = train_loop(dataclasses.replace(order, checkpoint=order.run_dir / "last.ckpt"))
    assert (resumed.status, resumed.steps_done, resumed.resumed_from_step) == ("ok", 12, 2)


def test_evaluating_changes_nothing_that_is_learned(
    ray_local: None, one_thread: None, phantom_catalog: Path, tmp_path: Path
) -> None:
    config = small(phantom_catalog, tmp_path, data__deterministic=True, eval__bootstrap=20, eval__views_per_scan=2)
    never = loop_config(config, tmp_path, "never")
    train_loop(dataclasses.replace(never, held_out=[]))
    often = loop_config(apply_overrides(config, {"eval.every": 2}), tmp_path, "often")
    gone = dataclasses.replace(often.held_out[0].record, nifti_path=str(tmp_path / "gone.nii.gz"))
    often.held_out[0] = dataclasses.replace(often.held_out[0], record=gone)
    summary = train_loop(often)

    assert losses(often.run_dir) == losses(never.run_dir)
    rows = read_history(often.run_dir)
    assert [row["global_step"] for row in rows if is_probe(row)] == [2, 4, 6, 8, 10, 12]
    assert summary.status == "ok"
    assert summary.probe["scans_left_out"] == 1
    (said,) = (row["text"] for row in rows if row.get("event") == "broken_scan")
    assert f"held-out scan {gone.scan_id} is left out of the probe set: ScanRejected: missing_path" in said


def test_a_failed_background_replacement_is_an_explicit_error_also_where_the_run_is_tracked(
    ray_local: None, one_thread: None, phantom_catalog: Path, tmp_path: Path, wandb_server: WandbServer
) -> None:
    config = small(phantom_catalog, tmp_path, train__max_steps=200, tracking__mode="online")
    order = loop_config(config, tmp_path, "run")
    victim = order.shards[0][0]
    gone = dataclasses.replace(
        victim, record=dataclasses.replace(victim.record, nifti_path=str(tmp_path / "gone.nii.gz"))
    )
    order.shards[0][0] = gone
    with pytest.raises(ReplacementFailed, match=victim.record.scan_id):
        train_loop(order)
    summary = read_summary(order.run_dir)
    assert summary is not None
    assert summary.status == "failed"
    assert summary.cause is not None
    assert victim.record.scan_id in summary.cause
    assert victim.record.scan_id in order.quarantine_file.read_text()
    tracked = wandb_server.run
    assert (tracked.state, tracked.exit_code) == ("failed", 1)
    assert (tracked.summary["status"], tracked.summary["cause"]) == ("failed", "ReplacementFailed")
    assert tracked.global_steps == [row["global_step"] for row in read_history(order.run_dir) if "event" not in row]
    assert wandb_server.holding("gone.nii.gz") == []


def test_a_checkpoint_of_other_settings_is_refused(
    ray_local: None, one_thread: None, phantom_catalog: Path, tmp_path: Path
) -> None:
    order = loop_config(small(phantom_catalog, tmp_path, train__max_steps=6), tmp_path, "run")
    train_loop(order)
    other = apply_overrides(order.config, {"model.objective": "classification", "train.max_steps": 8})
    with pytest.raises(CheckpointError, match=r"last\.ckpt was written under other settings"):
        train_loop(dataclasses.replace(order, config=other, checkpoint=order.run_dir / "last.ckpt"))
