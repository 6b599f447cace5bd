"""One fit with Ray Train: start the training workers, wait, and return the error that ended them."""

from __future__ import annotations

import os
import time
from pathlib import Path
from threading import Event
from typing import Any, cast

import ray
from ray.exceptions import RayError
from ray.train import TrainingFailedError, UserCallback, WorkerGroupError
from ray.train.torch import TorchConfig
from ray.train.v2.api.config import FailureConfig, RunConfig, ScalingConfig
from ray.train.v2.torch.torch_trainer import TorchTrainer

from prism_ssl.train.distributed.devices import GrowingSegments
from prism_ssl.train.guards.stop_request import StopBetweenSteps, sigterm_as_ctrl_c
from prism_ssl.train.run.failure_cause import root_failure
from prism_ssl.train.run.loop_config import LoopConfig
from prism_ssl.train.run.ray_report import ReportCallback
from prism_ssl.utils.fs import owned_folder


def fit(order: LoopConfig, tmp_root: Path) -> BaseException | None:
    """Train in Ray Train workers; returns the error that ended them early, ``KeyboardInterrupt`` for a stop request."""
    # A new name for every attempt, so that Ray does not resume by its own rules. Without the run's name, because Ray
    # shows this one at a port that is open to all users.
    name = f"prism-train-{os.getpid()}-{time.time_ns()}"
    # The controller polls its workers at this interval; by default it notices reports and their end up to 2 s late.
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")
    # An actor that tells workers of nodes that are being drained; ours listen to signals and to the stop file.
    os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
    stop = Event()
    try:
        with owned_folder(tmp_root / "ray_train") as storage, sigterm_as_ctrl_c() as stop:
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
                    # A retry by Ray would hide the first failure, and repeat a deliberate one.
                    failure_config=FailureConfig(max_failures=0, controller_failure_limit=0),
                    # Ray accepts all kinds but its annotation names one.
                    callbacks=cast(list[UserCallback], [GrowingSegments(), StopBetweenSteps(), ReportCallback()]),
                ),
            ).fit()
    except WorkerGroupError as error:
        return root_failure(error.worker_failures, order.config.train.num_workers)
    except TrainingFailedError as error:
        return error
    except RayError as error:  # Ray's own processes are gone, as after a SIGTERM to the whole process group
        return KeyboardInterrupt() if stop.is_set() else error
    except (KeyboardInterrupt, SystemExit):  # Ray Train turns Ctrl-C into SystemExit
        return KeyboardInterrupt()
    return None


def _in_worker(settings: dict[str, Any]) -> None:
    # Driver and controller import this module; they do not need the loop.
    from prism_ssl.train.train_loop import train_loop

    train_loop(settings["order"])
