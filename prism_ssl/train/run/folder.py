"""The run folder: its name, its lock, its settings, and which settings must be equal to resume a run."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prism_ssl.config.defaults import apply_overrides, known_keys
from prism_ssl.config.schema import PrismConfig
from prism_ssl.errors import RunFolderError
from prism_ssl.records.run_files import CHECKPOINT_FILE, CONFIG_FILE, read_summary, settings_of_run, write_json
from prism_ssl.utils.fs import FolderLock, private_folder
from prism_ssl.utils.hashing import content_hash

MAY_CHANGE = {
    "train.max_steps", "train.log_every", "train.checkpoint_every", "train.stall_warmup_steps",
    "train.max_nonfinite_steps", "train.torch_threads", "train.num_workers", "train.rank_timeout_s",
    "train.max_worker_restarts", "train.grad_accumulation", "model.compile", "model.activation_checkpointing",
    "data.strict", "data.chunks_in_flight", "data.max_prefetch_replacements", "data.use_local_scratch",
    "data.scratch_bytes", "data.stall_timeout_s", "data.abort_broken_share", "data.abort_after_opens",
    "data.max_actor_restarts", "data.extract_on", "data.open_timeout_s", "data.outage_patience_s",
}  # fmt: skip
"""Settings that may change when a run is resumed; the others determine the training."""
LATER = {
    "view.centers", "view.same_place_share", "view.same_place_mm", "view.other_series_share", "view.random_contrast",
    "view.random_scale", "view.mirrored_share", "model.masked_share", "loss.w_masked",
    "loss.supcon_positives", "loss.heads_across_pairs", "loss.place_near_mm", "loss.place_apart_mm",
    "model.init_from", "model.init_parts", "model.normalize_patches", "model.position_features",
    "train.muon_lr",
}  # fmt: skip
"""Settings that earlier versions did not have. At their default they do not count, so that earlier runs resume."""
_FREE_SECTIONS = ("run.", "preflight.", "eval.", "tracking.", "quota.")


WHERE = "data.catalog_path", "data.columns"
"""Settings that locate the scans. The split in the checkpoint decides which scans these are, not the path."""
LISTED = "data.holdout_file"
"""Setting that lists the held-out patients; once a run has begun, its split decides."""
FORMER_FILE = "former_spellings.json"
"""Earlier spellings of the catalogue's path, where they differ from the present one."""


def identity(config: PrismConfig) -> str:
    """Hash of the settings that must be equal to resume a run."""
    return content_hash(_fixed(config))


def identities(config: PrismConfig, run_dir: Path) -> tuple[str, ...]:
    """``identity``, and the hashes of the same settings by earlier versions, which included the catalogue's path."""
    given = config.data.catalog_path
    spellings = [given, given and os.path.relpath(given), *_former_spellings(run_dir)]
    where = {key: value for key, value in known_keys(config).items() if key in WHERE}
    fixed = _training(config) | where
    return identity(config), *(content_hash(fixed | {"data.catalog_path": path}) for path in dict.fromkeys(spellings))


def _fixed(config: PrismConfig) -> dict[str, Any]:
    return _training(config) | {"generated phantoms": config.data.catalog_path is None}


def _training(config: PrismConfig) -> dict[str, Any]:
    """The settings that determine the training."""
    default = known_keys(PrismConfig())
    return {
        key: value
        for key, value in known_keys(config).items()
        if _is_fixed(key) and not (key in LATER and value == default[key])
    }


def _is_fixed(key: str) -> bool:
    return key not in MAY_CHANGE and key not in WHERE and key != LISTED and not key.startswith(_FREE_SECTIONS)


def with_absolute_paths(config: PrismConfig) -> PrismConfig:
    """``config`` with absolute paths of the catalogue and of the list of held-out patients."""
    given = {"data.catalog_path": config.data.catalog_path, LISTED: config.data.holdout_file}
    return apply_overrides(
        config, {key: str(Path(path).expanduser().absolute()) for key, path in given.items() if path is not None}
    )


@dataclass
class RunFolder:
    """A claimed run folder: mode 0700, locked for this process until ``release`` or its end."""

    path: Path
    checkpoint: Path | None
    lock: FolderLock
    before: PrismConfig | None = None
    """The settings of the attempt before; None if there was none, or its settings differ."""

    @property
    def name(self) -> str:
        """Name of the run."""
        return self.path.name

    def look_again(self) -> None:
        """Look for a checkpoint that an attempt has written meanwhile."""
        checkpoint = self.path / CHECKPOINT_FILE
        self.checkpoint = checkpoint if checkpoint.exists() else None

    def release(self) -> None:
        """Let another process use the folder."""
        self.lock.release()


def folder_for(config: PrismConfig) -> Path:
    """Path of the run folder for these settings, existing or not."""
    root = Path(config.run.root).absolute()
    return root / config.run.name if config.run.name is not None else folder_of_command(root, config)


def claim_run_folder(config: PrismConfig) -> RunFolder:
    """Claim the folder for ``config``: the unfinished run of the same settings, or a new one.

    With ``run.name`` it is the named folder. Otherwise the name follows from the recipe and the settings that must not
    change, so that the same command finds its interrupted run, also with another limit, length or tracking. A finished
    run is left alone, and the next free number is used.

    Raises:
        RunFolderError: not writable, in use by another process, finished, or of different settings.
    """
    path = folder_for(config)
    if config.run.name is not None:
        refuse_other_settings(path, config)
        _refuse_finished(path, config)
    return _claim(path, with_absolute_paths(config))


def saved_settings(path: Path) -> PrismConfig | None:
    """The settings in a run folder's config.json; None if there is none.

    Raises:
        RunFolderError: the file cannot be read.
    """
    return settings_of_run(path, "choose another --run.name") if (path / CONFIG_FILE).exists() else None


def folder_of_command(
    root: Path,
    config: PrismConfig,
    settings_in: Callable[[Path], PrismConfig | None] = saved_settings,
    kind: str = "run",
) -> Path:
    """The folder below ``root`` for a command without ``run.name``: that of its unfinished run, or a new one.

    A run belongs to the command when the settings that must not change are equal, whatever its folder is called. Of
    several runs, the one with the most equal other settings is taken, then the newest. ``settings_in`` reads the
    settings from a folder. ``kind`` keeps a sweep out of the folder of a single run with the same settings.
    """
    fixed, known = _fixed_by_command(config), _told(config)
    found = []
    for path in _automatically_named(root, config.recipe):
        try:
            before = settings_in(path)
        except (RunFolderError, OSError):  # unreadable, so it cannot be resumed
            continue
        if before is not None and _fixed_by_command(before) == fixed and not _finished(path):
            told = _told(before)
            agreeing = sum(told[key] == value for key, value in known.items())
            found.append((agreeing, path.stat().st_mtime_ns, path))
    named = content_hash(fixed if kind == "run" else fixed | {"kind": kind})[:8]
    return max(found)[-1] if found else _first_unfinished(root / f"{config.recipe}-{named}")


def _automatically_named(root: Path, recipe: str) -> list[Path]:
    name = re.compile(rf"{re.escape(recipe)}-[0-9a-f]{{8}}(-\d+)?")
    try:
        return sorted(path for path in root.iterdir() if name.fullmatch(path.name))
    except OSError:
        return []


def _fixed_by_command(config: PrismConfig) -> dict[str, Any]:
    """The settings that must be equal for a command to resume a run: those not at their default, and the table.

    So a new setting at its default does not change the names of runs.
    """
    given, default = config.data.catalog_path, known_keys(PrismConfig())
    fixed = {key: value for key, value in _told(config).items() if _is_fixed(key) and value != default[key]}
    # the table by its resolved path; its columns define the patients
    table = given and str(Path(given).expanduser().resolve())
    listed = config.data.holdout_file
    listing = {LISTED: str(Path(listed).expanduser().resolve())} if listed else {}
    return fixed | {"data.catalog_path": table, "data.columns": config.data.columns} | listing


def _told(config: PrismConfig) -> dict[str, Any]:
    return {key: value for key, value in known_keys(config).items() if not key.startswith("run.")}


def _first_unfinished(base: Path) -> Path:
    number, path = 1, base
    while _finished(path):
        number += 1
        path = base.with_name(f"{base.name}-{number}")
    return path


def _finished(path: Path) -> bool:
    summary = read_summary(path)
    return summary is not None and summary.status == "ok"


def _refuse_finished(path: Path, config: PrismConfig) -> None:
    summary = read_summary(path)
    if summary is not None and summary.status == "ok" and summary.steps_done >= config.train.max_steps:
        raise RunFolderError(
            f"run {path.name!r} has finished at step {summary.steps_done} of {config.train.max_steps}; "
            "raise train.max_steps to train on, or choose another --run.name"
        )


def refuse_other_settings(path: Path, config: PrismConfig) -> None:
    """Raise ``RunFolderError`` when the folder holds a run that was trained with other settings."""
    if not (path / CHECKPOINT_FILE).exists():
        return
    before = saved_settings(path)
    if before is None:
        return
    default = known_keys(PrismConfig())
    old, new = (default | _fixed(each) for each in (before, config))
    changed = [f"{key}: {old[key]!r} -> {new[key]!r}" for key in new if old[key] != new[key]]
    if changed:
        raise _other_settings(path, changed)


def refuse_unknown_table(path: Path, before: PrismConfig | None, catalog: Path) -> None:
    """Raise ``RunFolderError`` when a run without a split in its checkpoint would resume with another table.

    ``before``: the settings of the last attempt. A relative path counts as equal when ``catalog`` ends with it, because
    earlier versions did not record the folder that it was relative to.
    """
    spelt = before.data.catalog_path if before else None
    if spelt is None:
        return
    known = Path(os.path.normpath(Path(spelt).expanduser()))
    ends_so = not known.is_absolute() and catalog.parts[-len(known.parts) :] == known.parts
    if not ends_so and known.resolve() != catalog.resolve():
        raise _other_settings(path, [f"data.catalog_path: {spelt!r} -> {str(catalog)!r}"])


def _other_settings(path: Path, changed: Sequence[str]) -> RunFolderError:
    return RunFolderError(
        f"run {path.name!r} was trained with other settings ({'; '.join(changed)}); "
        "use the same settings to resume it, or choose another --run.name"
    )


def _claim(path: Path, config: PrismConfig) -> RunFolder:
    checkpoint = path / CHECKPOINT_FILE
    try:
        private_folder(path)
        lock = FolderLock(path)
        if not lock.acquire():
            raise RunFolderError(
                f"run folder {path} is in use by another process; wait for it, or pass --run.name for a second run"
            )
        before = _settings_before(path, config)
        _keep_spelling(path, before, config)
        write_json(path / CONFIG_FILE, config.to_dict())
    except OSError as error:
        if isinstance(error, RunFolderError):
            raise
        raise RunFolderError(
            f"run folder {path} cannot be written ({error.strerror or error}); set --run.root to a folder that can"
        ) from error
    return RunFolder(path, checkpoint if checkpoint.exists() else None, lock, before)


def _settings_before(path: Path, config: PrismConfig) -> PrismConfig | None:
    try:
        before = saved_settings(path)
    except RunFolderError as error:
        if isinstance(error.__cause__, OSError):  # the file may be good: do not write over it
            raise
        return None
    return before if before is not None and identity(before) == identity(config) else None


def _keep_spelling(path: Path, before: PrismConfig | None, config: PrismConfig) -> None:
    """Record an earlier spelling of the catalogue's path, by which checkpoints and tracked runs are found."""
    former = before.data.catalog_path if before else None
    if former is not None and former != config.data.catalog_path:
        write_json(path / FORMER_FILE, list(dict.fromkeys([*_former_spellings(path), former])))


def _former_spellings(run_dir: Path) -> list[str]:
    try:
        return [str(path) for path in json.loads((run_dir / FORMER_FILE).read_text())]
    except (OSError, ValueError, TypeError):
        return []
