"""Convert history rows, local or from W&B, to one table form."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

STEP = "global_step"


def as_numbers(rows: pl.DataFrame) -> pl.DataFrame:
    """The scalars of ``rows`` as floats, and ``global_step`` as an integer; rows without a step are left out.

    Values that are no finite number are null (W&B sends "NaN" and "Infinity" as texts); columns that hold only texts,
    lists or pictures are left out.
    """
    if STEP not in rows.columns:
        return pl.DataFrame(schema={STEP: pl.Int64})
    plain = [
        name for name, kind in rows.schema.items() if kind.is_numeric() or kind in (pl.String, pl.Null, pl.Boolean)
    ]
    numbers = [pl.col(name).cast(pl.Float64, strict=False) for name in plain if name != STEP]
    table = rows.select(pl.col(STEP).cast(pl.Int64, strict=False), *numbers).drop_nulls(STEP)
    finite = [pl.when(pl.col(name).is_finite()).then(pl.col(name)) for name in plain if name != STEP]
    table = table.with_columns(finite)
    texts = [name for name in plain if rows.schema[name] == pl.String and table[name].null_count() == table.height]
    return table.drop(texts)


def one_row_a_step(rows: pl.DataFrame, keys: Sequence[str]) -> pl.DataFrame:
    """``global_step`` and exactly ``keys``, sorted by step; a key that the rows lack is null.

    A step can have several rows: an evaluation has a separate one, and a resumed run repeats steps. For each key, the
    last value of the step is kept.
    """
    absent = [pl.lit(None, pl.Float64).alias(key) for key in keys if key not in rows.columns]
    table = rows.with_columns(absent).select(STEP, *keys)
    if table[STEP].is_unique().all():
        return table.sort(STEP)
    return table.group_by(STEP).agg(pl.col(key).drop_nulls().last() for key in keys).sort(STEP)
