"""An archive through several nodes, which die meanwhile: the results are those of one node, to the bit."""

from __future__ import annotations

import gzip
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest
import torch
from ray.cluster_utils import Cluster

from prism_ssl.config.defaults import phantom_cpu
from prism_ssl.model.backbone import build_encoder
from prism_ssl.model.export import save_encoder
from tests.conftest import REPOSITORY
from tests.support.broken_files import BrokenKind, write_broken
from tests.support.cluster_jobs import FIELDS, run_jobs

pytestmark = pytest.mark.slow

LIMIT_S = 600
QUICK_DEATHS = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 500, "health_check_failure_threshold": 4}


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """A head and three more nodes, of one CPU each."""
    monkeypatch.setenv("RAY_prestart_worker_first_driver", "0")
    with tempfile.TemporaryDirectory(prefix="r", dir="/tmp") as short:
        monkeypatch.setenv("RAY_TMPDIR", short)  # where Ray's own helper notes the cluster's address
        (Path(short) / "ray").mkdir()
        lean = {"num_cpus": 1, "include_dashboard": False, "include_log_monitor": False, "no_monitor": True}
        head = {"temp_dir": short, "_system_config": QUICK_DEATHS}
        nodes = Cluster(initialize_head=True, head_node_args=lean | head)
        try:
            for _ in range(3):
                nodes.add_node(num_cpus=1)
            yield nodes
        finally:
            nodes.shutdown()


@pytest.fixture
def archive(tmp_path: Path, phantom_catalog: Path) -> Path:
    """Twelve phantoms and a damaged scan; beside it ``sound.csv``, the phantoms alone."""
    absolute = pl.format(f"{phantom_catalog.parent}/{{}}", "series_path").alias("series_path")
    sound = pl.read_csv(phantom_catalog).head(12).with_columns(absolute)
    damaged = write_broken(tmp_path / "broken", BrokenKind.TRUNCATED_GZIP).parent
    broken = pl.DataFrame({"pmbb_id": ["PX"], "modality": ["CT"], "series_path": [str(damaged)]})
    sound.write_csv(tmp_path / "sound.csv")
    pl.concat([sound.select(broken.columns), broken]).write_csv(tmp_path / "catalog.csv")
    return tmp_path / "catalog.csv"


@pytest.fixture
def encoder(tmp_path: Path) -> Path:
    torch.manual_seed(5)
    description = {"preset": "tiny", "n_patches": 16, "patch_mm": 16.0, "config": phantom_cpu().to_dict()}
    folder = tmp_path / "encoder"
    folder.mkdir()
    save_encoder(build_encoder("tiny"), folder, description)
    return folder


@pytest.mark.usefixtures("ray_local")
def test_nodes_that_die_lose_nothing_and_the_results_are_those_of_one_node(
    cluster: Cluster, archive: Path, encoder: Path, tmp_path: Path
) -> None:
    victims = [node.node_id for node in sorted(cluster.worker_nodes, key=lambda node: str(node.node_id))]
    line = [sys.executable, "-m", "tests.support.cluster_jobs", archive, encoder, tmp_path / "many", *victims]
    environment = os.environ | {"RAY_ADDRESS": cluster.address}
    done = subprocess.run(
        line, env=environment, cwd=REPOSITORY, capture_output=True, text=True, timeout=LIMIT_S, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for job, victim in zip(("checked", "cut", "encoded"), victims, strict=True):
        nodes = {file.name.partition("@")[2] for file in (tmp_path / "many" / job).iterdir()}
        assert victim in nodes, f"{job}: nothing came to the node that was to die"
        assert len(nodes) > 1

    run_jobs(archive, encoder, tmp_path / "one")
    one, many = tmp_path / "one", tmp_path / "many"
    assert (one / "preflight" / "preflight.json").read_bytes() == (many / "preflight" / "preflight.json").read_bytes()
    for table in ("preflight/manifest.parquet", "e.parquet", "fields/v.parquet"):
        found, wanted = (pl.read_parquet(out / table).sort("scan_id") for out in (many, one))
        assert found.equals(wanted), table
    assert (one / "e.rejected.csv").read_bytes() == (many / "e.rejected.csv").read_bytes()
    fields = {file.name: gzip.decompress(file.read_bytes()) for file in (one / "fields").glob("*.nii.gz")}
    assert len(fields) == FIELDS
    assert fields == {file.name: gzip.decompress(file.read_bytes()) for file in (many / "fields").glob("*.nii.gz")}
