"""Tools that read a table speak one dialect about it, and mean the same by their exit codes."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from prism_ssl.cli.catalog_options import add_catalog_options, catalog_settings
from prism_ssl.config.schema import DataConfig
from prism_ssl.embed import command as embed
from prism_ssl.errors import ConfigError
from prism_ssl.inspect import command as inspect_views
from prism_ssl.leak import command as leakcheck
from tune.train_single import parse


def told(*words: str) -> DataConfig:
    parser = argparse.ArgumentParser()
    add_catalog_options(parser, n_scans=9)
    return catalog_settings(parser.parse_args(words))


@pytest.mark.parametrize(
    "pair", ["--column pmbb_id=mrn --column modality=Mod", "--data.columns pmbb_id mrn modality Mod"]
)
@pytest.mark.parametrize("table", ["--catalog t.csv", "--data.catalog-path t.csv"])
def test_columns_are_told_as_to_train_single(pair: str, table: str) -> None:
    data = told(*table.split(), *pair.split(), "--data.n-scans", "3", "--data.modality-filter", "CT")
    words = "phantom-cpu --data.catalog-path t.csv --data.columns pmbb_id mrn modality Mod --data.n-scans 3"
    trained = parse([*words.split(), "--data.modality-filter", "CT"]).data
    asked = [(d.catalog_path, d.columns, d.n_scans, d.modality_filter) for d in (data, trained)]
    assert asked[0] == asked[1]
    assert told("t.csv", *pair.split()).columns == trained.columns


@pytest.mark.parametrize(
    ("words", "match"),
    [
        ("", "no table is named"),
        ("a.csv --catalog b.csv", "two tables are named"),
        ("--catalog a.csv --data.columns pmbb_id mrn modality", "has 3 names; needed: pairs"),
        ("a.csv --column mrn", "needed: OURS=THEIRS, such as pmbb_id=mrn"),
    ],
)
def test_what_cannot_be_meant_is_refused(words: str, match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        told(*words.split())


@pytest.mark.parametrize("main", [inspect_views.main, leakcheck.main])
def test_a_table_that_cannot_be_used_ends_every_tool_alike(
    main: Callable[[list[str]], int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "t.csv").write_text("mrn,modality,series_path\n1,CT,a\n")
    assert main([str(tmp_path / "t.csv")]) == 2
    assert "--data.columns pmbb_id mrn" in capsys.readouterr().err
    assert main([str(tmp_path / "none.csv")]) == 2


@pytest.mark.parametrize("main", [inspect_views.main, leakcheck.main, partial(embed.main)])
def test_options_that_mean_nothing_end_every_tool_alike(
    main: Callable[[list[str]], int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ["--checkpoint", "none"] if isinstance(main, partial) else []
    assert main(["--catalog", str(tmp_path / "t.csv"), "--data.columns", "pmbb_id", *more]) == 2
    assert "has 1 names; needed: pairs" in capsys.readouterr().err
