"""Soak test: ``python tests/soak/soak.py --minutes 20 --seed 0 --report FILE``. Exit code 0: no error.

It has four acts. One lenient run trains while pool actors are killed, the archive is away, scans break and hang, and
the tracking server fails (40 % of the time). Runs are ended in every way there is and started again (30 %). Two runs,
a sweep and an embedding job start at the same moment on one catalogue, and one of them is killed (20 %, at least once).
A run is stopped at random moments from its first second on, and its totals are compared with an unbroken twin's
(10 %, at least two stops). What happens when follows from the seed. Checked all along: the status says what happened,
steps are neither lost nor repeated, nothing is left on the machine, and no process grows.
"""

from __future__ import annotations

import argparse
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from statistics import median
from typing import TypeVar

if not __package__:  # run as a script
    sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.soak.company import keep_company
from tests.soak.faults import ENDING, PASSING, Ending
from tests.soak.stops import stop_and_go
from tests.soak.world import CHECKPOINT_EVERY, LOG_EVERY, Sample, SoakRun, World, remove, steps_of
from tests.support.wandb_server import WandbServer

T = TypeVar("T")

ENDLESS = 10**7
START_LIMIT_S = 180.0
STOP_S = 30.0
"""About what a stop at a random moment takes."""
SCAN_FAULTS_MAX = 6
"""Broken scans leave a pool for good; a shard must keep enough of them."""
GROWTH_MAX, GROWTH_SLACK_BYTES, DESCRIPTORS_MAX = 0.05, 24 * 2**20, 8
"""Of a process between its first and its last third: share of its memory and bytes of it, open files and threads."""


@dataclass
class Findings:
    """What happened, line by line, and everything that was wrong."""

    happened: list[tuple[float, int, str, str]] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    growth: list[tuple[str, float, Sample, Sample]] = field(default_factory=list)
    steps: int = 0

    def note(self, at_s: float, step: int, fault: str, seen: str) -> None:
        """A fault, and what the user saw."""
        self.happened.append((at_s, step, fault, seen))
        print(f"{at_s:6.0f} s  step {step:>6}  {fault}: {seen}", flush=True)

    def check(self, right: bool, text: str) -> None:
        """Remember ``text`` when something is not right."""
        if not right:
            self.wrong.append(text)
            print(f"WRONG: {text}", flush=True)


# ---------------------------------------------------------------------- first half: one run outlives everything
def endure(world: World, findings: Findings, rng: Random, seconds: float) -> None:
    """One lenient run, and one fault after another."""
    end = time.monotonic() + seconds
    run = SoakRun(world, "endure", data__strict=False, train__max_steps=ENDLESS)
    if not run.wait_until("the first row", lambda: bool(run.steps), START_LIMIT_S):
        findings.check(False, f"endure did not begin: {_last_words(world)}")
        run.end(0)
        return
    scan_faults = 0
    for fault in _decks(PASSING, rng):
        if time.monotonic() > end or run.process.poll() is not None:
            break
        if fault.name.startswith("scan"):
            scan_faults += 1
            if scan_faults > SCAN_FAULTS_MAX:
                continue
        step = run.last_row["global_step"]
        met = fault.arrange(world, run, rng)
        went_on = run.wait_until("60 steps after it", _past(run, run.last_row["global_step"] + 60), START_LIMIT_S)
        seen = "outlived" if met else "outlived; the run did not meet it in time"
        findings.note(_since(world), step, fault.name, seen)
        findings.check(went_on, f"no step after {fault.name!r} at step {step}: {_last_words(world)}")
        if not went_on:
            break
    run.send(signal.SIGUSR1)
    code = run.end()
    _judge(world, findings, run, code, Ending("SIGUSR1 after all of it", _never, 75, "interrupted", "RunInterrupted"))
    findings.check(not run.summary["totals"].get("nonfinite_skipped_steps"), "endure skipped steps")
    for (kind, _), samples in sorted(run.samples.items()):
        _judge_growth(findings, kind, samples)


def _judge_growth(findings: Findings, kind: str, samples: Sequence[Sample]) -> None:
    """Compare the medians of the first and last third of a process's life, its warming up left out."""
    lived = [sample for sample in samples if sample.at_s > samples[0].at_s + 30]
    if len(lived) < 9:
        return
    third = len(lived) // 3
    first, last = _middle(lived[:third]), _middle(lived[-third:])
    findings.growth.append((kind, lived[-1].at_s - lived[0].at_s, first, last))
    grown = last.rss_bytes - first.rss_bytes
    findings.check(
        grown <= max(GROWTH_SLACK_BYTES, GROWTH_MAX * first.rss_bytes), f"{kind} grew by {grown / 2**20:.0f} MiB"
    )
    for name, before, after in (
        ("open files", first.descriptors, last.descriptors),
        ("threads", first.threads, last.threads),
    ):
        findings.check(after - before <= DESCRIPTORS_MAX, f"{kind} went from {before} to {after} {name}")


def _middle(samples: Sequence[Sample]) -> Sample:
    return Sample(
        median(sample.at_s for sample in samples),
        int(median(sample.rss_bytes for sample in samples)),
        int(median(sample.descriptors for sample in samples)),
        int(median(sample.threads for sample in samples)),
    )


# ---------------------------------------------------------------------- second half: every way to end
def come_and_go(world: World, findings: Findings, rng: Random, seconds: float) -> None:
    """One run, ended and started again in all ways; a finished one is followed by a new one."""
    end, number = time.monotonic() + seconds, 1
    for fault in _decks(ENDING, rng):
        if time.monotonic() > end:
            break
        world.forget_quarantine()
        name = f"ends-{number}"
        before = max(steps_of(world.root / "runs" / name), default=0)
        max_steps = before + 100 if fault.status == "ok" else ENDLESS
        run = SoakRun(world, name, **({"data__strict": False, "train__max_steps": max_steps} | dict(fault.settings)))
        if fault.status != "ok":
            target = before + LOG_EVERY * rng.randint(3, 8)
            run.wait_until("its steps", _past(run, target), START_LIMIT_S)
            met = fault.arrange(world, run, rng)
            findings.check(met, f"{fault.name!r} could not be arranged")
        _judge(world, findings, run, run.end(START_LIMIT_S), fault)
        if fault.status == "ok":
            number += 1


def _judge(world: World, findings: Findings, run: SoakRun, code: int, fault: Ending) -> None:
    """After the end of a run: status, steps, tracking, and what is left."""
    try:
        summary = run.summary
    except OSError as error:
        findings.check(False, f"{fault.name}: no summary ({error}): {_last_words(world)}")
        return
    cause = summary["cause"] or ""
    seen = f"{summary['status']}, exit code {code}: {_short(cause)}"
    findings.note(_since(world), summary["steps_done"], fault.name, seen)
    findings.check(
        (code, summary["status"], cause.split(":")[0] or None) == (fault.code, fault.status, fault.cause),
        f"{fault.name}: exit code {code}, {summary['status']}, {cause!r}; {_last_words(world)}",
    )
    steps = run.steps
    expected = list(range(LOG_EVERY, max(steps, default=0) + 1, LOG_EVERY))
    findings.check(
        [step for step in steps if step % LOG_EVERY == 0] == expected and steps == sorted(set(steps)),
        f"{fault.name}: rows are missing or repeated: {steps[-5:]}",
    )
    resumed = summary["resumed_from_step"] or 0
    lost = (run.before[-1] if run.before else 0) - resumed
    findings.check(
        fault.status == "running" or lost <= CHECKPOINT_EVERY, f"{fault.name}: {lost} steps were lost at the start"
    )
    findings.steps += max(0, (steps[-1] if steps else 0) - resumed)
    tracked = [each for name, each in world.server.runs.items() if name.startswith(f"{run.folder.name}-")]
    findings.check(len(tracked) == 1, f"{fault.name}: {len(tracked)} tracked runs of {run.folder.name}")
    for each in tracked:
        findings.check(
            each.global_steps == sorted(set(each.global_steps)), f"{fault.name}: tracked steps are not in order"
        )
    for left in world.left_behind():
        findings.check(False, f"{fault.name}: left behind: {left}")


# ---------------------------------------------------------------------- third and fourth act
def company(world: World, findings: Findings, rng: Random, seconds: float) -> None:
    """Jobs of all kinds side by side, again and again on an archive that none of them has checked."""
    end, number = time.monotonic() + seconds, 0
    encoder = SoakRun(world, "encoder", train__max_steps=20)
    findings.check(encoder.end() == 0, f"no encoder to embed with: {_last_words(world)}")
    while number == 0 or time.monotonic() < end:
        number += 1
        seen = keep_company(world, encoder.folder, number, rng, findings.check)
        findings.note(_since(world), 0, "two runs, a sweep and an embedding job at once", seen)


def stops(world: World, findings: Findings, rng: Random, number: int) -> None:
    """A run stopped ``number`` times, and its twin."""
    for seen in stop_and_go(world, number, rng, findings.check):
        findings.note(_since(world), 0, "stopped at a random moment", seen)


# ---------------------------------------------------------------------- the report
def report(findings: Findings, seed: int, seconds: float) -> str:
    """Markdown: circumstances, what happened and what the user saw, and how the processes grew."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False).stdout
    lines = [
        "# Soak",
        "",
        f"`python tests/soak/soak.py --minutes {seconds / 60:.0f} --seed {seed}`, {datetime.now(UTC):%Y-%m-%d}, "
        f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[1]:.1f}, commit "
        f"{commit.strip()}: {findings.steps} steps, {len(findings.happened)} faults, "
        + ("**nothing was wrong**." if not findings.wrong else f"**{len(findings.wrong)} things were wrong**:"),
        "",
        *(f"* {text}" for text in findings.wrong),
        "",
        "| after | step | fault | what the user saw |",
        "|---|---|---|---|",
        *(f"| {at / 60:.1f} min | {step} | {fault} | {seen} |" for at, step, fault, seen in findings.happened),
        "",
        "Growth: medians of the first and of the last third of each process that lived long enough in the first half, "
        "its first 30 s left out.",
        "",
        "| process | watched | own memory, MiB | open files | threads |",
        "|---|---|---|---|---|",
        *(
            f"| {kind} | {watched / 60:.1f} min | {a.rss_bytes / 2**20:.0f} -> {b.rss_bytes / 2**20:.0f} "
            f"| {a.descriptors} -> {b.descriptors} | {a.threads} -> {b.threads} |"
            for kind, watched, a, b in findings.growth
        ),
    ]
    return "\n".join(lines) + "\n"


def main() -> int:
    """Soak, write the report, and say what was wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--stops", type=int, default=None, help="stops at random moments, in place of the act's share")
    parser.add_argument("--report", type=Path, default=None)
    arguments = parser.parse_args()
    findings, rng, seconds = Findings(), Random(arguments.seed), arguments.minutes * 60
    with tempfile.TemporaryDirectory(prefix="soak-", dir="/tmp") as root, WandbServer() as server:
        world = World(Path(root), server)
        try:
            stops(world, findings, rng, arguments.stops or max(2, int(0.1 * seconds / STOP_S)))
            company(world, findings, rng, 0.2 * seconds)
            endure(world, findings, rng, 0.4 * seconds)
            come_and_go(world, findings, rng, 0.3 * seconds)
        finally:
            if findings.wrong:
                print((world.root / "output.log").read_text()[-20_000:], file=sys.stderr)
            remove(world)
    text = report(findings, arguments.seed, seconds)
    if arguments.report is not None:
        arguments.report.write_text(text)
    print(text)
    return 1 if findings.wrong else 0


# ---------------------------------------------------------------------- parts
def _decks(faults: Sequence[T], rng: Random) -> Iterator[T]:
    while True:
        yield from rng.sample(faults, len(faults))


def _past(run: SoakRun, step: int) -> Callable[[], bool]:
    return lambda: run.last_row["global_step"] >= step


def _never(*_: object) -> bool:
    return False


def _since(world: World) -> float:
    return time.monotonic() - world.started_s


def _short(cause: str) -> str:
    return cause.split("\n")[0][:110].replace("|", "/") or "no cause"


def _last_words(world: World) -> str:
    return (world.root / "output.log").read_text()[-400:].replace("\n", " / ")


if __name__ == "__main__":
    sys.exit(main())
