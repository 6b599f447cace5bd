"""What a user may get wrong: refused with a message that helps, before anything is trained."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support.cli_runs import command, run_to_end

pytestmark = pytest.mark.slow


def refused(arguments: list[str], *fragments: str) -> None:
    code, output = run_to_end(arguments)
    assert code != 0, output
    assert "Traceback" not in output
    assert "step  " not in output
    unwrapped = " ".join(re.sub("[│╭╮╰╯─]", " ", output).split())
    for fragment in fragments:
        assert fragment in unwrapped, output


def test_missing_catalogue(tmp_path: Path) -> None:
    refused(command(tmp_path, data__catalog_path=tmp_path / "no.csv"), "CatalogError", "no.csv")


def test_missing_column(tmp_path: Path) -> None:
    table = tmp_path / "c.csv"
    table.write_text("pmbb_id,modalty,series_path\n1,CT,a\n")
    refused(command(tmp_path, data__catalog_path=table), "CatalogError", "modality", "modalty")


def test_zero_scans_left(tmp_path: Path) -> None:
    table = tmp_path / "c.csv"
    table.write_text("pmbb_id,modality,series_path\n1,US,a\n2,US,b\n")
    refused(command(tmp_path, data__catalog_path=table), "CatalogError")


def test_zero_scans_pass_preflight(tmp_path: Path) -> None:
    table = tmp_path / "c.csv"
    table.write_text("pmbb_id,modality,series_path\n1,CT,a\n2,CT,b\n")
    refused(command(tmp_path, data__catalog_path=table), "CatalogError", "missing_path 2")


def test_batch_that_the_workers_cannot_share(tmp_path: Path) -> None:
    refused(command(tmp_path, data__workers=3), "train.batch_size is 4", "a multiple of 3")


def test_too_few_scans_for_the_workers(tmp_path: Path, phantom_catalog: Path) -> None:
    arguments = command(tmp_path, data__catalog_path=phantom_catalog, data__workers=16, train__batch_size=16)
    refused(arguments, "BatchDoesNotFit", "lower data.workers")


def test_memory_plan_too_big(tmp_path: Path, phantom_catalog: Path) -> None:
    arguments = command(tmp_path, data__catalog_path=phantom_catalog, run__memory_limit_bytes=10**9)
    refused(arguments, "MemoryPlanTooBig", "0.9 GiB", "data.warm_pool_size")


def test_run_folder_that_cannot_be_written(tmp_path: Path) -> None:
    blocker = tmp_path / "file"
    blocker.touch()
    refused(command(tmp_path, run__root=blocker / "runs"), "RunFolderError", "--run.root")


def test_corrupt_checkpoint(tmp_path: Path, phantom_catalog: Path) -> None:
    folder = tmp_path / "runs" / "mine"
    folder.mkdir(parents=True)
    (folder / "last.ckpt").write_bytes(b"PK\x03\x04 not a checkpoint")
    arguments = command(tmp_path, data__catalog_path=phantom_catalog, run__name="mine")
    refused(arguments, "CheckpointError", "last.ckpt", "--run.name")
    assert (folder / "last.ckpt").exists()


def test_unknown_key(tmp_path: Path) -> None:
    refused([*command(tmp_path), "--train.max-step", "3"], "max-step", "max-steps")
