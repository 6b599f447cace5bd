"""Nothing hangs and no clock that can be set is trusted: read from the source itself."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

SOURCES = sorted(path for folder in ("prism_ssl", "tune") for path in (REPOSITORY / folder).rglob("*.py"))
WALL_CLOCKS = {"time.time", "time.ctime", "time.localtime", "time.gmtime", "datetime.now", "datetime.utcnow"}
ASK_THE_TIME = {"prism_ssl/train/guards/deletable_files.py"}
"""Compares files' own times, which are those of the wall clock."""


def calls(path: Path) -> Iterator[tuple[str, ast.Call]]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def waits_for_ever(name: str, call: ast.Call) -> bool:
    """Whether a call can block without a limit: Ray's two, and what threads, processes, events and futures have."""
    limited = any(keyword.arg in ("timeout", "timeout_s", "limit_s") for keyword in call.keywords)
    if name in ("ray.get", "ray.wait"):
        return not limited
    method = name.rpartition(".")[2]
    return method in ("wait", "join", "result", "communicate") and "." in name and not call.args and not limited


def test_every_wait_has_a_limit_and_durations_come_from_a_clock_that_cannot_be_set() -> None:
    assert len(SOURCES) > 100
    endless, clocks = list[str](), list[str]()
    for path in SOURCES:
        here = str(path.relative_to(REPOSITORY))
        for name, call in calls(path):
            said = f"{here}:{call.lineno} {name}()"
            endless += [said] if waits_for_ever(name, call) else []
            clocks += [said] if name in WALL_CLOCKS and here not in ASK_THE_TIME else []
    assert endless == []
    assert clocks == []


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("ray.get(ref)", True), ("ray.get(ref, timeout=3)", False), ("ray.wait(refs, num_returns=1)", True),
        ("thread.join()", True), ("thread.join(3)", False), ("', '.join(words)", False), ("event.wait()", True),
        ("event.wait(pause_s)", False), ("future.result()", True), ("process.wait(timeout=5)", False),
    ],
)  # fmt: skip
def test_what_counts_as_waiting_for_ever(source: str, expected: bool) -> None:
    (statement,) = ast.parse(source).body
    assert isinstance(statement, ast.Expr)
    assert isinstance(statement.value, ast.Call)
    assert waits_for_ever(ast.unparse(statement.value.func), statement.value) == expected
