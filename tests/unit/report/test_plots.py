"""Charts of histories: what they hold, and what they do without."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import vl_convert

from prism_ssl.errors import RunFolderError
from prism_ssl.eval.ranking import QUALITY, QUALITY_HIGH, QUALITY_LOW
from prism_ssl.report.panels import POINTS_MAX
from prism_ssl.report.plots import (
    AXES,
    CHARTS,
    HEADS,
    comparison_chart,
    load_history,
    loss_chart,
    main,
    save_plots,
    throughput_chart,
)
from prism_ssl.report.ranking_plot import ranking_plot


def row(step: int) -> dict[str, Any]:
    scalars: dict[str, Any] = {"global_step": step, "step_time_ms": 100.0, "data_wait_opening_ms": 30.0}
    scalars |= {f"{what}/{head}": 1.0 / step for head in HEADS for what in ("loss", "loss_raw", "loss_normalized")}
    scalars |= {f"chance/{head}": 0.7 for head in HEADS} | {f"skill/{axis}": 0.1 for axis in AXES}
    scalars |= {f"std_ratio/{axis}": None for axis in AXES}
    return scalars | {"patches_per_sec_interval": 1e4, "data_wait_sampling_ms": 0.0, "data_wait_transport_ms": 5.0}


def write_history(folder: Path, steps: int) -> Path:
    events = [{"event": "alarm", "global_step": 1, "text": "x"}]
    lines = [json.dumps(each) + "\n" for each in [*events, *(row(step) for step in range(1, steps + 1))]]
    (folder / "history.jsonl").write_text("".join(lines) + '{"global_step": 99, "torn')
    return folder


def values(chart: Any) -> list[dict[str, Any]]:
    """Every row of data that a chart draws."""
    datasets: dict[str, list[dict[str, Any]]] = chart.to_dict()["datasets"]
    return [row for rows in datasets.values() for row in rows]


def test_events_and_torn_lines_are_no_rows(tmp_path: Path) -> None:
    history = load_history(write_history(tmp_path, 5))
    assert history["global_step"].to_list() == [1, 2, 3, 4, 5]
    assert "event" not in history.columns


def test_every_loss_is_drawn_beside_its_chance_level(tmp_path: Path) -> None:
    drawn = values(loss_chart(load_history(write_history(tmp_path, 3))))
    found = {(each["panel"], each["series"]) for each in drawn}
    assert found == {(head, what) for head in HEADS for what in ("loss", "chance", "raw", "normalized")}
    assert [each["value"] for each in drawn if (each["panel"], each["series"]) == ("distance", "loss")] == [
        1,
        1 / 2,
        1 / 3,
    ]


def test_the_parts_of_a_step_add_up_to_it(tmp_path: Path) -> None:
    drawn = values(throughput_chart(load_history(write_history(tmp_path, 2))))
    parts = {each["series"]: each["value"] for each in drawn if each["panel"] == "time" and each["global_step"] == 2}
    assert parts["computing"] == 65.0
    assert sum(parts.values()) == 100.0


def test_pictures_are_written_by_the_command_and_a_long_history_is_thinned(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tmp_path = tmp_path / "runs [lab]"  # which is no markup on the console
    tmp_path.mkdir()
    history = load_history(write_history(tmp_path, 1000))
    assert len({each["global_step"] for each in values(loss_chart(history))}) <= POINTS_MAX
    assert main([str(tmp_path)]) == 0
    assert capsys.readouterr().out.splitlines() == [str(tmp_path / "plots" / f"{stem}.png") for stem in CHARTS]
    for stem in CHARTS:
        assert (tmp_path / "plots" / f"{stem}.png").read_bytes().startswith(b"\x89PNG")
    assert [path.suffix for path in save_plots(tmp_path, "svg")] == [".svg"] * 3


def test_runs_are_compared_by_the_mean_of_their_last_rows(tmp_path: Path) -> None:
    rows = {"rising": [step / 100 for step in range(1, 41)], "flat": [0.5] * 40}
    for name, skills in rows.items():
        (tmp_path / name).mkdir()
        lines = [json.dumps(row(step) | {"skill/dx": skill}) + "\n" for step, skill in enumerate(skills, 1)]
        (tmp_path / name / "history.jsonl").write_text("".join(lines))
    drawn = values(comparison_chart({name: load_history(tmp_path / name) for name in rows}))
    last = {each["run"]: each["value"] for each in drawn if each.get("panel") == "dx" and each["global_step"] == 40}
    assert last == pytest.approx({"rising": 0.395, "flat": 0.5})
    assert main([*(str(tmp_path / name) for name in rows), "--out", str(tmp_path / "both.png")]) == 0
    assert (tmp_path / "both.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(SystemExit):
        main([str(tmp_path / "flat"), "--out", str(tmp_path / "both.pdf")])


def test_a_history_that_lacks_scalars_still_draws(tmp_path: Path) -> None:
    (tmp_path / "history.jsonl").write_text('{"global_step": 1, "loss/total": 2.0}\n{"global_step": 2}\n')
    assert len(save_plots(tmp_path)) == 3


def test_nothing_logged_is_no_picture_and_no_history_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match=r"has no history\.jsonl; give the folder of a run"):
        load_history(tmp_path)
    (tmp_path / "history.jsonl").write_text('{"event": "alarm", "global_step": 1, "text": "x"}\n')
    assert save_plots(tmp_path) == []
    assert load_history(tmp_path).is_empty()


def test_ticks_stay_short_on_scales_that_span_next_to_nothing(tmp_path: Path) -> None:
    near = 3.433987204
    rows = [row(step) | {f"{what}/{head}": near for head in HEADS for what in ("loss", "chance")} for step in (1, 2)]
    rows[1] |= {"patches_per_sec_interval": 123456.789}
    lines = [json.dumps(each) + "\n" for each in rows]
    (tmp_path / "history.jsonl").write_text("".join(lines))
    ranked = pl.DataFrame({
        "run": ["a"], "status": ["ok"], QUALITY: [0.123456789], QUALITY_LOW: [0.123456788], QUALITY_HIGH: [0.123456791],
    })  # fmt: skip
    effects = pl.DataFrame({"factor": ["f"], "level": ["1"], "effect": [near], "low": [near], "high": [near]})
    pictures = [path.read_text() for path in save_plots(tmp_path, "svg")]
    pictures.append(vl_convert.vegalite_to_svg(ranking_plot(ranked, effects).to_json()))
    numbers = re.findall(r">\W?(\d[\d,.]*)</text>", "".join(pictures))
    assert len(numbers) > 20
    assert [number for number in numbers if sum(map(str.isdigit, number)) > 8] == []
