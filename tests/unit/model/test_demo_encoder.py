"""The encoder that ships with the package loads, is what its card says, and names whose images it was learned from."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import prism_ssl
from prism_ssl.model.encoder_source import DEMO, encoder_folder
from prism_ssl.study.sources import REPOSITORIES


def test_it_loads_and_looks_at_views() -> None:
    encoder = prism_ssl.load_encoder("demo")
    with torch.no_grad():
        embedded = encoder(torch.rand(2, 64, 16, 16, 1) * 2 - 1, 20 * torch.randn(2, 64, 3))
    assert embedded.shape == (2, 128)
    assert torch.isfinite(embedded).all()


def test_its_card_is_of_these_weights_and_credits_every_repository() -> None:
    with encoder_folder(DEMO) as folder:
        files = {path.name: path.stat().st_size for path in folder.iterdir()}
        card = (folder / "model_card.md").read_text(encoding="utf-8")
        told = json.loads((folder / "encoder.json").read_text(encoding="utf-8"))
    assert set(files) == {"encoder.safetensors", "encoder.json", "model_card.md"}
    assert files["encoder.safetensors"] < 4e6
    assert told["weights_sha256"] in card
    assert [each.name for each in REPOSITORIES if each.name not in card or each.licence not in card] == []
    assert "/" not in json.dumps(told["config"])


def test_a_folder_of_that_name_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / DEMO).mkdir()
    with encoder_folder(DEMO) as folder:
        assert folder.resolve() == tmp_path / DEMO
