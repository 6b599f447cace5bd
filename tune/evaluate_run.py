"""Evaluate a run's last checkpoint again: ``prism evaluate RUN_DIR [--trained | --catalog TABLE]``."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from prism_ssl.cli.catalog_options import EXIT_NO, EXIT_OK, refused
from prism_ssl.config.schema import PrismConfig
from prism_ssl.contracts import PreparedScan
from prism_ssl.errors import PrismError, RunFolderError
from prism_ssl.records.run_files import CHECKPOINT_FILE, settings_of_run
from prism_ssl.utils.fs import temporary_root
from prism_ssl.utils.ray_cluster.session import ray_environment

if TYPE_CHECKING:
    from prism_ssl.data.holdout import Split


def evaluate_run(run_dir: Path, catalog: Path | None = None, trained: bool = False) -> dict[str, float]:
    """The ``probe/`` scalars, without their prefix, of the last checkpoint of a run.

    Args:
        run_dir: a run folder with config.json and last.ckpt.
        catalog: evaluate on the scans of this table, without those of training patients; None: on its own catalogue.
        trained: evaluate on unseen views of its training scans, else on its held-out scans.

    Raises:
        RunFolderError: not a run folder, or it does not say which patients of ``catalog`` it was trained on.
        CheckpointError: its checkpoint does not load.
        CatalogError: the catalogue cannot be used.
    """
    # Ray reads its environment when it is first imported.
    import torch

    from prism_ssl.data.holdout import Split
    from prism_ssl.eval.run_evaluator import Evaluator
    from prism_ssl.model.network import build_network
    from prism_ssl.train.checkpoint import load_checkpoint

    config = settings_of_run(run_dir)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network = build_network(config.model).to(device)
    checkpoint = load_checkpoint(run_dir / CHECKPOINT_FILE, torch.device("cpu"))  # the optimisers' state stays there
    network.load_state_dict(checkpoint.learner["network"])
    split = Split.from_plain(checkpoint.split) if checkpoint.split else None
    if catalog is not None and split is None:
        raise RunFolderError(
            f"the checkpoint in {run_dir} does not note its training patients (an earlier version wrote it), so they "
            f"cannot be left out of {catalog}; needed: a run of this version, or no --catalog"
        )
    scans, table = _scans(config, run_dir, catalog, trained, split)
    return Evaluator(scans, config, table)(network)


def _scans(
    config: PrismConfig, run_dir: Path, catalog: Path | None, trained: bool, split: Split | None
) -> tuple[list[PreparedScan], Path]:
    """The scans to evaluate on, and their catalogue."""
    from prism_ssl.data.archive import check_scans, prepare_archive, select_scans
    from prism_ssl.data.pool import OBJECT_STORE_MIN_BYTES
    from prism_ssl.utils.ray_cluster.session import ray_session

    tmp_root, cache_root = temporary_root(config.run.tmp_root), run_dir.absolute().parent / ".preflight"
    if catalog is not None:
        config = dataclasses.replace(config, data=dataclasses.replace(config.data, catalog_path=str(catalog)))
    selected = select_scans(config, tmp_root)
    with ray_session(1, OBJECT_STORE_MIN_BYTES, tmp_root):
        if catalog is not None:
            kept, known = check_scans(selected, config, cache_root).kept, split.training if split else {}
            return [scan for scan in kept if scan.record.subject_id not in known], selected.catalog
        archive = prepare_archive(selected, config, cache_root, split)
        scans = [scan for shard in archive.shards for scan in shard] if trained else archive.held_out
        return scans, selected.catalog


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the scalars as JSON; 0 if there are any."""

    def command(
        run_dir: tyro.conf.Positional[Path], catalog: Path | None = None, trained: bool = False
    ) -> tuple[Path, Path | None, bool]:
        """Evaluate the last checkpoint of a run on its held-out scans.

        Args:
            run_dir: the run folder.
            catalog: evaluate on the scans of this table instead, without those of training patients.
            trained: evaluate on unseen views of the training scans instead.
        """
        return run_dir, catalog, trained

    run_dir, catalog, trained = tyro.cli(command, args=arguments, prog="prism evaluate")
    try:
        with ray_environment(temporary_root(settings_of_run(run_dir).run.tmp_root)):
            values = evaluate_run(run_dir, catalog, trained)
    except PrismError as error:
        return refused(error)
    known = {name: value if value == value else None for name, value in values.items()}
    print(json.dumps(known, indent=2))  # noqa: T201  output for other programs
    return EXIT_OK if values else EXIT_NO


if __name__ == "__main__":
    sys.exit(main())
