"""Alarm rules of a run: thresholds, when each rule is judged, and the text that the user reads."""

from __future__ import annotations

import math
from functools import partial

from prism_ssl.config.network import Objective
from prism_ssl.config.schema import LossConfig, PrismConfig
from prism_ssl.model.pair_targets import AXES, Head
from prism_ssl.train.guards.alarms import Rule, Span

DEGENERATE_STD = 1e-3
"""A target whose normalised standard deviation is below this carries no information."""

LEAST_UPDATE = 1e-9
"""Relative change between two rows below which a head is frozen: a hundredth of float32's resolution."""

LEAST_SPREAD = 0.01
"""Spread of collapsed embeddings (0.8 in a new tiny encoder, 0.3 in one that has learned windows)."""

LEAST_RANK = 2.0
"""Effective rank below which embeddings lie on a line (50 in a new tiny encoder, 25 to 30 later)."""

LEAST_PROGRESS = 0.01
"""Below this share of the way from chance to the lowest possible loss, nothing is learned (a head at chance: -0.02)."""

LEAST_SKILL = 0.15
"""A head with this sign skill on any axis has learned something, whatever its loss (a head at chance: 0.1)."""

MEAN_PREDICTOR_STD_RATIO = 0.1
"""Prediction std over target std below which a head predicts the same for every pair."""

EMPTY_VIEWS_SHARE = 0.2
"""Too many views show nothing above this share (0.085 on an archive of CT and MR, 0.36 in a lung CT)."""

WORSE_THAN_CHANCE = 0.1
"""A loss above chance by more than this share of it is called worse than chance."""

PATIENCE_STEPS = 250
"""Steps after warm-up in which a loss at chance is expected: on phantoms displacement leaves it after some 220."""

_SIGNED = {head: tuple(axis for axis in axes if axis != "distance") for head, axes in AXES.items()}


def alarm_rules(config: PrismConfig) -> list[Rule]:
    """The rules of a run; a rule that explains others comes before them."""
    loss, warmup = config.loss, config.train.lr_warmup_steps
    patience = max(PATIENCE_STEPS, warmup)
    heads_from = warmup + patience
    supcon_from = heads_from
    if not loss.simclr_baseline:
        supcon_from = max(warmup, loss.supcon_warmup_steps + loss.supcon_ramp_steps) + patience
    axes = {head: AXES[head] if config.model.objective == "regression" else _SIGNED[head] for head in AXES}
    return [
        _empty_views(),
        *(_flat_target(axis, head) for head, names in axes.items() for axis in names),
        *(_frozen_head(name) for name in AXES),
        _frozen_head("supcon", from_step=0 if loss.simclr_baseline else loss.supcon_warmup_steps),
        *_collapse(),
        *(_positives(loss) if loss.simclr_baseline or loss.w_supcon_target > 0 else ()),
        *(_head_at_chance(head, names, config.model.objective, heads_from) for head, names in axes.items()),
        _supcon_at_chance(supcon_from),
    ]


# ---------------------------------------------------------------------- views
def _empty_views() -> Rule:
    return Rule(
        "empty_views",
        quantity=lambda span: 1 - span.mean("views_empty_share"),
        raise_below=1 - EMPTY_VIEWS_SHARE,
        over_above=1 - 0.75 * EMPTY_VIEWS_SHARE,
        text=lambda span: (
            f"{span.mean('views_empty_share'):.0%} of the views show nothing ({_steps(span)}): "
            f"{span.mean('views_saturated_share'):.0%} are saturated (nearly all pixels black or white), "
            f"{span.mean('views_flat_share'):.0%} have a single grey value, "
            f"{span.mean('views_outside_share'):.0%} lie outside the volume; views_by_scan.json in the run folder "
            "lists the worst scans first; draw their views with 'prism inspect CATALOG --scan ID'"
        ),
    )


# ---------------------------------------------------------------------- targets and heads
def _flat_target(axis: str, head: Head) -> Rule:
    def std(span: Span) -> float:
        if not span.least(f"weight/{head}") > 0:
            return math.nan  # nobody learns it
        return 0.0 if span.mean(f"signed_share/{axis}") == 0.0 and axis != "distance" else span.mean(key)

    key = f"target_std/{axis}"
    return Rule(
        f"flat_target/{axis}",
        quantity=std,
        raise_below=DEGENERATE_STD,
        over_above=2 * DEGENERATE_STD,
        text=lambda span: (
            f"the target {axis!r} hardly varies (standard deviation {std(span):.1e} in normalised units, "
            f"{span.mean(f'signed_share/{axis}'):.0%} of the pairs known and outside its dead zone, {_steps(span)}), "
            "so a low loss of its head proves nothing; check the view.* ranges and loss.dead_zone_*"
        ),
    )


def _frozen_head(name: str, from_step: int = 0) -> Rule:
    def update(span: Span) -> float:
        return span.mean(f"update/{name}") if span.least(f"weight/{name}") > 0 else math.nan

    part = "projection" if name == "supcon" else "head"
    return Rule(
        f"frozen_head/{name}",
        quantity=update,
        raise_below=LEAST_UPDATE,
        over_above=10 * LEAST_UPDATE,
        from_step=from_step,
        text=lambda span: (
            f"the {part} of {name!r} is frozen: its parameters did not change ({_steps(span)}) although its loss has "
            f"weight {span.mean(f'weight/{name}'):.3g}; look for requires_grad=False, or for parameters missing from "
            "the optimiser"
        ),
    )


def _head_at_chance(head: Head, axes: tuple[str, ...], objective: Objective, from_step: int) -> Rule:
    def learned(span: Span) -> float:
        if not span.least(f"weight/{head}") > 0:
            return math.nan
        skills = [skill for axis in _SIGNED[head] if not math.isnan(skill := span.mean(f"skill/{axis}"))]
        return max(_progress(span, head) / LEAST_PROGRESS, max(skills, default=0.0) / LEAST_SKILL)

    flat = tuple(f"flat_target/{axis}" for axis in axes)
    return Rule(
        f"at_chance/{head}",
        quantity=learned,
        raise_below=1.0,
        over_above=2.0,
        from_step=from_step,
        explained_by=(*flat, f"frozen_head/{head}", "collapsed_embeddings"),
        text=partial(_at_chance_text, head, objective),
    )


def _at_chance_text(head: Head, objective: Objective, span: Span) -> str:
    trivial = "predicting the mean for every pair" if objective == "regression" else "guessing"
    ratio = max((r for axis in _SIGNED[head] if not math.isnan(r := span.mean(f"std_ratio/{axis}"))), default=0.0)
    answers = f"Its predictions vary ({ratio:.0%} of the target's std) but do not follow the target"
    if ratio < MEAN_PREDICTOR_STD_RATIO:
        answers = f"It predicts nearly the same for every pair (at most {ratio:.0%} of the target's std)"
    where = "at" if _progress(span, head) > -WORSE_THAN_CHANCE else "worse than"
    return (
        f"{head} is {where} chance: loss {span.mean(f'loss/{head}'):.2e}, {trivial} gets "
        f"{span.mean(f'chance/{head}'):.2e} ({_steps(span)}). {answers}. Its parameters change, so the head is not "
        "frozen; it has not learned yet. Treat this head as untrained until its skill exceeds 0"
    )


def _progress(span: Span, name: str, floor: float = 0.0) -> float:
    """Share of the way from chance (0) to the lowest possible loss (1); NaN when the two are equal."""
    loss, chance = span.mean(f"loss/{name}"), span.mean(f"chance/{name}")
    return (chance - loss) / (chance - floor) if chance > floor else math.nan


# ---------------------------------------------------------------------- embeddings and SupCon
def _collapse() -> list[Rule]:
    spread, rank, std = "embedding/spread", "embedding/effective_rank", "embedding/std_mean"
    return [
        Rule(
            "collapsed_embeddings",
            quantity=lambda span: span.mean(spread),
            raise_below=LEAST_SPREAD,
            over_above=2 * LEAST_SPREAD,
            text=lambda span: (
                "the encoder has collapsed: all views get nearly the same embedding (they differ by "
                f"{span.mean(spread):.2%} of their length, std per dimension {span.mean(std):.1e}, {_steps(span)}), so "
                "no head can tell views apart; lower train.lr or raise train.lr_warmup_steps"
            ),
        ),
        Rule(
            "low_rank_embeddings",
            quantity=lambda span: span.mean(rank),
            raise_below=LEAST_RANK,
            over_above=1.5 * LEAST_RANK,
            explained_by=("collapsed_embeddings",),
            text=lambda span: (
                f"the embeddings have collapsed to a line (effective rank {span.mean(rank):.1f}, {_steps(span)}): "
                "a single number describes each view; lower train.lr or raise train.lr_warmup_steps"
            ),
        ),
    ]


def _positives(loss: LossConfig) -> list[Rule]:
    share, fewest = "supcon/cross_pair_share", "supcon/positives_mean"
    rules = [
        Rule(
            "supcon_no_positives",
            quantity=lambda span: span.mean(fewest),
            raise_below=1e-3,
            over_above=1e-2,
            text=lambda span: (
                f"SupCon has no positives at all ({_steps(span)}), so its loss is 0 and it learns nothing: "
                + _why_none(loss)
            ),
        )
    ]
    if loss.simclr_baseline or loss.supcon_positives == "place":
        return rules
    return [
        *rules,
        Rule(
            "supcon_no_other_pairs",
            quantity=lambda span: span.mean(share),
            raise_below=1e-3,
            over_above=1e-2,
            explained_by=("supcon_no_positives",),
            text=lambda span: (
                f"SupCon has no positives from other pairs ({_steps(span)}, "
                f"{span.mean('supcon/distinct_series'):.1f} series per batch): each series appears once in a batch, so "
                "SupCon only contrasts the two views of a pair with all others, as SimCLR does; raise "
                "train.batch_size, or lower data.workers x data.warm_pool_size"
            ),
        ),
        Rule(
            "supcon_one_series",
            quantity=lambda span: span.mean("supcon/distinct_series") - 1.0,
            raise_below=1e-3,
            over_above=1e-2,
            text=lambda span: (
                f"SupCon has no negatives ({_steps(span)}): every batch holds a single series, so its loss stays at "
                "chance; raise data.workers x data.warm_pool_size"
            ),
        ),
    ]


def _why_none(loss: LossConfig) -> str:
    if loss.supcon_positives == "place" and not loss.simclr_baseline:
        return "no two views show one place; raise view.same_place_share, or lower view.same_place_mm"
    return "not even the two views of a pair share a label; this is a defect in series_label"


def _supcon_at_chance(from_step: int) -> Rule:
    def learned(span: Span) -> float:
        if not span.least("weight/supcon") > 0:
            return math.nan
        return _progress(span, "supcon", span.mean("supcon/loss_floor"))

    return Rule(
        "at_chance/supcon",
        quantity=learned,
        raise_below=LEAST_PROGRESS,
        over_above=2 * LEAST_PROGRESS,
        from_step=from_step,
        explained_by=("supcon_no_positives", "supcon_one_series", "frozen_head/supcon", "collapsed_embeddings"),
        text=lambda span: (
            f"supcon is at chance: loss {span.mean('loss/supcon'):.2e}, equal similarities get "
            f"{span.mean('chance/supcon'):.2e} and perfect embeddings {span.mean('supcon/loss_floor'):.2e} "
            f"({_steps(span)}). The projection does not tell series (or places) apart yet"
        ),
    )


def _steps(span: Span) -> str:
    return f"steps {span.first_step} to {span.last_step}"
