"""What the trials of a sweep leave in the cluster and on the disk when they are over: nothing."""

from __future__ import annotations

import gc
import io
from pathlib import Path

import psutil
import pytest
import ray
from rich.console import Console

from prism_ssl.config.defaults import apply_overrides, core24_smoke
from tune.sweep.folder import Sweep
from tune.sweep.run import run_sweep

pytestmark = pytest.mark.slow


def actors() -> set[psutil.Process]:
    """The living processes of actors and running tasks of this process's cluster, but for Ray's own (ray::_...)."""
    return {process for process in psutil.Process().children(recursive=True) if _runs_something(process)}


def _runs_something(process: psutil.Process) -> bool:
    try:
        title = " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return False
    return title.startswith("ray::") and not title.startswith("ray::_") and "IDLE" not in title


def stored_mib() -> float:
    """What the object store holds."""
    gc.collect()
    name = "object_store_memory"
    return float(ray.cluster_resources()[name] - ray.available_resources()[name]) / 2**20


def test_two_trials_leave_no_actor_no_object_and_no_scratch(
    ray_local: None, phantom_catalog: Path, tmp_path: Path
) -> None:
    settings = {
        "data.catalog_path": str(phantom_catalog),
        "run.root": str(tmp_path / "runs"),
        "run.tmp_root": str(tmp_path / "tmp"),
    }
    base = apply_overrides(core24_smoke(), settings)
    sweep = Sweep(base, "smoke", "half", ("b32-p16-w0.1-r2000-*", "b64-p16-w0.1-r2000-*"))
    actors_before, stored_before = actors(), stored_mib()
    output = io.StringIO()
    with sweep.claimed():
        run_sweep(sweep, sweep.pending(), Console(file=output, width=200))
    assert sweep.pending() == [], output.getvalue()
    # Tune lets the process of a trial go without waiting for its end.
    _, left = psutil.wait_procs(actors() - actors_before, timeout=60)
    assert [process.cmdline() for process in left] == []
    assert stored_mib() <= stored_before + 1
    transient = tmp_path / "tmp" / "prism_ssl"
    assert [
        path.name for folder in ("scratch", "ray_train", "ray_tune") for path in (transient / folder).iterdir()
    ] == []
