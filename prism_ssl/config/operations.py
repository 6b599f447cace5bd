"""Settings that are not the training's own: limits of scans, evaluation, tracking, quotas, run folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from prism_ssl.config.checks import not_negative, positive, require

TrackingMode = Literal["online", "offline", "disabled"]
Centers = Literal["anywhere", "foreground"]
Pooling = Literal["cls", "mean"]


@dataclass(frozen=True)
class PreflightConfig:
    """Limits that a scan must meet; rejected scans are counted by reason."""

    max_volume_bytes: int = 4 * 2**30
    """Voxel data a header may declare; more is refused before anything is inflated."""
    min_slices: int = 12
    """Fewest voxels along any axis."""
    spacing_mm_min: float = 0.05
    """Finest plausible voxel spacing."""
    spacing_mm_max: float = 15.0
    """Coarsest plausible voxel spacing."""
    reject_label_maps: bool = True
    """Refuse volumes with at most label_map_values distinct values."""
    label_map_values: int = 48
    """Largest number of distinct values with which reject_label_maps refuses a volume."""
    require_hu: bool = True
    """Refuse a CT with too little air, padding excluded (not in HU, or not a CT)."""
    ct_air_hu: float = -200.0
    """Air lies at or below this value."""
    ct_air_share_min: float = 0.001
    """Smallest share of air among a CT's voxels, padding excluded."""
    require_orientation: bool = True
    """Refuse a file with neither qform nor sform: its orientation would be a guess."""
    require_agreement: bool = True
    """Refuse a file with an sform that contradicts its pixdim or its qform; False: use the sform."""
    reject_signed_mr: bool = True
    """Refuse an MR with a large share of negative voxels (statistical and parametric maps)."""
    concurrency: int | None = None
    """Files checked at the same time; None: one for each CPU of the cluster, on one machine for each core."""

    def __post_init__(self) -> None:
        positive("preflight", self, "max_volume_bytes", "min_slices", "spacing_mm_min", "label_map_values")
        if self.concurrency is not None:
            positive("preflight", self, "concurrency")
        share = self.ct_air_share_min
        require(0 < share < 1, "preflight.ct_air_share_min", share, "between 0 and 1")
        require(
            self.spacing_mm_min < self.spacing_mm_max,
            "preflight.spacing_mm_min",
            self.spacing_mm_min,
            f"below spacing_mm_max ({self.spacing_mm_max})",
        )


@dataclass(frozen=True)
class EvalConfig:
    """The held-out probe set and its metrics; equal settings give equal inputs, whatever else differs."""

    every: int | None = None
    """Steps between two evaluations while training; None: at the end only."""
    probe_scans: int = 64
    """At most this many held-out series, in a seeded hash order."""
    views_per_scan: int = 8
    """Views of each series; consecutive views form the pairs that skill is measured on. With 32, position skill and the
    order of the runs are steadier."""
    n_patches: int | None = None
    """Patches of a held-out view, and of the views that the encoder embeds later; None: data.n_patches."""
    centers: Centers = "anywhere"
    """Where views of the probe set are centred: anywhere in the scan, or on the foreground, as in view.centers."""
    pooling: Pooling = "cls"
    """The embedding that is evaluated: the CLS token, or the mean of the patch tokens where no loss trains that."""
    batch_views: int = 32
    """Views encoded at once."""
    knn_k: int = 5
    """Neighbours of the kNN probe."""
    w_retrieval: float = 1.0
    """Weight of recall@1 of same-series views in proxy quality; every part is measured from its chance level."""
    w_skill: float = 0.25
    """Weight of the mean sign skill of displacement and rotation; the window does not count. Low: the heads that read
    them are not kept, and on phantoms their skill does not say what the encoder knows of other patients."""
    w_place: float = 8.0
    """Weight of the place test, where held-out patients have pairs of series in one frame of reference. It weighs much:
    a series is also known by its scanner."""
    w_position: float = 8.0
    """Weight of the position skill: whether the most similar view of another patient lies at the same place of its
    scan. Both tests together rank encoders best by what only phantoms know (bench_ranking)."""
    w_lidar: float = 0.0
    """Weight of the share of discriminative directions (LiDAR, thresholded), where there are enough series."""
    place_pairs: int = 16
    """At most this many pairs of series in the place test, each with 2 x 16 views; 0: no place test."""
    place_draws: int = 1
    """How often each pair is tested, each time at other points and with other views. More draws make the figures of a
    few pairs steadier."""
    bootstrap: int = 1000
    """Resamples (over patients) behind the interval of proxy quality."""
    seed: int = 20_260
    """Seed of the probe set's views, independent of train.seed."""

    def __post_init__(self) -> None:
        positive("eval", self, "probe_scans", "batch_views", "knn_k", "place_draws", "bootstrap")
        not_negative("eval", self, "w_retrieval", "w_skill", "w_place", "w_position", "w_lidar", "place_pairs", "seed")
        even = self.views_per_scan >= 2 and self.views_per_scan % 2 == 0
        require(even, "eval.views_per_scan", self.views_per_scan, "an even number, 2 or more")
        weights = self.w_retrieval + self.w_skill + self.w_place + self.w_position + self.w_lidar
        require(weights > 0, "eval.w_retrieval + w_skill + w_place + w_position + w_lidar", weights, "a sum above 0")
        for name in ("every", "n_patches"):
            if getattr(self, name) is not None:
                positive("eval", self, name)


@dataclass(frozen=True)
class TrackingConfig:
    """Weights & Biases. The local record is always written beside it."""

    mode: TrackingMode | None = None
    """online, offline or disabled; None: WANDB_MODE, else online in a SLURM job and offline otherwise."""
    project: str | None = None
    """Project of the runs; None: WANDB_PROJECT, else prism-ssl."""
    entity: str | None = None
    """User or team; None: WANDB_ENTITY, else the account's default."""
    group: str | None = None
    """Group of the runs, such as a sweep; None: WANDB_RUN_GROUP."""
    name: str | None = None
    """Name that W&B shows; None: WANDB_NAME, else the run folder's name. In a sweep each run has its cell's name."""
    notes: str | None = None
    """Notes on the run; None: WANDB_NOTES."""
    tags: tuple[str, ...] = ()
    """Tags of the run; none: WANDB_TAGS."""
    artifact_every: int | None = 1000
    """Steps between two checkpoint artifacts (online only); None: none."""
    init_timeout_s: float = 90.0
    """How long to wait for the server at the start."""
    finish_timeout_s: float = 300.0
    """How long to wait for uploads at the end, and a quarter longer for the encoder; the rest stays on disk."""

    def __post_init__(self) -> None:
        positive("tracking", self, "init_timeout_s", "finish_timeout_s")
        if self.artifact_every is not None:
            positive("tracking", self, "artifact_every")


@dataclass(frozen=True)
class QuotaConfig:
    """Limits on the home directory and the temporary root; None: no limit."""

    home_soft_bytes: int | None = None
    """Above this, files that this project made are pruned."""
    home_hard_bytes: int | None = None
    """Above this, the run ends as failed."""
    home_soft_inodes: int | None = None
    """Above this number of files, files that this project made are pruned."""
    home_hard_inodes: int | None = None
    """Above this number of files, the run ends as failed."""
    tmp_min_free_bytes: int = 2**30
    """Least free space on the temporary root's file system; 0: not checked."""
    check_every_s: float = 60.0
    """Pause between two measurements, which run in parallel with training."""

    def __post_init__(self) -> None:
        positive("quota", self, "check_every_s")
        not_negative("quota", self, "tmp_min_free_bytes")
        for what in ("bytes", "inodes"):
            soft, hard = (getattr(self, f"home_{limit}_{what}") for limit in ("soft", "hard"))
            if soft is not None and hard is not None:
                require(soft <= hard, f"quota.home_soft_{what}", soft, f"at most home_hard_{what} ({hard})")


@dataclass(frozen=True)
class RunConfig:
    """Run folder, temporary root, restarts, dashboard and memory limit."""

    name: str | None = None
    """Name of the run folder; None: the recipe and a hash of the settings that a resume must not change, so that the
    same command finds the folder again."""
    root: str = "runs"
    """Folder of the run folders, on durable storage."""
    tmp_root: str | None = None
    """Temporary files go to prism_ssl in this folder; None: /tmp/$USER, with one folder per SLURM job."""
    max_restarts: int = 0
    """In strict mode a broken scan is quarantined and ends the run: how often the command then restarts from the
    checkpoint without that scan; a sweep restarts the trials that the scan ended. Job scripts set 3
    (PRISM_SCAN_RESTARTS)."""
    dashboard: bool = False
    """Outside a job, also start Ray's dashboard, on the loopback and behind a token; its address is printed. Off by
    default, because it adds processes. In a job, Ray has one anyway."""
    pictures: bool = True
    """Draw the view panel and the plots of a run; without them a short run takes some seconds less."""
    memory_limit_bytes: int | None = None
    """Memory the run may use; None: the cgroup's or SLURM's limit, else what the machine has."""

    def __post_init__(self) -> None:
        if self.name is not None:
            plain = self.name not in ("", "..") and self.name == Path(self.name).name
            require(plain, "run.name", self.name, "the name of one folder, not a path; set run.root for its place")
        not_negative("run", self, "max_restarts")
        if self.memory_limit_bytes is not None:
            positive("run", self, "memory_limit_bytes")
