"""Runs compare where they answered the same questions, weighed alike; where they did not, the difference is named."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from prism_ssl.config.operations import EvalConfig
from prism_ssl.config.schema import ViewConfig
from prism_ssl.contracts import RobustStats
from prism_ssl.data.views import draw_view
from prism_ssl.eval.quality.comparison import Resamples, resample_together
from prism_ssl.eval.quality.evidence import PatientEvidence, read_evidence, write_evidence
from prism_ssl.eval.quality.questions import evaluation_settings
from tests.support.probe_sets import small
from tests.support.simulated import answers

CONFIG = EvalConfig(bootstrap=20)


def _evidence(**overrides: object) -> PatientEvidence:
    """Answers of 8 patients, 6 of them with a pair, under settings ``a__b``."""
    plain = answers(np.random.default_rng(0), 8, 1, 6)
    return dataclasses.replace(plain, settings=evaluation_settings(small(**overrides)), drawn="views")


def _together(**runs: PatientEvidence) -> Resamples:
    return resample_together({"best": _evidence(), **runs}, CONFIG, like="best")


@pytest.mark.parametrize(
    ("setting", "value", "words"),
    [
        ("eval__seed", 7, "eval.seed is 7, the best run's is 20260"),
        ("eval__views_per_scan", 8, "eval.views_per_scan is 8, the best run's is 4"),
        ("data__n_patches", 16, "eval.n_patches is 16, the best run's is 8"),
        ("data__patch_mm", 12.0, "data.patch_mm is 12.0, the best run's is 16.0"),
        ("view__rotation_max_deg", 5.0, "view.rotation_max_deg is 5.0, the best run's is 10.0"),
        ("eval__w_place", 2.0, "eval.w_place is 2.0, the best run's is 8.0"),
    ],
)
def test_a_run_that_was_evaluated_otherwise_is_not_compared_and_the_setting_is_named(
    setting: str, value: Any, words: str
) -> None:
    together = _together(other=_evidence(**{setting: value}), same=_evidence())
    assert together.runs == ["best", "same"]
    assert together.apart == {"other": words}


def test_settings_that_change_no_question_keep_no_run_apart() -> None:
    same = _evidence(
        train__seed=9, train__lr=1e-5, eval__every=10, eval__batch_views=2, eval__knn_k=3, eval__bootstrap=9,
        eval__n_patches=8,  # what data.n_patches says without it
        view__centers="foreground", view__same_place_share=0.5, view__random_contrast=0.2,  # of training pairs alone
        eval__probe_scans=99, eval__place_pairs=99,  # more than there are: the same series and pairs
    )  # fmt: skip
    assert _together(same=same).runs == ["best", "same"]


OTHER_VIEWS: dict[str, Any] = {
    "radius_mm_min": 22.0, "radius_mm_max": 28.0, "radius_mm_floor": 8.0, "rotation_max_deg": 5.0,
    "window_width_std_min": 3.0, "window_width_std_max": 5.0, "centers": "foreground", "same_place_share": 0.5,
    "same_place_mm": 1.0, "other_series_share": 0.5, "random_contrast": 0.5,
    "random_scale": 0.1, "mirrored_share": 0.5,
}  # fmt: skip
"""Another value of every setting of views."""


def test_the_settings_of_views_that_count_are_those_that_change_a_held_out_view() -> None:
    def drawn(view: ViewConfig) -> list[Any]:
        stats, rng = RobustStats(-1000.0, 0.0, 1.0), np.random.default_rng(0)
        made = draw_view(np.eye(4), (90, 90, 90), stats, view, 4, rng)
        return [np.asarray(value).tolist() for value in dataclasses.astuple(made)]

    assert set(OTHER_VIEWS) == {field.name for field in dataclasses.fields(ViewConfig)}
    needed = {"other_series_share": {"same_place_share": OTHER_VIEWS["same_place_share"]}}
    changing = {
        name
        for name, value in OTHER_VIEWS.items()
        if drawn(ViewConfig(**{name: value} | needed.get(name, {}))) != drawn(ViewConfig())
    }
    kept = {name for name in evaluation_settings(small()) if name.startswith("view.")}
    # the floor decides which points two thin scans share in the place test
    assert kept == {f"view.{name}" for name in (*changing, "radius_mm_floor")}


def _without_first_pair(evidence: PatientEvidence) -> PatientEvidence:
    fewer = {name: getattr(evidence, name)[1:] for name in ("pairs", "patient_of_pair", "place_recall")}
    return dataclasses.replace(evidence, place_distance_mm=evidence.place_distance_mm[1:], **fewer)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"series": ["s9", *_evidence().series[1:]]}, "it was asked about other series"),
        ({"patient_of_series": ["p009", *_evidence().patient_of_series[1:]]}, "it was asked about other series"),
        ({"pairs": [("s9", "t"), *_evidence().pairs[1:]]}, "it was asked about other pairs in the place test"),
        ({"axes": ["dx", "dy", "dz", "rx", "ry", "wc"]}, "it was asked about other axes"),
        ({"signs": _evidence().signs + 1}, "it was asked about other views"),
        ({"drawn": "of another version"}, "it was asked about other views"),
        ({"recall_chance": 0.06}, "it was asked about other views"),
        ({"place_chance": 1 / 8}, "it was asked about other views"),
    ],
)  # fmt: skip
def test_a_run_that_was_asked_other_questions_under_equal_settings_is_not_compared(
    changed: dict[str, Any], words: str
) -> None:
    together = _together(other=dataclasses.replace(_evidence(), **changed))
    assert (together.runs, together.apart) == (["best"], {"other": words})


def test_the_limit_on_pairs_is_named_where_it_made_the_pairs_others() -> None:
    together = _together(other=_without_first_pair(_evidence(eval__place_pairs=5)))
    assert together.apart == {"other": "it was asked about other pairs in the place test (eval.place_pairs is 5, "
                                       "the best run's is 16)"}  # fmt: skip


def test_evidence_of_an_earlier_version_loads_and_is_compared_with_its_settings_unknown(tmp_path: Path) -> None:
    write_evidence(tmp_path, dataclasses.replace(_evidence(), settings=None, drawn=None))
    old = read_evidence(tmp_path)
    assert old is not None
    assert old.settings is None
    together = _together(old=old, same=_evidence())
    assert (together.runs, together.apart, together.unrecorded) == (["best", "old", "same"], {}, {"old"})


def test_settings_come_back_from_the_run_folder(tmp_path: Path) -> None:
    write_evidence(tmp_path, _evidence(eval__seed=7))
    again = read_evidence(tmp_path)
    assert again is not None
    assert (again.settings, again.drawn) == (evaluation_settings(small(eval__seed=7)), "views")


def test_runs_are_weighed_as_they_were_when_they_were_evaluated() -> None:
    of_recall = {f"eval__{name}": 0.0 for name in ("w_skill", "w_place", "w_position")}
    a, b = _evidence(**of_recall), _evidence(**of_recall)
    b = dataclasses.replace(b, recall=b.recall - 0.1)
    together = resample_together({"a": a, "b": b}, CONFIG, like="a")
    assert together.difference("a", "b").value == pytest.approx(0.1 / (1 - a.recall_chance))


def test_directions_count_in_a_difference_where_all_runs_have_them() -> None:
    config = EvalConfig(bootstrap=20, w_skill=1.0, w_position=0.0, w_lidar=3.0)
    plain = dataclasses.replace(_evidence(), settings=None)
    many, few = (dataclasses.replace(plain, telling_share=share) for share in (0.8, 0.2))
    known = resample_together({"many": many, "few": few}, config, like="many")
    assert known.difference("many", "few").value == pytest.approx(3 * 0.6 / 13)
    with_one_unknown = resample_together({"many": many, "few": few, "none": plain}, config, like="many")
    assert with_one_unknown.difference("many", "few").value == 0
