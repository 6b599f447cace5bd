"""A run starts from the weights that it was told, and from no others; its lineage says so."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from prism_ssl.config.network import ModelConfig
from prism_ssl.errors import CheckpointError, ConfigError
from prism_ssl.model.export import save_encoder
from prism_ssl.model.network import PrismNet, build_network
from prism_ssl.records.run_files import read_lineage
from prism_ssl.train.checkpoint import Checkpoint, save_checkpoint
from prism_ssl.train.resume.initial_weights import (
    INITIAL_FILE,
    drop_initial_weights,
    keep_initial_weights,
    load_initial_weights,
)

TINY = ModelConfig(preset="tiny", projection_dim=16)


def network(seed: int, config: ModelConfig = TINY) -> PrismNet:
    torch.manual_seed(seed)
    return build_network(config)


@pytest.fixture
def earlier(tmp_path: Path) -> Path:
    """A finished run: its export and its checkpoint, which is a step ahead."""
    folder = tmp_path / "earlier"
    folder.mkdir()
    save_encoder(network(1).encoder, folder, {"preset": "tiny", "run": "earlier", "step": 7})
    learner = {"network": network(2).state_dict(), "optimizer": {}}
    save_checkpoint(folder, Checkpoint(8, learner, [], {}, "hash"))
    return folder


def begun(source: str, tmp_path: Path, config: ModelConfig = TINY) -> PrismNet:
    """A new network that started from ``source``."""
    config = dataclasses.replace(config, init_from=source)
    run_dir = tmp_path / "new"
    run_dir.mkdir(exist_ok=True)
    keep_initial_weights(run_dir, config)
    found = network(3, config)
    load_initial_weights(run_dir, config, found)
    return found


def same(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    return all(torch.equal(p, q) for p, q in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


@pytest.mark.parametrize("source", ["{}", "{}/encoder.safetensors"])
def test_the_encoder_is_the_earlier_one_and_the_heads_are_new(earlier: Path, tmp_path: Path, source: str) -> None:
    found = begun(source.format(earlier), tmp_path)
    assert same(found.encoder, network(1).encoder)
    assert same(found.heads, network(3).heads)
    lineage = read_lineage(tmp_path / "new")
    assert lineage is not None
    assert (lineage["run"], lineage["step"], lineage["parts"], lineage["artifact"]) == ("earlier", 7, "encoder", None)
    assert str(tmp_path) not in json.dumps(lineage)


def test_a_checkpoint_gives_its_encoder_too(earlier: Path, tmp_path: Path) -> None:
    found = begun(f"{earlier}/last.ckpt", tmp_path)
    assert same(found.encoder, network(2).encoder)
    assert same(found.heads, network(3).heads)


@pytest.mark.parametrize("source", ["{}", "{}/last.ckpt"])
def test_everything_is_the_checkpoint_with_its_heads(earlier: Path, tmp_path: Path, source: str) -> None:
    config = dataclasses.replace(TINY, init_parts="everything")
    found = begun(source.format(earlier), tmp_path, config)
    assert same(found, network(2))
    lineage = read_lineage(tmp_path / "new")
    assert lineage is not None
    assert (lineage["run"], lineage["step"], lineage["preset"]) == ("earlier", 8, "tiny")


@pytest.mark.parametrize("parts", ["encoder", "everything"])
def test_another_preset_is_refused_by_name(earlier: Path, tmp_path: Path, parts: str) -> None:
    small = ModelConfig(preset="small", init_from=str(earlier))
    assert parts in ("encoder", "everything")
    small = dataclasses.replace(small, init_parts="everything" if parts == "everything" else "encoder")
    with pytest.raises(ConfigError, match=r"preset 'tiny', and model\.preset is 'small'; set model\.preset to 'tiny'"):
        keep_initial_weights(tmp_path, small)
    assert not (tmp_path / INITIAL_FILE).exists()


def test_another_input_is_refused(earlier: Path, tmp_path: Path) -> None:
    normalized = dataclasses.replace(TINY, init_from=str(earlier), normalize_patches=True)
    with pytest.raises(ConfigError, match=r"without model\.normalize_patches; set it as in that run"):
        keep_initial_weights(tmp_path, normalized)


def test_other_heads_and_missing_files_are_refused(earlier: Path, tmp_path: Path) -> None:
    other = dataclasses.replace(TINY, init_from=str(earlier), init_parts="everything", projection_dim=32)
    with pytest.raises(ConfigError, match="holds other heads"):
        keep_initial_weights(tmp_path, other)
    with pytest.raises(CheckpointError, match="does not exist"):
        keep_initial_weights(tmp_path, dataclasses.replace(TINY, init_from=str(tmp_path / "none")))
    (earlier / "last.ckpt").unlink()
    with pytest.raises(CheckpointError, match="which holds the heads"):
        keep_initial_weights(tmp_path, dataclasses.replace(TINY, init_from=str(earlier), init_parts="everything"))


def test_weights_are_dropped_once_there_is_a_checkpoint(earlier: Path, tmp_path: Path) -> None:
    begun(str(earlier), tmp_path)
    new = tmp_path / "new"
    drop_initial_weights(new)
    assert (new / INITIAL_FILE).exists()
    (new / "last.ckpt").touch()
    drop_initial_weights(new)
    assert not (new / INITIAL_FILE).exists()
    assert read_lineage(new) is not None
    with pytest.raises(CheckpointError, match="start the run again"):
        load_initial_weights(new, dataclasses.replace(TINY, init_from=str(earlier)), network(3))


def test_without_the_setting_nothing_is_kept(tmp_path: Path) -> None:
    assert keep_initial_weights(tmp_path, TINY) is None
    assert read_lineage(tmp_path) is None
    load_initial_weights(tmp_path, TINY, network(3))
