"""W&B tracking settings from WANDB_* variables: they override the defaults, and a flag overrides them."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

from prism_ssl.config.operations import TrackingConfig, TrackingMode
from prism_ssl.errors import ConfigError

DEFAULT_PROJECT = "prism-ssl"
GENERATED = "generated_phantoms"
"""Key under which a tracked run records that its scans were generated phantoms."""

_MODES: dict[str, TrackingMode] = {
    "online": "online", "run": "online", "offline": "offline", "dryrun": "offline", "disabled": "disabled",
}  # fmt: skip
"""The values of WANDB_MODE that W&B documents, old names included."""
_NO = ("", "0", "false", "no", "off", "n", "f")

_VARIABLES = {
    "project": "WANDB_PROJECT",
    "entity": "WANDB_ENTITY",
    "group": "WANDB_RUN_GROUP",
    "name": "WANDB_NAME",
    "notes": "WANDB_NOTES",
    "tags": "WANDB_TAGS",
}
"""Field of ``TrackingConfig`` -> variable that sets it when no flag does; an empty variable is ignored."""

REDIRECTING = (
    "WANDB_SWEEP_ID", "WANDB_SWEEP_PARAM_PATH", "WANDB_LAUNCH", "WANDB_LAUNCH_CONFIG_PATH", "WANDB_CONFIG",
    "WANDB_RUN_ID", "WANDB_RESUME", "WANDB_RESUME_FROM", "WANDB_FORK_FROM", "WANDB_RUN_STORAGE_ID",
)  # fmt: skip
"""Ignored variables: they would make the client write to another run than the run folder's own."""


def settled(tracking: TrackingConfig, environment: Mapping[str, str] = os.environ) -> TrackingConfig:
    """``tracking`` with every unset field filled from the environment, else from the defaults. Idempotent.

    Raises:
        ConfigError: WANDB_MODE is none of W&B's modes.
    """
    found: dict[str, Any] = {field: environment[name] for field, name in _deciding(tracking, environment).items()}
    if "tags" in found:
        found["tags"] = tuple(tag.strip() for tag in found["tags"].split(",") if tag.strip())
    decided = {"mode": tracking_mode(tracking, environment), "project": tracking_project(tracking, environment)}
    return dataclasses.replace(tracking, **(found | decided))


def tracking_mode(tracking: TrackingConfig, environment: Mapping[str, str] = os.environ) -> TrackingMode:
    """The mode in ``tracking``, else the environment's, else online in a SLURM job and offline outside."""
    return tracking.mode or _mode(environment)[0]


def tracking_project(tracking: TrackingConfig, environment: Mapping[str, str] = os.environ) -> str:
    """The project in ``tracking``, else WANDB_PROJECT, else the default."""
    return tracking.project or environment.get("WANDB_PROJECT") or DEFAULT_PROJECT


def tracking_words(tracking: TrackingConfig, environment: Mapping[str, str] = os.environ) -> str:
    """One line for the console: the tracking of these unsettled settings, what set it, and the ignored variables."""
    run = settled(tracking, environment)
    by = "tracking.mode" if tracking.mode else _mode(environment)[1]
    if run.mode == "disabled":
        return f"W&B disabled ({by})"
    deciding = _deciding(tracking, environment).items()
    decided = "".join(f", {field} {getattr(run, field)!r} ({variable})" for field, variable in deciding)
    ignored = [variable for variable in REDIRECTING if environment.get(variable)]
    return f"W&B {run.mode} ({by}){decided}" + (
        f"; ignored: {', '.join(ignored)}, because a run's folder determines its W&B run" if ignored else ""
    )


def _mode(environment: Mapping[str, str]) -> tuple[TrackingMode, str]:
    """The mode when no flag sets one, and what set it."""
    said = environment.get("WANDB_MODE", "")
    if said:
        if said.lower() not in _MODES:
            raise ConfigError(
                f"WANDB_MODE is {said!r}; needed: online, offline or disabled; unset it, or pass --tracking.mode"
            )
        return _MODES[said.lower()], "WANDB_MODE"
    if environment.get("WANDB_DISABLED", "").lower() not in _NO:
        return "disabled", "WANDB_DISABLED"
    if environment.get("SLURM_JOB_ID"):
        return "online", "in a SLURM job"
    return "offline", "outside a SLURM job"


def _deciding(tracking: TrackingConfig, environment: Mapping[str, str]) -> dict[str, str]:
    """Fields that the environment sets, each with its variable."""
    return {
        field: variable
        for field, variable in _VARIABLES.items()
        if not getattr(tracking, field) and environment.get(variable)
    }
