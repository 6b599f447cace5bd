"""Which folder a command gets: its own interrupted run, the next number, or a refusal that says why."""

from __future__ import annotations

import errno
import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from prism_ssl.config.defaults import apply_overrides, known_keys, phantom_cpu
from prism_ssl.config.schema import PrismConfig
from prism_ssl.contracts import RunStatus, RunSummary
from prism_ssl.errors import RunFolderError
from prism_ssl.records.run_files import CHECKPOINT_FILE, CONFIG_FILE, write_json, write_summary
from prism_ssl.train.run import folder as folder_module
from prism_ssl.train.run.folder import (
    LATER,
    MAY_CHANGE,
    _is_fixed,
    claim_run_folder,
    folder_for,
    identities,
    identity,
    with_absolute_paths,
)
from prism_ssl.utils.hashing import content_hash

OTHER_VALUES: dict[str, Any] = {
    "train.max_steps": 900, "train.log_every": 7, "train.checkpoint_every": 9, "train.stall_warmup_steps": 3,
    "train.max_nonfinite_steps": 5, "train.torch_threads": 1, "train.num_workers": 2, "train.rank_timeout_s": 400.0,
    "train.max_worker_restarts": 0, "train.grad_accumulation": 4, "model.activation_checkpointing": True,
    "data.strict": False, "data.chunks_in_flight": 3,
    "data.max_prefetch_replacements": 1, "data.use_local_scratch": False, "data.scratch_bytes": 0,
    "data.stall_timeout_s": 9.0, "data.abort_broken_share": 0.5, "data.abort_after_opens": 7,
    "data.max_actor_restarts": 0, "data.open_timeout_s": 9.0,
    "data.outage_patience_s": 9.0, "data.extract_on": "cuda", "model.compile": False, "preflight.concurrency": 2,
    "run.tmp_root": "/tmp/elsewhere",
}  # fmt: skip
"""A change of everything that may change between an interruption and its resume."""


def _config(root: Path, **overrides: Any) -> PrismConfig:
    keys = {key.replace("__", "."): value for key, value in overrides.items()}
    return apply_overrides(phantom_cpu(), {"run.root": str(root), **keys})


def _leave(config: PrismConfig, status: RunStatus = "failed", steps: int = 10) -> Path:
    """A run that was begun and has come to an end, with a checkpoint."""
    folder = claim_run_folder(config)
    (folder.path / CHECKPOINT_FILE).write_bytes(b"")
    write_summary(RunSummary(folder.name, status, None, steps, config.train.max_steps, None, str(folder.path)))
    folder.release()
    return folder.path


def test_a_new_run_gets_a_private_folder_that_tells_its_settings(tmp_path: Path) -> None:
    config = _config(tmp_path / "runs")
    folder = claim_run_folder(config)
    assert folder.checkpoint is None
    assert folder.path.stat().st_mode & 0o777 == 0o700
    assert re.fullmatch(r"phantom-cpu-[0-9a-f]{8}", folder.name)
    assert json.loads((folder.path / CONFIG_FILE).read_text())["train"]["max_steps"] == 400


@pytest.mark.parametrize("status", ["failed", "running"])
def test_the_same_command_finds_its_interrupted_run(tmp_path: Path, status: RunStatus) -> None:
    config = _config(tmp_path)
    before = _leave(config, status)
    folder = claim_run_folder(config)
    assert (folder.path, folder.checkpoint) == (before, before / CHECKPOINT_FILE)


def test_a_finished_run_is_left_alone_and_the_next_number_used(tmp_path: Path) -> None:
    config = _config(tmp_path)
    first = _leave(config, "ok", 400)
    second = _leave(config, "ok", 400)
    third = claim_run_folder(config)
    assert [second.name, third.name] == [f"{first.name}-2", f"{first.name}-3"]
    assert third.checkpoint is None


@pytest.mark.parametrize(
    ("key", "value"),
    [("train.lr", 1.0), ("data.n_scans", 9), ("data.selection_seed", 1), ("data.columns", {"pmbb_id": "mrn"})],
)
def test_another_command_gets_another_folder(tmp_path: Path, key: str, value: Any) -> None:
    assert _leave(_config(tmp_path)) != _leave(apply_overrides(_config(tmp_path), {key: value}))


def test_a_command_with_another_limit_length_or_tracking_goes_on_with_its_unfinished_run(tmp_path: Path) -> None:
    before = _leave(_config(tmp_path))
    told = {"quota.home_hard_bytes": 10**12, "tracking.mode": "offline", "eval.every": 50, "preflight.min_slices": 13}
    for changes in ({key: value} for key, value in {**told, **OTHER_VALUES}.items()):
        folder = claim_run_folder(apply_overrides(_config(tmp_path), changes))
        folder.release()
        assert (folder.path, folder.checkpoint) == (before, before / CHECKPOINT_FILE)


def test_a_setting_at_its_default_is_no_part_of_a_name(tmp_path: Path) -> None:
    config = apply_overrides(PrismConfig(), {"run.root": str(tmp_path), "train.lr": 0.5})
    hashed = content_hash({"train.lr": 0.5, "data.catalog_path": None, "data.columns": {}})[:8]
    assert claim_run_folder(config).name == f"custom-{hashed}"


def test_of_runs_that_earlier_versions_named_apart_each_command_finds_its_own(tmp_path: Path) -> None:
    limits = (None, 10**12, 2 * 10**12)
    for number, limit in enumerate(limits):
        config = _config(tmp_path, run__name=f"phantom-cpu-0000000{number}", quota__home_hard_bytes=limit)
        _leave(config)
        os.utime(tmp_path / str(config.run.name), (number, number))
    _leave(_config(tmp_path, run__name="phantom-cpu-mine"))
    for number, limit in enumerate(limits):
        assert folder_for(_config(tmp_path, quota__home_hard_bytes=limit)).name == f"phantom-cpu-0000000{number}"
    other = _config(tmp_path, quota__home_hard_bytes=3 * 10**12, quota__home_soft_bytes=1)
    assert folder_for(other).name == "phantom-cpu-00000002"
    (tmp_path / "phantom-cpu-00000002" / CONFIG_FILE).write_text("{")
    assert folder_for(other).name == "phantom-cpu-00000001"


def test_a_named_run_that_has_finished_is_refused(tmp_path: Path) -> None:
    config = _config(tmp_path, run__name="mine")
    _leave(config, "ok", 400)
    match = r"run 'mine' has finished at step 400 of 400; raise train.max_steps to train on, or choose another --run"
    with pytest.raises(RunFolderError, match=match):
        claim_run_folder(config)


def test_a_named_run_that_has_finished_trains_on_when_it_is_given_more_steps(tmp_path: Path) -> None:
    before = _leave(_config(tmp_path, run__name="mine"), "ok", 400)
    folder = claim_run_folder(_config(tmp_path, run__name="mine", train__max_steps=500))
    assert folder.checkpoint == before / CHECKPOINT_FILE


def test_other_settings_are_refused_by_the_names_of_what_changed(tmp_path: Path) -> None:
    before = _leave(_config(tmp_path, run__name="mine"))
    settings = (before / CONFIG_FILE).read_bytes()
    changed = _config(tmp_path, run__name="mine", train__lr=0.5, data__n_patches=32, train__log_every=3)
    match = r"with other settings \(data.n_patches: 64 -> 32; train.lr: 0.001 -> 0.5\); use the same settings"
    with pytest.raises(RunFolderError, match=match):
        claim_run_folder(changed)
    assert (before / CONFIG_FILE).read_bytes() == settings


def test_settings_that_change_nothing_learned_may_change(tmp_path: Path) -> None:
    before = _leave(_config(tmp_path, run__name="mine"))
    config = apply_overrides(_config(tmp_path, run__name="mine"), OTHER_VALUES)
    assert OTHER_VALUES.keys() >= MAY_CHANGE
    assert claim_run_folder(config).checkpoint == before / CHECKPOINT_FILE
    assert identity(config) == identity(phantom_cpu())


def test_what_may_change_exists() -> None:
    assert known_keys(phantom_cpu()).keys() >= MAY_CHANGE


def test_a_name_without_a_checkpoint_may_be_taken_with_other_settings(tmp_path: Path) -> None:
    (_leave(_config(tmp_path, run__name="mine")) / CHECKPOINT_FILE).unlink()
    folder = claim_run_folder(_config(tmp_path, run__name="mine", train__lr=0.5))
    assert folder.checkpoint is None
    assert json.loads((folder.path / CONFIG_FILE).read_text())["train"]["lr"] == 0.5


def test_settings_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    config = _config(tmp_path, run__name="mine")
    (_leave(config) / CONFIG_FILE).write_text('{"train": {"lr": ')
    with pytest.raises(RunFolderError, match=r"config\.json cannot be read .*; choose another --run.name"):
        claim_run_folder(config)


def test_settings_whose_storage_does_not_answer_are_not_written_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = _config(tmp_path)
    saved = _leave(config) / CONFIG_FILE
    before = saved.read_bytes()

    def stale(path: Path, *more: Any, **named: Any) -> str:
        if path == saved:
            raise OSError(errno.ESTALE, "Stale file handle")
        return read_text(path, *more, **named)

    read_text = Path.read_text
    monkeypatch.setattr(Path, "read_text", stale)
    with pytest.raises(RunFolderError, match=r"config\.json cannot be read .*Stale file handle"):
        folder_module._claim(saved.parent, config)
    assert saved.read_bytes() == before


@pytest.mark.parametrize("name", [None, "mine"])
def test_a_folder_in_use_is_refused_until_it_is_released(tmp_path: Path, name: str | None) -> None:
    config = _config(tmp_path, run__name=name)
    first = claim_run_folder(config)
    with pytest.raises(RunFolderError, match=f"run folder {first.path} is in use by another process; wait for it, or"):
        claim_run_folder(config)
    first.release()
    assert claim_run_folder(config).path == first.path


@pytest.mark.parametrize("name", [None, "mine"])
def test_a_folder_that_cannot_be_written_is_refused_with_its_path(tmp_path: Path, name: str | None) -> None:
    (tmp_path / "file").write_text("in the way")
    match = rf"run folder {tmp_path}/file/runs/.* cannot be written \(Not a directory\); set --run.root to a folder"
    with pytest.raises(RunFolderError, match=match):
        claim_run_folder(_config(tmp_path / "file" / "runs", run__name=name))


def _table(path: Path) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return str(path)


def test_the_same_table_by_another_spelling_finds_its_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = _table(tmp_path / "here" / "catalog.csv")
    (tmp_path / "link").symlink_to(tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    before = _leave(_config(tmp_path, data__catalog_path="catalog.csv"))
    for spelt in (table, "../here/catalog.csv", str(tmp_path / "link" / "catalog.csv")):
        folder = claim_run_folder(_config(tmp_path, data__catalog_path=spelt))
        folder.release()
        assert (folder.path, folder.checkpoint) == (before, before / CHECKPOINT_FILE)
        assert Path(json.loads((before / CONFIG_FILE).read_text())["data"]["catalog_path"]).is_absolute()


def test_another_table_by_the_same_spelling_is_another_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for place in ("here", "elsewhere"):
        _table(tmp_path / place / "catalog.csv")
    monkeypatch.chdir(tmp_path / "here")
    before = _leave(_config(tmp_path, data__catalog_path="catalog.csv"))
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert claim_run_folder(_config(tmp_path, data__catalog_path="catalog.csv")).path != before


def test_a_named_run_does_not_ask_how_its_table_or_its_columns_are_called(tmp_path: Path) -> None:
    before = _leave(_config(tmp_path, run__name="mine", data__catalog_path="/a/catalog.csv"))
    other = _config(tmp_path, run__name="mine", data__catalog_path="/b/t.parquet", data__columns={"pmbb_id": "mrn"})
    folder = claim_run_folder(other)
    assert folder.checkpoint == before / CHECKPOINT_FILE
    assert folder.before is not None
    assert folder.before.data.catalog_path == "/a/catalog.csv"
    folder.release()
    with pytest.raises(RunFolderError, match="generated phantoms: False -> True"):
        claim_run_folder(_config(tmp_path, run__name="mine"))


FROM_THE_BEGINNING = {
    "data": "phantom_subjects n_scans modality_filter drop_time_series drop_localizers drop_derived selection_seed "
    "holdout_fraction holdout_min_series n_patches patch_mm workers warm_pool_size visits_per_scan pairs_per_turn "
    "deterministic",
    "view": "radius_mm_min radius_mm_max radius_mm_floor rotation_max_deg window_width_std_min window_width_std_max",
    "model": "preset objective projection_dim",
    "loss": "w_distance w_rotation w_window w_supcon_target supcon_temperature supcon_warmup_steps supcon_ramp_steps "
    "simclr_baseline normalize_targets dead_zone_mm dead_zone_deg dead_zone_std",
    "train": "batch_size lr lr_warmup_steps weight_decay grad_clip precision seed",
}


def test_a_new_setting_at_its_default_keeps_earlier_runs_resumable() -> None:
    known = {f"{section}.{name}" for section, names in FROM_THE_BEGINNING.items() for name in names.split()}
    counted = {key for key in known_keys(phantom_cpu()) if _is_fixed(key)} - LATER - {"recipe"}
    assert counted == known, "name a new setting in LATER"


def _of_an_earlier_version(config: PrismConfig) -> str:
    """Hash of the settings as versions made it in which the path of the catalogue was one of them."""
    free = ("run.", "preflight.", "eval.", "tracking.", "quota.")
    later = LATER | {"data.holdout_file"}
    known = {key: value for key, value in known_keys(config).items() if key not in MAY_CHANGE | later}
    return content_hash({key: value for key, value in known.items() if not key.startswith(free)})


@pytest.mark.parametrize("spelt", ["catalog.csv", "../here/catalog.csv"])
def test_a_run_of_an_earlier_version_is_found_and_known_however_often_it_is_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spelt: str
) -> None:
    table = _table(tmp_path / "here" / "catalog.csv")
    monkeypatch.chdir(tmp_path / "here")
    old = _config(tmp_path, data__catalog_path=spelt)
    command = {key: value for key, value in known_keys(old).items() if not key.startswith("run.")}
    path = tmp_path / f"phantom-cpu-{content_hash(command)[:8]}"
    path.mkdir()
    write_json(path / CONFIG_FILE, old.to_dict())
    (path / CHECKPOINT_FILE).write_bytes(b"")
    hashed = _of_an_earlier_version(old)
    first = claim_run_folder(old)
    assert first.path == path
    first.release()
    monkeypatch.chdir(tmp_path)  # a trial of a sweep works elsewhere, and is told the absolute path
    for _ in range(2):
        now = _config(tmp_path, run__name=path.name, data__catalog_path=table)
        claim_run_folder(now).release()
        assert hashed in identities(now, path)
        assert hashed != identity(now)
    assert hashed not in identities(apply_overrides(now, {"train.lr": 0.5}), path)


def test_a_list_of_held_out_patients_is_part_of_the_command_and_not_of_the_training(tmp_path: Path) -> None:
    with_list, without = (
        _config(tmp_path, data__catalog_path="a.csv", data__holdout_file=at) for at in ("t.txt", None)
    )
    assert folder_for(with_list) != folder_for(without)
    assert identity(with_list) == identity(without)
    assert with_absolute_paths(with_list).data.holdout_file == str(Path("t.txt").absolute())


def test_a_setting_that_earlier_versions_did_not_have_counts_once_it_is_used(tmp_path: Path) -> None:
    plain, used = _config(tmp_path, run__name="mine"), _config(tmp_path, run__name="mine", view__same_place_share=0.5)
    assert identity(plain) != identity(used)
    _leave(plain)
    with pytest.raises(RunFolderError, match=r"view\.same_place_share: 0\.0 -> 0\.5"):
        claim_run_folder(used)
