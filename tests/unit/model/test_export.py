"""The encoder that is taken away answers as the one that was trained."""

from __future__ import annotations

import copy
import hashlib
import json
import re
from pathlib import Path

import pytest
import torch

from prism_ssl.config.defaults import phantom_cpu
from prism_ssl.errors import CheckpointError
from prism_ssl.model.backbone import PrismEncoder, build_encoder
from prism_ssl.model.encoder_source import DESCRIPTION_FILE, WEIGHTS_FILE
from prism_ssl.model.export import load_encoder, save_encoder, verify_export
from prism_ssl.train.learner import Learner
from tests.support.model_batches import random_batch

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
    described = json.loads((tmp_path / DESCRIPTION_FILE).read_text())
    weights = (tmp_path / WEIGHTS_FILE).read_bytes()
    assert described == DESCRIPTION | {"weights_sha256": hashlib.sha256(weights).hexdigest()}


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
    with pytest.raises(CheckpointError, match="sha256 of the weights is"):
        load_encoder(path)
    described = json.loads((tmp_path / DESCRIPTION_FILE).read_text())
    (tmp_path / DESCRIPTION_FILE).write_text(json.dumps(described | {"weights_sha256": None}))
    with pytest.raises(CheckpointError, match="SafetensorError"):
        load_encoder(path)


@pytest.mark.parametrize("given", ["nowhere", "entity/project", "encoder.json"])
def test_what_is_no_encoder_is_never_replaced_by_one_nearby(encoder: PrismEncoder, tmp_path: Path, given: str) -> None:
    save_encoder(encoder, tmp_path, DESCRIPTION)
    with pytest.raises(CheckpointError, match=r"\(it (does not exist|is another file)\); needed: .*entity/project/"):
        load_encoder(tmp_path / given)


def test_loading_draws_nothing_from_the_global_generator(encoder: PrismEncoder, tmp_path: Path) -> None:
    save_encoder(encoder, tmp_path, DESCRIPTION)
    before = torch.get_rng_state()
    load_encoder(tmp_path)
    verify_export(encoder, DESCRIPTION, tmp_path / "check")
    assert torch.equal(torch.get_rng_state(), before)


def test_trained_weights_give_the_embeddings_that_they_gave_while_training(tmp_path: Path) -> None:
    torch.manual_seed(0)
    learner = Learner(phantom_cpu(), torch.device("cpu"))
    batch = random_batch()
    for step in range(3):
        learner.step(batch, step)
    with torch.no_grad():
        wanted = learner.network(batch.patches_a, batch.positions_a, batch.patches_b, batch.positions_b)
    loaded = load_encoder(save_encoder(learner.network.encoder, tmp_path, DESCRIPTION))
    patches, positions = (
        torch.cat([batch.patches_a, batch.patches_b]),
        torch.cat([batch.positions_a, batch.positions_b]),
    )
    with torch.no_grad():
        assert torch.equal(loaded(patches, positions), torch.cat([wanted.embedding_a, wanted.embedding_b]))


def test_an_encoder_that_survives_its_export_is_told_nothing(encoder: PrismEncoder, tmp_path: Path) -> None:
    verify_export(encoder, DESCRIPTION, tmp_path / "check")
    assert list((tmp_path / "check").iterdir()) == []


def test_an_encoder_that_is_not_wholly_in_its_files_is_refused(encoder: PrismEncoder, tmp_path: Path) -> None:
    odd = copy.deepcopy(encoder)
    odd.rotary.frequencies *= 2  # belongs to the encoder, and to neither file
    with pytest.raises(CheckpointError, match=r"answers differently \(by up to .*so it does not begin"):
        verify_export(odd, DESCRIPTION, tmp_path / "check")


def test_an_export_that_cannot_be_written_is_refused(encoder: PrismEncoder, tmp_path: Path) -> None:
    (tmp_path / "check").touch()
    with pytest.raises(CheckpointError, match=r"cannot be exported .*FileExistsError.*so it does not begin"):
        verify_export(encoder, DESCRIPTION, tmp_path / "check")
