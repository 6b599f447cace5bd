"""Where a run lives, and whether it begins or goes on."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from prism_ssl.config.defaults import config_from_dict, known_keys
from prism_ssl.config.schema import PrismConfig
from prism_ssl.errors import ConfigError, RunFolderError
from prism_ssl.train.local_record import CHECKPOINT_FILE, CONFIG_FILE, read_summary, write_json
from prism_ssl.utils.fs import FolderLock, private_folder
from prism_ssl.utils.hashing import content_hash

MAY_CHANGE = {
    "train.max_steps", "train.log_every", "train.checkpoint_every", "train.stall_warmup_steps",
    "train.max_nonfinite_steps", "train.torch_threads", "train.num_workers", "train.rank_timeout_s", "model.compile",
    "data.strict", "data.chunks_in_flight", "data.max_prefetch_replacements", "data.use_local_scratch",
    "data.scratch_bytes", "data.stall_timeout_s", "data.abort_broken_share", "data.abort_after_opens",
    "data.max_actor_restarts", "data.extract_on", "data.open_timeout_s", "data.outage_patience_s",
}  # fmt: skip
"""Settings that a resumed run may have changed; the others fix what is learned from what."""
_FREE_SECTIONS = ("run.", "preflight.", "eval.", "tracking.", "quota.")


def identity(config: PrismConfig) -> str:
    """Hash of the settings that must be equal for a run to be continued."""
    fixed = {key: value for key, value in known_keys(config).items() if _is_fixed(key)}
    return content_hash(fixed)


def _is_fixed(key: str) -> bool:
    return key not in MAY_CHANGE and not key.startswith(_FREE_SECTIONS)


@dataclass
class RunFolder:
    """A claimed run folder: 0700, locked for this process until ``release`` or its end."""

    path: Path
    checkpoint: Path | None
    lock: FolderLock

    @property
    def name(self) -> str:
        """Name of the run."""
        return self.path.name

    def release(self) -> None:
        """Let another process use the folder."""
        self.lock.release()


def claim_run_folder(config: PrismConfig) -> RunFolder:
    """The folder for ``config``: the unfinished run of the same settings, or a new one.

    With ``run.name`` the named folder is taken. Otherwise the name follows from recipe and settings, so that the
    same command finds its own interrupted run; a run that has finished is left alone and the next free number used.

    Raises:
        RunFolderError: not writable, in use by another process, finished, or of different settings.
    """
    root = Path(config.run.root).absolute()
    if config.run.name is not None:
        path = root / config.run.name
        refuse_other_settings(path, config)
        _refuse_finished(path, config)
    else:
        path = _first_unfinished(root / f"{config.recipe}-{identity_of_command(config)}")
    return _claim(path, config)


def identity_of_command(config: PrismConfig) -> str:
    """Eight characters that differ whenever any setting but those of ``run`` does."""
    return content_hash({key: value for key, value in known_keys(config).items() if not key.startswith("run.")})[:8]


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
    saved = path / CONFIG_FILE
    if not (saved.exists() and (path / CHECKPOINT_FILE).exists()):
        return
    try:
        before = known_keys(config_from_dict(json.loads(saved.read_text())))
    except (ConfigError, ValueError) as error:
        raise RunFolderError(f"{saved} cannot be read ({error}); choose another --run.name") from error
    now = known_keys(config)
    changed = [f"{key}: {before[key]!r} -> {now[key]!r}" for key in now if _is_fixed(key) and before[key] != now[key]]
    if changed:
        raise RunFolderError(
            f"run {path.name!r} was trained with other settings ({'; '.join(changed)}); "
            "give the same ones to resume it, or choose another --run.name"
        )


def _claim(path: Path, config: PrismConfig) -> RunFolder:
    try:
        private_folder(path)
        lock = FolderLock(path)
        if not lock.acquire():
            raise RunFolderError(
                f"run folder {path} is in use by another process; wait for it, or pass --run.name for a second run"
            )
        write_json(path / CONFIG_FILE, config.to_dict())
    except OSError as error:
        if isinstance(error, RunFolderError):
            raise
        raise RunFolderError(
            f"run folder {path} cannot be written ({error.strerror or error}); set --run.root to a folder that can"
        ) from error
    checkpoint = path / CHECKPOINT_FILE
    return RunFolder(path, checkpoint if checkpoint.exists() else None, lock)
