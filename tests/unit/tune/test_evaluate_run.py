"""The command line of evaluate_run: what is no run ends with a sentence. (Whole runs: test_train_smoke.)"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from prism_ssl.config.defaults import phantom_cpu
from prism_ssl.errors import CheckpointError
from tune.evaluate_run import evaluate_run, main


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path)]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert "RunFolderError" in said.err
    assert "needed: the folder of a run" in said.err


def test_a_run_without_a_checkpoint_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(phantom_cpu().to_dict()))
    with pytest.raises(CheckpointError, match=r"last\.ckpt"):
        evaluate_run(tmp_path)
