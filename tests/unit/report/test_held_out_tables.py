"""The held-out evaluation is shown beside chance where there is one, in the width of a small terminal."""

from __future__ import annotations

import io
import math
import re
from dataclasses import replace

from rich.console import Console

from prism_ssl.report.held_out_tables import verdict
from prism_ssl.train.record.console import show_summary
from tests.unit.train.record.test_console import OK

AXES = ("dx", "dy", "dz", "rx", "ry", "rz", "wc", "ww")
PROBE = {
    "recall_at_1": 0.42, "recall_at_1_chance": 0.054, "recall_at_1_random_init": 0.21, "recall_at_1_pixels": 0.33,
    "recall_at_1_spacing": 0.61, "recall_at_1_modality_alone": 0.11, "recall_at_5": 0.81,
    "skill_mean": 0.385, "pose_skill_mean": 0.29, "pose_skill_mean_pixels": 0.02,
    "place_recall_at_1": 0.224, "place_recall_at_1_low": 0.15, "place_recall_at_1_high": 0.29,
    "place_recall_at_1_chance": 0.0625, "place_recall_at_1_random_init": 0.05, "place_recall_at_1_pixels": 0.12,
    "place_distance_mm": 41.4, "place_distance_mm_chance": 70.6, "place_pairs": 7, "place_patients": 5,
    "telling_directions": 9, "telling_directions_max": 19, "telling_directions_pixels": 4,
    "proxy_quality": 0.4, "proxy_quality_low": 0.37, "proxy_quality_high": 0.46, "proxy_quality_random_init": 0.03,
    "proxy_quality_pixels": 0.14, "linear_modality": 0.9, "linear_modality_random_init": 0.6,
    "linear_modality_spacing": 0.7, "modality_chance": 0.5, "r2/distance": 0.1,
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
    assert re.search(r"same place, other series +│ +0\.22 │ +0\.06 │ +0\.05 │ +0\.12 │ +│", text)
    assert re.search(r"location error, mm +│ +41 │ +71 │", text)
    assert re.search(r"same series, nearest view +│ +0\.42 │ +0\.05 │ +0\.21 │ +0\.33 │ +0\.61 │", text)
    assert re.search(r"modality, linear probe +│ +0\.90 │ +0\.50 │ +0\.60 │ +│ +0\.70 │", text)
    assert re.search(r"shift and rotation, sign +│ +0\.29 │ +0 │ +│ +0\.02 │", text)
    assert re.search(r"directions between series +│ +9 │ +0 │ +│ +4 │", text)
    assert re.search(r"proxy quality \(see below\) +│ +0\.40 │ +0 │ +0\.03 │ +0\.14 │", text)
    flat = " ".join(text.split())
    assert "0.22 (95 % interval 0.15 to 0.29)" in flat
    assert "7 pairs of series, 5 patients" in flat
    assert "9 of 19" in flat
    assert "(95 % interval over patients, not seeds: 0.37 to 0.46)" in flat
    assert "dx -0.10  dy +0.00  dz +0.10 │ dx +0.90  dy +0.80  dz +0.70 │" in text
    assert re.search(r"window_width .* ww \+0\.60 .* ww \+0\.20 ", text)
    assert max(map(len, text.splitlines())) <= 80


def test_without_an_evaluation_nothing_is_said_about_it() -> None:
    assert "held" not in _shown({}).replace("8 held out", "")


def test_what_is_missing_or_not_a_number_is_left_out() -> None:
    text = _shown({"recall_at_1": 0.5, "skill/dx": math.nan, "proxy_quality": math.nan})
    assert re.search(r"same series, nearest view +│ +0\.50 │ +│ +│", text)
    assert "roxy" not in text
    assert "nan" not in text
    assert "R2" not in text


def test_an_encoder_that_does_not_beat_random_weights_is_said_to_have_learned_nothing() -> None:
    sentence = "Held-out recall@1 does not beat random weights"
    assert sentence not in " ".join(_shown(PROBE).split())
    lost = PROBE | {"recall_at_1": 0.21}
    fact = f"{sentence} (0.21 against 0.21)"
    assert f"{fact}; in the place test, which weighs more, it does" in " ".join(_shown(lost).split())
    assert "it does." in str(verdict(lost | {"place_recall_at_1_pixels": 0.9})), "whatever pixel statistics reach"
    without_place = {name: value for name, value in lost.items() if not name.startswith("place_")}
    assert f"{fact}: this encoder has learned nothing" in " ".join(_shown(without_place).split())
    for doubt in ({"place_recall_at_1_low": 0.05}, {"place_gain_random_init_low": -0.01}):
        assert f"{fact}: this encoder has learned nothing" in " ".join(_shown(lost | doubt).split())
    assert verdict({"recall_at_1": 0.1}) is None


def test_place_recall_is_judged_by_its_interval_against_chance_random_weights_and_pixels() -> None:
    assert verdict(PROBE) is None
    place = {name: value for name, value in PROBE.items() if name.startswith("place_")}
    wide = place | {"place_recall_at_1_low": 0.05, "place_recall_at_1_high": 0.4}
    assert verdict(wide) == (
        "Held-out place recall@1 is 0.22 (95 % interval 0.05 to 0.40): the interval does not exclude chance (0.06), "
        "random weights (0.05) and pixel statistics (0.12)"
    )
    lost = place | {"place_recall_at_1_pixels": 0.224, "place_recall_at_1_random_init": 0.18}
    assert verdict(lost) == (
        "Held-out place recall@1 is 0.22 (95 % interval 0.15 to 0.29): it does not beat pixel statistics (0.22), "
        "and the interval does not exclude random weights (0.18)"
    )
    one_patient = {name: value for name, value in lost.items() if not name.endswith(("_low", "_high"))}
    assert verdict(one_patient) == (
        "Held-out place recall@1 is 0.22 (no interval: a single patient): it does not beat pixel statistics (0.22)"
    )
    both = verdict(lost | {"recall_at_1": 0.2, "recall_at_1_random_init": 0.3})
    assert both is not None
    assert both.startswith("Held-out recall@1 does not beat random weights")
    assert "retrieval can use. Held-out place recall@1 is 0.22" in both
    unknown = dict.fromkeys(("place_recall_at_1_chance", "place_recall_at_1_random_init"), math.nan)
    assert verdict(place | unknown | {"place_recall_at_1_pixels": None}) is None
    assert "place recall@1 is 0.22" in " ".join(_shown(PROBE | wide).split())


def test_differences_patient_by_patient_decide_where_they_are_known() -> None:
    place = {name: value for name, value in PROBE.items() if name.startswith("place_")}
    near = place | {"place_recall_at_1_pixels": 0.18, "place_recall_at_1_random_init": 0.1}
    assert "does not exclude pixel statistics (0.18)" in str(verdict(near)), "0.15 to 0.29 holds 0.18"
    paired = near | {"place_gain_pixels_low": 0.01, "place_gain_random_init_low": -0.01}
    assert str(verdict(paired)).endswith("0.15 to 0.29): the interval does not exclude random weights (0.10)")


def test_directions_are_named_among_the_parts_of_quality_only_where_they_count() -> None:
    parts = "weighted mean of same series, shift and rotation, same place"
    assert f"{parts}; 0 is chance" in " ".join(_shown(PROBE).split())
    assert f"{parts}, position by other patients; 0" in " ".join(_shown(PROBE | {"position_skill": 0.3}).split())
    counted = " ".join(_shown(PROBE | {"proxy_quality_directions": 0.47}).split())
    assert f"{parts}, telling directions (0.47 of the largest number); 0 is chance" in counted


def test_what_is_not_proven_is_not_claimed() -> None:
    console = Console(file=io.StringIO(), width=100)
    show_summary(console, replace(OK, probe=PROBE, data=OK.data | {"held_out_unproven": 1.0}))
    assert isinstance(console.file, io.StringIO)
    assert "never trained on" in _shown(PROBE)
    text = " ".join(console.file.getvalue().split())
    assert "never trained on" not in text
    assert "held out now; an earlier version may have trained on some" in text


def test_a_test_that_the_scans_do_not_allow_is_told() -> None:
    text = " ".join(_shown({"recall_at_1": 0.5, "place_pairs": 0, "telling_directions_max": 7}).split())
    assert "No place test: no held-out patient has two series" in text
    assert "too few series (16 are needed)" in text
