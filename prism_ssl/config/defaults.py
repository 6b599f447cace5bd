"""Recipes (functions that return full settings), and strict overrides of single settings."""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any

from prism_ssl.config.network import ModelConfig
from prism_ssl.config.operations import EvalConfig, QuotaConfig, TrackingConfig
from prism_ssl.config.schema import DataConfig, LossConfig, PrismConfig, TrainConfig, ViewConfig
from prism_ssl.errors import ConfigError


def phantom_cpu() -> PrismConfig:
    """A laptop without scans, GPU or account: generated phantoms, tiny encoder, about three minutes."""
    return PrismConfig(
        recipe="phantom-cpu",
        data=DataConfig(
            phantom_subjects=24,
            workers=2,
            warm_pool_size=4,
            visits_per_scan=40,
            n_patches=64,
            scratch_bytes=2 * 2**30,
        ),
        model=ModelConfig(preset="tiny", projection_dim=64),
        loss=LossConfig(supcon_warmup_steps=100, supcon_ramp_steps=100),
        train=TrainConfig(
            batch_size=16,
            max_steps=400,
            log_every=20,
            checkpoint_every=100,
            lr=1e-3,
            lr_warmup_steps=40,
            precision="fp32",
        ),
    )


def study() -> PrismConfig:
    """A laptop and a few hundred public scans: tiny encoder, views of one place, about an hour."""
    return PrismConfig(
        recipe="study",
        data=DataConfig(
            catalog_path="catalog.csv",
            workers=2,
            warm_pool_size=8,
            visits_per_scan=128,
            # A view is told from 30 views of other places of the patient; with 8 pairs (14) that was learned slower.
            pairs_per_turn=16,
            # Few patches and many views: 128 pairs of 16 cost what 32 pairs of 64 do, and teach more of the place.
            n_patches=16,
            scratch_bytes=8 * 2**30,
        ),
        view=ViewConfig(
            centers="foreground",
            same_place_share=1.0,
            # With all places in two series, the same place of another patient was found less often (LOG.md).
            other_series_share=0.5,
            random_contrast=0.2,
            random_scale=0.15,
            mirrored_share=0.5,
        ),
        model=ModelConfig(preset="tiny", projection_dim=64, normalize_patches=True, position_features=True),
        # Pair heads of weight 1 have most of the gradient: the place was then learned half as far in 600 steps.
        loss=LossConfig(
            w_distance=0.3,
            w_rotation=0.3,
            w_window=0.3,
            heads_across_pairs=True,
            supcon_positives="place",
            w_supcon_target=1.0,
            supcon_warmup_steps=0,
            supcon_ramp_steps=0,
        ),
        train=TrainConfig(
            batch_size=128,
            max_steps=6000,
            log_every=50,
            checkpoint_every=200,
            lr=1e-3,
            muon_lr=1e-2,  # as far in 600 steps as AdamW alone in 2,400
            lr_warmup_steps=100,
            precision="bf16",  # as good as float32 after 600 steps; on a CPU with matrix units for it a step is shorter
        ),
        # Seen with more patches than in training, the same encoder knows the place better.
        eval=EvalConfig(views_per_scan=32, place_pairs=64, place_draws=4, n_patches=64, centers="foreground"),
    )


def phantom_place() -> PrismConfig:
    """A laptop without scans: phantoms in two modalities, views and losses of `study`, about three minutes."""
    first, by_place = phantom_cpu(), study()
    return dataclasses.replace(
        first,
        recipe="phantom-place",
        # From the 17th on, subjects have a CT and an MR; about 32 of these train, and 8 take the place test.
        data=dataclasses.replace(
            first.data, phantom_subjects=56, n_patches=16, pairs_per_turn=16, holdout_min_series=16
        ),
        view=by_place.view,
        model=by_place.model,
        loss=by_place.loss,
        train=dataclasses.replace(first.train, batch_size=64, max_steps=600, muon_lr=by_place.train.muon_lr),
        eval=by_place.eval,
    )


_BETTY_HOME = QuotaConfig(home_soft_bytes=40 * 10**9, home_hard_bytes=48 * 10**9, home_soft_inodes=400_000)
"""Betty's home directories hold 50 GB, and a full one locks its owner out. The limit on files only prunes and never
ends a run, because it differs from site to site."""


def betty_baseline(catalog_path: str = "catalog.parquet") -> PrismConfig:
    """The canonical baseline on one B200: ViT-L, 1,024 patches, 8 actors of 16 slots."""
    return PrismConfig(recipe="betty-baseline", data=DataConfig(catalog_path=catalog_path), quota=_BETTY_HOME)


def betty_place(catalog_path: str = "catalog.parquet") -> PrismConfig:
    """The settings of `study` on one B200: ViT-L learns places, from 512 pairs of 128 patches a step."""
    by_place, baseline = study(), betty_baseline(catalog_path)
    return dataclasses.replace(
        baseline,
        recipe="betty-place",
        # 512 pairs of 128 patches are as many patches as 64 pairs of 1,024, twice those of `betty-baseline`.
        # An actor's 64 pairs are 16 pairs of each of 4 scans.
        data=dataclasses.replace(baseline.data, n_patches=128, visits_per_scan=128, pairs_per_turn=16),
        view=by_place.view,
        model=dataclasses.replace(baseline.model, normalize_patches=True, position_features=True),
        loss=by_place.loss,
        # A guess between AdamW's 3e-4 and the 1e-2 of the tiny encoder; no GPU has measured it.
        train=dataclasses.replace(baseline.train, batch_size=512, muon_lr=1e-3),
        eval=dataclasses.replace(by_place.eval, n_patches=512, place_draws=1),
    )


def core24_base(catalog_path: str = "catalog.parquet") -> PrismConfig:
    """Settings that the 24 runs of the ablation share (guide, section 12); the factors override them."""
    return PrismConfig(
        recipe="core24-base",
        data=DataConfig(
            catalog_path=catalog_path, n_patches=1024, workers=8, visits_per_scan=100, use_local_scratch=True
        ),
        train=TrainConfig(max_steps=20_000),
        quota=_BETTY_HOME,
    )


def core24_smoke() -> PrismConfig:
    """The ablation's code path on a laptop: the settings that its cells share when all of them are tiny."""
    return PrismConfig(
        recipe="core24-smoke",
        data=DataConfig(
            phantom_subjects=16, workers=2, warm_pool_size=2, visits_per_scan=4, n_patches=16, scratch_bytes=2**30
        ),
        model=ModelConfig(preset="tiny", projection_dim=32),
        loss=LossConfig(supcon_warmup_steps=2, supcon_ramp_steps=2),
        train=TrainConfig(
            batch_size=4,
            max_steps=12,
            log_every=2,
            checkpoint_every=4,
            lr=1e-3,
            lr_warmup_steps=2,
            precision="fp32",
            stall_warmup_steps=4,
        ),
        eval=EvalConfig(probe_scans=12, views_per_scan=4, bootstrap=200),
        tracking=TrackingConfig(artifact_every=None),
    )


RECIPES: dict[str, Callable[[], PrismConfig]] = {
    "phantom-cpu": phantom_cpu,
    "phantom-place": phantom_place,
    "study": study,
    "betty-baseline": betty_baseline,
    "betty-place": betty_place,
    "core24-base": core24_base,
    "core24-smoke": core24_smoke,
}


def known_keys(config: PrismConfig) -> dict[str, Any]:
    """All settings as ``{"section.name": value}``."""
    flat: dict[str, Any] = {}
    for section in dataclasses.fields(config):
        value = getattr(config, section.name)
        if dataclasses.is_dataclass(value):
            flat |= {f"{section.name}.{f.name}": getattr(value, f.name) for f in dataclasses.fields(value)}
        else:
            flat[section.name] = value
    return flat


def apply_overrides(config: PrismConfig, overrides: Mapping[str, Any]) -> PrismConfig:
    """A copy of ``config`` with ``{"section.name": value}`` replaced.

    Raises:
        ConfigError: a key is unknown (the nearest known one is named) or a value has the wrong type.
    """
    known = known_keys(config)
    changes: dict[str, dict[str, Any]] = {}
    for key, value in overrides.items():
        if key not in known:
            raise ConfigError(_unknown_key(key, known))
        section, _, name = key.rpartition(".")
        changes.setdefault(section, {})[name] = _checked(key, value, _type_of(config, section, name))
    top = changes.pop("", {})
    for section, values in changes.items():
        top[section] = dataclasses.replace(getattr(config, section), **values)
    return dataclasses.replace(config, **top)


def config_from_dict(nested: Mapping[str, Any], base: PrismConfig | None = None) -> PrismConfig:
    """The inverse of ``PrismConfig.to_dict``; keys that are missing come from ``base`` (None: the built-in defaults).

    Unknown keys are refused as in ``apply_overrides``.
    """
    flat: dict[str, Any] = {}
    for section, value in nested.items():
        if isinstance(value, Mapping):
            flat |= {f"{section}.{name}": inner for name, inner in value.items()}
        else:
            flat[section] = value
    return apply_overrides(base or PrismConfig(), flat)


def _unknown_key(key: str, known: Mapping[str, Any]) -> str:
    by_name = {name.rpartition(".")[2]: name for name in known}
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.6)
    near = near or [by_name[n] for n in difflib.get_close_matches(key.rpartition(".")[2], by_name, n=1)]
    hint = f"did you mean {near[0]!r}?" if near else f"known sections: {sorted({k.split('.')[0] for k in known})}"
    return f"unknown config key {key!r}; {hint}"


def _type_of(config: PrismConfig, section: str, name: str) -> Any:
    owner = getattr(config, section) if section else config
    return typing.get_type_hints(type(owner))[name]


def _checked(key: str, value: Any, wanted: Any) -> Any:
    """``value`` as ``wanted``, which is a plain type, an optional, a Literal, a tuple or a dict of strings."""
    origin, options = typing.get_origin(wanted), typing.get_args(wanted)
    if origin in (typing.Union, types.UnionType):
        inner = next(option for option in options if option is not type(None))
        return None if value is None else _checked(key, value, inner)
    if origin is typing.Literal:
        if value not in options:
            raise ConfigError(f"{key} is {value!r}; needed: one of {', '.join(map(repr, options))}")
        return value
    if origin is tuple and isinstance(value, (list, tuple)) and all(isinstance(v, str) for v in value):
        return tuple(value)
    if (
        origin is dict
        and isinstance(value, Mapping)
        and all(isinstance(v, str) for pair in value.items() for v in pair)
    ):
        return dict(value)
    if wanted is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if origin is None and type(value) is wanted:
        return value
    raise ConfigError(f"{key} is {value!r} ({type(value).__name__}); needed: {getattr(wanted, '__name__', wanted)}")
