"""The command ``prism``: every subcommand exists, and its help fits on a screen."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from prism_ssl.cli import notebook
from prism_ssl.cli.main import VERBS, main
from prism_ssl.errors import ConfigError
from prism_ssl.utils.stop_signals import EXIT_INTERRUPTED, NOTHING_BEGAN
from tests.conftest import REPOSITORY

SCREEN_LINES, SCREEN_COLUMNS = 50, 100
IN_TREE = [name for name, verb in VERBS.items() if verb.module.startswith("prism_ssl")]


def printed(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> list[str]:
    """The lines of a help that ends with 0, by return or by exit."""
    with contextlib.suppress(SystemExit):
        assert main(arguments) == 0
    return capsys.readouterr().out.rstrip("\n").split("\n")


def test_without_a_subcommand_all_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    lines = printed([], capsys)
    assert [name for name in VERBS if not any(line.strip().startswith(name) for line in lines)] == []


def test_an_unknown_subcommand_is_refused_and_the_known_ones_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["trian"]) == 2
    said = capsys.readouterr().err
    assert "'trian'" in said
    assert "train, sweep" in said


@pytest.mark.parametrize("verb", VERBS)
def test_every_subcommand_takes_arguments_and_returns_an_exit_code(verb: str) -> None:
    entry = importlib.import_module(VERBS[verb].module).main
    assert list(inspect.signature(entry).parameters) == ["arguments"]
    assert inspect.signature(entry).return_annotation == "int"


@pytest.mark.parametrize("verb", VERBS)
def test_help_fits_on_a_screen(verb: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    lines = printed([verb, "--help"], capsys)
    assert 3 <= len(lines) <= SCREEN_LINES
    assert max(map(len, lines)) <= SCREEN_COLUMNS


@pytest.mark.parametrize(
    "arguments",
    [["train", "phantom-cpu"], ["train"], ["check"], ["sweep"]],
)
def test_help_all_lists_every_setting(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    text = "\n".join(printed([*arguments, "--help-all"], capsys))
    assert [
        key for key in ("--data.scratch-bytes", "--quota.home-hard-bytes", "--eval.bootstrap") if key not in text
    ] == []


def test_the_overview_costs_no_heavy_import() -> None:
    code = (
        "import sys; from prism_ssl.cli.main import main; main(['--help'])\n"
        "print({'torch', 'ray', 'polars', 'numpy'} & set(sys.modules), file=sys.stderr)"
    )
    told = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert told.stderr.strip() == "set()"


@pytest.mark.parametrize("verb", [name for name, verb in VERBS.items() if verb.resumes])
def test_a_stop_signal_during_the_imports_ends_a_command_in_one_sentence(verb: str, tmp_path: Path) -> None:
    (tmp_path / "rich.py").write_text("print(flush=True); input()")  # an import that waits
    command = [sys.executable, "-m", VERBS[verb].module]
    path = {"PYTHONPATH": f"{tmp_path}:{REPOSITORY}", "PATH": os.environ["PATH"]}
    pipe = subprocess.PIPE
    with subprocess.Popen(command, env=path, cwd=tmp_path, text=True, stdin=pipe, stdout=pipe, stderr=pipe) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        _, told = process.communicate(timeout=60)
    assert (process.returncode, told) == (EXIT_INTERRUPTED, f"{NOTHING_BEGAN}\n")


def test_both_notebooks_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for which in notebook.NOTEBOOKS:
        assert notebook.find_notebook(which).is_file()
    monkeypatch.setattr(notebook, "__file__", str(tmp_path / "a/b/notebook.py"))
    monkeypatch.setattr("sysconfig.get_path", lambda _: str(tmp_path))
    with pytest.raises(ConfigError, match=r"neither in .* nor in .*share/prism_ssl"):
        notebook.find_notebook("runs")
    shared = tmp_path / "share/prism_ssl/notebooks"
    shared.mkdir(parents=True)
    (shared / "explore_runs.py").touch()
    assert notebook.find_notebook("runs") == shared / "explore_runs.py"


def test_what_follows_two_dashes_is_the_notebooks(monkeypatch: pytest.MonkeyPatch) -> None:
    run: list[list[str]] = []

    def note(command: list[str], check: bool) -> subprocess.CompletedProcess[str]:
        run.append(command)
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr("subprocess.run", note)
    for words in (["--", "--runs", "F"], ["runs", "--port", "1", "--", "--runs", "F"]):
        assert notebook.main(words) == 0
        assert run[-1][-3:] == ["--", "--runs", "F"]
    assert notebook.main(["scans"]) == 0
    assert run[-1][-1].endswith("inspect_views.py")
