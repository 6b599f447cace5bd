"""The command line of train_single: overrides arrive, and a mistake ends with a sentence, not with a traceback."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from prism_ssl.config.defaults import RECIPES, apply_overrides, phantom_cpu
from tests.conftest import REPOSITORY
from tune.train_single import main, parse


def _refusal(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """What ``main`` says on stderr before it exits with a code other than 0, freed from its frame."""
    with pytest.raises(SystemExit, match=r"^[1-9]"):
        main(arguments)
    said = capsys.readouterr()
    assert said.out == ""
    return re.sub(r"[\s│╭╮╰╯─]+", " ", said.err)


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_alone_is_itself(recipe: str) -> None:
    assert parse([recipe]) == RECIPES[recipe]()


def test_an_override_changes_its_key_and_nothing_else() -> None:
    assert parse(["phantom-cpu", "--train.max-steps", "200"]) == apply_overrides(
        phantom_cpu(), {"train.max_steps": 200}
    )


def test_every_kind_of_value_can_be_said() -> None:
    said = "--data.no-strict --data.modality-filter CT --train.lr 2e-4 --model.objective classification --run.name n1"
    config = parse(["phantom-cpu", *said.split(), "--data.columns", "pmbb_id", "mrn", "--train.torch-threads", "None"])
    wanted = {
        "data.strict": False,
        "data.modality_filter": ("CT",),
        "data.columns": {"pmbb_id": "mrn"},
        "train.lr": 2e-4,
        "train.torch_threads": None,
        "model.objective": "classification",
        "run.name": "n1",
    }
    assert config == apply_overrides(phantom_cpu(), wanted)


@pytest.mark.parametrize(
    ("typo", "meant"),
    [("--train.max-stepz", "--train.max-steps"), ("--trian.lr", "--train.lr"), ("--lr", "--train.lr"),
     ("--train.max-step", "--train.max-steps"), ("--data.warmpool-size", "--data.warm-pool-size")],
)  # fmt: skip
def test_an_unknown_key_is_refused_and_the_nearest_known_one_named(
    typo: str, meant: str, capsys: pytest.CaptureFixture[str]
) -> None:
    said = _refusal(["phantom-cpu", typo, "7"], capsys)
    assert f"Unrecognized options: {typo}" in said
    assert re.search(rf"Perhaps you meant: .*{re.escape(meant)} ", said)


@pytest.mark.parametrize("arguments", [["fantom-cpu"], []])
def test_an_unknown_or_missing_recipe_is_answered_with_the_known_ones(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    said = _refusal(arguments, capsys)
    assert [name for name in RECIPES if name not in said] == []


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ("--data.workers 3", "train.batch_size is 16 and data.workers is 3; needed: a batch of equal parts"),
        ("--train.lr -1", "train.lr is -1.0; needed: a value above 0"),
        ("--train.max-steps abc", "--train.max-steps: invalid literal for int"),
        ("--model.preset huge", "invalid choice 'huge' for argument '--model.preset'"),
    ],
)
def test_a_refused_value_is_explained_in_a_sentence(
    arguments: str, sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    said = _refusal(["phantom-cpu", *arguments.split()], capsys)
    assert sentence in said
    assert "Traceback" not in said


def test_a_run_that_cannot_begin_ends_the_process_with_1_and_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    where = ["--run.root", str(tmp_path / "file" / "runs"), "--run.tmp-root", str(tmp_path / "tmp")]
    result = subprocess.run(
        [sys.executable, "tune/train_single.py", "phantom-cpu", *where],
        cwd=REPOSITORY, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (result.returncode, result.stdout) == (1, "")
    assert re.search(r"^RunFolderError: run folder .* cannot be written .*; set --run.root", result.stderr)
    assert "Traceback" not in result.stderr
