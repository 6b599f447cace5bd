"""The encoder that is taken away answers as the one that was trained."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch

from prism_ssl.errors import CheckpointError
from prism_ssl.model.backbone import PrismEncoder, build_encoder
from prism_ssl.model.export import DESCRIPTION_FILE, WEIGHTS_FILE, load_encoder, save_encoder
from tests.unit.model_batches import random_batch

DESCRIPTION = {"preset": "tiny", "n_patches": 5, "patch_mm": 16.0}


@pytest.fixture(scope="module")
def encoder() -> PrismEncoder:
    torch.manual_seed(3)
    return build_encoder("tiny")


@pytest.mark.parametrize("given", ["folder", "file", "text"])
def test_a_loaded_encoder_gives_identical_embeddings(encoder: PrismEncoder, tmp_path: Path, given: str) -> None:
    path = save_encoder(encoder, tmp_path, DESCRIPTION)
    assert path == tmp_path / WEIGHTS_FILE
    ways: dict[str, str | Path] = {"folder": tmp_path, "file": path, "text": str(tmp_path)}
    loaded = load_encoder(ways[given])
    batch = random_batch()
    with torch.no_grad():
        assert torch.equal(
            loaded(batch.patches_a, batch.positions_a), encoder.eval()(batch.patches_a, batch.positions_a)
        )
    assert not loaded.training
    assert {parameter.device.type for parameter in loaded.parameters()} == {"cpu"}


def test_what_feeds_the_encoder_is_written_beside_it(encoder: PrismEncoder, tmp_path: Path) -> None:
    save_encoder(encoder, tmp_path, DESCRIPTION)
    assert json.loads((tmp_path / DESCRIPTION_FILE).read_text()) == DESCRIPTION


@pytest.mark.parametrize(
    ("file", "content"),
    [
        (WEIGHTS_FILE, None),
        (DESCRIPTION_FILE, None),
        (WEIGHTS_FILE, b""),
        (WEIGHTS_FILE, b"<html>not found</html>"),
        (DESCRIPTION_FILE, b'{"preset": "ti'),
        (DESCRIPTION_FILE, b"[1, 2]"),
        (DESCRIPTION_FILE, b"{}"),
        (DESCRIPTION_FILE, b'{"preset": "colossal"}'),
        (DESCRIPTION_FILE, b'{"preset": "small"}'),
    ],
)
def test_a_missing_or_damaged_file_is_an_error_that_says_what_is_needed(
    encoder: PrismEncoder, tmp_path: Path, file: str, content: bytes | None
) -> None:
    save_encoder(encoder, tmp_path, DESCRIPTION)
    (tmp_path / file).unlink()
    if content is not None:
        (tmp_path / file).write_bytes(content)
    match = rf"^no encoder could be loaded from {re.escape(str(tmp_path))} (.|\n)*{WEIGHTS_FILE} and {DESCRIPTION_FILE}"
    with pytest.raises(CheckpointError, match=match):
        load_encoder(tmp_path)


def test_weights_cut_short_are_refused(encoder: PrismEncoder, tmp_path: Path) -> None:
    path = save_encoder(encoder, tmp_path, DESCRIPTION)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="SafetensorError"):
        load_encoder(path)
