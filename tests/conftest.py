"""What all tests share: executed shape annotations, one local Ray cluster, the real scans where they are."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from jaxtyping import install_import_hook

from tests.support.wandb_server import WandbServer

# Before Ray and the modules under test are imported.
os.environ.update(RAY_AUTH_MODE="disabled", RAY_USAGE_STATS_ENABLED="0", RAY_TRAIN_HEALTH_CHECK_INTERVAL_S="0.2")
os.environ.pop("RAY_ADDRESS", None)

install_import_hook(
    [f"prism_ssl.model.{name}" for name in
     ("backbone", "heads", "network", "supcon", "pair_targets", "loss", "schedules")],
    "beartype.beartype",
)  # fmt: skip

REPOSITORY = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real scans beside the repository; tests that need it are skipped without it."""
    folder = REPOSITORY.parent / "shared" / "data"
    if not (folder / "catalog.csv").is_file():
        pytest.skip("the real scans (../shared/data) are not on this machine")
    return folder


@pytest.fixture(scope="session")
def ray_local(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One local Ray cluster for the whole test session."""
    import tempfile

    import ray

    with tempfile.TemporaryDirectory(prefix="r", dir="/tmp") as short:
        ray.init(
            address="local",
            num_cpus=4,
            include_dashboard=False,
            object_store_memory=256 * 2**20,
            _temp_dir=short,
            namespace="test",
            log_to_driver=False,
        )
        yield
        ray.shutdown()


@pytest.fixture(scope="session")
def phantom_catalog(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small catalogue of phantoms, shared by the tests that only read it."""
    from prism_ssl.data.phantoms.writer import write_phantoms

    return write_phantoms(tmp_path_factory.mktemp("phantoms"), n_subjects=12, seed=0)


@pytest.fixture
def wandb_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[WandbServer]:
    """A server on the loopback; the W&B client of this process and of those it starts talks to it and to no other."""
    import wandb

    from prism_ssl.utils.wandb_paths import enter_wandb_environment, wandb_environment

    with WandbServer() as server:
        wandb.teardown()  # its settings are read once a process
        monkeypatch.setattr(tempfile, "tempdir", tempfile.tempdir)
        for name, value in (server.environment(tmp_path) | wandb_environment(tmp_path)).items():
            monkeypatch.setenv(name, value)  # which puts it back, whatever the tests' subjects make of it
        enter_wandb_environment(tmp_path)
        yield server
        server.recover()
        wandb.teardown()
