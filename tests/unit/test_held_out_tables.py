"""The held-out evaluation is shown beside chance where there is one, in the width of a small terminal."""

from __future__ import annotations

import io
import math
import re
from dataclasses import replace

from rich.console import Console

from prism_ssl.train.console import show_summary
from prism_ssl.train.held_out_tables import verdict
from tests.unit.test_console import OK

AXES = ("dx", "dy", "dz", "rx", "ry", "rz", "wc", "ww")
PROBE = {
    "recall_at_1": 0.42, "recall_at_1_chance": 0.054, "recall_at_1_random_init": 0.21, "recall_at_5": 0.81,
    "skill_mean": 0.385, "lidar_relative": 0.31, "proxy_quality": 0.4, "proxy_quality_low": 0.37,
    "proxy_quality_high": 0.46, "linear_modality": 0.9, "linear_modality_random_init": 0.6,
    "modality_chance": 0.5, "r2/distance": 0.1,
    **{f"skill/{axis}": 0.1 * i - 0.1 for i, axis in enumerate(AXES)},
    **{f"r2/{axis}": 0.9 - 0.1 * i for i, axis in enumerate(AXES)},
}  # fmt: skip


def _shown(probe: dict[str, float], width: int = 80) -> str:
    console = Console(file=io.StringIO(), width=width)
    show_summary(console, replace(OK, probe=probe))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_each_measure_stands_beside_its_chance_and_each_axis_in_one_line() -> None:
    text = _shown(PROBE)
    assert re.search(r"recall@1, same series +│ +0\.42 │ +0\.05 │ +0\.21 │", text)
    assert re.search(r"modality, linear +│ +0\.90 │ +0\.50 │ +0\.60 │", text)
    assert re.search(r"mean sign skill +│ +0\.39 │ +0 │", text)
    assert "0.40 (0.37 to 0.46)" in text
    assert "dx -0.10  dy +0.00  dz +0.10 │ dx +0.90  dy +0.80  dz +0.70 │" in text
    assert re.search(r"window_width .* ww \+0\.60 .* ww \+0\.20 ", text)
    assert max(map(len, text.splitlines())) <= 80


def test_without_an_evaluation_nothing_is_said_about_it() -> None:
    assert "held" not in _shown({}).replace("8 held out", "")


def test_what_is_missing_or_not_a_number_is_left_out() -> None:
    text = _shown({"recall_at_1": 0.5, "skill/dx": math.nan, "proxy_quality": math.nan})
    assert re.search(r"recall@1, same series +│ +0\.50 │ +│ +│", text)
    assert "proxy" not in text
    assert "nan" not in text
    assert "R2" not in text


def test_an_encoder_that_does_not_beat_random_weights_is_said_to_have_learned_nothing() -> None:
    sentence = "Held-out recall@1 does not beat random weights"
    assert sentence not in " ".join(_shown(PROBE).split())
    lost = PROBE | {"recall_at_1": 0.21}
    assert f"{sentence} (0.21 against 0.21): this encoder" in " ".join(_shown(lost).split())
    assert verdict({"recall_at_1": 0.1}) is None


def test_what_is_not_proven_is_not_claimed() -> None:
    console = Console(file=io.StringIO(), width=100)
    show_summary(console, replace(OK, probe=PROBE, data=OK.data | {"held_out_unproven": 1.0}))
    assert isinstance(console.file, io.StringIO)
    assert "never trained on" in _shown(PROBE)
    text = " ".join(console.file.getvalue().split())
    assert "never trained on" not in text
    assert "held out now; an earlier version may have trained on some" in text
