"""Records of a sweep without training: the project's own writers, invented numbers.

What the numbers follow is simple enough to check: quality and throughput are linear in the levels of the factors.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from prism_ssl.config.defaults import apply_overrides, core24_base
from prism_ssl.config.schema import PrismConfig
from prism_ssl.contracts import RunStatus, RunSummary
from prism_ssl.model.pair_targets import AXES
from prism_ssl.records.run_files import LocalRecord, read_summary, write_json, write_summary
from prism_ssl.train.logging import start_tracker
from tune.core24 import DesignPoint, design_points

HEADS = ("distance", "rotation", "window_center", "window_width", "supcon")
NAMES = [axis for axes in AXES.values() for axis in axes]


def quality_of(point: DesignPoint) -> float:
    """The proxy quality of a cell that ends ok."""
    return 0.3 + 0.1 * (point.batch_size == 64) + 0.5 * point.w_supcon_target


def throughput_of(point: DesignPoint) -> float:
    """Its effective patches per second."""
    return 2000.0 + 100.0 * point.warm_pool_size


def settings_of(point: DesignPoint, root: Path, **overrides: Any) -> PrismConfig:
    """Settings of a cell of a sweep in ``root``."""
    placed = {
        "run.root": str(root),
        "run.name": point.name,
        "tracking.group": root.name,
        "tracking.tags": ("core24", point.objective),
        "train.max_steps": 1000,
    }
    return apply_overrides(point.config(core24_base(), "full"), placed | overrides)


def rows_of(point: DesignPoint, steps: Sequence[int]) -> Iterator[tuple[int, dict[str, float]]]:
    """The training rows of a cell: losses that fall from their chance level, rotation that does not."""
    for step in steps:
        learned = 1 - math.exp(-step / 400)
        row: dict[str, float] = {}
        for head in HEADS:
            chance = math.log(2 * point.batch_size - 1) if head == "supcon" else 0.7
            loss = chance * (1.0 if head == "rotation" else 1 - 0.5 * learned)
            row |= {f"loss/{head}": loss, f"chance/{head}": chance, f"weight/{head}": 1.0}
            row |= {f"loss_normalized/{head}": loss, f"chance_normalized/{head}": chance}
            row |= {f"loss_raw/{head}": 30 * loss, f"chance_raw/{head}": 30 * chance}
        row |= {"loss/total": 2.0 - learned, "chance/total": 2.0}
        for axis in NAMES:
            row |= {f"skill/{axis}": math.nan if axis == "distance" else 0.5 * learned, f"std_ratio/{axis}": learned}
            row |= {f"target_std/{axis}": 1.0, f"target_mean/{axis}": 0.0, f"pred_std/{axis}": learned}
        row |= {f"alarm/at_chance/{head}": float(head == "rotation" and step >= 500) for head in HEADS}
        row |= {"alarm/collapsed_embeddings": 0.0, "embedding/effective_rank": 20.0, "embedding/spread": 0.5}
        row |= {"supcon/positives_mean": 3.0, "supcon/positives_min": 1.0, "supcon/cross_pair_share": 0.5}
        row |= {"patches_per_sec_interval": throughput_of(point), "step_time_ms": 120.0, "data_wait_ms": 40.0}
        row |= {"data_wait_opening_ms": 30.0, "data_wait_sampling_ms": 8.0, "data_wait_transport_ms": 2.0}
        row |= {"replacement_completed_count": step / 10, "replacement_failed_count": 0.0, "lr": 1e-3}
        yield step, row


def totals_of(point: DesignPoint, steps: int) -> dict[str, float]:
    """The totals of a cell's summary; cells with the small pool have stalled while scans were opened."""
    stalls = 4.0 if point.warm_pool_size == 16 else 0.0
    return {
        "throughput_effective_patches_per_sec": throughput_of(point),
        "wall_s": 120.0,
        "total_step_time_ms_mean": 120.0,
        "total_step_time_ms_p50": 110.0,
        "total_step_time_ms_p95": 180.0,
        "total_step_time_ms_p99": 400.0,
        "total_step_time_ms_max": 2500.0 if stalls else 700.0,
        "data_wait_share": 1 / 3,
        "data_wait_ms_total": 40.0 * steps,
        "data_wait_opening_ms_total": 30.0 * steps,
        "data_wait_sampling_ms_total": 8.0 * steps,
        "data_wait_transport_ms_total": 2.0 * steps,
        "stall_steps_ge_2000ms": stalls,
        "stall_steps_ge_10000ms": 0.0,
        "replacement_completed_count": steps / 10,
        "replacement_failed_count": 0.0,
        "replacement_wait_time_ms_total": 30.0 * steps,
        "actor_restarts": 0.0,
        "nonfinite_skipped_steps": 0.0,
    }


def probe_of(point: DesignPoint) -> dict[str, float]:
    """The held-out scalars of a cell, without their prefix."""
    quality = quality_of(point)
    skills = {f"skill/{axis}": 0.2 for axis in NAMES if axis != "distance"}
    values = {
        "recall_at_1": quality,
        "recall_at_1_chance": 0.1,
        "skill_mean": 0.2,
        "pose_skill_mean": 0.1,
        "scans": 8.0,
    }
    interval = {"proxy_quality_low": quality - 0.04, "proxy_quality_high": quality + 0.04}
    return values | skills | {"proxy_quality": quality} | interval | _beside(quality)


def _beside(quality: float) -> dict[str, float]:
    """The rest: the place and position tests, probes, spread, and what is reached without training."""
    place = {"place_recall_at_1": 0.5 * quality, "place_distance_mm": 60 - 40 * quality}
    place |= {"place_recall_at_1_low": 0.5 * quality - 0.05, "place_recall_at_1_high": 0.5 * quality + 0.05}
    place |= {"place_recall_at_1_chance": 1 / 16, "place_distance_mm_chance": 55.0, "place_pairs": 6.0}
    position = {"position_skill": 0.5 * quality}
    position |= {"position_skill_low": 0.5 * quality - 0.1, "position_skill_high": 0.5 * quality + 0.1}
    probes = {"knn_modality": 0.9, "linear_modality": 0.95, "modality_chance": 0.5}
    probes |= {"knn_organ": 0.3 + 0.4 * quality, "linear_organ": 0.4 + 0.4 * quality, "organ_chance": 0.2}
    spread = {"rankme": 10 + 40 * quality, "uniformity": -1 - 3 * quality, "alignment": 1.2 - quality}
    untrained: dict[str, float] = {}
    for ending, level in (("_random_init", 0.15), ("_pixels", 0.25)):
        untrained |= {f"{name}{ending}": level for name in ("proxy_quality", "recall_at_1", "pose_skill_mean")}
        untrained |= {f"place_recall_at_1{ending}": level / 2, f"place_distance_mm{ending}": 60 - 40 * level}
        untrained[f"position_skill{ending}"] = level / 4
        untrained |= {f"{name}{ending}": 0.6 + level for name in ("knn_modality", "linear_modality")}
        untrained |= {f"{name}{ending}": 0.2 + level for name in ("knn_organ", "linear_organ")}
    return place | position | probes | spread | untrained


def write_run(
    root: Path,
    point: DesignPoint,
    steps: Sequence[int] = range(100, 1001, 100),
    status: RunStatus | None = "ok",
    cause: str | None = None,
) -> Path:
    """A run folder of a cell. ``status`` None: it was killed and left no summary, but an evaluation in its history."""
    config = settings_of(point, root)
    folder = root / point.name
    folder.mkdir(parents=True)
    write_json(folder / "config.json", config.to_dict())
    record = LocalRecord(folder)
    for step, row in rows_of(point, steps):
        record.row(step, row)
        if step == 500:
            record.event(step, "alarm", "at_chance/rotation: rotation is at chance")
    if status in ("ok", None):
        record.row(steps[-1], {f"probe/{name}": value for name, value in probe_of(point).items()})
    record.close()
    if status is not None:
        ok = status == "ok"
        summary = RunSummary(
            run=point.name,
            status=status,
            cause=cause,
            steps_done=steps[-1],
            max_steps=config.train.max_steps,
            resumed_from_step=None,
            run_dir=str(folder),
            totals=totals_of(point, steps[-1]) if status != "running" else {},
            probe=probe_of(point) if ok else {},
            alarms=["at_chance/rotation: rotation is at chance"],
        )
        write_summary(summary)
    return folder


def write_sweep(root: Path) -> list[DesignPoint]:
    """All 24 cells of the half fraction: one failed, one runs, one was killed, the others ended ok."""
    points = design_points("half")
    broken = "ReplacementFailed: scan 12ab failed at stage 'open': truncated_gzip: it ends at byte 7"
    ends: dict[int, tuple[RunStatus | None, str | None]] = {
        0: ("failed", broken),
        1: ("running", None),
        2: (None, None),
    }
    for number, point in enumerate(points):
        status, cause = ends.get(number, ("ok", None))
        write_run(root, point, range(100, 601 if number in ends else 1001, 100), status, cause)
    return points


def track_run(root: Path, point: DesignPoint, status: RunStatus = "ok", cause: str | None = None) -> None:
    """A run of 300 steps in a folder, and on the W&B server of the environment as training sends it."""
    steps = range(100, 301, 100)
    folder = write_run(root, point, steps, status, cause)
    config = settings_of(point, root, **{"tracking.mode": "online", "run.tmp_root": str(root.parent)})
    tracker = start_tracker(config, folder, 0)
    for step, row in rows_of(point, steps):
        tracker.row(step, row)
    summary = read_summary(folder)
    assert summary is not None
    if summary.probe:
        tracker.row(steps[-1], {f"probe/{name}": value for name, value in summary.probe.items()})
    tracker.finish(summary)


def append_rows(folder: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Lines at the end of a history, as they are."""
    with (folder / "history.jsonl").open("a", encoding="utf-8") as file:
        file.write("".join(json.dumps(row) + "\n" for row in rows))
