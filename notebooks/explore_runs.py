"""Notebook to compare and rank the runs of a sweep, and to inspect their encoders.

marimo run notebooks/explore_runs.py                      # the newest runs of this machine
marimo run notebooks/explore_runs.py -- --runs FOLDER     # others; also --entity, --project, --catalog
"""

import marimo

app = marimo.App(width="full", app_title="PRISM SSL: explore runs")


@app.cell
def _():
    import marimo as mo
    import polars as pl

    from prism_ssl.data.checks import open_prepared
    from prism_ssl.errors import PrismError
    from prism_ssl.explore import (
        alarm_view,
        curves,
        ranking_view,
        scan_map,
        session,
        throughput_view,
        trained_encoder,
    )
    from prism_ssl.explore.neighbour_picture import draw_neighbours
    from prism_ssl.explore.runs import LOCAL, matching
    from prism_ssl.inspect.view_panel import draw_panel
    from prism_ssl.records.local import run_collections
    from prism_ssl.records.tracked import account_found

    return (
        LOCAL, PrismError, account_found, alarm_view, curves, draw_neighbours, draw_panel, matching, mo, open_prepared,
        pl, ranking_view, run_collections, scan_map, session, throughput_view, trained_encoder,
    )  # fmt: skip


@app.cell
def _(mo, run_collections, session):
    arguments = mo.cli_args()
    runs_root = session.default_root(str(arguments.get("runs") or ""))
    folders = {f"{found.folder.name} ({found.runs} runs)": str(found.folder) for found in run_collections(runs_root)}
    return arguments, folders, runs_root


@app.cell
def _(account_found, arguments, folders, mo):
    here, there = "this machine", "Weights & Biases"
    asked_for_wandb = bool(arguments.get("project"))
    source = mo.ui.radio([here, there], value=there if asked_for_wandb else here, label="**Runs from**", inline=True)
    folder = mo.ui.dropdown(folders, value=next(iter(folders), None), label="folder", full_width=True)
    entity = mo.ui.text(str(arguments.get("entity") or ""), label="entity", placeholder="your default", full_width=True)
    project = mo.ui.text(str(arguments.get("project") or "prism-ssl"), label="project", full_width=True)
    refresh = mo.ui.refresh(label="read again", options=["30s", "1m", "5m"])
    key_words = "" if account_found() else "No W&B key on this machine (WANDB_API_KEY)."
    return entity, folder, here, key_words, project, refresh, source, there


@app.cell
def _(LOCAL, PrismError, entity, folder, here, mo, project, refresh, runs_root, session, source):
    refresh
    if source.value == here and folder.value is None:
        scored, said = session.load_scored(LOCAL, str(runs_root)), f"No run folders in {runs_root}."
    else:
        of = (LOCAL, folder.value) if source.value == here else (entity.value, project.value)
        try:
            scored, said = session.load_scored(*of), ""
        except PrismError as error:
            scored, said = session.load_scored(LOCAL, "/nowhere"), str(error)
    problem = [mo.callout(mo.md(said), kind="danger")] if said else []
    return problem, scored


@app.cell
def _(mo, scored, session):
    filters = mo.ui.dictionary(
        {
            "tags": mo.ui.multiselect(session.options(scored, "tags"), label="tags", full_width=True),
            "status": mo.ui.multiselect(session.options(scored, "status"), label="status", full_width=True),
            "model.objective": mo.ui.multiselect(
                session.options(scored, "model.objective"), label="objective", full_width=True
            ),
        }
    )
    keys = mo.ui.multiselect(session.setting_keys(scored), label="more settings to filter by", full_width=True)
    return filters, keys


@app.cell
def _(keys, mo, scored, session):
    settings = mo.ui.dictionary(
        {
            key: mo.ui.multiselect(
                {str(value): value for value in session.options(scored, key)}, label=key, full_width=True
            )
            for key in keys.value
        }
    )
    return (settings,)


@app.cell
def _(entity, filters, folder, here, key_words, keys, mo, project, refresh, settings, source):
    where = [folder] if source.value == here else [entity, project, mo.md(key_words)]
    mo.sidebar(
        [
            mo.md("## PRISM SSL\nexplore runs"),
            mo.vstack([source, *where, refresh]),
            mo.md("### Filters\nan empty filter shows all runs"),
            mo.vstack([*filters.elements.values(), keys, *settings.elements.values()]),
        ],
        width="340px",
    )
    return


@app.cell
def _(filters, matching, scored, session, settings):
    shown = session.compared(matching(scored, session.chosen_filters(filters.value | settings.value)))
    return (shown,)


@app.cell
def _(mo, problem, scored, session, shown):
    hidden = scored.height - shown.height
    mo.vstack(
        [
            mo.md("# Runs"),
            *problem,
            mo.md(f"**{session.status_in_words(shown)}**" + (f" ({hidden} hidden by the filters)" if hidden else "")),
        ]
    )
    return


@app.cell
def _(mo, ranking_view, shown):
    table = mo.ui.table(
        ranking_view.ranking_table(shown),
        selection="multi",
        page_size=12,
        freeze_columns_left=["rank", "run"],
        show_column_summaries=False,
        show_data_types=False,
        label="Best first: proxy quality on held-out scans, then throughput. Select runs to draw their curves.",
    )
    table
    return (table,)


@app.cell
def _(mo, ranking_view, shown):
    command, how_sure = ranking_view.recommendation(shown)
    lines = command.replace(" --", " \\\n    --") if command else ""
    mo.vstack(
        [
            mo.md("## Recommended baseline"),
            mo.md(f"```bash\n{lines}\n```\n{how_sure}" if command else how_sure),
        ]
    )
    return


@app.cell
def _(mo, ranking_view, shown):
    mo.vstack(
        [
            mo.md("## Quality"),
            mo.md(
                "Proxy quality (0 chance, 1 perfect) is measured on held-out scans, the same views for every run: "
                "recall of the same series and place, sign skill of shift and rotation. The bars are 95 % intervals "
                "over the held-out patients; another training seed can change a run's quality by more."
            ),
            ranking_view.quality_picture(shown),
            ranking_view.pareto_chart(shown),
        ]
    )
    return


@app.cell
def _(mo, ranking_view, shown):
    mo.vstack(
        [
            mo.md("## Main effects of the factors"),
            mo.md(
                "Deviation of a level from its factor's mean, with the other factors held fixed. An interval that "
                "contains 0 (dashed) is no evidence of an effect."
            ),
            ranking_view.effects_picture(shown),
        ]
    )
    return


@app.cell
def _(PrismError, mo, pl, session, shown, table):
    drawn = session.runs_to_draw(shown, table.value["run"].to_list())
    try:
        history, lost = session.curves_of(shown, drawn), None
    except PrismError as error:
        history, lost = pl.DataFrame(schema={"run": pl.String, "global_step": pl.Int64}), str(error)
    mo.callout(mo.md(lost), kind="danger") if lost else None
    return drawn, history


@app.cell
def _(curves, mo):
    form = mo.ui.radio([*curves.LOSS_FORMS, curves.RELATIVE], value="normalised", inline=True)
    quantity = mo.ui.dropdown(list(curves.DIAGNOSTICS), value=next(iter(curves.DIAGNOSTICS)))
    return form, quantity


@app.cell
def _(curves, drawn, form, history, mo):
    mo.vstack([mo.md("## Losses over time"), form, curves.loss_curves(history, drawn, form.value)])
    return


@app.cell
def _(alarm_view, curves, drawn, history, mo, quantity, shown):
    spans = alarm_view.alarm_spans(history)
    doubts = alarm_view.doubts(shown, drawn)
    mo.vstack(
        [
            mo.md("## Diagnostics and alarms"),
            quantity,
            curves.diagnostic_curves(history, drawn, quantity.value),
            mo.md("### Alarms"),
            alarm_view.alarm_chart(spans, drawn, doubts),
            *(mo.md(doubt) for doubt in doubts),
            *(
                [mo.ui.table(spans, selection=None, show_column_summaries=False, show_data_types=False)]
                if spans.height
                else []
            ),
        ]
    )
    return


@app.cell
def _(curves, drawn, history, mo, shown, throughput_view):
    mo.vstack(
        [
            mo.md("## Throughput and stalls"),
            mo.md(
                "A step of 2 s or more is a stall and counts as one lost step, one of 10 s or more as five. The "
                "column *waits most for* names the main cause of waiting: scans opening (slow storage, too small a "
                "pool), sampling (too few actors), transport (object store)."
            ),
            mo.ui.table(
                throughput_view.throughput_table(shown),
                selection=None,
                page_size=8,
                show_column_summaries=False,
                show_data_types=False,
            ),
            mo.hstack(
                [throughput_view.tail_chart(shown), throughput_view.time_chart(shown)], justify="start", wrap=True
            ),
            curves.rate_curves(history, drawn),
        ]
    )
    return


@app.cell
def _(curves, drawn, history, mo, shown, throughput_view):
    mo.vstack(
        [
            mo.md("## Replacements and failures"),
            mo.ui.table(
                throughput_view.failure_table(shown),
                selection=None,
                page_size=8,
                show_column_summaries=False,
                show_data_types=False,
                wrapped_columns=["cause"],
            ),
            curves.counter_curves(history, drawn),
        ]
    )
    return


@app.cell
def _(arguments, mo, session, shown):
    names = session.names_by_rank(shown)
    wanted = arguments.get("encoder") if arguments.get("encoder") in names else next(iter(names), None)
    encoder_of = mo.ui.dropdown(names, value=wanted, label="encoder of run")
    catalog = mo.ui.text(
        str(arguments.get("catalog") or ""), label="scans of catalogue", placeholder="table, or empty: the run's own"
    )
    n_scans = mo.ui.slider(2, 64, value=int(arguments.get("n-scans") or 12), label="scans", show_value=True)
    n_views = mo.ui.slider(2, 16, 2, value=4, label="views of each", show_value=True)
    go = mo.ui.switch(value=arguments.get("embed") is not None, label="load the checkpoint and embed the scans")
    mo.vstack(
        [
            mo.md("## Encoder and scans"),
            mo.md("Embed scans of this machine with the checkpoint of a run, from its folder or its W&B artifact."),
            mo.hstack([encoder_of, catalog, n_scans, n_views], justify="start", wrap=True),
            go,
        ]
    )
    return catalog, encoder_of, go, n_scans, n_views


@app.cell
def _(PrismError, catalog, encoder_of, go, mo, n_scans, n_views, scan_map, trained_encoder):
    mo.stop(not go.value or encoder_of.value is None, mo.md("*Turn on the switch to load a checkpoint.*"))
    try:
        with mo.status.spinner("loading the checkpoint, checking and embedding scans", remove_on_exit=True):
            trained = trained_encoder.load_trained(encoder_of.value)
            table_of_scans = scan_map.catalog_of(trained.config, catalog.value)
            views = scan_map.embed_scans(trained.encoder, trained.config, table_of_scans, n_scans.value, n_views.value)
        refusal = None
    except PrismError as error:
        trained = views = None
        refusal = mo.callout(mo.md(str(error)), kind="danger")
    mo.stop(views is None, refusal)
    left_out = sum(views.rejected.values()) + len(views.probe_set.left_out)
    mo.md(
        f"{trained.origin}: {len(views.probe_set.views)} views of {len(views.scans)} scans"
        + (f", {left_out} scans refused by preflight's checks" if left_out else "")
    )
    return trained, views


@app.cell
def _(mo, scan_map):
    color = mo.ui.radio(list(scan_map.COLORS), value="modality", label="colour by", inline=True)
    method = mo.ui.radio(["PCA", "t-SNE"], value="PCA", label="map", inline=True)
    k = mo.ui.slider(1, 8, value=5, label="neighbours", show_value=True)
    other_scans = mo.ui.checkbox(value=True, label="from other scans only")
    return color, k, method, other_scans


@app.cell
def _(color, method, mo, scan_map, views):
    plane = scan_map.flat_map(views.embeddings, method.value)
    picture = mo.ui.altair_chart(scan_map.map_chart(views.table(), plane, color.value), chart_selection="point")
    view = mo.ui.slider(0, len(views.probe_set.views) - 1, label="or view number", show_value=True, full_width=True)
    return picture, view


@app.cell
def _(color, k, method, mo, other_scans, picture, view):
    mo.vstack(
        [
            mo.hstack([color, method], justify="start"),
            picture,
            mo.md("Click on a point to see its view and its nearest neighbours."),
            mo.hstack([view, k, other_scans], justify="start", widths=[3, 1, 1]),
        ]
    )
    return


@app.cell
def _(draw_neighbours, k, mo, other_scans, picture, scan_map, trained, view, views):
    clicked = picture.value["view"].to_list() if "view" in picture.value.columns else []
    query = int(clicked[0]) if 0 < len(clicked) < len(views.probe_set.views) else view.value
    found = scan_map.most_similar(views.embeddings, views.probe_set.scan_of_view, query, k.value, other_scans.value)
    mo.vstack(
        [
            mo.md(f"### View {query} and its nearest neighbours"),
            mo.md("Yellow: the query. Green: same series. Blue: another series. Rows: axial, coronal, sagittal."),
            mo.image(draw_neighbours(views, query, found, trained.config), alt="nearest neighbours", width="100%"),
        ]
    )
    return (query,)


@app.cell
def _(draw_panel, mo, open_prepared, query, trained, views):
    asked_scan = views.scans[int(views.probe_set.scan_of_view[query])]
    first = 2 * (query // 2)
    mo.vstack(
        [
            mo.md(f"### The prisms of views {first} (a) and {first + 1} (b) in their scan"),
            mo.image(
                draw_panel(
                    open_prepared(asked_scan, trained.config),
                    asked_scan,
                    (views.probe_set.views[first], views.probe_set.views[first + 1]),
                    trained.config.data.patch_mm,
                ),
                alt="prisms",
                width="100%",
            ),
        ]
    )
    return


if __name__ == "__main__":
    app.run()
