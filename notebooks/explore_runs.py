"""Notebook to compare and rank the runs of a sweep, and to inspect their encoders.

marimo run notebooks/explore_runs.py                      # from W&B with an account or WANDB_PROJECT, else local
marimo run notebooks/explore_runs.py -- --runs FOLDER     # of this machine; also --project, --entity, --catalog, --tab
marimo run notebooks/explore_runs.py -- --runs FOLDER --tab Scans --embed --index embeddings.parquet --fields FOLDER
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
        checked_scans,
        curves,
        neighbour_picture,
        ranking_view,
        representation_view,
        run_page,
        scan_map,
        session,
        throughput_view,
        trained_encoder,
    )
    from prism_ssl.explore.chart_style import column_widths, run_names
    from prism_ssl.explore.field import click_map, shown_scan
    from prism_ssl.explore.field.picture import colours_of, draw_fields
    from prism_ssl.explore.runs import LOCAL, matching
    from prism_ssl.inspect.view_panel import draw_panel
    from prism_ssl.records.local import run_collections
    from prism_ssl.records.tracked import account_found

    return (
        LOCAL, PrismError, account_found, alarm_view, checked_scans, click_map, colours_of, column_widths, curves,
        draw_fields, draw_panel, matching, mo, neighbour_picture, open_prepared, pl, ranking_view,
        representation_view, run_collections, run_names, run_page, scan_map, session, shown_scan, throughput_view,
        trained_encoder,
    )  # fmt: skip


@app.cell
def _(column_widths, mo):
    def plain_table(data, headers=(), **options):
        """A table to read; nothing in it can be chosen. ``headers``: header -> its meaning."""
        meanings = {header: meaning for header, meaning in dict(headers).items() if header in data.columns}
        shown_plainly = {"show_column_summaries": False, "show_data_types": False, "show_search": False}
        return mo.ui.table(
            data, selection=None, header_tooltip=meanings, column_widths=column_widths(data), **shown_plainly, **options
        )

    return (plain_table,)


# ---------------------------------------------------------------------- which runs
@app.cell
def _(mo, run_collections, session):
    arguments = mo.cli_args()
    runs_root = session.default_root(str(arguments.get("runs") or ""))
    folders = {
        f"{found.folder.name} ({found.runs} run{'' if found.runs == 1 else 's'})": str(found.folder)
        for found in run_collections(runs_root)
    }
    return arguments, folders, runs_root


@app.cell
def _(account_found, arguments, folders, mo, session):
    here, there = "this machine", "Weights & Biases"
    account = account_found()
    at_wandb = session.wandb_first(str(arguments.get("runs") or ""), str(arguments.get("project") or ""), account)
    source = mo.ui.radio([here, there], value=there if at_wandb else here, label="Runs from", inline=True)
    folder = mo.ui.dropdown(folders, value=next(iter(folders), None), label="folder")
    entity = mo.ui.text(str(arguments.get("entity") or ""), label="entity", placeholder="your default")
    asked_for = str(arguments.get("project") or session.default_project())
    project = mo.ui.text(asked_for, label="project")
    refresh = mo.ui.refresh(label="read again", options=["30s", "1m", "5m"])
    return entity, folder, here, project, refresh, source


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
def _(session):
    remembered = session.Remembered()
    return (remembered,)


@app.cell
def _(mo, remembered, scored, session):
    words = {"tags": "tags", "status": "status", "model.objective": "objective"}
    filters = mo.ui.dictionary(
        {
            key: mo.ui.multiselect(
                session.options(scored, key),
                value=remembered.values_in(key, session.options(scored, key)),
                label=label,
                full_width=True,
            )
            for key, label in words.items()
        },
        on_change=remembered.keep_values,
    )
    setting_keys = session.setting_keys(scored)
    keys = mo.ui.multiselect(
        setting_keys,
        value=remembered.values_in("", setting_keys),
        on_change=lambda chosen_keys: remembered.keep_values({"": chosen_keys}),
        label="more settings to filter by",
        full_width=True,
    )
    return filters, keys


@app.cell
def _(keys, mo, remembered, scored, session):
    settings = mo.ui.dictionary(
        {
            key: mo.ui.multiselect(
                {str(value): value for value in session.options(scored, key)},
                value=list(map(str, remembered.values_in(key, session.options(scored, key)))),
                label=key,
                full_width=True,
            )
            for key in keys.value
        },
        on_change=remembered.keep_values,
    )
    return (settings,)


@app.cell
def _(matching, scored, session, settings, filters):
    shown = session.compared(matching(scored, session.chosen_filters(filters.value | settings.value)))
    return (shown,)


@app.cell
def _(entity, filters, folder, here, keys, mo, problem, project, refresh, scored, session, settings, shown, source):
    where = [folder] if source.value == here else [entity, project]
    hidden = scored.height - shown.height
    more = [mo.hstack(settings.elements.values(), widths="equal")] if settings.elements else []
    mo.vstack(
        [
            mo.md("# PRISM SSL runs"),
            mo.hstack([source, *where, refresh], justify="start", align="end", wrap=True, gap=2),
            mo.hstack([*filters.elements.values(), keys], widths="equal"),
            *more,
            *problem,
            mo.md(f"**{session.status_in_words(shown)}**" + (f" ({hidden} hidden by the filters)" if hidden else "")),
        ]
    )
    return


# ---------------------------------------------------------------------- which of them are drawn
@app.cell
def _(column_widths, mo, ranking_view, remembered, shown):
    ranking = ranking_view.ranking_table(shown)
    table = mo.ui.table(
        ranking,
        selection="multi",
        initial_selection=remembered.rows_in(ranking),
        on_change=remembered.keep_runs,
        page_size=12,
        column_widths=column_widths(ranking),
        header_tooltip=ranking_view.HEADERS,
        show_column_summaries=False,
        show_data_types=False,
    )
    return (table,)


@app.cell
def _(mo, run_names, session, shown, table):
    chosen = table.value["run"].to_list()
    drawn = session.runs_to_draw(shown, chosen)
    mo.md(f"{session.drawn_in_words(drawn, chosen)}<br>{run_names(drawn)}")
    return (drawn,)


@app.cell
def _(PrismError, drawn, mo, pl, session, shown):
    try:
        history, damaged, lost = session.curves_of(shown, drawn), session.damage_in_words(shown, drawn), []
    except PrismError as error:
        history, damaged, lost = pl.DataFrame(schema={"run": pl.String, "global_step": pl.Int64}), {}, [str(error)]
    lost += [f"{run}: {words}." for run, words in damaged.items()]
    mo.callout(mo.md("  \n".join(lost)), kind="warn") if lost else None
    return (history,)


# ---------------------------------------------------------------------- the tabs
@app.cell
def _(arguments, mo, session):
    tabs = mo.ui.tabs(dict.fromkeys(session.TABS, ""), value=session.tab_at_start(str(arguments.get("tab") or "")))
    tabs
    return (tabs,)


@app.cell
def _(mo, tabs):
    def is_open(tab):
        """Whether a tab is looked at; the editor and exported pages show all of them."""
        return mo.app_meta().mode != "run" or tabs.value == tab

    return (is_open,)


# ---------------------------------------------------------------------- ranking
@app.cell
def _(is_open, mo, table):
    mo.stop(not is_open("Ranking"))
    mo.vstack(
        [
            mo.md("## Runs, best first"),
            mo.md("By proxy quality on held-out scans, then by throughput. Select the runs that all tabs draw."),
            table,
        ]
    )
    return


@app.cell
def _(is_open, mo, plain_table, ranking_view, shown):
    mo.stop(not is_open("Ranking"))
    command, how_sure = ranking_view.recommendation(shown)
    lines = command.replace(" --", " \\\n    --") if command else ""
    mo.vstack(
        [
            mo.md("## Recommended baseline"),
            mo.md(f"```bash\n{lines}\n```\n{how_sure}" if command else how_sure),
            mo.md("## Best configurations"),
            mo.md("Runs with equal settings and other seeds are one configuration, by their means."),
            plain_table(ranking_view.configurations_table(shown), ranking_view.HEADERS, page_size=8),
        ]
    )
    return


@app.cell
def _(is_open, mo, ranking_view, shown):
    mo.stop(not is_open("Ranking"))
    mo.vstack(
        [
            mo.md("## Quality"),
            mo.md(
                "Proxy quality (0 chance, 1 perfect) is measured on held-out scans, the same views for every run: "
                "recall of the same series and place, position by other patients, sign skill of shift and rotation. "
                "The bars are 95&nbsp;% intervals over the held-out patients; another training seed can change a "
                "run's quality by more."
            ),
            mo.hstack(
                [ranking_view.quality_picture(shown), ranking_view.pareto_chart(shown)], justify="start", wrap=True
            ),
            mo.md("## Main effects of the factors"),
            mo.md(
                "Deviation of a level from its factor's mean, with the other factors held fixed. An interval that "
                "contains 0 (dashed) is no evidence of an effect."
            ),
            ranking_view.effects_picture(shown),
        ]
    )
    return


# ---------------------------------------------------------------------- one run
@app.cell
def _(drawn, mo, session, shown):
    run_names_by_rank = [*drawn, *(run for run in session.names_by_rank(shown) if run not in drawn)]
    one = mo.ui.dropdown(run_names_by_rank, value=next(iter(run_names_by_rank), None), label="run", full_width=True)
    return (one,)


@app.cell
def _(PrismError, alarm_view, curves, is_open, mo, one, plain_table, run_page, session, shown):
    mo.stop(not is_open("One run"))
    mo.stop(one.value is None, mo.md("There is no run to look at."))
    run = one.value
    try:
        rows, broken = session.curves_of(shown, [run]), session.damage_in_words(shown, [run]).get(run)
        unread = []
    except PrismError as error:
        rows, broken, unread = shown.select("run").clear(), None, [mo.callout(mo.md(str(error)), kind="danger")]
    mo.vstack(
        [
            mo.hstack([one], widths=[1]),
            mo.md(f"## {run}\n{run_page.in_short(shown, run)}"),
            *unread,
            mo.md("### What is wrong with it"),
            mo.md(run_page.in_words(run_page.findings(shown, run, rows, broken))),
            mo.md("### What it measured on held-out scans"),
            plain_table(run_page.measures_table(shown, run), page_size=20),
            mo.md("### Its losses"),
            curves.loss_curves(rows, [run], curves.RELATIVE),
            mo.md("### Its alarms"),
            alarm_view.alarm_chart(alarm_view.alarm_spans(rows), [run], alarm_view.doubts(shown, [run])),
            mo.md("### Settings in which the shown runs differ"),
            plain_table(run_page.differing_settings(shown, run), page_size=12),
        ]
    )
    return


# ---------------------------------------------------------------------- losses
@app.cell
def _(curves, mo):
    form = mo.ui.radio([*curves.LOSS_FORMS, curves.RELATIVE], value="normalised", inline=True)
    quantity = mo.ui.dropdown(list(curves.DIAGNOSTICS), value=next(iter(curves.DIAGNOSTICS)))
    return form, quantity


@app.cell
def _(alarm_view, curves, drawn, form, history, is_open, mo, plain_table, shown):
    mo.stop(not is_open("Losses"))
    spans = alarm_view.alarm_spans(history)
    doubts = alarm_view.doubts(shown, drawn)
    mo.vstack(
        [
            mo.md("## Losses over time"),
            form,
            curves.loss_curves(history, drawn, form.value),
            mo.md("## Alarms"),
            alarm_view.alarm_chart(spans, drawn, doubts),
            *(mo.md(doubt) for doubt in alarm_view.together(doubts)),
            *([plain_table(alarm_view.alarm_table(spans), wrapped_columns=["means"])] if spans.height else []),
        ]
    )
    return


# ---------------------------------------------------------------------- throughput and stalls
@app.cell
def _(curves, drawn, history, is_open, mo, plain_table, shown, throughput_view):
    mo.stop(not is_open("Throughput and stalls"))
    mo.vstack(
        [
            mo.md("## Rates and step times"),
            mo.md(
                "A step of 2 s or more is a stall and counts as one lost step, one of 10 s or more as five. *Waited* "
                "is the share of the time, *mostly for* its main cause: scans opening (slow storage, too small a "
                "pool), sampling (too few actors), transport (object store). Step times are in ms."
            ),
            plain_table(throughput_view.throughput_table(shown), page_size=8, freeze_columns_left=["run"]),
            mo.hstack(
                [throughput_view.tail_chart(shown), throughput_view.time_chart(shown)], justify="start", wrap=True
            ),
            mo.md("## Rates over time"),
            curves.rate_curves(history, drawn),
        ]
    )
    return


# ---------------------------------------------------------------------- failures
@app.cell
def _(curves, drawn, history, is_open, mo, plain_table, shown, throughput_view):
    mo.stop(not is_open("Failures"))
    mo.vstack(
        [
            mo.md("## Runs that did not end ok"),
            mo.md(throughput_view.causes_in_words(shown)),
            mo.md("## Replacements and failures"),
            plain_table(throughput_view.failure_table(shown), page_size=12, freeze_columns_left=["run"]),
            curves.counter_curves(history, drawn),
        ]
    )
    return


# ---------------------------------------------------------------------- representation
@app.cell
def _(curves, drawn, history, is_open, mo, plain_table, quantity, representation_view, shown):
    mo.stop(not is_open("Representation"))
    mo.vstack(
        [
            mo.md("## Held-out measures"),
            mo.md(
                "Measured on scans of patients whom no run has trained on, beside chance and two encoders without "
                "training: random weights, and statistics of the pixels."
            ),
            representation_view.representation_picture(shown, drawn),
            plain_table(
                representation_view.representation_table(shown, drawn),
                representation_view.HEADERS,
                page_size=12,
                freeze_columns_left=["encoder"],
            ),
            mo.accordion({"How to read the measures": mo.md(representation_view.READING)}),
            mo.md("## Diagnostics over time"),
            quantity,
            curves.diagnostic_curves(history, drawn, quantity.value),
        ]
    )
    return


# ---------------------------------------------------------------------- scans
@app.cell
def _(arguments, drawn, mo, session, shown):
    names = session.names_by_rank(shown)
    wanted = arguments.get("encoder") if arguments.get("encoder") in names else next(iter(drawn), None)
    encoder_of = mo.ui.dropdown(names, value=wanted, label="encoder of run")
    catalog = mo.ui.text(
        str(arguments.get("catalog") or ""), label="scans of catalogue", placeholder="empty: the run's own"
    )
    n_scans = mo.ui.slider(2, 64, value=int(arguments.get("n-scans") or 12), label="scans", show_value=True)
    n_views = mo.ui.slider(2, 16, 2, value=4, label="views of each", show_value=True)
    return catalog, encoder_of, n_scans, n_views


@app.cell
def _(arguments, mo):
    go = mo.ui.switch(value=arguments.get("embed") is not None, label="load the checkpoint and embed the scans")
    return (go,)


@app.cell
def _(catalog, encoder_of, go, is_open, mo, n_scans, n_views):
    mo.stop(not is_open("Scans"))
    mo.vstack(
        [
            mo.md("## Encoder and scans"),
            mo.md("Embed scans of this machine with the checkpoint of a run, from its folder or its W&B artifact."),
            mo.hstack([encoder_of, catalog, n_scans, n_views], justify="start", wrap=True),
            go,
        ]
    )
    return


@app.cell
def _(PrismError, catalog, encoder_of, go, mo, n_scans, n_views, scan_map, trained_encoder):
    # Nothing stops here: later cells run whenever a tab is opened, and need these names.
    trained, views, told = None, None, mo.md("*Turn on the switch to load a checkpoint.*")
    if go.value and encoder_of.value is not None:
        try:
            with mo.status.spinner("loading the checkpoint, checking and embedding scans", remove_on_exit=True):
                trained = trained_encoder.load_trained(encoder_of.value)
                scans = scan_map.catalog_of(trained.config, catalog.value)
                views = scan_map.embed_scans(trained.encoder, trained.config, scans, n_scans.value, n_views.value)
            _page = scan_map.page_of(scans, trained.config.run.root)
            _whole = "" if _page is None else f"  \nThe whole archive, from `prism check`: `{_page}`"
            told = mo.md(f"{trained.origin}: {views.in_words()}{_whole}")
        except PrismError as error:
            told = mo.callout(mo.md(str(error)), kind="danger")
    return told, trained, views


@app.cell
def _(is_open, mo, told):
    mo.stop(not is_open("Scans"))
    told
    return


@app.cell
def _(mo, scan_map):
    color = mo.ui.radio(list(scan_map.COLORS), value="modality", label="colour by", inline=True)
    method = mo.ui.radio(["PCA", "t-SNE"], value="PCA", label="map", inline=True)
    k = mo.ui.slider(1, 8, value=5, label="neighbours", show_value=True)
    other_scans = mo.ui.checkbox(value=True, label="from other scans only")
    return color, k, method, other_scans


@app.cell
def _(color, method, mo, scan_map, views):
    picture = view = None
    if views is not None:
        plane = scan_map.flat_map(views.embeddings, method.value)
        picture = mo.ui.altair_chart(scan_map.map_chart(views.table(), plane, color.value), chart_selection="point")
        view = mo.ui.slider(0, len(views.probe_set.views) - 1, label="or view number", show_value=True, full_width=True)
    return picture, view


@app.cell
def _(color, is_open, k, method, mo, other_scans, picture, view, views):
    mo.stop(not is_open("Scans") or views is None)
    mo.vstack(
        [
            mo.hstack([color, method], justify="start"),
            picture,
            mo.md("Click on a point to see its view and its nearest neighbours."),
            mo.hstack([view, k, other_scans], justify="start", align="end", widths=[5, 4, 3]),
        ]
    )
    return


@app.cell
def _(picture, view, views):
    query = None
    if views is not None:
        clicked = picture.value["view"].to_list() if "view" in picture.value.columns else []
        query = int(clicked[0]) if 0 < len(clicked) < len(views.probe_set.views) else view.value
    return (query,)


@app.cell
def _(is_open, k, mo, neighbour_picture, other_scans, query, scan_map, trained, views):
    mo.stop(not is_open("Scans") or views is None)
    found = scan_map.most_similar(views.embeddings, views.probe_set.scan_of_view, query, k.value, other_scans.value)
    found_png = neighbour_picture.draw_neighbours(views, query, found, trained.config)
    mo.vstack(
        [
            mo.md(f"### View {query} and its nearest neighbours"),
            mo.md("Yellow: the query. Green: same series. Blue: another series. Rows: axial, coronal, sagittal."),
            mo.image(found_png, alt="nearest neighbours", width="100%"),
        ]
    )
    return


@app.cell
def _(draw_panel, is_open, mo, open_prepared, query, trained, views):
    mo.stop(not is_open("Scans") or views is None)
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


# ---------------------------------------------------------------------- scans: search in a table
@app.cell
def _(arguments, mo):
    index = mo.ui.text(
        str(arguments.get("index") or ""),
        label="search in",
        placeholder="table of prism embed, or folder of prism field",
        full_width=True,
    )
    other_patients = mo.ui.checkbox(value=True, label="other patients only")
    return index, other_patients


@app.cell
def _(catalog, index, neighbour_picture, scan_map, trained, views):
    records = {}
    if views is not None and index.value.strip():
        records = neighbour_picture.records_by_id(trained.config, scan_map.catalog_of(trained.config, catalog.value))
    return (records,)


@app.cell
def _(PrismError, index, is_open, k, mo, neighbour_picture, other_patients, plain_table, query, records, views):
    mo.stop(not is_open("Scans") or views is None)
    matched = []
    if index.value.strip():
        asking = views.probe_set.scans[int(views.probe_set.scan_of_view[query])], views.probe_set.views[query]
        try:
            similar = neighbour_picture.find_in_table(index.value, *asking, k.value, other_patients.value)
            matched = [
                mo.md(f"{similar.in_words} Yellow: the view. Green: same patient. Blue: another patient."),
                mo.image(
                    neighbour_picture.draw_matches(*asking, similar, records), alt="matches of the table", width="100%"
                ),
                plain_table(neighbour_picture.matches_table(similar.matches, records)),
            ]
        except PrismError as error:
            matched = [mo.callout(mo.md(str(error)), kind="danger")]
    mo.vstack(
        [
            mo.md(f"### What a table holds that is similar to view {query}"),
            mo.hstack([index, other_patients], align="end", widths=[3, 1]),
            *matched,
        ]
    )
    return


# ---------------------------------------------------------------------- scans: fields
@app.cell
def _(arguments, mo):
    folder_of_fields = mo.ui.text(
        str(arguments.get("fields") or ""),
        label="fields of",
        placeholder="folder of prism field, or empty: embed now",
        full_width=True,
    )
    step_mm = mo.ui.slider(6, 40, 2, value=16, label="lattice to embed, mm", show_value=True, debounce=True)
    show_fields = mo.ui.switch(value=arguments.get("fields") is not None, label="show the fields of two scans")
    what_of_fields = mo.ui.radio(["colours", "similarity"], value="colours", label="show", inline=True)
    return folder_of_fields, show_fields, step_mm, what_of_fields


@app.cell
def _(checked_scans, mo, shown_scan, views):
    scans_by_name, pair_of_scans = {}, None
    if views is not None:
        scans_by_name = checked_scans.scan_names(views.scans)
        at_first = [
            name for each in shown_scan.first_pair(views.scans) for name, scan in scans_by_name.items() if scan is each
        ]
        pair_of_scans = mo.ui.dictionary(
            {
                label: mo.ui.dropdown(list(scans_by_name), value=name, label=label)
                for label, name in zip(("scan", "beside"), at_first, strict=True)
            }
        )
    return pair_of_scans, scans_by_name


@app.cell
def _(PrismError, folder_of_fields, mo, pair_of_scans, scans_by_name, show_fields, shown_scan, step_mm, trained):
    fields, fields_problem = [], []
    if show_fields.value and pair_of_scans is not None:
        wanted_scans = [scans_by_name[name].record for name in dict.fromkeys(pair_of_scans.value.values()) if name]
        try:
            with mo.status.spinner("reading or embedding the fields", remove_on_exit=True):
                fields = shown_scan.shown_scans(
                    wanted_scans, folder_of_fields.value, trained.encoder, trained.config, step_mm.value
                )
        except PrismError as error:
            fields_problem = [mo.callout(mo.md(str(error)), kind="danger")]
    return fields, fields_problem


@app.cell
def _(fields, mo, shown_scan):
    get_place, set_place = mo.state(shown_scan.start_place(fields).tolist() if fields else None)
    return get_place, set_place


@app.cell
def _(fields, get_place, mo, set_place):
    place = None
    if fields:
        low, high = fields[0].reach_mm
        options = {"step": 1, "show_value": True, "debounce": True}
        place = mo.ui.dictionary(
            {
                axis: mo.ui.slider(low[n], high[n], value=round(get_place()[n]), label=f"{axis}, mm", **options)
                for n, axis in enumerate("RAS")
            },
            on_change=lambda at: set_place(list(at.values())),
        )
    return (place,)


@app.cell
def _(click_map, colours_of, fields, get_place, mo, set_place, what_of_fields):
    def _follow(selected):
        if (at := click_map.clicked_place(selected, fields[0])) is not None:
            set_place(at)

    field_map = None
    if fields:
        _rgb = colours_of(fields, get_place(), what_of_fields.value)
        field_map = mo.ui.altair_chart(
            click_map.click_map(fields[0], get_place(), _rgb), chart_selection=False, on_change=_follow
        )
    return (field_map,)


@app.cell
def _(
    draw_fields, field_map, fields, fields_problem, folder_of_fields, get_place, is_open, mo, pair_of_scans, place,
    show_fields, step_mm, views, what_of_fields,
):  # fmt: skip
    mo.stop(not is_open("Scans") or views is None)
    pictured = []
    if fields:
        fields_png, fields_said = draw_fields(fields, get_place(), what_of_fields.value)
        pictured = [
            mo.hstack([what_of_fields, *place.elements.values()], justify="start", wrap=True),
            mo.md(f"**{fields[0].name}: click on a place**"),
            field_map,
            mo.image(fields_png, alt=f"{what_of_fields.value} of the fields", width="100%"),
            mo.md("  \n".join(fields_said)),
        ]
    mo.vstack(
        [
            mo.md("### Fields of two scans"),
            mo.md(
                "The encoder at every point of a lattice. Equal colours are similar vectors, also in different scans; "
                "*similarity* compares one point of the first scan, chosen by a click or sliders, with all others."
            ),
            mo.hstack([show_fields, *pair_of_scans.elements.values(), step_mm], justify="start", wrap=True),
            folder_of_fields,
            *fields_problem,
            *pictured,
        ]
    )
    return


if __name__ == "__main__":
    app.run()
