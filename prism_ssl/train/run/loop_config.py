"""The settings, scans and paths that the driver passes to a training worker."""

from __future__ import annotations

import functools
import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from prism_ssl.config.network import ENCODER_INPUTS
from prism_ssl.config.schema import PrismConfig
from prism_ssl.contracts import PreparedScan
from prism_ssl.data.archive import manifest_hash
from prism_ssl.data.holdout import Split
from prism_ssl.data.pool import ActorSettings, PoolSettings
from prism_ssl.records.run_files import read_lineage
from prism_ssl.train.guards.deletable_files import Places
from prism_ssl.utils.fs import home_folder


@dataclass(frozen=True)
class LoopConfig:
    """One attempt at a run. ``checkpoint`` is None for a new run; ``held_out`` is never trained on.

    A file at ``stop_file`` asks the attempt to stop. ``earlier`` is the split that the checkpoint was trained with.
    """

    config: PrismConfig
    shards: list[list[PreparedScan]]
    held_out: list[PreparedScan]
    catalog: Path
    run_dir: Path
    scratch_folder: Path
    quarantine_file: Path
    checkpoint: Path | None
    extract_without_gpu: bool = False
    """Without a GPU, let data.extract_on: cuda mirror volumes in memory and run the same code (for tests)."""
    stop_file: Path | None = None
    earlier: Split | None = None

    @functools.cached_property
    def split(self) -> Split:
        """The training and held-out patients of this attempt and those before."""
        training = (scan.record for scan in itertools.chain(*self.shards))
        return Split.of(training, (scan.record for scan in self.held_out)).joined(self.earlier)

    @property
    def places(self) -> Places:
        """The folders that the quota guard checks."""
        return Places(home_folder(), self.scratch_folder.parent, self.run_dir.parent)

    def actor_settings(self, actors: int | None = None) -> ActorSettings:
        """Settings of the pool actors; ``scratch_bytes`` is the share of this many ``actors``, None: of all."""
        share = 1.0 if actors is None else actors / len(self.shards)
        data = self.config.data
        pool = PoolSettings(
            slots=data.warm_pool_size,
            visits_per_scan=data.visits_per_scan,
            max_prefetch_replacements=data.max_prefetch_replacements,
            strict=data.strict,
            deterministic=data.deterministic,
            seed=self.config.train.seed,
            pairs_per_turn=data.pairs_per_turn,
        )
        return ActorSettings(
            pool=pool,
            view=self.config.view,
            n_patches=data.n_patches,
            patch_mm=data.patch_mm,
            max_volume_bytes=self.config.preflight.max_volume_bytes,
            scratch_bytes=int(share * data.scratch_bytes) if data.use_local_scratch else 0,
            scratch_folder=str(self.scratch_folder),
            # Scratch itself must never cross the limit that ends a run.
            scratch_keep_free_bytes=2 * self.config.quota.tmp_min_free_bytes,
            stall_timeout_s=data.stall_timeout_s,
            extract_on=data.extract_on,
            open_timeout_s=data.open_timeout_s,
            outage_patience_s=data.outage_patience_s,
        )

    def data_facts(self) -> dict[str, Any]:
        """Counts of the training and held-out data; no path and no id."""
        training = list(itertools.chain(*self.shards))
        return {
            "manifest_hash": manifest_hash(training, self.held_out),
            "generated_phantoms": self.config.data.catalog_path is None,
            "training": _counts(training),
            "held_out": _counts(self.held_out),
            "held_out_proven": self.split.proven,
        }

    def encoder_description(self, step: int) -> dict[str, Any]:
        """Contents of encoder.json: what a user needs to feed the encoder."""
        config = self.config
        model = asdict(config.model) | {"init_from": None}  # it may be a path; the lineage tells the same
        return {
            "preset": config.model.preset,
            **{name: getattr(config.model, name) for name in ENCODER_INPUTS},
            "n_patches": config.held_out_patches,
            "patch_mm": config.data.patch_mm,
            "step": step,
            "run": self.run_dir.name,
            "data": self.data_facts(),
            "lineage": read_lineage(self.run_dir),
            "config": config.to_dict() | {"run": {}, "data": {"n_scans": config.data.n_scans}, "model": model},
        }


def _counts(scans: Sequence[PreparedScan]) -> dict[str, Any]:
    records = [scan.record for scan in scans]
    return {
        "scans": len(records),
        "series": len({record.series_id for record in records}),
        "patients": len({record.subject_id for record in records}),
        "modalities": dict(sorted(Counter(record.modality for record in records).items())),
    }
