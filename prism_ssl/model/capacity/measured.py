"""The file of ``prism bench gpu``: what was measured, a row for each preset and batch."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from prism_ssl.config.defaults import apply_overrides
from prism_ssl.config.network import Preset
from prism_ssl.config.schema import PrismConfig
from prism_ssl.errors import ConfigError

FORMAT: Final = 1


@dataclass(frozen=True)
class StepRow:
    """Training steps of one preset and batch on one cached batch; ``mfu`` is None where the card's peak is not known.

    ``first_step_s`` includes compiling; ``rotary_share`` is the time of the rotary embedding, measured alone, over the
    step's. A row that did not fit has ``problem`` and no times.
    """

    preset: Preset
    batch_size: int
    n_patches: int
    compiled: bool
    activation_checkpointing: bool
    precision: str = "bf16"
    muon: bool = False
    problem: str | None = None
    step_ms_median: float = 0.0
    step_ms_p90: float = 0.0
    step_ms_p99: float = 0.0
    first_step_s: float = 0.0
    patches_per_s: float = 0.0
    flops: float = 0.0
    mfu: float | None = None
    peak_bytes: int = 0
    planned_bytes: int = 0
    rotary_share: float = 0.0
    attention: str = ""

    @property
    def p99_over_p50(self) -> float:
        """Spread of the step times."""
        return self.step_ms_p99 / max(self.step_ms_median, 1e-9)


@dataclass(frozen=True)
class FeedRow:
    """Steps fed by a live pool; ``wait_share`` is the part of their time that the step waited for data."""

    extract_on: str
    preset: Preset
    batch_size: int
    n_patches: int
    workers: int
    volume_shape: tuple[int, int, int]
    problem: str | None = None
    steps: int = 0
    step_ms_median: float = 0.0
    step_ms_p99: float = 0.0
    wait_share: float = 0.0
    collate_share: float = 0.0
    first_batch_s: float = 0.0
    pairs_per_s: float = 0.0
    scans_replaced: int = 0


@dataclass(frozen=True)
class BenchFile:
    """All of a bench: ``circumstances`` are card, versions, host, command and transfer rates."""

    circumstances: dict[str, Any]
    steps: tuple[StepRow, ...]
    feeds: tuple[FeedRow, ...] = ()

    def to_json(self) -> str:
        """For ``read_bench``."""
        return json.dumps({"format": FORMAT, **dataclasses.asdict(self)}, indent=2) + "\n"

    def row_of(self, config: PrismConfig) -> StepRow | None:
        """The row that was measured with the settings of ``config``; None if there is none."""
        return next((row for row in self.steps if row.problem is None and _settings(row) == _asked(config)), None)

    def best_mfu(self, preset: Preset) -> float | None:
        """MFU of the preset's row with the largest batch, compiled rows before others; None if none was measured.

        Of a row with activation checkpointing: as if the forward pass that it computes again counted.
        """
        rows = [row for row in self.steps if row.preset == preset and row.mfu is not None]
        best = max(rows, key=lambda row: (row.compiled, row.batch_size), default=None)
        if best is None or best.mfu is None:
            return None
        return best.mfu * (4 / 3 if best.activation_checkpointing else 1)


def _settings(row: StepRow) -> tuple[Any, ...]:
    how = row.compiled, row.activation_checkpointing, row.precision, row.muon
    return row.preset, row.batch_size, row.n_patches, *how


def _asked(config: PrismConfig) -> tuple[Any, ...]:
    model, pairs = config.model, config.train.batch_size // config.train.num_workers
    if config.train.grad_accumulation > 1 or model.masked_share:
        return ()  # not measured
    how = model.compile, model.activation_checkpointing, config.train.precision, config.train.muon_lr is not None
    return model.preset, pairs, config.data.n_patches, *how


def read_bench(path: Path) -> BenchFile:
    """The file; raises ``ConfigError`` where it is none."""
    try:
        told = json.loads(path.read_text())
        if told["format"] != FORMAT:
            raise ValueError(f"its format is {told['format']}")
        return BenchFile(told["circumstances"], _rows(StepRow, told["steps"]), _rows(FeedRow, told["feeds"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{path} is no file of this version's prism bench gpu ({type(error).__name__}: {error}); measure again, or "
            "leave --bench out and give --mfu"
        ) from error


def _rows(kind: Any, rows: Sequence[Mapping[str, Any]]) -> Any:
    return tuple(kind(**{name: tuple(v) if isinstance(v, list) else v for name, v in row.items()}) for row in rows)


def step_config(base: PrismConfig, preset: Preset, batch_size: int, n_patches: int, **others: Any) -> PrismConfig:
    """``base`` with the settings of a row; ``others`` with ``__`` for the dot."""
    more = {name.replace("__", "."): value for name, value in others.items()}
    sizes = {"model.preset": preset, "train.batch_size": batch_size, "data.n_patches": n_patches}
    return apply_overrides(base, sizes | more)
