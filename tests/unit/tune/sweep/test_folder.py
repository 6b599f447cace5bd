"""What a sweep on disk knows about its trials, and how its command line is read."""

from __future__ import annotations

import pickle
import re
from pathlib import Path

import pytest

from prism_ssl.config.defaults import apply_overrides, core24_smoke
from prism_ssl.contracts import RunStatus, RunSummary
from prism_ssl.data.holdout import Split
from prism_ssl.errors import ConfigError, RunFolderError
from prism_ssl.records.run_files import write_json, write_summary
from prism_ssl.train.run.folder import folder_for
from tune.core24 import design_points
from tune.sweep.folder import Sweep
from tune.sweep.wandb_callback import without_paths
from tune.tune_core24 import main, parse


def sweep(root: Path, *only: str, **overrides: object) -> Sweep:
    settings = {"run.root": str(root)} | {key.replace("__", "."): value for key, value in overrides.items()}
    return Sweep(apply_overrides(core24_smoke(), settings), "smoke", "half", only)


def leave(a_sweep: Sweep, index: int, status: RunStatus, steps: int = 12) -> None:
    """What a trial leaves that came to this end."""
    point = a_sweep.points[index]
    run_dir = a_sweep.run_dir(point)
    run_dir.mkdir(parents=True, exist_ok=True)
    write_json(run_dir / "config.json", a_sweep.config(point).to_dict())
    (run_dir / "last.ckpt").touch()
    cause = None if status == "ok" else "PoolActorDied: pool actor 1"
    write_summary(RunSummary(point.name, status, cause, steps, 12, None, str(run_dir)))


def test_finished_trials_are_not_pending_and_all_others_are(tmp_path: Path) -> None:
    some = sweep(tmp_path)
    leave(some, 0, "ok")
    leave(some, 1, "failed")
    leave(some, 2, "running")
    assert some.pending() == some.points[1:]


def test_more_steps_make_finished_trials_pending_again(tmp_path: Path) -> None:
    short = sweep(tmp_path, run__name="mine")
    leave(short, 0, "ok")
    assert len(short.pending()) == 23
    assert len(sweep(tmp_path, run__name="mine", train__max_steps=13).pending()) == 24


def test_a_trial_of_other_settings_is_refused_and_what_changed_is_named(tmp_path: Path) -> None:
    leave(sweep(tmp_path, run__name="mine"), 0, "ok")
    with pytest.raises(RunFolderError, match=r"b32-p16-w0.1-r2000-reg.*train.lr: 0.001 -> 0.5"):
        sweep(tmp_path, run__name="mine", train__lr=0.5).pending()


def test_the_same_command_finds_its_folder_and_so_does_one_for_other_cells(tmp_path: Path) -> None:
    here = sweep(tmp_path).folder
    assert sweep(tmp_path, "b32-*").folder == here
    assert Sweep(sweep(tmp_path).base, "smoke", "full").folder == here
    assert sweep(tmp_path, train__lr=0.5).folder != here
    assert re.fullmatch(r"core24-smoke-[0-9a-f]{8}", here.name)


def test_a_sweep_and_a_single_run_of_the_same_settings_have_folders_of_their_own(tmp_path: Path) -> None:
    base = apply_overrides(core24_smoke(), {"run.root": str(tmp_path)})
    assert Sweep(base, "smoke", "half").folder != folder_for(base)


def test_a_sweep_is_found_under_other_limits_and_under_the_name_of_an_earlier_version(tmp_path: Path) -> None:
    before = sweep(tmp_path, run__name="core24-smoke-00000000", quota__home_hard_bytes=10**12)
    leave(before, 3, "failed")
    for changed in ({"tracking__mode": "offline"}, {"quota__home_hard_bytes": 2 * 10**12}, {"train__max_steps": 13}):
        assert sweep(tmp_path, **changed).folder == before.folder
    assert sweep(tmp_path, train__lr=0.5).folder != before.folder


def test_a_trials_run_is_below_the_sweep_and_tracked_as_a_part_of_it(tmp_path: Path) -> None:
    some = sweep(tmp_path, tracking__tags=("mine",))
    config = some.config(some.points[0])
    assert Path(config.run.root, str(config.run.name)) == some.run_dir(some.points[0])
    assert config.tracking.group == some.name
    assert config.tracking.tags == ("mine", "core24", "smoke", "regression")


def test_a_trials_run_is_at_the_same_place_wherever_its_process_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    some = pickle.dumps(sweep(Path("runs"), run__name="mine", run__tmp_root="tmp"))
    (tmp_path / "trial").mkdir()
    monkeypatch.chdir(tmp_path / "trial")  # as Ray Tune does
    there: Sweep = pickle.loads(some)
    assert there.folder == tmp_path / "runs" / "mine"
    config = there.config(there.points[0])
    assert (config.run.root, config.run.tmp_root) == (str(there.folder), str(tmp_path / "tmp"))


def test_a_second_process_is_refused(tmp_path: Path) -> None:
    some = sweep(tmp_path)
    with some.claimed(), pytest.raises(RunFolderError, match="run by another process"), some.claimed():
        pass
    with some.claimed():
        pass


def test_a_change_of_the_scans_is_noticed_once_and_remembered(tmp_path: Path) -> None:
    some = sweep(tmp_path)
    some.folder.mkdir()
    counts = {"scans_training": 14.0, "scans_held_out": 8.0}
    assert not some.note_archive("one", counts)
    assert not some.note_archive("one", counts)
    assert some.note_archive("two", counts | {"scans_training": 13.0})
    assert [archive["scans_training"] for archive in some.archives()] == [14, 13]


def test_a_command_line_becomes_a_sweep() -> None:
    said = "--scale smoke --design full --max-steps 6 --only b64-* *-cla --data.catalog-path t.csv --data.no-strict"
    wanted = {"train.max_steps": 6, "data.catalog_path": "t.csv", "data.strict": False}
    parsed = parse(said.split())
    assert parsed == Sweep(
        apply_overrides(core24_smoke(), wanted), "smoke", "full", ("b64-*", "*-cla"), tracking=parsed.tracking
    )
    assert parse([]).points == design_points("half")
    assert parse([]).base.recipe == "core24-base"


@pytest.mark.parametrize("flag", ["--train.batch-size", "--loss.supcon-ramp-steps"])
def test_setting_a_factor_is_refused_with_a_sentence(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--scale", "smoke", flag, "16"]) == 1
    assert f"{flag[2:].replace('-', '_')}: factors of the ablation" in capsys.readouterr().err


def test_a_pattern_without_a_cell_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="matches no cell"):
        sweep(tmp_path, "b48-*").pending()


def test_a_sweep_that_has_finished_is_only_ranked_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["--scale", "smoke", "--only", "b32-p16-w0.1-*", "--run.root", str(tmp_path)]
    for index in range(2):
        leave(parse(command), index, "ok")
    assert main(command) == 0
    assert "2 trials, 0 to run" in capsys.readouterr().out
    assert "2 runs: 2 ok, 0 not" in (parse(command).folder / "ranking.md").read_text()


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("FileNotFoundError: '/archive/Doe John/1.nii.gz' is gone", "FileNotFoundError: <path> is gone"),
        ("scan 12ab failed at /a b/c and /d/e f\nlook", "scan 12ab failed at <path> f\nlook"),
        ("PoolActorDied: pool actor 1", "PoolActorDied: pool actor 1"),
        (None, None),
    ],
)
def test_no_path_leaves_the_machine_in_an_error_text(text: str | None, left: str | None) -> None:
    assert without_paths(text) == left


def test_wandb_variables_decide_how_trials_are_tracked_and_not_where_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MODE", "PROJECT", "RUN_GROUP", "NAME", "TAGS"):
        monkeypatch.delenv(f"WANDB_{name}", raising=False)
    plain = parse(["--scale", "smoke"])
    for name, value in {"MODE": "online", "PROJECT": "p", "RUN_GROUP": "night", "NAME": "n", "TAGS": "a"}.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    told = parse(["--scale", "smoke"])
    assert told.folder == plain.folder
    tracking = told.config(told.points[0]).tracking
    assert (tracking.mode, tracking.project, tracking.group) == ("online", "p", "night")
    assert tracking.name is None  # 24 runs of one name are of no use
    assert tracking.tags[:2] == ("a", "core24")


def test_trials_that_are_begun_later_hold_out_the_same_patients(tmp_path: Path) -> None:
    some = sweep(tmp_path)
    some.folder.mkdir()
    first, second = Split({"a": ["1"]}, {"b": ["2"]}), Split({"c": ["3"]}, {"b": ["2"]})
    some.note_split(first)
    assert some.split() is None  # nobody was trained on yet: another table may still take its place
    some.note_split(first)
    leave(some, 0, "failed", steps=3)
    assert some.split() == first
    some.note_split(second)
    assert some.split() == Split({"a": ["1"], "c": ["3"]}, {"b": ["2"]})


def test_a_sweeps_table_is_at_the_same_place_wherever_a_trial_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    some = sweep(tmp_path, data__catalog_path="catalog.csv")
    assert sweep(tmp_path, data__catalog_path=str(tmp_path / "here" / "catalog.csv")).folder == some.folder
    there = pickle.dumps(some)
    monkeypatch.chdir(tmp_path)
    again: Sweep = pickle.loads(there)
    assert again.folder == some.folder
    assert again.config(again.points[0]).data.catalog_path == str(tmp_path / "here" / "catalog.csv")
