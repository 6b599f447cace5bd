"""Tables of a page: facts on an archive as rows to show."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import polars as pl

from prism_ssl.data.catalog import modality_words
from prism_ssl.report.archive.facts import ArchiveFacts
from prism_ssl.report.archive.kinds import BY_COLUMN, UNKNOWN

KINDS_SHOWN = 12
"""Most body parts, types or orientations of a table; the rarer ones are one row."""
_REST = "others"


@dataclass(frozen=True)
class Bar:
    """A row of a table of counts: a count for each of its columns, the first one also as a bar of ``share`` 0 to 1."""

    label: str
    counts: tuple[int, ...]
    share: float


def bars(counts: Mapping[str, tuple[int, ...]], most_shown: int = KINDS_SHOWN) -> list[Bar]:
    """The most frequent first, ``UNKNOWN`` last, those beyond ``most_shown`` together."""
    ordered = sorted(counts, key=lambda label: (label == UNKNOWN, *(-count for count in counts[label]), label))
    shown = ordered if len(ordered) <= most_shown + 1 else ordered[:most_shown]
    rows = [(label, counts[label]) for label in shown]
    if rest := [counts[label] for label in ordered[len(shown) :]]:
        rows.append((f"{len(rest)} {_REST}", tuple(map(sum, zip(*rest, strict=True)))))
    most = max((count[0] for _, count in rows), default=0)
    return [Bar(label, count, count[0] / most if most else 0.0) for label, count in rows]


def modality_rows(facts: ArchiveFacts) -> list[list[str]]:
    """modality, rows of the table, selected, usable, refused, patients of the selected."""
    names = [*modality_words(facts.report.modalities).items()]
    rows = []
    for name, count in names:
        own = facts.scans.filter(pl.col("modality") == name)
        usable = own["reason"].null_count()
        told = (count, own.height, usable, own.height - usable, own["patient"].n_unique())
        rows.append([name, *(f"{number:,}" for number in told)])
    return rows


def kind_bars(facts: ArchiveFacts, column: str) -> list[Bar]:
    """Rows of the table, selected scans and usable scans by ``body_part``, or by ``contrast`` within a modality."""
    by = ["modality", column] if column == "contrast" else [column]
    rows = _counts(facts.rows, by, pl.col("count").sum())
    selected, usable = (_counts(scans, by, pl.len()) for scans in (facts.scans, facts.usable))
    return bars({label: (count, selected.get(label, 0), usable.get(label, 0)) for label, count in rows.items()})


def header_bars(facts: ArchiveFacts, column: str) -> list[Bar]:
    """Usable and refused scans by ``dtype`` or ``orientation``, of the files whose header can be read."""
    usable, refused = (_counts(scans, [column], pl.len()) for scans in (facts.usable, facts.refused))
    labels = {**usable, **refused}
    return bars({label: (usable.get(label, 0), refused.get(label, 0)) for label in labels})


def known_by(facts: ArchiveFacts, column: str) -> str:
    """By what the kinds of the table's rows are known, such as "Known by a column 120; unknown 4"."""
    counts = _counts(facts.rows, [f"{column}_by"], pl.col("count").sum())
    known = sorted(((by, n) for by, n in counts.items() if by), key=lambda each: -each[1])
    if not known:
        return "Neither columns nor descriptions tell it"
    unknown = f"; {UNKNOWN} {counts['']:,}" if "" in counts else ""
    guessed = ". What is not of a column is a guess" if any(by != BY_COLUMN for by, _ in known) else ""
    return f"Known by {', '.join(f'{by} {n:,}' for by, n in known)}{unknown}{guessed}"


def reason_bars(facts: ArchiveFacts) -> list[Bar]:
    """Refused scans by reason: all, CT, MR."""
    reasons = _counts(facts.refused, ["reason"], pl.len())
    ct, mr = (_counts(facts.refused.filter(modality=name), ["reason"], pl.len()) for name in ("CT", "MR"))
    return bars({reason: (n, ct.get(reason, 0), mr.get(reason, 0)) for reason, n in reasons.items()}, len(reasons))


def with_geometry(usable: pl.DataFrame) -> pl.DataFrame:
    """The scans with slices (voxels along the coarsest axis), spacing_mm (of it), pixel_mm (finest), the sides in mm,
    volume_mb and largest_radius_mm (of a ball between the outermost voxels, shear left out)."""
    counts, spacing = ("nx", "ny", "nz"), ("spacing_x_mm", "spacing_y_mm", "spacing_z_mm")
    axes = list(zip(counts, spacing, strict=True))
    sides = [pl.col(n) * pl.col(mm) for n, mm in axes]
    between = [(pl.col(n) - 1) * pl.col(mm) / 2 for n, mm in axes]
    coarsest = pl.concat_list(*reversed(spacing)).list.arg_max()  # of equal ones the last axis
    return usable.with_columns(
        slices=pl.concat_list(*reversed(counts)).list.get(coarsest),
        spacing_mm=pl.max_horizontal(spacing),
        pixel_mm=pl.min_horizontal(spacing),
        longest_mm=pl.max_horizontal(sides),
        shortest_mm=pl.min_horizontal(sides),
        volume_mb=pl.col("volume_bytes") / 1e6,
        largest_radius_mm=pl.min_horizontal(between),
    )


def patients(usable: pl.DataFrame) -> pl.DataFrame:
    """A row for each patient with a usable scan: series, and whether there are both CT and MR."""
    return usable.group_by("patient").agg(series=pl.len(), both=pl.col("modality").n_unique() > 1)


def left_out(facts: ArchiveFacts) -> list[tuple[str, str]]:
    """Why rows of the table were not selected, and how many."""
    return [(reason.replace("_", " "), f"{count:,}") for reason, count in facts.report.left_out().items()]


def evenly_of_each(scans: pl.DataFrame, column: str, most: int) -> pl.DataFrame:
    """At most ``most`` rows, as many of each value of ``column`` as there are, sorted by it."""
    turn = pl.int_range(pl.len()).over(column)
    chosen = scans.with_columns(turn=turn).sort("turn", column, maintain_order=True).head(most)
    return chosen.sort(column, "turn", maintain_order=True).drop("turn")


def in_words(numbers: Iterable[float], form: str = "{:.2f}") -> str:
    """Such as "512 x 512 x 300"."""
    return " x ".join(re.sub(r"\.?0+$", "", text) if "." in (text := form.format(n)) else text for n in numbers)


def _counts(rows: pl.DataFrame, by: list[str], count: pl.Expr) -> dict[str, int]:
    table = rows.group_by(*by).agg(n=count)
    label = pl.concat_str(*by, separator=" ") if len(by) > 1 else pl.col(by[0])
    return dict(table.select(label.alias("label"), pl.col("n").cast(pl.Int64)).iter_rows())
