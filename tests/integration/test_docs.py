"""The commands and the Python of docs/ are run as a reader would run them; long ones are read by their parsers."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from prism_ssl.cli.main import VERBS
from prism_ssl.config.defaults import known_keys
from tests.conftest import REPOSITORY
from tune import train_single, tune_core24

DOCS = REPOSITORY / "docs"
IN_ORDER = ("own-data.md", "diagnostics.md", "take-away.md")
"""Pages that are run, each with what the ones before have left."""


def blocks(path: Path, *kinds: str) -> list[tuple[str, str]]:
    """(kind, content) of the fenced blocks of a page, in order."""
    fences = re.findall(r"^```(\w+)\n(.*?)^```$", path.read_text(), re.MULTILINE | re.DOTALL)
    return [(kind, content) for kind, content in fences if kind in kinds]


def runnable(path: Path) -> list[tuple[str, str]]:
    """The blocks to run, those of Python that follow each other as one: a reader has one session open."""
    joined: list[tuple[str, str]] = []
    for kind, content in blocks(path, "bash", "python"):
        if joined and kind == joined[-1][0] == "python":
            content = joined.pop()[1] + content
        joined.append((kind, content))
    return joined


def commands(content: str) -> list[list[str]]:
    """The commands of a block as words, without the interpreter and assignments before it."""
    return [shlex.split(line) for line in content.replace("\\\n", " ").splitlines() if line.strip()]


def verb_of(words: list[str]) -> tuple[str | None, list[str]]:
    """The subcommand of ``prism`` that a command calls, by that name or by a script of tune/, and its arguments."""
    for at, word in enumerate(words):
        if word.endswith("bin/prism") or word == "prism":
            return (words[at + 1], words[at + 2 :]) if len(words) > at + 1 else (None, [])
        if word in ("tune/train_single.py", "tune/tune_core24.py"):
            return ("train" if "single" in word else "sweep"), words[at + 1 :]
    return None, []


@pytest.mark.slow
def test_the_pages_run_one_after_another(phantom_catalog: Path, tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    for name in ("tune", "notebooks"):
        (tmp_path / "here" / name).symlink_to(REPOSITORY / name)
    of_monai = "ignore:NvImgCodecPydicomReader"  # pydicom is installed, its GPU decoder is not
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "PYTHONWARNINGS": of_monai}
    for name in ("RAY_AUTH_MODE", "RAY_ADDRESS"):
        environment.pop(name, None)
    for page in IN_ORDER:
        for kind, content in runnable(DOCS / page):
            code = content.replace("/archive/", f"{phantom_catalog.parent}/")
            code = code.replace(".venv/bin/", f"{Path(sys.executable).parent}/")
            line = ["bash", "-euo", "pipefail", "-c", code] if kind == "bash" else [sys.executable, "-c", code]
            result = subprocess.run(
                line, cwd=tmp_path / "here", env=environment, capture_output=True, text=True, check=False, timeout=300
            )
            assert result.returncode == 0, f"{page}:\n{content}\n{result.stdout}\n{result.stderr}"
            assert "Warning" not in result.stderr, f"{page}:\n{content}\n{result.stderr}"


def test_commands_that_take_long_are_at_least_understood() -> None:
    known = 0
    for page in (*DOCS.glob("*.md"), REPOSITORY / "README.md"):
        for _, content in blocks(page, "console", "bash"):
            for words in commands(content):
                verb, options = verb_of(words)
                if verb is None or {"--help", "--help-all", "--config"} & set(options):
                    continue
                assert verb in VERBS, words
                known += 1
                if verb == "train":
                    assert known_keys(train_single.parse(options))
                elif verb == "sweep":
                    assert tune_core24.parse(options).points
    assert known >= 8


def test_job_scripts_that_are_named_exist() -> None:
    lines = [content for page in DOCS.glob("*.md") for _, content in blocks(page, "sbatch")]
    scripts = re.findall(r"slurm/\w+\.sbatch", "\n".join(lines))
    assert len(scripts) >= 4
    assert [script for script in scripts if not (REPOSITORY / script).is_file()] == []
