"""Seconds and memory to draw 5,000 records from a catalogue of 10^7 rows.

    python tests/benchmarks/bench_catalog.py --rows 10000000 --json

Writes the same random archive as .parquet (row groups of 10^6, as pandas does) and .csv.gz into a temporary folder and
loads each in fresh processes. Peak memory is ru_maxrss of such a process, Python and libraries included (``idle``:
the same after the imports alone). The series folders do not exist, so each look-up on disk is a failing one.
"""

from __future__ import annotations

import gzip
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from harness import Row, Timing, at_most, circumstances, parser, report

CHUNK_ROWS = 500_000

# Run in processes of their own: a child inherits the largest ru_maxrss of the process that starts it.
GENERATE = """
import sys
sys.path.insert(0, {here!r})
import bench_catalog
bench_catalog.generate({folder!r}, {rows})
"""
LOAD = """
import json, resource, time
from prism_ssl.config.schema import DataConfig
from prism_ssl.data.catalog import load_records
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
idle_bytes, start, cpu = peak(), time.perf_counter(), time.process_time()
filters = dict.fromkeys(("drop_time_series", "drop_localizers", "drop_derived"), {filters})
report = load_records(DataConfig(catalog_path={path!r}, n_scans={n_scans}, **filters), seed=0).report
print(json.dumps(dict(
    wall_s=time.perf_counter() - start, cpu_s=time.process_time() - cpu,
    peak_rss_bytes=peak(), idle_rss_bytes=idle_bytes,
    rows=report.rows, selected=report.selected, duplicates=report.duplicates,
)))
"""


def generate(folder: str, rows: int) -> None:
    """Writes catalog.parquet and catalog.csv.gz: 6 series a patient, UIDs that do not compress, 1 % duplicates."""
    import numpy as np
    import polars as pl
    import pyarrow.parquet as pq

    rng = np.random.default_rng(0)
    words = ["AX_T1_POST_3MM", "COR_T2_FS", "CT_ABDOMEN_1P5MM", "AX_DWI_B1000", "LOCALIZER_3_PLANE", "COR_MIP", None]
    writer = None
    with gzip.open(Path(folder) / "catalog.csv.gz", "wb", compresslevel=1) as text:
        for start in range(0, rows, CHUNK_ROWS):
            n = min(CHUNK_ROWS, rows - start)
            uid = rng.integers(10**17, 10**18, size=(2, n))
            frame = pl.DataFrame({"row": np.arange(start, start + n), "study": uid[0], "series": uid[1]}).select(
                pmbb_id=pl.format("PMBB{}", (pl.col("row") // 6).cast(pl.String).str.zfill(10)),
                modality=pl.Series(rng.choice(["CT", "MR", "CR", "US"], n, p=[0.4, 0.4, 0.1, 0.1])),
                series_path=pl.format(
                    "/archive/nifti/PMBB{}/1.2.840.113619.{}/1.2.840.113619.{}", pl.col("row") // 6, "study", "series"
                ),
                series_description=pl.Series([words[word] for word in rng.integers(0, len(words), n)]),
                exam_type=pl.lit("MRI BRAIN W WO CONTRAST"),
            )
            frame = pl.concat([frame.head(n - n // 100), frame.head(n // 100)])
            text.write(frame.write_csv(include_header=start == 0).encode())
            table = frame.to_arrow()
            writer = writer or pq.ParquetWriter(Path(folder) / "catalog.parquet", table.schema)
            writer.write_table(table, row_group_size=2**20)
    if writer is not None:
        writer.close()


def run_python(program: str) -> str:
    """Standard output of a program in a fresh interpreter."""
    return subprocess.run([sys.executable, "-c", program], check=True, stdout=subprocess.PIPE, text=True).stdout


def load(path: Path, n_scans: int, filters: bool, repeats: int) -> dict[str, Any]:
    """Loads the catalogue in ``repeats`` fresh processes; the first read warms the page cache and is not counted."""
    program = LOAD.format(path=str(path), n_scans=n_scans, filters=filters)
    runs = [json.loads(run_python(program)) for _ in range(repeats + 1)][1:]
    return {
        "case": f"{path.name}, text filters {'on' if filters else 'off'}",
        "file_bytes": path.stat().st_size,
        "wall_ms": [run["wall_s"] * 1e3 for run in runs],
        "cpu_s": statistics.median(run["cpu_s"] for run in runs),
        "peak_rss_bytes": max(run["peak_rss_bytes"] for run in runs),
        "idle_rss_bytes": max(run["idle_rss_bytes"] for run in runs),
        **{name: runs[0][name] for name in ("rows", "selected", "duplicates")},
    }


def targets(cases: list[dict[str, Any]]) -> list[Row]:
    """The row of DESIGN 4 that this benchmark answers, for its worst case."""
    peak_gb = max(case["peak_rss_bytes"] for case in cases) / 1e9
    return [at_most(f"catalogue of {cases[0]['rows']:,} rows, peak memory", "-", 2, peak_gb, "GB")]


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Generates, measures, prints."""
    options = parser(__doc__)
    options.add_argument("--rows", type=int, help="rows of the catalogue (default 10,000,000; 100,000 with --quick)")
    options.add_argument("--scans", type=int, default=5000, help="records to draw (data.n_scans)")
    options.add_argument("--repeats", type=int, default=3, help="counted runs of each case, after one to warm up")
    chosen = options.parse_args(arguments)
    rows = chosen.rows or (100_000 if chosen.quick else 10_000_000)
    where = circumstances()
    with tempfile.TemporaryDirectory(prefix="bench_catalog_") as folder:
        run_python(GENERATE.format(here=str(Path(__file__).parent), folder=folder, rows=rows))
        cases = [
            load(Path(folder) / name, chosen.scans, filters, 1 if chosen.quick else chosen.repeats)
            for name in ("catalog.parquet", "catalog.csv.gz")
            for filters in (False, True)
        ]
    facts = {case["case"]: _in_words(case) for case in cases}
    timings = {case["case"]: Timing.of(case["wall_ms"]) for case in cases}
    return report("bench_catalog", where, timings, targets(cases), chosen.json, facts)


def _in_words(case: dict[str, Any]) -> str:
    return (
        f"{case['rows']:,} rows in {case['file_bytes'] / 1e6:.0f} MB, {case['selected']:,} records, "
        f"{case['duplicates']:,} duplicates, CPU {case['cpu_s']:.2f} s, "
        f"peak {case['peak_rss_bytes'] / 1e9:.2f} GB (idle {case['idle_rss_bytes'] / 1e9:.2f})"
    )


if __name__ == "__main__":
    main()
