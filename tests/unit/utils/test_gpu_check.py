"""A GPU that torch cannot use is named in one sentence, in seconds."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from prism_ssl.errors import GpuUnusable
from prism_ssl.utils.gpu_check import gpu_problem, require_usable_local_gpus

ASK_A_CLUSTER = """
import sys, tempfile, ray
from prism_ssl.errors import GpuUnusable
from prism_ssl.utils.gpu_check import require_usable_gpus

with tempfile.TemporaryDirectory(prefix="r", dir="/tmp") as short:
    for gpus in (0, 2):
        ray.init(address="local", num_cpus=1, num_gpus=gpus, include_dashboard=False, object_store_memory=2**27,
                 _temp_dir=short, log_to_driver=False)
        try:
            require_usable_gpus(workers=1)
            print(gpus, "usable")
        except GpuUnusable as error:
            print(gpus, error)
        ray.shutdown()
"""


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine's GPU works")
def test_torch_says_why_it_has_no_gpu() -> None:
    problem = gpu_problem(compiles=False)
    assert problem is not None
    assert problem.startswith(f"torch {torch.__version__}: ")
    assert "\n" not in problem


def _answering(folder: Path, words: str) -> str:
    """An interpreter that says ``words`` instead of asking torch."""
    path = folder / "python"
    path.write_text(f"#!/bin/sh\necho '{words}'\n")
    path.chmod(0o700)
    return str(path)


def test_gpus_are_those_that_torch_sees_not_those_that_have_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-6a1d8f0e-0000-0000-0000-000000000000")
    for number in range(8):
        (tmp_path / f"nvidia{number}").touch()
    monkeypatch.setattr(sys, "executable", _answering(tmp_path, "1"))
    assert require_usable_local_gpus(tmp_path) == 1
    monkeypatch.setattr(sys, "executable", _answering(tmp_path, "torch 2.13: No CUDA GPUs are available"))
    with pytest.raises(GpuUnusable, match=r"GPU of this machine .*No CUDA GPUs are available"):
        require_usable_local_gpus(tmp_path)


def _compile_told(tmp_path: Path, **environment: str) -> str:
    """What torch.compile says on a CPU in a process of its own, whose kernels nobody has compiled before."""
    code = "from prism_ssl.utils.gpu_check import compile_problem; print(compile_problem('cpu'))"
    return subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "kernels")} | environment,
        capture_output=True, text=True, check=True,
    ).stdout.strip()  # fmt: skip


def test_without_a_c_compiler_torch_compile_says_so_and_the_remedy_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    problem = _compile_told(tmp_path, CC="/nowhere/gcc", CXX="/nowhere/g++")
    assert problem.startswith("torch.compile: ")
    assert "compiler" in problem
    assert "\n" not in problem
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    (tmp_path / "nvidia0").touch()
    monkeypatch.setattr(sys, "executable", _answering(tmp_path, problem.replace("'", "")))
    with pytest.raises(GpuUnusable, match=r"\(torch.compile: .*\); install gcc and the Python headers .*no-compile"):
        require_usable_local_gpus(tmp_path, compiles=True)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
def test_with_a_compiler_torch_compile_works(tmp_path: Path) -> None:
    assert _compile_told(tmp_path) == "None"


@pytest.mark.parametrize("visible", ["", "-1", "NoDevFiles"])
def test_hidden_gpus_are_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, visible: str) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    (tmp_path / "nvidia0").touch()
    assert require_usable_local_gpus(tmp_path) == 0


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine's GPU works")
def test_a_cluster_that_promises_gpus_is_asked_and_one_without_is_not() -> None:
    environment = os.environ | {"RAY_AUTH_MODE": "disabled", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
    told = subprocess.run(
        [sys.executable, "-c", ASK_A_CLUSTER], env=environment, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert told[0] == "0 usable"
    assert told[1].startswith("2 torch cannot compute on the GPU of ")
    assert "nvidia-smi" in told[1]
