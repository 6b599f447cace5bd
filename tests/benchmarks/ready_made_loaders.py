"""Loaders of the pool's product that users have already, each in a process of its own: MONAI, TorchIO, the plain one.

Each gives batches [pairs, 2, N, H, W] in [-1, 1] of the same files, without end. What they are spared: the scans'
statistics are given (the plain one computes its own), positions and targets are not handed on, and nobody copies a
batch out. What they do, and where the product differs:

*MONAI* (its "Fast Model Training Guide"): LoadImaged is cached, ``Resample`` then samples all patches of a view in one
call: the same patches as the pool's. ``SmartCacheDataset`` holds as many scans as the pool and replaces each after as
many pairs. ``CacheDataset`` opens every file beforehand and never again, in float32: it tells what cutting alone takes,
no archive fits it. ``PersistentDataset`` would read a float32 volume from disk for every item, so it is left out.
*TorchIO* (its "patch-based pipelines"): no transform samples many oblique patches of one scan. A ``RandomAffine`` of
the whole volume and samples of 16 x 16 x 1 take 5.5 s a rotation and 220 ms a view (one core of an AMD EPYC), so here
``UniformSampler`` crops the cube about a ball, ``RandomAffine`` rotates it, and patches are taken from it at whole
voxels: 25 ms a view. The product differs: voxels are interpolated twice (``Resample`` to the size of a pixel, then the
rotation), positions lie on the rotated grid, and a batch shows one scan or two. With ``Queue`` the workers read and the
main process rotates, by threads of ITK; without it the workers do both.
"""

from __future__ import annotations

import importlib
import importlib.util
import itertools
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context, set_start_method
from typing import Any

import numpy as np
import psutil
import torch
from plain_loader import pixels_from_middle, plain_batches
from torch.utils.data import DataLoader, IterableDataset, RandomSampler, get_worker_info

from prism_ssl.config.schema import PrismConfig
from prism_ssl.contracts import PATCH_PX, RobustStats, VisitKey
from prism_ssl.data.views.view_pairs import View, draw_in_ball, draw_pair

Batches = Iterator[torch.Tensor]

LIMIT_S = 900.0
"""Longest wait for a loader's first batch, or beyond the seconds that it is counted."""
INSTALL = "pip install -e '.[bench]'"


@dataclass(frozen=True)
class Task:
    """What every loader is asked for; ``stats`` are those of all the files."""

    paths: tuple[str, ...]
    stats: RobustStats
    config: PrismConfig


Loader = Callable[[Task], Batches]


# ---------------------------------------------------------------------- MONAI
class MonaiPairs:
    """Pairs [2, N, H, W] of an image {"image": MetaTensor [1, nx, ny, nz]}; to MONAI a random transform."""

    def __init__(self, task: Task, pairs: int) -> None:
        self._task, self._pairs = task, pairs
        self._transforms: Any = importlib.import_module("monai.transforms")
        # dtype: that of the image; by default each call would convert the volume to float64.
        self._resample = self._transforms.Resample(mode="bilinear", padding_mode="border", dtype=None)

    def __call__(self, item: Mapping[str, Any]) -> list[torch.Tensor]:
        image, config = item["image"], self._task.config
        affine, shape, pairs = image.affine.numpy(), tuple(image.shape[1:]), []
        for _ in range(self._pairs):
            key = VisitKey("scan", 0, int(torch.randint(2**31, ())))
            views = draw_pair(affine, shape, self._task.stats, config.view, config.data.n_patches, 0, key)
            pairs.append(torch.stack([self.patches(image, view) for view in views]))
        return pairs

    def patches(self, image: Any, view: View) -> torch.Tensor:
        """The patches of a view [N, H, W], windowed to [-1, 1]."""
        shape, data = tuple(image.shape[1:]), self._task.config.data
        found = self._resample(image, pixels_from_middle(image.affine.numpy(), shape, view, data.patch_mm))
        low = view.window_center - view.window_width / 2
        shown = self._transforms.ScaleIntensityRange(low, low + view.window_width, -1, 1, clip=True)(found)
        plain: torch.Tensor = shown[0].as_tensor()
        return plain


def monai_batches(task: Task, *, all_cached: bool, threads: bool, workers: int) -> Batches:
    """A cached dataset behind worker threads or processes. A batch holds as many pairs of each open scan."""
    data, transforms = importlib.import_module("monai.data"), importlib.import_module("monai.transforms")
    config = task.config
    held, replaced = config.data.workers * config.data.warm_pool_size, config.data.workers
    transform = transforms.Compose(
        [
            transforms.LoadImaged("image"),
            transforms.EnsureChannelFirstd("image", channel_dim="no_channel"),
            MonaiPairs(task, pairs=config.train.batch_size // held),
        ]
    )
    files: Any = [{"image": path} for path in task.paths]
    if all_cached:
        dataset = data.CacheDataset(files, transform, num_workers=workers, copy_cache=False, progress=False)
        batches_per_epoch = 100 * len(files)
    else:
        dataset = data.SmartCacheDataset(
            files, transform, replaced / held, held, num_init_workers=workers, copy_cache=False, progress=False
        )
        dataset.start()
        batches_per_epoch = round(replaced * config.data.visits_per_scan / config.train.batch_size)
    loader_class = partial(data.ThreadDataLoader, use_thread_workers=True) if threads else data.DataLoader
    order = RandomSampler(dataset, num_samples=batches_per_epoch * held)
    loader = loader_class(dataset, batch_size=held, sampler=order, num_workers=workers)
    while True:
        yield from loader
        if not all_cached:
            dataset.update_cache()


# ---------------------------------------------------------------------- TorchIO
class TorchioViews:
    """Patches of a view [N, H, W] from a cropped cube; ``side`` is what the cube needs, in voxels."""

    def __init__(self, task: Task) -> None:
        self._task, self._tio = task, importlib.import_module("torchio")
        view, self.pixel_mm = task.config.view, task.config.data.patch_mm / PATCH_PX
        self.side = math.ceil(2 * (view.radius_mm_max / self.pixel_mm + PATCH_PX / math.sqrt(2)))
        self._rotate = self._tio.RandomAffine(
            scales=(1, 1), degrees=view.rotation_max_deg, default_pad_value=task.stats.lowest
        )

    def subjects(self) -> Any:
        """All files, resampled so that a voxel has the size of a pixel."""
        subjects = [self._tio.Subject(image=self._tio.ScalarImage(path)) for path in self._task.paths]
        return self._tio.SubjectsDataset(subjects, transform=self._tio.Resample(self.pixel_mm))

    def sampler(self) -> Any:
        """Crops the cubes."""
        return self._tio.UniformSampler(self.side)

    def __call__(self, cube: Any) -> torch.Tensor:
        config, stats = self._task.config, self._task.stats
        view, rng = config.view, np.random.default_rng(int(torch.randint(2**31, ())))
        values = self._rotate(cube).image.data.contiguous()
        radius_px = rng.uniform(view.radius_mm_min, view.radius_mm_max) / self.pixel_mm
        places = draw_in_ball(config.data.n_patches, radius_px, rng) + (self.side - PATCH_PX) / 2
        first = np.rint(places).astype(np.int64) @ (self.side**2, self.side, 1)
        within = np.arange(PATCH_PX)[:, None] * self.side + np.arange(PATCH_PX) * self.side**2
        found = values.view(-1)[torch.from_numpy(first[:, None, None] + within)]
        center = stats.median + stats.std * rng.uniform(-1, 1)
        width = stats.std * rng.uniform(view.window_width_std_min, view.window_width_std_max)
        shown: torch.Tensor = found.sub_(center).mul_(2 / width).clamp_(-1, 1)
        return shown

    def pairs_of(self, cubes: list[Any]) -> torch.Tensor:
        """Pairs [pairs, 2, N, H, W] of neighbouring cubes."""
        views = torch.stack([self(cube) for cube in cubes])
        return views.reshape(-1, 2, *views.shape[1:])


def torchio_queue(task: Task, *, workers: int) -> Batches:
    """``Queue`` of the cubes of one scan; the main process rotates them."""
    tio, views = importlib.import_module("torchio"), TorchioViews(task)
    cubes = 2 * task.config.data.visits_per_scan
    queue = tio.Queue(views.subjects(), cubes, cubes, views.sampler(), num_workers=workers)
    batch = 2 * task.config.train.batch_size
    loader = tio.SubjectsLoader(queue, views.pairs_of, batch_size=batch, num_workers=0)
    while True:
        yield from loader


class TorchioPairs(IterableDataset[torch.Tensor]):
    """Pairs [2, N, H, W], scan after scan, without end, in as many workers as there are."""

    def __init__(self, task: Task) -> None:
        self._task = task

    def __iter__(self) -> Iterator[torch.Tensor]:
        worker, views = get_worker_info(), TorchioViews(self._task)
        assert worker is not None
        itk: Any = importlib.import_module("SimpleITK")
        itk.ProcessObject.SetGlobalDefaultNumberOfThreads(max(1, (os.cpu_count() or 1) // worker.num_workers))
        subjects, sampler = views.subjects(), views.sampler()
        for number in itertools.count(worker.id, worker.num_workers):
            cubes = sampler(subjects[number % len(subjects)])
            for _ in range(self._task.config.data.visits_per_scan):
                yield torch.stack([views(next(cubes)), views(next(cubes))])


def torchio_workers(task: Task, *, workers: int) -> Batches:
    """The same without ``Queue``."""
    return iter(DataLoader(TorchioPairs(task), task.config.train.batch_size, num_workers=workers))


def plain(task: Task) -> Batches:
    """``plain_loader``."""
    return plain_batches(task.paths, task.config)


# ---------------------------------------------------------------------- all of them
def _of_monai(all_cached: bool) -> dict[str, Loader]:
    return {
        f"{workers} {'threads' if threads else 'processes'}": partial(
            monai_batches, all_cached=all_cached, threads=threads, workers=workers
        )
        for threads in (True, False)
        for workers in (2, 1)
    }


LOADERS: dict[str, dict[str, Loader]] = {
    "a plain DataLoader": {"2 processes": plain},
    "MONAI SmartCacheDataset": _of_monai(all_cached=False),
    "MONAI CacheDataset": _of_monai(all_cached=True),
    "TorchIO": {
        **{f"Queue, {workers} to read": partial(torchio_queue, workers=workers) for workers in (1, 2)},
        **{f"{workers} processes": partial(torchio_workers, workers=workers) for workers in (2, 1)},
    },
}
"""By name the settings that are tried; the first is taken where none is."""


def missing() -> list[str]:
    """The libraries that are not installed."""
    return [name for name in ("MONAI", "TorchIO") if importlib.util.find_spec(name.lower()) is None]


@dataclass(frozen=True)
class Counted:
    """What a loader gave while it was counted; ``core_s`` is the CPU time of all its processes."""

    pairs: int = 0
    seconds: float = 0.0
    core_s: float = 0.0

    def __add__(self, other: Counted) -> Counted:
        return Counted(self.pairs + other.pairs, self.seconds + other.seconds, self.core_s + other.core_s)

    @property
    def pairs_per_s(self) -> float:
        """By the clock."""
        return self.pairs / self.seconds

    @property
    def pairs_per_core_s(self) -> float:
        """By CPU time: what a neighbour on the same cores hardly changes."""
        return self.pairs / self.core_s


class Apart:
    """A loader in a process of its own, started and at its first batch.

    Between its turns all of its processes are suspended: none works ahead while another loader is counted.
    ``alone_pairs_per_s`` is what it reached when it was tried alone, 0 if it was not.
    """

    def __init__(self, loader: Loader, task: Task, alone_pairs_per_s: float = 0.0) -> None:
        self.alone_pairs_per_s = alone_pairs_per_s
        self._process = ProcessPoolExecutor(1, mp_context=get_context("spawn"))
        self._root: psutil.Process | None = None
        try:
            self._root = psutil.Process(self._process.submit(os.getpid).result(LIMIT_S))
            self.first_batch_s: float = self._process.submit(_start, loader, task).result(LIMIT_S)
        except BaseException:
            self.stop()
            raise
        self._each(psutil.Process.suspend)

    def count(self, seconds: float) -> Counted:
        """Take batches for ``seconds``."""
        self._each(psutil.Process.resume)
        before = self._core_s()
        pairs, took_s = self._process.submit(_count, seconds).result(seconds + LIMIT_S)
        counted = Counted(pairs, took_s, self._core_s() - before)
        self._each(psutil.Process.suspend)
        return counted

    def stop(self) -> None:
        """Kill its processes; none has anything to save."""
        self._each(psutil.Process.kill)
        self._process.shutdown()

    def _each(self, act: Callable[[psutil.Process], object]) -> None:
        for process in self._processes():
            try:
                act(process)
            except psutil.NoSuchProcess:
                continue

    def _processes(self) -> list[psutil.Process]:
        return [] if self._root is None else [self._root, *self._root.children(recursive=True)]

    def _core_s(self) -> float:
        times = [process.cpu_times() for process in self._processes()]
        return float(sum(one.user + one.system + one.children_user + one.children_system for one in times))


_running: list[Batches] = []  # the loader whose process this is


def _start(loader: Loader, task: Task) -> float:
    start = time.perf_counter()
    set_start_method("fork", force=True)  # of its workers, as in a script that somebody starts
    _running.append(loader(task))
    next(_running[0])
    return time.perf_counter() - start


def _count(seconds: float) -> tuple[int, float]:
    start, pairs = time.perf_counter(), 0
    while (took_s := time.perf_counter() - start) < seconds:
        pairs += len(next(_running[0]))
    return pairs, took_s


def best_setting(settings: Mapping[str, Loader], task: Task, seconds: float) -> tuple[str, dict[str, float]]:
    """The setting with the most pairs per second, each tried alone for ``seconds``, and what all reached."""
    reached = {}
    for name, loader in settings.items():
        tried = Apart(loader, task)
        try:
            reached[name] = round(tried.count(seconds).pairs_per_s, 1)
        finally:
            tried.stop()
    return max(reached, key=lambda name: reached[name]), reached
