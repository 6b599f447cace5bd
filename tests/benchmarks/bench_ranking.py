"""How far a ranking can be trusted: intervals, recommendation and composite against known truth.

    python tests/benchmarks/bench_ranking.py --json

coverage     simulated patients of whom some are easy for every question: how often the interval holds the truth.
regret       simulated sweeps of 24 runs, additive effects, noise 0.02: what the recommended cell loses to the best one.
correlation  encoders from random to trained (rows of the study on phantoms, evaluated as they train): Spearman's rank
             correlation of proxy quality with what only phantoms know (organ, place in other patients), measured on
             32 views of a series under another seed.
stability    the last encoder of each run under other evaluation seeds: spread of its quality.

No time is measured, so a busy machine changes nothing.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from harness import REPOSITORY, at_least, at_most, circumstances, parser, report
from scipy import stats

sys.path.insert(0, str(REPOSITORY))

from prism_ssl.config.operations import EvalConfig
from prism_ssl.eval.quality.comparison import resample_together
from prism_ssl.eval.quality.composite import proxy_quality
from prism_ssl.eval.recommendation import recommend
from prism_ssl.records.run_files import CHECKPOINT_FILE, CONFIG_FILE, read_history
from prism_ssl.study.rows import ROWS
from prism_ssl.train.checkpoint import checkpoint_step
from tests.support.simulated import FACTORS, answers, evidence_of, sweep, true_quality

PATIENTS = ((8, 1, 6), (8, 4, 6), (12, 8, 6), (30, 4, 15))
"""Patients, series of each, and patients with a pair of series."""
TRUTH = ("linear_organ", "position_recall_at_1")
"""Held-out scalars that only phantoms have."""
PARTS = ("place_recall_at_1", "recall_at_1", "pose_skill_mean", "position_skill")
"""Held-out scalars that proxy quality is made of."""
VIEWS_OF_TRUTH, SEED_OF_TRUTH = 32, 7
"""Views of each series that what only phantoms know is measured with, and their seed."""
NO_ENCODERS = pl.DataFrame(schema={"run": pl.String, "step": pl.Int64, "proxy_quality": pl.Float64})
SUBJECTS = ("--data.phantom-subjects", "64", "--data.holdout-min-series", "48")
RUNS = ("prism", "simclr", "guide", "no-heads")
"""Rows of the study. Its evaluation is the same for all, and they spread: with the recipe ``phantom-cpu`` every encoder
of 600 steps is within the doubt of random weights (quality 0.02 to 0.06), so no measure could rank them."""


def coverage(simulations: int) -> dict[str, float]:
    """Share of intervals that hold the truth, for each make-up of the held-out set."""
    truth, found = true_quality(), {}
    for patients, series, pairs in PATIENTS:
        held = []
        for seed in range(simulations):
            evidence = answers(np.random.default_rng(seed), patients, series, pairs)
            quality = proxy_quality(evidence, EvalConfig(bootstrap=400, seed=10**6 + seed))
            held.append(quality.low <= truth <= quality.high)
        found[f"{patients} patients of {series} series"] = float(np.mean(held))
    return found


def regret(sweeps: int, noise: float = 0.02) -> tuple[float, float]:
    """Mean loss of the fitted recommendation, and of the best measured run, to the best of all 48 cells."""
    fitted, lucky = [], []
    for seed in range(sweeps):
        runs, truth = sweep(seed, noise)
        best, found = max(truth.values()), recommend(runs, "q", FACTORS)
        if found is not None:
            fitted.append(best - truth[tuple(found.levels[factor] for factor in FACTORS)])
        luckiest = runs.sort("q", descending=True).row(0, named=True)
        lucky.append(best - truth[tuple(luckiest[factor] for factor in FACTORS)])
    return float(np.mean(fitted)), float(np.mean(lucky))


def false_alarms(sweeps: int, runs: int = 24, patients: int = 16) -> tuple[float, float]:
    """Share of sweeps of equal encoders in which some run counts as worse than the luckiest one: by intervals for all
    pairs at once, and by intervals for one pair at a time."""
    config = EvalConfig(w_skill=0, w_place=0, bootstrap=300)
    at_once, one_by_one = [], []
    for seed in range(sweeps):
        rng = np.random.default_rng(seed)
        level = rng.normal(0.5, 0.2, patients)
        recall = {f"r{run:02}": level + rng.normal(0, 0.1, patients) for run in range(runs)}
        best = max(recall, key=lambda run: recall[run].mean())
        together = resample_together({run: evidence_of(each) for run, each in recall.items()}, config, like=best)
        at_once.append(any(each.low > 0 for each in together.behind(best).values()))
        one_by_one.append(any(together.difference(best, run).low > 0 for run in recall if run != best))
    return float(np.mean(at_once)), float(np.mean(one_by_one))


def train(folder: Path, name: str, steps: int, every: int) -> Path:
    """A row of the study on phantoms, evaluated every so many steps; returns its folder.

    Beside it the folders NAME-STEP hold the checkpoint of each of these steps, to be evaluated like a run.
    """
    command = [
        sys.executable, "tune/train_single.py", "phantom-place", "--train.max-steps", str(steps), "--eval.every",
        str(every), "--train.checkpoint-every", str(every), "--run.root", str(folder), "--run.name", name,
        "--tracking.mode", "disabled", *SUBJECTS, *ROWS[name].options(),
    ]  # fmt: skip
    kept: set[int] = set()
    with (
        (folder / f"{name}.log").open("w") as log,
        subprocess.Popen(command, cwd=REPOSITORY, stdout=log, stderr=subprocess.STDOUT) as training,
    ):
        while training.poll() is None:
            time.sleep(0.5)
            _keep_checkpoint(folder / name, every, kept)
    _keep_checkpoint(folder / name, every, kept)
    found = [
        checkpoint_step(folder / f"{name}-{every * number}" / CHECKPOINT_FILE) for number in range(1, len(kept) + 1)
    ]
    if training.returncode or found != [*range(every, steps + 1, every)]:
        told = (folder / f"{name}.log").read_text()[-800:]
        raise RuntimeError(f"{name}: exit code {training.returncode}, checkpoints of steps {found}; {told}")
    return folder / name


def _keep_checkpoint(run: Path, every: int, kept: set[int]) -> None:
    """Links a new last.ckpt, which the run replaces and never changes, into a folder of its own."""
    try:
        number = (run / CHECKPOINT_FILE).stat().st_ino
        if number in kept:
            return
        own = run.with_name(f"{run.name}-{every * (len(kept) + 1)}")
        own.mkdir()
        os.link(run / CHECKPOINT_FILE, own / CHECKPOINT_FILE)
        shutil.copy(run / CONFIG_FILE, own / CONFIG_FILE)
    except FileNotFoundError:
        return
    kept.add(number)


def encoders(runs: dict[str, Path]) -> pl.DataFrame:
    """Run, step, quality, its parts and what phantoms know, of every evaluation; random weights once, as step 0.

    Random weights follow the evaluation's seed, so theirs are all measured under the seed of the truth; for them alone
    quality and truth share views.
    """
    rows = []
    for name, folder in runs.items():
        for line in read_history(folder):
            if "probe/proxy_quality" in line:
                step = line["global_step"]
                known = evaluated(folder.with_name(f"{folder.name}-{step}"), SEED_OF_TRUTH, VIEWS_OF_TRUTH)
                rows.append({"run": name, "step": step, **_answers(_unprefixed(line), known, "")})
    again = evaluated(folder, SEED_OF_TRUTH)
    return pl.from_dicts([*rows, {"run": "random weights", "step": 0, **_answers(again, known, "_random_init")}])


def _unprefixed(line: dict[str, Any]) -> dict[str, float | None]:
    return {name.removeprefix("probe/"): value for name, value in line.items() if name.startswith("probe/")}


def _answers(asked_of: dict[str, float | None], known: dict[str, float | None], ending: str) -> dict[str, float]:
    asked = {name: asked_of.get(f"{name}{ending}") for name in ("proxy_quality", *PARTS)}
    asked |= {f"{name}_chance": asked_of.get(f"{name}_chance") for name in PARTS}
    asked |= {name: known.get(f"{name}{ending}") for name in TRUTH}
    asked |= {f"{name}_of_run": asked_of.get(f"{name}{ending}") for name in TRUTH}
    return {name: np.nan if value is None else float(value) for name, value in asked.items()}


def rank_correlation(table: pl.DataFrame, of: str, truth: str) -> float:
    """Spearman's, over the encoders of which both are known."""
    return float(stats.spearmanr(table[of], table[truth], nan_policy="omit").statistic)


def evaluated(folder: Path, seed: int, views: int | None = None) -> dict[str, float | None]:
    """Scalars of a run's checkpoint under another evaluation seed, and with another number of views of each series."""
    code = (
        "import dataclasses, json, sys; from pathlib import Path; from tune import evaluate_run as e\n"
        "read, changed = e.settings_of_run, json.loads(sys.argv[2])\n"
        "with_changes = lambda c: dataclasses.replace(c, eval=dataclasses.replace(c.eval, **changed))\n"
        "e.settings_of_run = lambda folder: with_changes(read(folder))\n"
        "print(json.dumps(e.evaluate_run(Path(sys.argv[1]))))"
    )
    changed = {"seed": seed} | ({} if views is None else {"views_per_scan": views, "place_pairs": 0})
    command = [sys.executable, "-c", code, str(folder), json.dumps(changed)]
    told = subprocess.run(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True, check=True).stdout
    found: dict[str, float | None] = json.loads(told.strip().splitlines()[-1])
    return found


def stability(folder: Path, seeds: int) -> list[float]:
    """Quality of the last checkpoint under other evaluation seeds."""
    found = [evaluated(folder, seed).get("proxy_quality") for seed in range(1, seeds + 1)]
    return [math.nan if value is None else value for value in found]


def trained_encoders(steps: int, every: int) -> tuple[pl.DataFrame, dict[str, list[float]]]:
    """``encoders`` of all ``RUNS``, and the ``stability`` of each."""
    with tempfile.TemporaryDirectory(prefix="ranking-") as root:
        runs = {name: train(Path(root), name, steps, every) for name in RUNS}
        return encoders(runs), {name: stability(folder, 4) for name, folder in runs.items()}


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Simulates, trains, and prints."""
    options = parser(__doc__).parse_args(arguments)
    where = circumstances()
    covered = coverage(10 if options.quick else 1000)
    fitted, lucky = regret(10 if options.quick else 1000)
    at_once, one_by_one = false_alarms(2 if options.quick else 200)
    table, spread = (NO_ENCODERS, {}) if options.quick else trained_encoders(steps=600, every=150)
    correlations = {truth: rank_correlation(table, "proxy_quality", truth) for truth in TRUTH if table.height}
    rows = [
        at_least("coverage of 95 % intervals, lowest", "simulated patients", 0.93, min(covered.values()), ""),
        at_most("regret of the recommendation at noise 0.02", "the best of 48 cells", 0.005, fitted, ""),
        *(
            at_least(f"rank correlation of quality with {name}", f"{table.height} encoders", 0.8, value, "")
            for name, value in correlations.items()
        ),
    ]
    facts = {
        "coverage": ", ".join(f"{name} {value:.3f}" for name, value in covered.items()),
        "regret of the best measured run": f"{lucky:.4f}",
        "sweeps of 24 equal encoders that call one worse": f"{at_once:.2f}; by intervals of one pair {one_by_one:.2f}",
        "rank correlation of each part with each truth": "; ".join(
            f"{part} with {truth} {rank_correlation(table, part, truth):.2f}"
            for part in PARTS
            for truth in TRUTH
            if table.height
        ),
        "encoders": "; ".join(
            f"{row['run']} at {row['step']}: {row['proxy_quality']:+.3f}, organ {row[TRUTH[0]]:.2f}, "
            f"place {row[TRUTH[1]]:.2f}"
            for row in table.sort("run", "step").iter_rows(named=True)
        )
        or "left out by --quick",
        "stability under the evaluation seed": "; ".join(
            f"{name} {np.mean(values):.3f} +- {np.std(values):.3f}" for name, values in spread.items()
        )
        or "left out by --quick",
    }
    return report("bench_ranking", where, {}, rows, options.json, facts)


if __name__ == "__main__":
    main()
