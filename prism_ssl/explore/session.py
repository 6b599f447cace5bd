"""Runs of the notebook, the filters for them, and the curves of the chosen ones."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from prism_ssl.config.defaults import apply_overrides
from prism_ssl.config.operations import EvalConfig, TrackingConfig
from prism_ssl.config.schema import PrismConfig
from prism_ssl.config.tracking_environment import tracking_project
from prism_ssl.eval.quality.evidence import evidence_of_runs
from prism_ssl.eval.ranking import PROBE_KEYS, QUALITY, rank_runs, with_differences
from prism_ssl.explore.alarm_view import PREFIX
from prism_ssl.explore.chart_style import RUNS_DRAWN
from prism_ssl.explore.curves import curve_keys
from prism_ssl.explore.runs import compute_proxy_score, damage_of, fetch_history, fetch_runs
from prism_ssl.train.guards.alarm_rules import alarm_rules

_COMPARED = 64
"""Best runs that are compared with the best one patient by patient: reading evidence takes some ms a run."""
DEFAULT_CURVES = 4
"""Runs whose curves are drawn while none is chosen."""


TABS = ("Ranking", "Losses", "Throughput and stalls", "Failures", "Representation", "Scans", "One run")
"""The tabs of the notebook."""


class Remembered:
    """What was chosen in the controls that each reading of the runs makes anew: runs, and values of filters."""

    def __init__(self) -> None:
        self._runs: set[str] = set()
        self._values: dict[str, list[Any]] = {}

    def keep_runs(self, rows: pl.DataFrame) -> None:
        """The runs of these rows are chosen now, and no other."""
        self._runs = set(rows["run"])

    def keep_values(self, values: Mapping[str, Sequence[Any]]) -> None:
        """These values are chosen now in their controls."""
        self._values |= {control: list(chosen) for control, chosen in values.items()}

    def rows_in(self, table: pl.DataFrame) -> list[int]:
        """Numbers of the rows of a table whose runs are chosen."""
        return [number for number, run in enumerate(table["run"]) if run in self._runs]

    def values_in(self, control: str, options: Sequence[Any]) -> list[Any]:
        """What is chosen in a control, of what can be chosen there now."""
        return [value for value in self._values.get(control, []) if value in options]


def wandb_first(runs: str, project: str, account: bool, environment: Mapping[str, str] = os.environ) -> bool:
    """Whether the runs are read from W&B at the start: as the arguments say; without any, where there is an account
    or WANDB_PROJECT."""
    if runs or project:
        return bool(project)
    return account or bool(environment.get("WANDB_PROJECT"))


def default_project() -> str:
    """The W&B project that training would send to."""
    return tracking_project(TrackingConfig())


def tab_at_start(asked_for: str) -> str:
    """The tab that is named (or named by its beginning), else the first."""
    return next((tab for tab in TABS if asked_for and tab.lower().startswith(asked_for.lower())), TABS[0])


def load_scored(entity: str, project: str) -> pl.DataFrame:
    """``fetch_runs``, scored; histories are read only of runs whose summary has no quality.

    Raises:
        TrackingError: as ``fetch_runs``.
    """
    runs = fetch_runs(entity, project, {})
    nothing = compute_proxy_score(runs, pl.DataFrame())
    open_ended = nothing.filter(pl.col(QUALITY).is_null())["run_id"].to_list()
    return compute_proxy_score(runs, fetch_history(open_ended, list(PROBE_KEYS)))


def compared(shown: pl.DataFrame) -> pl.DataFrame:
    """The runs that are shown, with how far each of the best of them is behind the best one."""
    best = rank_runs(shown).head(_COMPARED)
    return with_differences(shown, evidence_of_runs(best), EvalConfig())


def options(table: pl.DataFrame, column: str) -> list[Any]:
    """Distinct values of a column, sorted; the members where it holds lists."""
    if column not in table.columns:
        return []
    values = table[column].explode(empty_as_null=False) if table.schema[column] == pl.List else table[column]
    return sorted(
        {value for value in values.to_list() if value is not None}, key=lambda value: (str(type(value)), value)
    )


def setting_keys(table: pl.DataFrame) -> list[str]:
    """The settings of the runs, those in which they differ first."""
    keys = [name for name in table.columns if "." in name and "/" not in name] + [
        name for name in table.columns if name.startswith("design/")
    ]
    return sorted(keys, key=lambda key: (len(options(table, key)) < 2, key))


def chosen_filters(values: Mapping[str, Sequence[Any]]) -> dict[str, list[Any]]:
    """The filters that were set; a control without a choice filters nothing."""
    return {column: list(wanted) for column, wanted in values.items() if wanted}


def status_in_words(table: pl.DataFrame) -> str:
    """Such as "24 runs: 22 ok, 1 failed, 1 running"."""
    if table.is_empty():
        return "no runs"
    counts = Counter(table["status"].to_list()).most_common()
    runs = "1 run" if table.height == 1 else f"{table.height} runs"
    return f"{runs}: " + ", ".join(f"{count} {status}" for status, count in counts)


def runs_to_draw(scored: pl.DataFrame, chosen: Sequence[str]) -> list[str]:
    """The chosen runs in the order of the ranking, at most ``RUNS_DRAWN``; the best few when none is chosen."""
    ranked = rank_runs(scored)["run"].to_list()
    wanted = [run for run in ranked if run in set(chosen)] or ranked[:DEFAULT_CURVES]
    return wanted[:RUNS_DRAWN]


def drawn_in_words(drawn: Sequence[str], chosen: Sequence[str]) -> str:
    """Which runs are drawn, and why."""
    if not drawn:
        return "No run to draw."
    if not chosen:
        best = "the best run" if len(drawn) == 1 else f"the best {len(drawn)} runs"
        return f"Drawn in all tabs: {best}. Select others in the table under Ranking."
    left_out = f" {len(drawn)} of the {len(chosen)}" if len(chosen) > len(drawn) else " the"
    return f"Drawn in all tabs:{left_out} selected runs."


def names_by_rank(scored: pl.DataFrame) -> dict[str, str]:
    """``run`` -> ``run_id``, best first."""
    return dict(rank_runs(scored).select("run", "run_id").iter_rows())


def damage_in_words(scored: pl.DataFrame, runs: Sequence[str]) -> dict[str, str]:
    """Run -> how many lines of its history cannot be read; only the damaged ones of the named runs."""
    names = dict(scored.filter(pl.col("run").is_in(list(runs))).select("run_id", "run").iter_rows())
    return {names[run_id]: words for run_id, words in damage_of(list(names)).items()}


def curves_of(scored: pl.DataFrame, runs: Sequence[str]) -> pl.DataFrame:
    """Histories of the named runs in all drawn columns: run, global_step, scalars and alarms."""
    of = scored.filter(pl.col("run").is_in(list(runs))).select("run_id", "run")
    history = fetch_history(of["run_id"].to_list(), [*curve_keys(), *alarm_keys()])
    return of.join(history, on="run_id", how="inner", maintain_order="left").drop("run_id")


def alarm_keys() -> list[str]:
    """The scalars of every alarm that a run of any settings can raise."""
    settings: list[dict[str, Any]] = [{"model.objective": "regression"}, {"model.objective": "classification"}]
    settings.append({"loss.simclr_baseline": True})
    names = [rule.name for each in settings for rule in alarm_rules(apply_overrides(PrismConfig(), each))]
    return [f"{PREFIX}{name}" for name in dict.fromkeys(names)]


def default_root(given: str) -> Path:
    """The folder of runs: the given one, else ``runs`` here, else ``runs`` beside the project's code."""
    if given:
        return Path(given).expanduser().absolute()
    here = Path("runs").absolute()
    return here if here.is_dir() else Path(__file__).parents[2] / "runs"
