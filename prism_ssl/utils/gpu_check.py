"""Prepare the GPUs, and check that torch can compute on them, before anything that takes long.

Importing this module imports neither Ray nor torch.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from prism_ssl.errors import GpuUnusable

_ANSWER_S = 120.0
"""Longest wait for an answer: torch is imported and a CUDA context created, on a node that may be busy."""
_COMPILED_S = 180.0
"""The same for compiling a small function, in addition."""

_NO_GPU = "", "-1", "NoDevFiles"
"""Values of CUDA_VISIBLE_DEVICES that hide all GPUs; SLURM sets the last one."""

_ADVICE = (
    "needed: a GPU, a driver and a torch that fit each other; look at nvidia-smi and python -m torch.utils.collect_env "
    "on that node, ask for another one, or hide the GPU (CUDA_VISIBLE_DEVICES='') to train on the CPU"
)
_COMPILING = "torch.compile: "
_TO_COMPILE = "install gcc and the Python headers (Python.h) on that node, or train without it (--model.no-compile)"


def grow_segments() -> None:
    """Let CUDA's allocator grow its segments, so that evaluations leave no gaps between steps' memory.

    Before CUDA starts; a user's own setting of the allocator is kept.
    """
    if "PYTORCH_ALLOC_CONF" not in os.environ:
        os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")


def gpu_problem(compiles: bool) -> str | None:
    """Why torch cannot compute on one or all of the GPUs that this process sees; None: it can.

    With ``compiles`` it also compiles a small function for the first one.
    """
    import torch

    try:
        torch.cuda.init()  # its error says why torch has no usable GPU
        for index in range(torch.cuda.device_count()):
            ones = torch.ones(64, 64, device=f"cuda:{index}")
            (ones @ ones).sum().item()
    except (RuntimeError, AssertionError) as error:  # the latter: a torch that was built without CUDA
        return f"torch {torch.__version__}: {str(error).strip().splitlines()[0]}"
    return compile_problem("cuda") if compiles else None


def compile_problem(device: str) -> str | None:
    """Why torch.compile cannot build a forward and backward pass under bf16 autocast; None: it can."""
    import torch

    layer = torch.nn.Linear(64, 64, device=device)

    def loss(rows: torch.Tensor) -> torch.Tensor:
        with torch.autocast(device, torch.bfloat16):
            return torch.nn.functional.gelu(layer(rows)).float().square().mean()

    try:
        torch.compile(loss)(torch.ones(64, 64, device=device)).backward()
    except Exception as error:  # noqa: BLE001  edge of foreign compilers, each with errors of its own
        return f"{_COMPILING}{(str(error).strip().splitlines() or [type(error).__name__])[0]}"
    return None


def require_usable_gpus(workers: int, compiles: bool = False) -> None:
    """Test every Ray node that has GPUs, on as many GPUs as ``workers`` may use there; ``compiles``: torch.compile too.

    Raises:
        GpuUnusable: torch cannot compute on one of them, or gives no answer.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    # max_calls: the process that asks ends with its CUDA context; an exclusive GPU could not be opened beside it.
    ask = ray.remote(num_cpus=0, max_retries=0, max_calls=1)(gpu_problem)
    asked = {}
    for node in ray.nodes():
        gpus = min(int(node["Resources"].get("GPU", 0)), workers)
        if node["Alive"] and gpus:
            there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            asked[ask.options(num_gpus=gpus, scheduling_strategy=there).remote(compiles)] = node["NodeManagerHostname"]
    answer_s = _longest_wait_s(compiles)
    ray.wait(list(asked), num_returns=max(1, len(asked)), timeout=answer_s)
    for answer, host in asked.items():
        try:
            problem = ray.get(answer, timeout=0)
        except ray.exceptions.GetTimeoutError:
            problem = f"no answer within {answer_s:.0f} s; is it used by others?"
        except ray.exceptions.RayError as error:
            problem = f"the process that tried it died ({type(error).__name__})"
        _refuse(problem, host)


def require_usable_local_gpus(devices: Path = Path("/dev"), compiles: bool = False) -> int:
    """Test the GPUs of this machine in a separate process, as ``require_usable_gpus``; returns how many torch sees.

    A slice of a GPU (MIG) counts as one, and one that ``CUDA_VISIBLE_DEVICES`` hides as none.

    Raises:
        GpuUnusable: torch cannot compute on one of them, or gives no answer.
    """
    if not any(devices.glob("nvidia[0-9]*")) or os.environ.get("CUDA_VISIBLE_DEVICES") in _NO_GPU:
        return 0
    code = (
        "import torch; from prism_ssl.utils.gpu_check import gpu_problem; "
        f"print(gpu_problem({compiles}) or torch.cuda.device_count())"
    )
    answer_s = _longest_wait_s(compiles)
    try:
        told = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, timeout=answer_s, check=False
        )
    except subprocess.TimeoutExpired:
        problem = f"no answer within {answer_s:.0f} s"
    else:
        said = told.stdout.strip()
        if not told.returncode and said.isdigit():
            return int(said)
        problem = said or (told.stderr.strip().splitlines() or ["it ended without any output"])[-1]
    _refuse(problem, "this machine")
    return 0


def _longest_wait_s(compiles: bool) -> float:
    return _ANSWER_S + (_COMPILED_S if compiles else 0.0)


def _refuse(problem: str | None, where: str) -> None:
    if problem is not None:
        advice = _TO_COMPILE if problem.startswith(_COMPILING) else _ADVICE
        raise GpuUnusable(f"torch cannot compute on the GPU of {where} ({problem}); {advice}")
