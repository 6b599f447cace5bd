"""What W&B's variables decide: below a flag, above what is built in; and what decided it is said."""

from __future__ import annotations

from typing import Any

import pytest

from prism_ssl.config.operations import TrackingConfig
from prism_ssl.config.tracking_environment import settled, tracking_words
from prism_ssl.errors import ConfigError

JOB = {"SLURM_JOB_ID": "4711"}


@pytest.mark.parametrize(
    ("flag", "environment", "mode", "by"),
    [
        (None, {}, "offline", "outside a SLURM job"),
        (None, JOB, "online", "in a SLURM job"),
        (None, {"WANDB_MODE": "online"}, "online", "WANDB_MODE"),
        (None, JOB | {"WANDB_MODE": "offline"}, "offline", "WANDB_MODE"),
        (None, JOB | {"WANDB_MODE": "dryrun"}, "offline", "WANDB_MODE"),
        (None, {"WANDB_MODE": "run"}, "online", "WANDB_MODE"),
        (None, JOB | {"WANDB_MODE": ""}, "online", "in a SLURM job"),
        (None, JOB | {"WANDB_DISABLED": "true"}, "disabled", "WANDB_DISABLED"),
        (None, JOB | {"WANDB_DISABLED": "false"}, "online", "in a SLURM job"),
        (None, {"WANDB_DISABLED": "1", "WANDB_MODE": "online"}, "online", "WANDB_MODE"),
        ("offline", JOB | {"WANDB_MODE": "online"}, "offline", "tracking.mode"),
        ("online", {"WANDB_DISABLED": "true"}, "online", "tracking.mode"),
        ("disabled", {"WANDB_MODE": "online"}, "disabled", "tracking.mode"),
    ],
)
def test_a_flag_decides_before_the_environment_and_that_before_the_place(
    flag: Any, environment: dict[str, str], mode: str, by: str
) -> None:
    given = TrackingConfig(mode=flag)
    assert settled(given, environment).mode == mode
    assert tracking_words(given, environment) == f"W&B {mode} ({by})"


def test_a_mode_that_is_none_is_refused_with_the_modes_that_are() -> None:
    for words in (settled, tracking_words):
        with pytest.raises(ConfigError, match="WANDB_MODE is 'onlin'; needed: online, offline or disabled; unset it"):
            words(TrackingConfig(), {"WANDB_MODE": "onlin"})


def test_variables_of_the_place_decide_what_no_flag_does() -> None:
    environment = {
        "WANDB_PROJECT": "p", "WANDB_ENTITY": "team", "WANDB_RUN_GROUP": "g", "WANDB_NAME": "n", "WANDB_NOTES": "why",
        "WANDB_TAGS": "a, b,", "WANDB_MODE": "online",
    }  # fmt: skip
    found = settled(TrackingConfig(), environment)
    assert found == TrackingConfig("online", "p", "team", "g", "n", "why", ("a", "b"))
    flags = TrackingConfig("offline", "p2", "team2", "g2", "n2", "because", ("c",))
    assert settled(flags, environment) == flags
    assert settled(found, {"WANDB_PROJECT": "of another process", "SLURM_JOB_ID": "1"}) == found
    assert settled(TrackingConfig(), {}).project == "prism-ssl"
    said = tracking_words(TrackingConfig(entity="mine"), environment)
    assert said.startswith("W&B online (WANDB_MODE), project 'p' (WANDB_PROJECT), group 'g' (WANDB_RUN_GROUP)")
    assert "entity" not in said


def test_a_variable_that_would_redirect_the_run_is_named_as_not_followed() -> None:
    said = tracking_words(TrackingConfig(mode="offline"), {"WANDB_SWEEP_ID": "s", "WANDB_RUN_ID": "r"})
    assert said.endswith("ignored: WANDB_SWEEP_ID, WANDB_RUN_ID, because a run's folder determines its W&B run")
