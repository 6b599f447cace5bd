"""The sweep folder: its trials, their settings and summaries, and which are left to run. Without Ray."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prism_ssl.config.defaults import apply_overrides, known_keys
from prism_ssl.config.operations import TrackingConfig, TrackingMode
from prism_ssl.config.schema import PrismConfig
from prism_ssl.contracts import RunSummary
from prism_ssl.data.holdout import Split
from prism_ssl.errors import RunFolderError
from prism_ssl.records.run_files import CHECKPOINT_FILE, read_summary, write_json
from prism_ssl.train.run.folder import folder_of_command, refuse_other_settings, saved_settings, with_absolute_paths
from prism_ssl.utils.fs import FolderLock, private_folder
from tune.core24 import (
    DERIVED,
    LEVELS,
    Design,
    DesignPoint,
    Scale,
    design_points,
    objective_rule,
    refuse_changed_factors,
    select,
)

_ARCHIVES_FILE, _SPLIT_FILE = "archives.json", "split.json"


@dataclass(frozen=True)
class Sweep:
    """The cells of an ablation that one command asks for. Each has a run folder below ``folder``.

    ``base`` holds the settings that all cells share. The folder's name follows from them (or is ``run.name``), so that
    the same command finds its trials again, also when it asks for other cells of the same ablation.
    """

    base: PrismConfig
    scale: Scale
    design: Design
    only: tuple[str, ...] = ()
    tracking: TrackingConfig | None = None
    """Tracking of the trials, resolved in the driver's environment; None: no tracking."""

    def __post_init__(self) -> None:
        refuse_changed_factors(self.base)
        # Once, here: Ray Tune gives the process of each trial another working directory.
        places = {"run.root": self.base.run.root, "run.tmp_root": self.base.run.tmp_root}
        placed = {key: str(Path(path).absolute()) for key, path in places.items() if path is not None}
        placed["run.name"] = self.base.run.name or _folder_of(self.base).name
        object.__setattr__(self, "base", with_absolute_paths(apply_overrides(self.base, placed)))

    @property
    def folder(self) -> Path:
        """The folder with the trials' run folders, the list of attempts and the ranking."""
        return Path(self.base.run.root) / str(self.base.run.name)

    @property
    def mode(self) -> TrackingMode:
        """Tracking mode of the trials."""
        return (self.tracking and self.tracking.mode) or "disabled"

    @property
    def name(self) -> str:
        """Name of the folder, and the runs' group in W&B."""
        return self.folder.name

    @property
    def points(self) -> list[DesignPoint]:
        """The cells asked for, in the order in which they are run."""
        return select(design_points(self.design), self.only)

    def point(self, variant: Mapping[str, Any]) -> DesignPoint:
        """The cell of a grid variant, also before Ray Tune has set its derived factor."""
        rule, grid = objective_rule(self.design), {factor: variant[factor] for factor in LEVELS}
        return DesignPoint.from_levels(grid | {DERIVED: rule(grid) if rule else variant[DERIVED]})

    def run_dir(self, point: DesignPoint) -> Path:
        """Run folder of a cell."""
        return self.folder / point.name

    def config(self, point: DesignPoint) -> PrismConfig:
        """Settings of a cell's run."""
        tracking = self.tracking or self.base.tracking
        config = dataclasses.replace(point.config(self.base, self.scale), tracking=tracking)
        tags = (*tracking.tags, "core24", self.scale, point.objective)
        placed = {
            "run.root": str(self.folder),
            "run.name": point.name,
            "tracking.group": tracking.group or self.name,
            "tracking.mode": self.mode,
            "tracking.name": None,  # the cell's
            "tracking.tags": tuple(dict.fromkeys(tags)),
        }
        return apply_overrides(config, placed)

    def summary(self, point: DesignPoint) -> RunSummary | None:
        """The summary in a cell's run folder; None before its first attempt."""
        return read_summary(self.run_dir(point))

    def pending(self) -> list[DesignPoint]:
        """The cells that have not finished: not started, interrupted or failed.

        Raises:
            RunFolderError: a cell's folder holds a run with other settings.
        """
        for point in self.points:
            refuse_other_settings(self.run_dir(point), self.config(point))
        return [point for point in self.points if not _finished(self.summary(point), self.base.train.max_steps)]

    def archives(self) -> list[dict[str, Any]]:
        """The sets of scans that the sweep's attempts trained on, in order; more than one means that they changed."""
        path = self.folder / _ARCHIVES_FILE
        found: list[dict[str, Any]] = json.loads(path.read_text()) if path.exists() else []
        return found

    def split(self) -> Split | None:
        """The training and held-out patients of the trials so far; None before the first has trained."""
        path = self.folder / _SPLIT_FILE
        trained = any(
            (self.run_dir(point) / CHECKPOINT_FILE).exists() or self._steps_done(point)
            for point in design_points(self.design)
        )
        return Split.from_plain(json.loads(path.read_text())) if trained and path.exists() else None

    def _steps_done(self, point: DesignPoint) -> int:
        summary = self.summary(point)
        return summary.steps_done if summary is not None else 0

    def note_split(self, split: Split) -> None:
        """Save the split, so that later trials hold out the same patients."""
        write_json(self.folder / _SPLIT_FILE, dataclasses.asdict(split.joined(self.split())))

    def note_archive(self, fingerprint: str, counts: Mapping[str, float]) -> bool:
        """Save the scans that this attempt trains on; True when an earlier attempt trained on others."""
        known = self.archives()
        if fingerprint not in [archive["fingerprint"] for archive in known]:
            numbers = {name: int(counts[name]) for name in ("scans_training", "scans_held_out")}
            write_json(self.folder / _ARCHIVES_FILE, [*known, {"fingerprint": fingerprint} | numbers])
        return bool(known) and known[-1]["fingerprint"] != fingerprint

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """Create the folder and lock it for this process.

        Raises:
            RunFolderError: it cannot be written, or another process uses it.
        """
        try:
            lock = FolderLock(private_folder(self.folder))
            free = lock.acquire()
        except OSError as error:
            raise RunFolderError(
                f"sweep folder {self.folder} cannot be written ({error.strerror or error}); "
                "set --run.root to a folder that can"
            ) from error
        if not free:
            raise RunFolderError(
                f"sweep {self.name!r} is being run by another process; wait for it, or pass --run.name for a second one"
            )
        try:
            yield
        finally:
            lock.release()


def with_max_steps(base: PrismConfig, max_steps: int | None) -> PrismConfig:
    """``base`` with another number of steps; None: unchanged."""
    if max_steps is None:
        return base
    return dataclasses.replace(base, train=dataclasses.replace(base.train, max_steps=max_steps))


def largest(configs: Sequence[PrismConfig]) -> PrismConfig:
    """The settings with the largest chunks in the object store."""
    return max(configs, key=lambda config: config.train.batch_size * config.data.n_patches)


def _folder_of(base: PrismConfig) -> Path:
    factors = {key: value for key, value in known_keys(base).items() if key in (*LEVELS, DERIVED)}

    def shared_by_cells(folder: Path) -> PrismConfig | None:
        told = (saved_settings(folder / point.name) for point in design_points("full"))
        cell = next((settings for settings in told if settings is not None), None)
        return cell and apply_overrides(cell, factors)

    return folder_of_command(Path(base.run.root), base, shared_by_cells, kind="sweep")


def _finished(summary: RunSummary | None, max_steps: int) -> bool:
    return summary is not None and summary.status == "ok" and summary.steps_done >= max_steps
