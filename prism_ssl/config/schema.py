"""Settings of a run: frozen dataclasses that reject impossible values when they are created.

``None`` means "off" or "not given", never a magic number. Units are in the names.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal

from prism_ssl.config.checks import not_negative, positive, require
from prism_ssl.config.network import ModelConfig
from prism_ssl.config.operations import Centers, EvalConfig, PreflightConfig, QuotaConfig, RunConfig, TrackingConfig
from prism_ssl.errors import ConfigError

Precision = Literal["fp32", "bf16"]
ExtractOn = Literal["cpu", "cuda"]
SupConPositives = Literal["series", "place"]


@dataclass(frozen=True)
class DataConfig:
    """Which scans, how they are served, and what happens when one fails."""

    catalog_path: str | None = None
    """Table of the archive (.csv, .csv.gz or .parquet), or a folder of NIfTI files (BIDS or a folder a patient); None:
    phantoms are generated, see phantom_subjects."""
    phantom_subjects: int = 0
    """Subjects to generate when there is no catalogue; 0: a catalogue is required."""
    columns: dict[str, str] = field(default_factory=dict)
    """Names of the catalogue's columns where they differ, e.g. {"pmbb_id": "mrn"}."""
    n_scans: int = 5000
    """At most this many scans, chosen in a seeded hash order that stays stable when rows are added."""
    modality_filter: tuple[str, ...] = ("CT", "MR")
    """Modalities to keep."""
    drop_time_series: bool = False
    """Drop series with a description of a time series (perfusion, DWI, fMRI, cine)."""
    drop_localizers: bool = False
    """Drop series with a description of a localizer or scout."""
    drop_derived: bool = False
    """Drop series with a description of a derived image (MIP, reformat, subtraction, map)."""
    selection_seed: int = 0
    """Seed of the selection, the hold-out and the phantoms: runs with different train.seed see the same scans."""
    holdout_fraction: float = 0.05
    """Share of the patients whose series are never trained on (the probe set)."""
    holdout_min_series: int = 8
    """Hold out whole patients until at least this many series are in the probe set."""
    holdout_file: str | None = None
    """Text file of the patients to hold out, one id of the catalogue a line, # for comments; holdout_fraction and
    holdout_min_series then hold out nobody else."""
    n_patches: int = 1024
    """Patches per view (N)."""
    patch_mm: float = 16.0
    """Side of a patch in mm."""
    workers: int = 8
    """Pool actors; a batch holds batch_size / workers pairs of each."""
    warm_pool_size: int = 16
    """Scans that one actor keeps open (slots)."""
    visits_per_scan: int = 100
    """Pairs drawn from a scan before its slot requests another scan."""
    pairs_per_turn: int = 2
    """Pairs drawn from a scan in a row; with 1, a batch smaller than the pool holds no two pairs of a series."""
    max_prefetch_replacements: int = 2
    """Scans that one actor opens at the same time in the background."""
    use_local_scratch: bool = True
    """Keep decoded volumes as files under the temporary root, so that a scan seen again is mapped, not inflated."""
    scratch_bytes: int = 64 * 2**30
    """Size limit of all scratch files together; when it is reached, scans are opened in memory."""
    chunks_in_flight: int = 2
    """Chunks that each actor may prepare ahead (back-pressure)."""
    strict: bool = True
    """True: the first scan that fails ends the run as failed. False: it is counted, quarantined and replaced."""
    extract_on: ExtractOn = "cpu"
    """Where views are cut out: cpu (in the pool actors), or cuda (volumes are mirrored on the GPU)."""
    deterministic: bool = False
    """Wait for replacements, so that (seed, shard) fixes the whole sequence of pairs."""
    abort_broken_share: float = 0.10
    """Lenient mode ends the run when more than this share of the scans that it tried to open was broken."""
    abort_after_opens: int = 200
    """Number of scans to try before abort_broken_share applies."""
    max_actor_restarts: int = 3
    """Lenient mode restarts a dead pool actor this often before it gives up."""
    stall_timeout_s: float = 300.0
    """Longest wait for a chunk before the run fails."""
    open_timeout_s: float = 120.0
    """A scan that takes longer than this to read counts as unreadable."""
    outage_patience_s: float = 120.0
    """While the whole archive is unreachable (its volume not mounted), reads are retried for this long."""

    def __post_init__(self) -> None:
        positive("data", self, "n_scans", "n_patches", "patch_mm", "workers", "visits_per_scan")
        positive("data", self, "pairs_per_turn", "max_prefetch_replacements", "chunks_in_flight", "stall_timeout_s")
        positive("data", self, "open_timeout_s")
        not_negative("data", self, "phantom_subjects", "scratch_bytes", "holdout_min_series", "selection_seed")
        not_negative("data", self, "max_actor_restarts", "abort_after_opens", "outage_patience_s")
        require(self.warm_pool_size >= 2, "data.warm_pool_size", self.warm_pool_size, "at least 2 slots")
        require(bool(self.modality_filter), "data.modality_filter", self.modality_filter, "a modality")
        for name in ("holdout_fraction", "abort_broken_share"):
            value = getattr(self, name)
            require(0 <= value < 1, f"data.{name}", value, "a share in [0, 1)")
        if self.catalog_path is None and self.phantom_subjects == 0:
            raise ConfigError(
                "data.catalog_path is not given and data.phantom_subjects is 0, so there are no scans; "
                "pass --data.catalog-path TABLE (.csv, .csv.gz or .parquet)"
            )


@dataclass(frozen=True)
class ViewConfig:
    """How prisms (views) are drawn."""

    radius_mm_min: float = 20.0
    """Smallest radius of the ball; two thirds of the largest one that fits, where that is less."""
    radius_mm_max: float = 30.0
    """Largest radius of the ball, where it fits."""
    radius_mm_floor: float = 10.0
    """A scan that holds no ball of this radius is rejected by preflight."""
    rotation_max_deg: float = 10.0
    """Each Euler angle (extrinsic xyz) is uniform in +- this."""
    window_width_std_min: float = 2.0
    """Narrowest window, in robust standard deviations of the scan."""
    window_width_std_max: float = 6.0
    """Widest window, in robust standard deviations of the scan."""
    centers: Centers = "anywhere"
    """Where centres fall: anywhere (uniform in the scan), or foreground (on the body, not in the air around it)."""
    same_place_share: float = 0.0
    """Share of the pairs with both views at one place of the foreground (centres within same_place_mm)."""
    same_place_mm: float = 2.5
    """Largest distance, along each axis, between the two centres of a pair at one place."""
    other_series_share: float = 0.0
    """Share of the pairs at one place with one view from another series of the patient (CT with MR, or two MR), where
    a series in the same frame of reference is found. That series is kept open beside the scan."""
    random_contrast: float = 0.0
    """Share of the views whose intensities pass a random monotone curve, half of them inverted; a pair with such a
    view is left out of the window losses."""
    random_scale: float = 0.0
    """Each time a scan is opened, its patient is made larger or smaller by a random factor within exp(+- this), and by
    one of half that range along each axis: displacements, radii and patches are mm of that patient."""
    mirrored_share: float = 0.0
    """Share of the openings at which the patient is mirrored, left for right."""

    def __post_init__(self) -> None:
        positive("view", self, "radius_mm_floor", "radius_mm_max", "window_width_std_min", "window_width_std_max")
        not_negative("view", self, "same_place_mm")
        require(0 <= self.random_scale <= 0.5, "view.random_scale", self.random_scale, "in [0, 0.5]")
        for name in ("same_place_share", "other_series_share", "random_contrast", "mirrored_share"):
            require(0 <= getattr(self, name) <= 1, f"view.{name}", getattr(self, name), "a share in [0, 1]")
        most_mm = self.radius_mm_floor / 3**0.5  # farther, a centre could leave the scan
        require(self.same_place_mm < most_mm, "view.same_place_mm", self.same_place_mm, f"less than {most_mm:.1f}")
        require(
            not self.other_series_share or self.same_place_share > 0,
            "view.other_series_share",
            self.other_series_share,
            "0 where view.same_place_share is 0: only views of one place come from two series",
        )
        require(0 < self.rotation_max_deg <= 45, "view.rotation_max_deg", self.rotation_max_deg, "in (0, 45]")
        require(
            self.radius_mm_floor <= self.radius_mm_min <= self.radius_mm_max,
            "view.radius_mm_min",
            self.radius_mm_min,
            f"between radius_mm_floor ({self.radius_mm_floor}) and radius_mm_max ({self.radius_mm_max})",
        )
        require(
            self.window_width_std_min <= self.window_width_std_max,
            "view.window_width_std_min",
            self.window_width_std_min,
            f"at most window_width_std_max ({self.window_width_std_max})",
        )


@dataclass(frozen=True)
class LossConfig:
    """Weights of the objectives and the two-stage ramp."""

    w_distance: float = 1.0
    """Weight of the displacement loss."""
    w_rotation: float = 1.0
    """Weight of the rotation loss."""
    w_window: float = 1.0
    """Weight of the two window losses (centre and width)."""
    w_masked: float = 0.0
    """Weight of the reconstruction of hidden patches (needs model.masked_share above 0)."""
    w_supcon_target: float = 0.2
    """Weight of SupCon once ramped up."""
    supcon_temperature: float = 0.1
    """Temperature of SupCon."""
    supcon_warmup_steps: int = 2000
    """Steps with SupCon at weight 0 (stage A)."""
    supcon_ramp_steps: int = 5000
    """Steps over which its weight rises linearly (stage B); 0: at once."""
    supcon_positives: SupConPositives = "series"
    """Views that SupCon draws together: series (all views of a series, as the guide says) or place (views of one place
    of a patient, in any of the series; needs view.same_place_share above 0)."""
    heads_across_pairs: bool = False
    """The pair heads compare view a of a pair with view b of the next pair of the same series in the batch, not of its
    own; so they learn where both views of a pair show one place (needs data.pairs_per_turn above 1)."""
    place_near_mm: float = 5.0
    """With supcon_positives place: views with centres at most this far apart show one place."""
    place_apart_mm: float = 12.0
    """With supcon_positives place: views with centres at least this far apart show two places. Views at a distance
    between place_near_mm and this are left out."""
    simclr_baseline: bool = False
    """Plain instance contrast for comparison: no pair losses, positives are the two views of a pair, no ramp."""
    normalize_targets: bool = True
    """Divide regression targets by constants known beforehand (mm scale, largest angle, robust std)."""
    dead_zone_mm: float = 5.0
    """Classification: displacements smaller than this have no sign and are masked."""
    dead_zone_deg: float = 1.0
    """Classification: the same for rotation differences."""
    dead_zone_std: float = 0.1
    """Classification: the same for window differences, in robust std of the scan."""

    def __post_init__(self) -> None:
        not_negative("loss", self, "w_distance", "w_rotation", "w_window", "w_masked", "w_supcon_target")
        not_negative("loss", self, "supcon_warmup_steps", "supcon_ramp_steps")
        not_negative("loss", self, "dead_zone_mm", "dead_zone_deg", "dead_zone_std")
        positive("loss", self, "supcon_temperature", "place_near_mm")
        require(
            self.place_near_mm < self.place_apart_mm,
            "loss.place_apart_mm",
            self.place_apart_mm,
            f"above place_near_mm ({self.place_near_mm:g})",
        )


@dataclass(frozen=True)
class TrainConfig:
    """Optimisation."""

    batch_size: int = 32
    """Pairs in a batch (B)."""
    grad_accumulation: int = 1
    """Parts in which a batch is encoded, each twice: less memory, about a third more time, the same loss over all B."""
    num_workers: int = 1
    """Training workers, one GPU each; they split every batch and the pool actors equally, with one worker's result."""
    rank_timeout_s: float = 1800.0
    """Longest wait of training workers for each other: for a batch, or for rank 0's evaluation or checkpoint."""
    max_steps: int = 100_000
    """Steps of the run."""
    log_every: int = 100
    """Steps between two rows of the record."""
    checkpoint_every: int = 1000
    """Steps between two checkpoints (last.ckpt)."""
    lr: float = 3e-4
    """Peak learning rate (AdamW)."""
    muon_lr: float | None = None
    """Peak learning rate of Muon, which then trains the weight matrices of the encoder's blocks instead of AdamW."""
    lr_warmup_steps: int = 1000
    """Steps of linear warm-up to the peak; a cosine decay to a tenth of it follows."""
    weight_decay: float = 0.05
    """AdamW decay of weight matrices."""
    grad_clip: float = 1.0
    """Largest norm of the gradient."""
    precision: Precision = "bf16"
    """bf16: autocast on CUDA, and for training steps on a CPU with matrix units for bfloat16 (Intel AMX); fp32
    elsewhere."""
    max_nonfinite_steps: int = 3
    """Consecutive steps with a non-finite loss before the run ends; fewer are skipped and counted."""
    max_worker_restarts: int = 2
    """How often a training worker that was killed (out of memory, node lost) is restarted from last.ckpt; one that
    raised an error is not restarted. Two, because a kill that recurs has a cause that no restart removes."""
    stall_warmup_steps: int = 20
    """Steps before stalls are counted."""
    torch_threads: int | None = None
    """CPU threads of the training worker; None: the cores that the pool actors leave over, at least 1."""
    seed: int = 0
    """Seed of the training: order of the scans, views, initial weights."""

    def __post_init__(self) -> None:
        positive("train", self, "batch_size", "max_steps", "log_every", "checkpoint_every", "lr", "grad_clip")
        positive("train", self, "max_nonfinite_steps", "num_workers", "rank_timeout_s", "grad_accumulation")
        for name in ("torch_threads", "muon_lr"):
            if getattr(self, name) is not None:
                positive("train", self, name)
        not_negative("train", self, "lr_warmup_steps", "weight_decay", "stall_warmup_steps", "seed")
        not_negative("train", self, "max_worker_restarts")


@dataclass(frozen=True)
class PrismConfig:
    """All settings of a run."""

    recipe: str = "custom"
    """Name of the recipe that these settings started from."""
    data: DataConfig = field(default_factory=lambda: DataConfig(phantom_subjects=24))
    view: ViewConfig = field(default_factory=ViewConfig)
    preflight: PreflightConfig = field(default_factory=PreflightConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    quota: QuotaConfig = field(default_factory=QuotaConfig)
    run: RunConfig = field(default_factory=RunConfig)

    def __post_init__(self) -> None:
        if self.train.batch_size % self.data.workers:
            raise ConfigError(
                f"train.batch_size is {self.train.batch_size} and data.workers is {self.data.workers}; "
                "needed: a batch of equal parts from every worker; "
                f"make the batch a multiple of {self.data.workers} or lower data.workers"
            )
        if self.data.workers % self.train.num_workers:
            raise ConfigError(
                f"train.num_workers is {self.train.num_workers} and data.workers is {self.data.workers}; "
                "needed: the same number of pool actors, one at least, for every training worker; "
                f"make data.workers a multiple of {self.train.num_workers} or lower train.num_workers"
            )
        if self.train.batch_size // self.train.num_workers % self.train.grad_accumulation:
            raise ConfigError(
                f"train.grad_accumulation is {self.train.grad_accumulation} and each training worker has "
                f"{self.train.batch_size // self.train.num_workers} pairs; needed: a divisor of these, for equal parts"
            )
        if self.loss.supcon_positives == "place" and not self.loss.simclr_baseline and not self.view.same_place_share:
            raise ConfigError(
                "loss.supcon_positives is 'place' and view.same_place_share is 0, so no two views show one place; "
                "set view.same_place_share above 0 (0.5, say)"
            )
        if self.view.other_series_share and self.loss.supcon_positives == "series" and not self.loss.simclr_baseline:
            raise ConfigError(
                "view.other_series_share is above 0 and loss.supcon_positives is 'series', which would set the series "
                "of a patient apart and draw them together; set loss.supcon_positives to 'place'"
            )
        if self.loss.supcon_positives == "place" and self.view.same_place_mm * 3**0.5 > self.loss.place_near_mm:
            raise ConfigError(
                f"view.same_place_mm is {self.view.same_place_mm:g} along each axis, so two views of one place may lie "
                f"{self.view.same_place_mm * 3**0.5:.1f} mm apart, and loss.place_near_mm is "
                f"{self.loss.place_near_mm:g}; raise the second or lower the first"
            )
        if self.loss.heads_across_pairs and self.data.pairs_per_turn == 1:
            raise ConfigError(
                "loss.heads_across_pairs is set and data.pairs_per_turn is 1, so that few pairs of a batch have "
                "another one of their series; set data.pairs_per_turn to 2 or more"
            )
        self._check_masks()
        if self.data.extract_on == "cuda" and (self.view.other_series_share or self.view.random_contrast):
            raise ConfigError(
                "view.other_series_share and view.random_contrast need data.extract_on 'cpu': with 'cuda' the views "
                "of a pair are cut out of one scan, without a curve"
            )
        if self.train.num_workers > 1 and self.train.rank_timeout_s <= self.data.stall_timeout_s:
            raise ConfigError(
                f"train.rank_timeout_s is {self.train.rank_timeout_s:g} and data.stall_timeout_s is "
                f"{self.data.stall_timeout_s:g}; needed: the first above the second, so that a stalled pool is "
                "reported before the other training workers time out"
            )

    def _check_masks(self) -> None:
        share, n_patches = self.model.masked_share, self.data.n_patches
        if (share > 0) != (self.loss.w_masked > 0):
            raise ConfigError(
                f"model.masked_share is {share:g} and loss.w_masked is {self.loss.w_masked:g}; needed: both above 0, "
                "to hide patches and learn from them, or both 0"
            )
        if share and not 0 < round(n_patches * share) < n_patches:
            raise ConfigError(
                f"model.masked_share is {share:g} and data.n_patches is {n_patches}; needed: at least one patch "
                "that is hidden and one that is seen"
            )

    @property
    def held_out_patches(self) -> int:
        """Patches of a view where the encoder is evaluated and, later, used."""
        return self.eval.n_patches or self.data.n_patches

    def to_dict(self) -> dict[str, Any]:
        """Nested plain values, for JSON and for other processes."""
        return dataclasses.asdict(self)
