"""One fit with Ray Train: the training workers from their start to what ended them."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any, cast

import ray
from ray.train import TrainingFailedError, UserCallback, WorkerGroupError
from ray.train.torch import TorchConfig
from ray.train.v2.api.config import FailureConfig, RunConfig, ScalingConfig
from ray.train.v2.torch.torch_trainer import TorchTrainer

from prism_ssl.train.failures import root_failure
from prism_ssl.train.stop_request import StopBetweenSteps, sigterm_as_ctrl_c
from prism_ssl.train.train_loop import train_loop
from prism_ssl.train.work_order import WorkOrder
from prism_ssl.utils.fs import owned_folder


def fit(order: WorkOrder, tmp_root: Path) -> BaseException | None:
    """Train in Ray Train workers; returns what ended them early, ``KeyboardInterrupt`` for a request to stop."""
    # A name of its own for every attempt: an equal one would make Ray resume by rules that are not ours. Without the
    # run's name, for Ray shows this one at a port that is open to all.
    name = f"prism-train-{os.getpid()}-{time.time_ns()}"
    try:
        with owned_folder(tmp_root / "ray_train") as storage, sigterm_as_ctrl_c():
            TorchTrainer(
                _in_worker,
                train_loop_config={"order": order},
                scaling_config=ScalingConfig(
                    num_workers=order.config.train.num_workers, use_gpu=ray.cluster_resources().get("GPU", 0) > 0
                ),
                torch_config=TorchConfig(timeout_s=round(order.config.train.rank_timeout_s)),
                run_config=RunConfig(
                    name=name,
                    storage_path=str(storage),
                    # A retry of Ray's would hide the first failure, and repeat a deliberate one.
                    failure_config=FailureConfig(max_failures=0, controller_failure_limit=0),
                    callbacks=cast(list[UserCallback], [StopBetweenSteps()]),  # Ray takes all its kinds, and names one
                ),
            ).fit()
    except WorkerGroupError as error:
        return root_failure(error.worker_failures, order.config.train.num_workers)
    except TrainingFailedError as error:
        return error
    except (KeyboardInterrupt, SystemExit):  # Ray Train turns Ctrl-C into the latter
        return KeyboardInterrupt()
    return None


def _in_worker(settings: dict[str, Any]) -> None:
    train_loop(settings["order"])
