"""The notebooks in a real browser, as scripts, and as static pages."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from playwright.sync_api import Browser, Locator, Page, Route, ViewportSize, expect, sync_playwright

from prism_ssl.config.defaults import apply_overrides
from prism_ssl.config.schema import DataConfig
from prism_ssl.data.catalog import load_records
from prism_ssl.records.run_files import write_json
from prism_ssl.train.checkpoint import Checkpoint, rng_state, save_checkpoint
from prism_ssl.train.learner import Learner
from tests.conftest import REPOSITORY
from tests.support.broken_files import BrokenKind, write_broken
from tests.support.sweep_records import settings_of, track_run, write_run, write_sweep
from tests.support.wandb_server import WandbServer
from tune.core24 import design_points

pytestmark = pytest.mark.slow

EXPLORE, INSPECT = (REPOSITORY / "notebooks" / name for name in ("explore_runs.py", "inspect_views.py"))
CHROMIUM_FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
PATIENCE_MS = 120_000
VIEWPORT: ViewportSize = {"width": 1500, "height": 1000}
_FIRST_BELOW = """(canvases, top) => {
    const below = canvases.filter(each => each.getBoundingClientRect().top > top);
    below.sort((a, b) => a.getBoundingClientRect().top - b.getBoundingClientRect().top);
    return below.length ? below[0].toDataURL() : "";
}"""
HEADINGS = {
    "Ranking": (
        "Runs, best first", "Recommended baseline", "Best configurations", "Quality", "Main effects of the factors"
    ),
    "Losses": ("Losses over time", "Alarms"),
    "Throughput and stalls": ("Rates and step times", "Rates over time"),
    "Failures": ("Runs that did not end ok", "Replacements and failures"),
    "Representation": ("Held-out measures", "Diagnostics over time"),
    "Scans": ("Encoder and scans",),
    "One run": ("What is wrong with it", "What it measured on held-out scans", "Its losses", "Its alarms"),
}  # fmt: skip
"""Tab -> its headings."""
READY = HEADINGS["Ranking"][-1]
WIDTHS_PX = (1440, 1024)
_TOO_WIDE = """(canvases) => canvases.filter(canvas => {
    for (let box = canvas.parentElement; box; box = box.parentElement)
        if (canvas.getBoundingClientRect().right > box.getBoundingClientRect().right + 1
            && getComputedStyle(box).overflowX != "visible") return true;
    return canvas.getBoundingClientRect().right > innerWidth;
}).length"""
"""How many charts reach beyond the window, or beyond a box that cuts them off."""
_RIGHT_ENDS = """(canvases) => canvases.flatMap(canvas => {
    const right = canvas.getBoundingClientRect().right, boxes = [];
    for (let box = canvas.parentElement; box; box = box.parentElement)
        if (right > box.getBoundingClientRect().right + 1 && getComputedStyle(box).overflowX != "visible")
            boxes.push([Math.round(right), Math.round(box.getBoundingClientRect().right), box.className]);
    return boxes;
})"""
"""Of charts that are cut off: where they end, where their boxes end, and the boxes' classes."""


# ---------------------------------------------------------------------- what is looked at
@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory, phantom_catalog: Path) -> Path:
    """A folder of runs with one sweep of 24; the first that ended ok has a checkpoint of a tiny encoder."""
    runs = tmp_path_factory.mktemp("runs")
    write_sweep(runs / "sweep")
    point = design_points("half")[4]
    small = {"model.preset": "tiny", "data.n_patches": 16, "data.catalog_path": str(phantom_catalog)}
    config = apply_overrides(settings_of(point, runs / "sweep"), small)
    folder = runs / "sweep" / point.name
    write_json(folder / "config.json", config.to_dict())
    save_checkpoint(folder, Checkpoint(1000, Learner(config, torch.device("cpu")).state(), [], rng_state(), "x"))
    return runs


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory, phantom_catalog: Path) -> Path:
    """A catalogue of phantoms and one broken file."""
    root = tmp_path_factory.mktemp("archive")
    write_broken(root / "broken", BrokenKind.TRUNCATED_GZIP)
    sound = pl.read_csv(phantom_catalog).head(4)
    absolute = pl.format(f"{phantom_catalog.parent}/{{}}", "series_path").alias("series_path")
    broken = pl.DataFrame({"pmbb_id": ["PX"], "modality": ["CT"], "series_path": ["broken"]})
    table = pl.concat([sound.with_columns(absolute).select(broken.columns), broken])
    table.write_csv(root / "catalog.csv")
    return root / "catalog.csv"


# ---------------------------------------------------------------------- the browser
@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no Chromium on this machine: the notebooks are not tried in a browser")
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=chromium, args=CHROMIUM_FLAGS)
        yield running
        running.close()


@dataclass
class Notebook:
    """A page that shows a served notebook; ``outside`` are the addresses beyond this machine that it asked for."""

    page: Page
    outside: list[str] = field(default_factory=list)

    def keep_in(self, route: Route) -> None:
        if "//127.0.0.1:" in route.request.url or route.request.url.startswith(("data:", "blob:")):
            route.continue_()
        else:
            self.outside.append(route.request.url)
            route.abort()

    def heading(self, text: str) -> None:
        """Wait for it."""
        expect(self.page.get_by_role("heading", name=text, exact=True)).to_be_visible(timeout=PATIENCE_MS)

    def open(self, tab: str) -> None:
        """Click on a tab and wait for all that it shows, and for nothing of another tab."""
        self.page.get_by_role("tab", name=tab, exact=True).click()
        for heading in HEADINGS[tab]:
            self.heading(heading)
        for other in HEADINGS.keys() - {tab}:
            expect(self.page.get_by_role("heading", name=HEADINGS[other][0], exact=True)).to_have_count(0)

    def select(self, *runs: str) -> None:
        """Tick runs in the table of the ranking."""
        for run in runs:
            self.page.get_by_role("row").filter(has_text=run).get_by_role("checkbox").first.click()

    def assert_drawn(self, *runs: str) -> None:
        """These runs and no other are named above the tabs."""
        names = self.page.get_by_text("Drawn in all tabs").locator("span").filter(has_text=re.compile("."))
        expect(names).to_have_text(list(runs), timeout=PATIENCE_MS)

    def assert_fits(self) -> None:
        """No chart is cut off at its right, in a wide window and in a narrow one."""
        for width in WIDTHS_PX:
            self.page.set_viewport_size({"width": width, "height": 1000})
            give_up = time.monotonic() + PATIENCE_MS / 1000
            while self.page.locator("canvas").evaluate_all(_TOO_WIDE):  # charts are drawn anew for the new width
                where = self.page.locator("canvas").evaluate_all(_RIGHT_ENDS)
                assert time.monotonic() < give_up, f"a chart is cut off at {width} px: {where}"
                self.page.wait_for_timeout(300)
        self.page.set_viewport_size(VIEWPORT)

    def image(self, name: str) -> Locator:
        """Wait for it."""
        picture = self.page.get_by_role("img", name=name)
        expect(picture).to_be_visible(timeout=PATIENCE_MS)
        return picture

    def text(self, text: str) -> None:
        """Wait for it, anywhere."""
        expect(self.page.get_by_text(text).filter(visible=True).first).to_be_visible(timeout=PATIENCE_MS)

    def choose(self, control: str, option: str) -> None:
        """Tick an option of a multiple choice."""
        self.page.get_by_role("button", name=control, exact=True).first.click()
        self.page.get_by_role("option", name=option, exact=True).first.click()
        self.page.keyboard.press("Escape")

    def chart(self, heading: str) -> str:
        """The first chart below a heading, as an image, once it no longer changes."""
        image, before, give_up = "", "-", time.monotonic() + PATIENCE_MS / 1000
        while not image or image != before:
            assert time.monotonic() < give_up, f"no chart below {heading!r}"
            self.page.wait_for_timeout(300)
            below = self.page.get_by_role("heading", name=heading, exact=True).bounding_box()
            assert below is not None
            before, image = image, self.page.locator("canvas").evaluate_all(_FIRST_BELOW, below["y"])
        return image

    def right_mm_of_a_click(self, heading: str, share: float) -> float:
        """Click on the chart below a heading, at a share of its width and as far above its lower edge as the middle of
        the first of three planes; returns R of the point that is asked for then."""
        self.chart(heading)  # a click on a chart that is about to be drawn anew is lost
        before = self.page.get_by_text("asked: R").inner_text()
        top = self.page.get_by_role("heading", name=heading, exact=True).bounding_box()
        assert top is not None
        boxes = [(chart, box) for chart in self.page.locator("canvas").all() if (box := chart.bounding_box())]
        chart, box = min((pair for pair in boxes if pair[1]["y"] > top["y"]), key=lambda pair: pair[1]["y"])
        chart.click(position={"x": share * box["width"], "y": box["height"] - 0.17 * box["width"]})
        expect(self.page.get_by_text("asked: R")).not_to_have_text(before, timeout=PATIENCE_MS)
        found = re.search(r"asked: R (-?\d+)", self.page.get_by_text("asked: R").inner_text())
        assert found is not None
        return float(found[1])

    @contextmanager
    def redrawing(self, heading: str) -> Iterator[None]:
        """What is done within changes the first chart below the heading."""
        before = self.chart(heading)
        yield
        give_up = time.monotonic() + PATIENCE_MS / 1000
        while self.chart(heading) == before:
            assert time.monotonic() < give_up, f"the chart below {heading!r} is as before"

    def assert_sound(self) -> None:
        """No cell has failed, no chart neither, and nothing was asked of the internet."""
        expect(self.page.get_by_text("Traceback")).to_have_count(0)
        expect(self.page.locator(".marimo-error")).to_have_count(0)
        expect(self.page.get_by_text("An internal error occurred")).to_have_count(0)
        assert self.outside == []


@contextmanager
def served(
    browser: Browser, notebook: Path, *arguments: object, ready: str, account: bool = False
) -> Iterator[Notebook]:
    """The notebook as ``marimo run`` serves it, once a heading is there."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "marimo", "run", "--headless", "--no-token", "--port", str(port), str(notebook)]
    command += ["--", *map(str, arguments)]
    env = dict(os.environ) if account else environment()
    server = subprocess.Popen(command, cwd=REPOSITORY, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    page = browser.new_page(viewport=VIEWPORT)
    try:
        wait_for(f"http://127.0.0.1:{port}/health", server)
        shown = Notebook(page)
        page.route("**/*", shown.keep_in)
        page.goto(f"http://127.0.0.1:{port}")
        shown.heading(ready)
        yield shown
    finally:
        if folder := os.environ.get("PRISM_SCREENSHOTS"):
            page.screenshot(path=Path(folder) / f"{notebook.stem}.png")
        page.close()
        server.terminate()
        server.wait(timeout=30)


def environment() -> dict[str, str]:
    """Without an account, whatever the machine has."""
    keep = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    return keep | {"PYTHONPATH": str(REPOSITORY), "NETRC": "/nonexistent"}


def wait_for(address: str, server: subprocess.Popen[bytes]) -> None:
    give_up = time.monotonic() + 180
    while True:
        try:
            urllib.request.urlopen(address, timeout=5).close()
        except OSError:
            assert server.poll() is None, "the notebook's server has ended"
            assert time.monotonic() < give_up, f"{address} does not answer"
            time.sleep(0.1)
        else:
            return


def test_every_tab_of_a_sweep_shows_what_it_should(browser: Browser, sweep: Path) -> None:
    of_tab = {
        "Ranking": ("prism train core24-base", "failed: ReplacementFailed"),
        "Losses": ("at_chance/rotation", "too short to judge"),
        "Throughput and stalls": ("scans opening",),
        "Failures": ("truncated_gzip", "no cause was recorded; it may have been killed"),
        "Representation": ("RankMe", "uniformity", "same place", "modality kNN", "random weights", "pixel statistics"),
        "Scans": ("Turn on the switch to load a checkpoint.",),
        "One run": ("Alarm at_chance/rotation since step 500", "is no better than random weights"),
    }
    with served(browser, EXPLORE, "--runs", sweep, ready=READY) as shown:
        shown.text("24 runs: 21 ok, 1 failed, 1 running, 1 unfinished")
        for tab, texts in of_tab.items():
            shown.open(tab)
            if tab == "Ranking":
                shown.page.get_by_placeholder("Search").first.fill("failed")
            for text in texts:
                shown.text(text)
            if tab not in ("Scans", "Ranking"):
                shown.chart(HEADINGS[tab][0])
            shown.assert_sound()
            shown.assert_fits()


def test_runs_are_selected_once_and_all_tabs_follow(browser: Browser, sweep: Path) -> None:
    best = [point.name for point in design_points("half") if (point.batch_size, point.w_supcon_target) == (64, 0.4)]
    with served(browser, EXPLORE, "--runs", sweep, ready=READY) as shown:
        first, second = best[0], best[-1]
        shown.select(second)
        shown.assert_drawn(second)
        shown.open("One run")
        shown.heading(second)
        with shown.redrawing("Its losses"):
            shown.open("Ranking")
            shown.select(first, second)
            shown.assert_drawn(first)
            shown.open("One run")
            shown.heading(first)
        shown.open("Representation")
        expect(shown.page.get_by_role("cell", name=first)).to_be_visible(timeout=PATIENCE_MS)
        expect(shown.page.get_by_role("cell", name=second)).to_have_count(0)
        # The tab and the selection stay as they are while another filter hides other runs.
        shown.choose("objective", "classification" if "-cla" in first else "regression")
        shown.text("12 hidden by the filters")
        expect(shown.page.get_by_role("tab", name="Representation")).to_have_attribute("aria-selected", "true")
        shown.assert_drawn(first)
        shown.assert_sound()


def test_filters_and_forms_of_losses_redraw(browser: Browser, sweep: Path) -> None:
    with served(browser, EXPLORE, "--runs", sweep, ready=READY) as shown:
        with shown.redrawing("Quality"):
            shown.choose("objective", "classification")
        shown.text("12 runs: 11 ok, 1 running")
        shown.text("(12 hidden by the filters)")
        shown.open("Losses")
        with shown.redrawing("Losses over time"):
            shown.page.get_by_role("radio", name="relative to chance").click()
        shown.open("Failures")
        shown.open("Losses")
        expect(shown.page.get_by_role("radio", name="relative to chance")).to_be_checked(timeout=PATIENCE_MS)
        shown.page.get_by_role("radio", name="Weights & Biases").first.click()
        shown.text("no W&B key was found; set WANDB_API_KEY, or read the run folders of this machine instead")
        shown.text("no runs")
        for tab in HEADINGS.keys() - {"One run"}:
            shown.open(tab)
            shown.assert_sound()


def test_damaged_lines_of_a_history_are_told(browser: Browser, tmp_path: Path) -> None:
    folder = write_run(tmp_path, design_points("half")[5])
    history = folder / "history.jsonl"
    lines = history.read_bytes().splitlines(keepends=True)
    history.write_bytes(b"".join([*lines[:4], lines[4][:50] + b"\n", b"\0" * 30 + b"\n", *lines[5:], lines[5][:40]]))
    words = f"2 of {len(lines) + 1} lines of history.jsonl cannot be read and are left out."
    with served(browser, EXPLORE, "--runs", tmp_path, "--tab", "One", ready=HEADINGS["One run"][0]) as shown:
        shown.heading(folder.name)
        expect(shown.page.get_by_text(words)).to_have_count(2, timeout=PATIENCE_MS)  # above the tabs, and on the page
        shown.assert_sound()


def test_a_tracked_sweep_is_explored_first_where_there_is_an_account(
    browser: Browser, wandb_server: WandbServer, tmp_path: Path
) -> None:
    for number, point in enumerate(design_points("half")):
        track_run(tmp_path / "sweep", point, *(("failed", "PoolActorDied: killed") if number == 5 else ("ok",)))
    with served(browser, EXPLORE, ready=READY, account=True) as shown:
        shown.text("24 runs: 23 ok, 1 failed")
        shown.text("prism train core24-base")
        for tab in HEADINGS:
            shown.open(tab)
            shown.assert_sound()
        shown.open("Ranking")
        with shown.redrawing("Quality"):
            shown.choose("objective", "regression")
        shown.text("(12 hidden by the filters)")
        shown.open("Losses")
        with shown.redrawing("Losses over time"):
            shown.page.get_by_role("radio", name="relative to chance").click()
        shown.assert_sound()


def test_more_settings_filter_too(browser: Browser, sweep: Path) -> None:
    with served(browser, EXPLORE, "--runs", sweep, ready=READY) as shown:
        shown.choose("more settings to filter by", "train.batch_size")
        shown.choose("train.batch_size", "64")
        shown.text("12 runs: 12 ok")
        shown.choose("status", "failed")
        shown.text("no runs")
        shown.text("No run that ended ok has a measured proxy quality yet")
        shown.assert_sound()


def write_embeddings(file: Path, catalog: Path) -> Path:
    """A table as of ``prism embed``, of random vectors."""
    records = list(load_records(DataConfig(catalog_path=str(catalog)), 0).records)
    table = pl.DataFrame(records).select("scan_id", "subject_id", "modality")
    vectors = np.random.default_rng(0).normal(size=(len(records), 8))
    table.with_columns(pl.Series("embedding", vectors, dtype=pl.Array(pl.Float32, 8))).write_parquet(file)
    return file


def test_an_encoder_is_looked_at_on_local_scans(
    browser: Browser, sweep: Path, phantom_catalog: Path, tmp_path: Path
) -> None:
    run, table = design_points("half")[4].name, write_embeddings(tmp_path / "e.parquet", phantom_catalog)
    arguments = ("--runs", sweep, "--encoder", run, "--n-scans", 3, "--tab", "Scans", "--index", table)
    with served(browser, EXPLORE, *arguments, ready=HEADINGS["Scans"][0]) as shown:
        shown.page.get_by_text("load the checkpoint and embed the scans").scroll_into_view_if_needed()
        shown.page.get_by_role("switch").click()
        shown.text("last.ckpt, step 1,000: 12 views of 3 scans")
        shown.heading("View 0 and its nearest neighbours")
        with shown.redrawing("Encoder and scans"):
            shown.page.get_by_role("radio", name="organ").click()
        shown.heading("The prisms of views 0 (a) and 1 (b) in their scan")
        assert shown.page.get_by_role("img", name="nearest neighbours").bounding_box() is not None
        shown.assert_fits()
        shown.heading("What a table holds that is similar to view 0")
        shown.image("matches of the table")
        shown.page.get_by_role("switch").last.click()
        shown.image("colours of the fields")
        shown.page.get_by_role("radio", name="similarity").click()
        picture = shown.image("similarity of the fields")
        shown.text("most similar: ")
        before = picture.get_attribute("src")
        shown.page.get_by_role("slider").last.focus()
        shown.page.keyboard.press("PageDown")
        expect(picture).not_to_have_attribute("src", before or "", timeout=PATIENCE_MS)
        asked = [shown.right_mm_of_a_click("Fields of two scans", share) for share in (0.12, 0.2)]
        assert asked[0] > asked[1] + 10  # the patient's right is on the left of the axial plane
        shown.open("Losses")
        expect(shown.page.get_by_role("img", name="nearest neighbours")).to_have_count(0)
        shown.open("Scans")
        shown.heading("View 0 and its nearest neighbours")
        shown.assert_sound()


def test_views_are_inspected_and_moved(browser: Browser, archive: Path) -> None:
    with served(browser, INSPECT, "--catalog", archive, ready="Refused scans, and why") as shown:
        page = shown.page
        shown.text("4 scans can be used, 1 refused")
        shown.text("truncated_gzip")
        shown.heading("Targets of the pair")
        shown.text("As training draws it.")
        picture = page.get_by_role("img", name="the pair in its scan")
        before = picture.get_attribute("src")
        slider = page.get_by_role("slider").nth(1)
        slider.focus()
        for _ in range(5):
            page.keyboard.press("ArrowRight")
        shown.text("View b is moved by hand.")
        expect(picture).not_to_have_attribute("src", before or "", timeout=PATIENCE_MS)
        shown.assert_sound()


@pytest.mark.parametrize("form", ["script", "html"])
def test_explore_runs_without_a_browser(form: str, sweep: Path, tmp_path: Path) -> None:
    arguments = ["--runs", str(sweep), "--embed", "--encoder", design_points("half")[4].name, "--n-scans", "2"]
    page = without_a_browser(form, EXPLORE, arguments, tmp_path)
    assert form == "script" or all(heading in page for of_tab in HEADINGS.values() for heading in of_tab)
    assert form == "script" or "View 0 and its nearest neighbours" in page


@pytest.mark.parametrize("form", ["script", "html"])
def test_inspect_views_without_a_browser(form: str, archive: Path, tmp_path: Path) -> None:
    page = without_a_browser(form, INSPECT, ["--catalog", str(archive)], tmp_path)
    assert form == "script" or ("truncated_gzip" in page and "As training draws it." in page)


def without_a_browser(form: str, notebook: Path, arguments: list[str], folder: Path) -> str:
    """The notebook as a script, or exported; the exported page."""
    page = folder / "page.html"
    if form == "script":
        command = [sys.executable, str(notebook), *arguments]
    else:
        command = [sys.executable, "-m", "marimo", "export", "html", str(notebook), "-o", str(page), "--", *arguments]
    ended = subprocess.run(
        command, cwd=folder, env=environment(), capture_output=True, text=True, timeout=300, check=False
    )
    assert ended.returncode == 0, ended.stderr
    assert "Warning" not in ended.stderr
    return page.read_text() if page.exists() else ""
