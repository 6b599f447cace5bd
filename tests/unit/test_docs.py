"""What docs/ promises to cover, it covers: links, reasons, errors, alarms, options."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

from prism_ssl import errors
from prism_ssl.config.defaults import RECIPES, known_keys
from prism_ssl.config.defaults import phantom_cpu as phantoms
from prism_ssl.data.dicom.catalog_rows import COLUMNS
from prism_ssl.data.dicom.reasons import LeftOut
from prism_ssl.data.scan.reject_reasons import RejectReason
from prism_ssl.data.table.columns import OPTIONAL, REQUIRED
from prism_ssl.embed.field.places import NO_MASK, NO_POINT
from prism_ssl.embed.gpu_faults import EMBEDDING_FAILED
from prism_ssl.train.guards.alarm_rules import alarm_rules
from tests.conftest import REPOSITORY

DOCS = REPOSITORY / "docs"
PAGES = [*sorted(DOCS.glob("*.md")), REPOSITORY / "README.md"]


def links(text: str) -> list[str]:
    """Targets of links and pictures within the repository."""
    return [link for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link]


def anchors(text: str) -> set[str]:
    """Those that a forge gives to the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def broken_links(page: Path) -> list[str]:
    """Links of a page that lead nowhere."""
    broken = []
    for link in links(page.read_text()):
        path, _, anchor = link.partition("#")
        target = (page.parent / path) if path else page
        if not target.exists() or (anchor and anchor not in anchors(target.read_text())):
            broken.append(link)
    return broken


def page(name: str) -> str:
    return (DOCS / name).read_text()


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_every_link_leads_somewhere(path: Path) -> None:
    assert broken_links(path) == []


def test_a_link_that_leads_nowhere_is_seen(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text(
        "# One, two!\n[x](b.md) [y](#one-two) [z](#three) ![p](p.png) [w](https://example.org)"
    )
    assert broken_links(tmp_path / "a.md") == ["b.md", "#three", "p.png"]


def test_every_page_is_in_the_table_of_contents() -> None:
    assert set(links(page("README.md"))) == {path.name for path in DOCS.glob("*.md")} - {"README.md"}


def test_every_reason_of_preflight_has_an_answer() -> None:
    assert [reason for reason in RejectReason if f"`{reason}`" not in page("own-data.md")] == []
    for reason in (EMBEDDING_FAILED, NO_POINT, NO_MASK):
        assert f"`{reason}`" in page("take-away.md")


def test_every_column_of_the_catalogue_is_explained() -> None:
    assert [column for column in (*REQUIRED, *OPTIONAL) if f"| `{column}` |" not in page("own-data.md")] == []


def test_every_reason_and_column_of_an_import_is_explained() -> None:
    assert [reason for reason in LeftOut if f"`{reason}`" not in page("import.md")] == []
    assert [column for column in COLUMNS if f"`{column}`" not in page("import.md")] == []


def test_every_error_is_explained() -> None:
    names = [name for name, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, errors.PrismError)]
    assert [name for name in names if f"`{name}`" not in page("troubleshooting.md")] == []


def test_every_alarm_is_explained() -> None:
    text = page("diagnostics.md")
    kinds = {rule.name if rule.name in text else rule.name.partition("/")[0] + "/" for rule in alarm_rules(phantoms())}
    assert [kind for kind in kinds if f"`{kind}" not in text] == []


def test_every_recipe_and_every_setting_that_is_named_exists() -> None:
    settings = set(known_keys(phantoms()))
    sections = "|".join({key.partition(".")[0] for key in settings if "." in key})
    for path in PAGES:
        text = path.read_text()
        for section, name in re.findall(rf"(?:--|`)({sections})\.(?!json|py)([a-z0-9_-]+)", text):
            key = f"{section}.{name.replace('-', '_')}"
            plain = key.replace(".no_", ".")
            several = key.endswith("_") and any(known.startswith(key) for known in settings)
            assert several or {key, plain} & settings or f"{key}.py" in text, f"{path.name} names {key}"
    assert [name for name in RECIPES if f"`{name}`" not in page("glossary.md")] == []
