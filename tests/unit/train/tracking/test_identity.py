"""Which tracked run a folder belongs to, and which settings may leave the machine."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from prism_ssl.config.defaults import apply_overrides, known_keys, phantom_cpu
from prism_ssl.config.schema import PrismConfig
from prism_ssl.errors import RunFolderError
from prism_ssl.train.tracking.identity import (
    STAYS_HERE,
    TRACKING_FILE,
    TrackedAs,
    public_settings,
    read_tracked_as,
    tracked_as,
)


def _config(**overrides: Any) -> PrismConfig:
    return apply_overrides(phantom_cpu(), {key.replace("__", "."): value for key, value in overrides.items()})


def test_a_folder_keeps_its_run(tmp_path: Path) -> None:
    first = tracked_as(tmp_path, _config())
    assert tracked_as(tmp_path, _config(train__max_steps=900)) == first
    assert read_tracked_as(tmp_path) == first


@pytest.mark.parametrize("change", [{"train__lr": 0.5}, {"tracking__project": "other"}])
def test_other_settings_or_another_project_are_another_run(tmp_path: Path, change: dict[str, Any]) -> None:
    assert tracked_as(tmp_path, _config()).run_id != tracked_as(tmp_path, _config(**change)).run_id


def test_two_folders_of_one_name_are_two_runs(tmp_path: Path) -> None:
    folders = [tmp_path / place / "run" for place in ("a", "b")]
    for folder in folders:
        folder.mkdir(parents=True)
    assert len({tracked_as(folder, _config()).run_id for folder in folders}) == 2


@pytest.mark.parametrize("name", ["a b:c#d%e", "x" * 200, "Lauf-ä"])
def test_any_folder_gets_an_id_that_the_service_takes(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    assert re.fullmatch(r"[A-Za-z0-9_.-]{1,64}", tracked_as(tmp_path / name, _config()).run_id)


def test_paths_name_only_what_is_known() -> None:
    tracked = TrackedAs("r", "p", "hash")
    assert (tracked.path, tracked.artifact_path) == ("p/r", "p/checkpoint-r")
    known = TrackedAs("r", "p", "hash", "team")
    assert (known.path, known.artifact_path) == ("team/p/r", "team/p/checkpoint-r")


def test_a_file_that_cannot_be_read_is_an_error_with_its_path(tmp_path: Path) -> None:
    (tmp_path / TRACKING_FILE).write_text('{"run_id": ')
    with pytest.raises(RunFolderError, match=r"tracking\.json cannot be read .*; remove it to track as a new run"):
        read_tracked_as(tmp_path)


def test_settings_are_flat_and_whole_but_for_what_stays_here() -> None:
    config = _config(data__catalog_path="/archive/mrn.csv", data__columns={"pmbb_id": "mrn"}, run__root="/home/u/runs")
    public = public_settings(config)
    assert public.keys() == known_keys(config).keys() - STAYS_HERE
    assert public["loss.w_distance"] == 1.0
    text = json.dumps(public)
    assert not any(secret in text for secret in ("mrn", "/archive", "/home"))
