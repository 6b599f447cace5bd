"""Space plan: bytes and files that runs will write, against free space and quota, before the first step."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from rich.filesize import decimal

from prism_ssl.config.network import ModelConfig
from prism_ssl.config.operations import QuotaConfig
from prism_ssl.config.schema import PrismConfig
from prism_ssl.config.tracking_environment import tracking_mode
from prism_ssl.errors import QuotaExceeded
from prism_ssl.model.network import block_matrices, build_network
from prism_ssl.utils.disk_usage import DiskUsage, disk_usage, free_bytes
from prism_ssl.utils.fs import home_folder

ROW_BYTES, _PICTURE_BYTES, _RECORD_FILES = 6_000, 2 * 10**6, 20
"""What a run writes besides its weights. Measured: 5.9 kB a row of history, 1.7 MB of plots and panel, 13 files."""
_BYTES_TRAINED, _BYTES_OF_MUON = 12, 8
"""Bytes of a parameter in a checkpoint: its value and AdamW's two moments, or Muon's one, float32."""
BYTES_EXPORTED = 4
"""The same in an exported encoder."""
_HOME_MEASURED_WITHIN_S = 60.0


@dataclass(frozen=True)
class SpacePlan:
    """What runs leave on disk, and what the largest of them needs in addition while it trains."""

    runs: int
    encoders: DiskUsage
    checkpoints: DiskUsage
    records: DiskUsage
    under_way: DiskUsage
    there: DiskUsage
    """What their folders hold already, and will be replaced or continued."""

    @property
    def needed(self) -> DiskUsage:
        """What will be written in addition to what is there."""
        whole = self.encoders + self.checkpoints + self.records + self.under_way
        return DiskUsage(max(0, whole.bytes - self.there.bytes), max(0, whole.inodes - self.there.inodes))

    def __str__(self) -> str:
        there = f" - already there {decimal(self.there.bytes)}" if self.there.bytes else ""
        return (
            f"space plan of {self.runs} run{'s' if self.runs > 1 else ''}: encoders {decimal(self.encoders.bytes)} + "
            f"checkpoints that stay {decimal(self.checkpoints.bytes)} + records {decimal(self.records.bytes)} + "
            f"checkpoints under way {decimal(self.under_way.bytes)}{there} = {decimal(self.needed.bytes)} in "
            f"{self.needed.inodes:,} files"
        )


@cache
def parameters(config: ModelConfig) -> tuple[int, int]:
    """Number of parameters of the encoder, and of the whole network; no memory is allocated."""
    with torch.device("meta"):
        network = build_network(config)
    of_encoder, of_all = (sum(p.numel() for p in part.parameters()) for part in (network.encoder, network))
    return of_encoder, of_all


def checkpoint_bytes(config: PrismConfig) -> int:
    """Size of a checkpoint, by the optimisers that train the weights."""
    of_muon = 0 if config.train.muon_lr is None else _block_weights(config.model)
    return (parameters(config.model)[1] - of_muon) * _BYTES_TRAINED + of_muon * _BYTES_OF_MUON


@cache
def _block_weights(config: ModelConfig) -> int:
    with torch.device("meta"):
        return sum(p.numel() for p in block_matrices(build_network(config)))


def drops_checkpoints(config: PrismConfig) -> bool:
    """Whether a finished trial of a sweep keeps no local checkpoint once W&B has it."""
    return tracking_mode(config.tracking) == "online" and config.tracking.artifact_every is not None


def plan_space(configs: Sequence[PrismConfig], there: DiskUsage, in_sweep: bool) -> SpacePlan:
    """The plan of runs that are trained one after another; ``there`` is what their folders hold already.

    A checkpoint whose upload ends after its trial is not counted: the next trial deletes it.
    """
    encoders = checkpoints = 0
    largest = kept = 0
    for config in configs:
        checkpoint = checkpoint_bytes(config)
        encoders += parameters(config.model)[0] * BYTES_EXPORTED
        largest = max(largest, checkpoint)
        if not (in_sweep and drops_checkpoints(config)):
            kept, checkpoints = kept + 1, checkpoints + checkpoint
    # A checkpoint is written beside the previous one, which stays until the new one is complete.
    under_way = DiskUsage(largest if kept else 2 * largest, 1 if kept else 2)
    return SpacePlan(
        len(configs),
        DiskUsage(encoders, 2 * len(configs)),
        DiskUsage(checkpoints, kept),
        DiskUsage(sum(_record_bytes(config) for config in configs), _RECORD_FILES * len(configs)),
        under_way,
        there,
    )


def _record_bytes(config: PrismConfig) -> int:
    return _PICTURE_BYTES + ROW_BYTES * (config.train.max_steps // config.train.log_every)


def space_words(configs: Sequence[PrismConfig], folders: Sequence[Path], in_sweep: bool = False) -> str:
    """The space plan as text; ``folders`` are the run folders, existing or not. Nothing is written.

    Raises:
        QuotaExceeded: the runs do not fit a home with a hard limit.
    """
    quota, root = configs[0].quota, Path(configs[0].run.root).absolute()
    there = sum((disk_usage(folder) for folder in folders if folder.is_dir()), DiskUsage())
    in_home = None
    if quota.home_hard_bytes is not None or quota.home_hard_inodes is not None:
        deadline = time.monotonic() + _HOME_MEASURED_WITHIN_S
        with suppress(OSError):  # the quota guard reports a home that cannot be read
            in_home = disk_usage(home_folder(), lambda: time.monotonic() < deadline)
    return check_space(plan_space(configs, there, in_sweep), quota, root, home_folder(), in_home)


def check_space(plan: SpacePlan, quota: QuotaConfig, root: Path, home: Path, in_home: DiskUsage | None) -> str:
    """The plan as text; ``in_home`` is what ``home`` holds now, environment and caches included (None: not measured).

    A plan that exceeds the free space only adds a warning: others may make room. A plan that exceeds the home's hard
    limits is refused, because the runs would be stopped hours after their start.

    Raises:
        QuotaExceeded: the home would cross ``quota.home_hard_bytes`` or ``quota.home_hard_inodes``.
    """
    needed, words = plan.needed, str(plan)
    if in_home is not None and root.resolve().is_relative_to(home.resolve()):
        after = in_home + needed
        words += f"; the home then holds {decimal(after.bytes)} in {after.inodes:,} files"
        crossed = []
        if quota.home_hard_bytes is not None and after.bytes > quota.home_hard_bytes:
            crossed.append(f"quota.home_hard_bytes is {decimal(quota.home_hard_bytes)}")
        if quota.home_hard_inodes is not None and after.inodes > quota.home_hard_inodes:
            crossed.append(f"quota.home_hard_inodes is {quota.home_hard_inodes:,}")
        if crossed:
            raise QuotaExceeded(
                f"{words} ({decimal(in_home.bytes)} in {in_home.inodes:,} files now), and {' and '.join(crossed)}; put "
                "runs elsewhere (--run.root), let W&B keep the checkpoints of a sweep (--tracking.mode online with "
                "tracking.artifact_every set), or train fewer cells at a time (--only)"
            )
    disk = next(folder for folder in (root, *root.parents) if folder.is_dir())  # the root may not exist yet
    free, free_inodes = free_bytes(disk), _free_inodes(disk)
    if needed.bytes > free:
        words += f"; only {decimal(free)} are free at {root}: make room, or set --run.root"
    if free_inodes is not None and needed.inodes > free_inodes:
        words += f"; only {free_inodes:,} more files can be created at {root}: make room, or set --run.root"
    return words


def _free_inodes(folder: Path) -> int | None:
    """Number of files that can still be created there; None where the file system does not count them."""
    status = os.statvfs(folder)
    return status.f_favail if status.f_files else None
