"""Weights of an earlier run to start from (``model.init_from``): found before training, kept in the run folder, loaded
at step 0 only, and named as the run's lineage."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from prism_ssl.config.network import ModelConfig
from prism_ssl.errors import CheckpointError, ConfigError
from prism_ssl.model.backbone import PRESETS, EncoderShape
from prism_ssl.model.encoder_source import DEMO, DESCRIPTION_FILE, WEIGHTS_FILE, encoder_folder
from prism_ssl.model.export import read_export
from prism_ssl.model.network import PrismNet, build_network
from prism_ssl.records.run_files import CHECKPOINT_FILE, LINEAGE_FILE, read_lineage, write_json
from prism_ssl.train.checkpoint import load_checkpoint
from prism_ssl.utils.fs import write_atomic

INITIAL_FILE = "initial.safetensors"
"""Weights in a run folder until its first checkpoint."""
_WANDB = "wandb:"
_ENCODER, _HEADS = "encoder.", "heads."
_PATCHES, _POSITIONS = f"{_ENCODER}patch_embedding.weight", f"{_ENCODER}position_embedding.weight"


@dataclass(frozen=True)
class Lineage:
    """Where a run's first weights come from; no path. ``before`` is the lineage of that run."""

    run: str
    step: int | None
    preset: str
    parts: str
    weights_sha256: str
    artifact: str | None
    before: dict[str, Any] | None

    @property
    def what(self) -> str:
        """For the console: what it starts from."""
        return "the encoder" if self.parts == "encoder" else "all weights"


def keep_initial_weights(run_dir: Path, config: ModelConfig) -> Lineage | None:
    """Read the weights that ``model.init_from`` names, check that they fit, and keep them in the run folder.

    Call it for a run that starts at step 0; None without ``init_from``.

    Raises:
        ConfigError: they are of another preset, of another input, or of other heads.
        CheckpointError: there are none, or they are damaged.
        TrackingError: W&B has no such artifact, or does not answer.
    """
    if config.init_from is None:
        return None
    source = config.init_from.removeprefix(_WANDB)
    weights, told = _encoder_weights(source) if config.init_parts == "encoder" else _all_weights(source)
    preset = told.pop("preset")
    if preset != config.preset:
        raise ConfigError(
            f"model.init_from {config.init_from} holds an encoder of preset {preset!r}, and model.preset is "
            f"{config.preset!r}; set model.preset to {preset!r}, or start from another run"
        )
    _refuse_other_inputs(weights, config)
    _refuse_other_heads(weights, config)
    packed = save({name: tensor.contiguous() for name, tensor in weights.items()})
    local = Path(source).exists() or source == DEMO
    artifact = source if config.init_from.startswith(_WANDB) or not local else None
    digest = hashlib.sha256(packed).hexdigest()
    lineage = Lineage(parts=config.init_parts, preset=preset, weights_sha256=digest, artifact=artifact, **told)
    write_atomic(run_dir / INITIAL_FILE, packed)
    write_json(run_dir / LINEAGE_FILE, asdict(lineage))
    return lineage


def load_initial_weights(run_dir: Path, config: ModelConfig, network: PrismNet) -> None:
    """Load what ``keep_initial_weights`` kept, with ``init_from``; raises ``CheckpointError`` where it is damaged."""
    if config.init_from is None:
        return
    path = run_dir / INITIAL_FILE
    try:
        weights = load(path.read_bytes())
        found = network.load_state_dict(weights, strict=False)
    except (OSError, SafetensorError, RuntimeError) as error:
        raise CheckpointError(f"{path} does not load ({type(error).__name__}: {error}); start the run again") from error
    if missing := [name for name in found.missing_keys if name.startswith(_ENCODER)]:
        raise CheckpointError(f"{path} lacks {missing[0]} and {len(missing) - 1} more; start the run again")


def drop_initial_weights(run_dir: Path) -> None:
    """Remove them, if a checkpoint has taken their place; the lineage stays."""
    if (run_dir / CHECKPOINT_FILE).exists():
        (run_dir / INITIAL_FILE).unlink(missing_ok=True)


def _encoder_weights(source: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    if Path(source).name == CHECKPOINT_FILE:
        weights, told = _all_weights(source)
        return {name: tensor for name, tensor in weights.items() if name.startswith(_ENCODER)}, told
    exported, encoder = read_export(source)
    told = exported.description
    weights = {f"{_ENCODER}{name}": tensor for name, tensor in encoder.state_dict().items()}
    return weights, {key: told.get(key) for key in ("preset", "step")} | {
        "run": str(told.get("run", "")),
        "before": told.get("lineage"),
    }


def _all_weights(source: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    path = Path(source)
    if path.name == CHECKPOINT_FILE and path.is_file():
        return _of_checkpoint(path, path.resolve().parent.name)
    with encoder_folder(source) as folder:
        if not (folder / CHECKPOINT_FILE).is_file():
            raise CheckpointError(
                f"{source} has no {CHECKPOINT_FILE}, which holds the heads; needed: a run or W&B artifact with it, or "
                f"model.init_parts 'encoder', for which {WEIGHTS_FILE} and {DESCRIPTION_FILE} are enough"
            )
        return _of_checkpoint(folder / CHECKPOINT_FILE, _name_of(source))


def _of_checkpoint(path: Path, run: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    checkpoint = load_checkpoint(path, torch.device("cpu"))
    network: dict[str, Tensor] = checkpoint.learner["network"]
    before = read_lineage(path.parent)
    return network, {"preset": _preset_of(network), "step": checkpoint.step, "run": run, "before": before}


def _name_of(source: str) -> str:
    """The run's name: that of its folder, or the artifact's."""
    path = Path(source)
    if not path.exists():
        return source.rpartition("/")[2]
    return path.resolve().name if path.is_dir() else path.resolve().parent.name


def _preset_of(network: dict[str, Tensor]) -> str:
    """The preset of an encoder's weights, by their shape."""
    width = network[f"{_ENCODER}cls"].shape[0]
    depth = len({name.split(".")[2] for name in network if name.startswith(f"{_ENCODER}blocks.")})
    names = {(shape.width, shape.depth): name for name, shape in PRESETS.items()}
    return names.get((width, depth), f"{width} wide and {depth} deep")


def _refuse_other_inputs(weights: dict[str, Tensor], config: ModelConfig) -> None:
    with_statistics = EncoderShape(6, 1, 1, normalize_patches=True).patch_inputs
    found = {
        "normalize_patches": weights[_PATCHES].shape[1] == with_statistics,
        "position_features": _POSITIONS in weights,
    }
    for name, has in found.items():
        if has != getattr(config, name):
            raise ConfigError(
                f"model.init_from {config.init_from} holds an encoder {'with' if has else 'without'} model.{name}; "
                "set it as in that run, or start from another one"
            )


def _refuse_other_heads(weights: dict[str, Tensor], config: ModelConfig) -> None:
    heads = {name: tensor.shape for name, tensor in weights.items() if name.startswith(_HEADS)}
    if not heads:
        return
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        wanted = {name: t.shape for name, t in build_network(config).state_dict().items() if name.startswith(_HEADS)}
    if other := sorted(name for name in heads.keys() | wanted.keys() if heads.get(name) != wanted.get(name)):
        raise ConfigError(
            f"model.init_from {config.init_from} holds other heads ({other[0]} and {len(other) - 1} more differ); set "
            "model.objective and model.projection_dim as in that run, or model.init_parts to 'encoder'"
        )
