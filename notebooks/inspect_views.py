"""Notebook to inspect a pair of views in its scan: move one by sliders and read the targets.

marimo run notebooks/inspect_views.py -- --catalog TABLE      # .csv, .csv.gz, .parquet; also --data.columns ..
marimo run notebooks/inspect_views.py -- --run FOLDER         # settings and scans of a run
"""

import marimo

app = marimo.App(width="full", app_title="PRISM SSL: inspect views")


@app.cell
def _():
    from pathlib import Path

    import marimo as mo

    from prism_ssl.data.checks import open_prepared
    from prism_ssl.errors import PrismError
    from prism_ssl.explore import checked_scans, moved_pair
    from prism_ssl.explore.inspected import Inspected, inspected
    from prism_ssl.inspect.view_panel import draw_panel
    from prism_ssl.inspect.view_words import pair_in_words

    return (
        Inspected, Path, PrismError, checked_scans, draw_panel, inspected, mo, moved_pair, open_prepared, pair_in_words,
    )  # fmt: skip


@app.cell
def _(mo):
    arguments = mo.cli_args()
    catalog = mo.ui.text(
        str(arguments.get("catalog") or ""), label="catalogue", placeholder="table, or empty: phantoms", full_width=True
    )
    n_scans = mo.ui.number(2, 2000, value=int(arguments.get("n-scans") or 24), label="scans", full_width=True)
    return arguments, catalog, n_scans


@app.cell
def _(Inspected, PrismError, arguments, catalog, checked_scans, inspected, mo, n_scans):
    try:
        columns = str(arguments.get("data.columns") or "")
        what, problem = inspected(str(arguments.get("run") or ""), catalog.value, n_scans.value, columns), []
    except PrismError as error:
        what, problem = Inspected.nothing(), [mo.callout(mo.md(str(error)), kind="danger")]
    names = checked_scans.scan_names(what.checked.usable)
    return names, problem, what


@app.cell
def _(arguments, mo, names):
    wanted = next((name for name in names if str(arguments.get("scan") or "?")[:8] in name), next(iter(names), None))
    chosen = mo.ui.dropdown(list(names), value=wanted, label="scan", full_width=True)
    visit = mo.ui.slider(0, 99, value=int(arguments.get("visit") or 0), label="visit (which pair)", show_value=True)
    return chosen, visit


@app.cell
def _(chosen, mo, visit):
    chosen, visit  # every new pair resets the sliders
    along = {
        axis: mo.ui.slider(-60, 60, 1, value=0, label=f"centre, {axis}, mm", show_value=True)
        for axis in ("right", "front", "up")
    }
    about = {
        axis: mo.ui.slider(-30, 30, 1, value=0, label=f"rotation about {axis}, degrees", show_value=True)
        for axis in ("R", "A", "S")
    }
    radius = mo.ui.slider(0.5, 1.5, 0.05, value=1.0, label="radius, times", show_value=True)
    shift = mo.ui.slider(-3, 3, 0.1, value=0.0, label="window centre, std of the scan", show_value=True)
    width = mo.ui.slider(0.25, 4, 0.05, value=1.0, label="window width, times", show_value=True)
    sliders = mo.ui.dictionary({**along, **about, "radius": radius, "shift": shift, "width": width})
    return (sliders,)


@app.cell
def _(catalog, chosen, mo, n_scans, sliders, visit):
    mo.sidebar(
        [
            mo.md("## PRISM SSL\ninspect views"),
            mo.vstack([catalog, n_scans, chosen, visit]),
            mo.md("### Move view b\nrelative to the view that training draws"),
            mo.vstack(list(sliders.elements.values())),
        ],
        width="360px",
    )
    return


@app.cell
def _(mo, problem, what):
    mo.vstack([mo.md("# What the model sees"), *problem, mo.md(f"{what.where}: **{what.checked.in_words()}**")])
    return


@app.cell
def _(chosen, mo, names, open_prepared, what):
    mo.stop(chosen.value is None, mo.md("No scan can be shown; the table below says why."))
    prepared = names[chosen.value]
    scan = open_prepared(prepared, what.config)
    return prepared, scan


@app.cell
def _(moved_pair, prepared, scan, sliders, visit, what):
    a, drawn_b = moved_pair.drawn_pair(scan, prepared.record.scan_id, what.config, visit.value)
    at = sliders.value
    move = moved_pair.Move(
        displacement_mm=(at["right"], at["front"], at["up"]),
        rotation_deg=(at["R"], at["A"], at["S"]),
        radius_factor=at["radius"],
        window_shift_std=at["shift"],
        window_width_factor=at["width"],
    )
    pair = a, moved_pair.moved(drawn_b, move, scan.stats)
    untouched = move == moved_pair.Move()
    return pair, untouched


@app.cell
def _(draw_panel, mo, moved_pair, pair, prepared, scan, untouched, what):
    outside = moved_pair.share_outside(scan, pair[1])
    told = [mo.md("As training draws it." if untouched else "**View b is moved by hand.**")]
    if outside:
        told.append(mo.callout(mo.md(f"{outside:.0%} of b's patches lie outside the scan and show air."), kind="warn"))
    panel = draw_panel(scan, prepared, pair, what.config.data.patch_mm)
    mo.vstack([mo.md("## The pair in its scan"), *told, mo.image(panel, alt="the pair in its scan", width="100%")])
    return


@app.cell
def _(mo, moved_pair, pair, pair_in_words, prepared, scan, what):
    unit = "HU" if prepared.record.modality == "CT" else "units"
    said = pair_in_words(*pair, unit).replace("\n", "  \n")
    mo.vstack(
        [
            mo.md("## Targets of the pair"),
            mo.md(said),
            mo.ui.table(
                moved_pair.asked_of_the_heads(pair, prepared, what.config),
                selection=None,
                show_column_summaries=False,
                show_data_types=False,
                show_search=False,
            ),
            moved_pair.window_chart(scan, pair, unit),
        ]
    )
    return


@app.cell
def _(checked_scans, mo, what):
    bad = what.checked.bad
    if bad.is_empty():
        refused = mo.md("None: every selected scan can be used.")
    else:
        options = {"selection": None, "show_column_summaries": False, "show_data_types": False}
        refused = mo.vstack(
            [
                mo.ui.table(checked_scans.reasons_of(bad), show_search=False, **options),
                mo.ui.table(bad, wrapped_columns=["detail"], page_size=10, **options),
            ]
        )
    _whole = "" if what.page is None else f"The whole archive, from `prism check`: `{what.page}`"
    mo.vstack([mo.md("## Refused scans, and why"), refused, mo.md(_whole)])
    return


if __name__ == "__main__":
    app.run()
