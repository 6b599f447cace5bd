"""Explore, rank and look inside the runs of a sweep.

marimo run notebooks/explore_runs.py                      # the newest runs of this machine
marimo run notebooks/explore_runs.py -- --runs FOLDER     # others; also --entity, --project, --catalog
"""

import marimo

app = marimo.App(width="full", app_title="PRISM SSL: explore runs")


@app.cell
def _():
    import marimo as mo
    import polars as pl

    from prism_ssl.errors import PrismError
    from prism_ssl.explore import alarm_view, curves, ranking_view, session, throughput_view
    from prism_ssl.explore.local_runs import run_collections
    from prism_ssl.explore.runs import LOCAL, matching
    from prism_ssl.explore.tracked_runs import account_found

    return (
        LOCAL, PrismError, account_found, alarm_view, curves, matching, mo, pl, ranking_view, run_collections, session,
        throughput_view,
    )  # fmt: skip


@app.cell
def _(mo, run_collections, session):
    arguments = mo.cli_args()
    runs_root = session.default_root(arguments.get("runs"))
    folders = {f"{found.folder.name} ({found.runs} runs)": str(found.folder) for found in run_collections(runs_root)}
    return arguments, folders, runs_root


@app.cell
def _(account_found, arguments, folders, mo):
    here, there = "this machine", "Weights & Biases"
    asked_for_wandb = bool(arguments.get("project"))
    source = mo.ui.radio([here, there], value=there if asked_for_wandb else here, label="**Runs from**", inline=True)
    folder = mo.ui.dropdown(folders, value=next(iter(folders), None), label="folder", full_width=True)
    entity = mo.ui.text(arguments.get("entity") or "", label="entity", placeholder="your default", full_width=True)
    project = mo.ui.text(arguments.get("project") or "prism-ssl", label="project", full_width=True)
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
    problem = mo.callout(mo.md(said), kind="danger") if said else None
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
            mo.md("### Filters\nnothing chosen: everything is shown"),
            mo.vstack([*filters.elements.values(), keys, *settings.elements.values()]),
        ],
        width="340px",
    )
    return


@app.cell
def _(filters, matching, scored, session, settings):
    shown = matching(scored, session.chosen_filters(filters.value | settings.value))
    return (shown,)


@app.cell
def _(mo, problem, scored, session, shown):
    hidden = scored.height - shown.height
    mo.vstack(
        [
            mo.md("# Runs"),
            problem,
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
        label="Best first: proxy quality on held-out scans, then throughput. Choose runs to draw their curves.",
    )
    table
    return (table,)


@app.cell
def _(mo, ranking_view, shown):
    command, how_sure = ranking_view.recommendation(shown)
    mo.vstack(
        [
            mo.md("## Recommended baseline"),
            mo.md(f"```bash\n{command}\n```\n{how_sure}" if command else how_sure),
        ]
    )
    return


@app.cell
def _(mo, ranking_view, shown):
    mo.vstack(
        [
            mo.md("## Quality"),
            mo.md(
                "Proxy quality (0 to 1) is measured on held-out scans, the same views for every run: recall of the "
                "same series, sign skill, and LiDAR. The bars are 95 % intervals over series."
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
                "How far a level lies from its factor's mean, the other factors held. An interval that holds 0 "
                "(dashed) is no evidence."
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
def _(alarm_view, curves, drawn, history, mo, quantity):
    spans = alarm_view.alarm_spans(history)
    mo.vstack(
        [
            mo.md("## Diagnostics and alarms"),
            quantity,
            curves.diagnostic_curves(history, drawn, quantity.value),
            mo.md("### Alarms"),
            alarm_view.alarm_chart(spans, drawn),
            mo.ui.table(spans, selection=None, show_column_summaries=False, show_data_types=False)
            if spans.height
            else None,
        ]
    )
    return


@app.cell
def _(curves, drawn, history, mo, shown, throughput_view):
    mo.vstack(
        [
            mo.md("## Throughput and stalls"),
            mo.md(
                "A step of 2 s or more is a stall and counts as one lost step, one of 10 s or more as five. *Waits "
                "most for*: scans opening (slow storage, too small a pool), sampling (too few actors), transport "
                "(object store)."
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


if __name__ == "__main__":
    app.run()
