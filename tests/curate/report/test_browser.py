"""The page in headless Chromium: no error, no request; it sorts, filters and opens, and shows names as text."""

import math
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from ambient.curate.report.page import report
from ambient.schemas.manifest import METADATA_KEY, read_metadata
from ambient.train.sampler import Sampler
from hostile_pool import HOSTILE, SCRIPT, write_hostile_pool
from manifests import rows, write
from small_pool import write_pool

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
NONE = "\N{EN DASH}"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium: apt-get install chromium")

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_hostile_pool(tmp_path_factory.mktemp("hostile"))


@pytest.fixture(scope="module")
def file(manifest: Path) -> Path:
    return report(manifest, manifest.with_name("report.html"))


@pytest.fixture(scope="module")
def browser() -> "Iterator[Browser]":
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM)
        yield browser
        browser.close()


class Opened:
    """A page and what went wrong in it: console messages, errors, and requests for anything but itself."""

    def __init__(self, browser: "Browser", file: Path, **options: object) -> None:
        self.page = browser.new_page(**{"viewport": {"width": 1400, "height": 900}, **options})
        self.faults: list[str] = []
        self.page.on("console", lambda message: self.faults.append(f"{message.type}: {message.text}"))
        self.page.on("pageerror", lambda error: self.faults.append(f"error: {error}"))
        self.page.on("dialog", lambda dialog: self.faults.append(f"dialog: {dialog.message}"))
        own = file.as_uri()
        self.page.on(
            "request", lambda request: request.url.startswith((own, "data:")) or self.faults.append(request.url)
        )
        self.page.goto(own)

    def close(self) -> None:
        assert self.faults == []
        assert self.page.evaluate("window.hacked") is None
        self.page.close()


@pytest.fixture
def page(browser: "Browser", file: Path) -> "Iterator[Page]":
    opened = Opened(browser, file)
    yield opened.page
    opened.close()


def column(page: "Page", table: str, number: int) -> list[str]:
    return page.locator(f"#{table} tbody tr > :nth-child({number})").all_inner_texts()


def numbers(texts: list[str]) -> list[float]:
    return [math.inf if text == "∞" else float(text.replace(",", "").rstrip(" \u00d7")) for text in texts]


def test_the_policy_holds(browser: "Browser", file: Path) -> None:
    """A picture from elsewhere is refused; those of the page are all its own, and decoded."""
    opened = Opened(browser, file)
    blocked = opened.page.evaluate(
        """() => new Promise((done) => {
            document.addEventListener("securitypolicyviolation", (event) => done(event.effectiveDirective));
            document.createElement("img").src = "file:///tmp/none.png";
        })"""
    )
    assert blocked == "img-src"
    assert opened.faults
    assert all("none.png" in fault for fault in opened.faults)
    opened.faults.clear()
    assert opened.page.locator("script").count() == 2
    sources = opened.page.eval_on_selector_all("img", "all => all.map((i) => [i.src.slice(0, 11), i.naturalWidth])")
    assert sources
    assert {tuple(source) for source in sources} == {("data:image/", 16)}
    opened.close()


def test_hostile_names_are_shown_as_text(page: "Page") -> None:
    assert SCRIPT.replace("/", "\u2215") in column(page, "trust-table", 1)
    page.get_by_label("Sort by").select_option("uri")
    shown = []
    for gallery in range(page.get_by_label("Show").locator("option").count()):
        page.get_by_label("Show").select_option(str(gallery))
        shown += page.locator("#cards .file").all_inner_texts()
    written = {"right\u202e": "right\\u202e", "new\n": "new\\n", "line\u2028": "line\\u2028"}
    for name in HOSTILE:
        for unseen, text in written.items():
            name = name.replace(unseen, text)
        assert any(text.endswith(name) for text in shown), name
    assert SCRIPT in page.locator("#status-table").inner_text()
    assert SCRIPT in page.locator("#command").inner_text()


def test_tables_sort_both_ways(page: "Page") -> None:
    head = page.locator("#trust-table thead th")
    median = head.filter(has_text="Median")
    number = head.all_inner_texts().index(median.inner_text()) + 1
    for direction in ("descending", "ascending"):
        median.get_by_role("button").click()
        assert median.get_attribute("aria-sort") == direction
        shown = column(page, "trust-table", number)
        found = numbers([text for text in shown if text != NONE])
        assert found == sorted(found, reverse=direction == "descending")
        assert len(set(found)) >= 2
        assert shown[len(found) :] == [NONE] * (len(shown) - len(found))  # the clean set has none
    page.locator("#trust-table th").filter(has_text="Source").get_by_role("button").press("Enter")
    assert column(page, "trust-table", 1) == sorted(column(page, "trust-table", 1), key=str.lower)


def test_pictures_are_filtered_and_sorted(page: "Page", manifest: Path) -> None:
    cards = page.locator("#cards .card")
    everything = cards.count()
    assert page.locator("#gallery-count").inner_text() == f"{everything} pictures"
    page.locator("#source").select_option(label="soft")
    soft = cards.count()
    assert 0 < soft < everything
    assert all(text.startswith("soft/") for text in page.locator("#cards .file").all_inner_texts())
    assert page.locator("#gallery-count").inner_text() == f"{soft} of {everything} pictures"
    page.get_by_label("Sort by").select_option("-sigma_min")
    values = [float(text.split()[-1]) for text in page.locator("#cards .value").all_inner_texts()]
    assert values == sorted(values, reverse=True)
    page.locator("#source").select_option(label="all")
    captions = {row["uri"]: row["caption"] or "" for row in pq.read_table(manifest).to_pylist()}
    page.get_by_label("Find").fill("HACKED = 4")
    found = page.locator("#cards .file").all_inner_texts()
    assert found
    assert all("hacked = 4" in captions[uri.replace("\\u2028", "\u2028").replace("\\n", "\n")] for uri in found)
    page.get_by_label("Find").fill("no such thing")
    assert cards.count() == 0
    assert page.locator("#gallery-count").inner_text() == f"0 of {everything} pictures"


def test_a_click_shows_row_and_curve_and_the_keyboard_walks(page: "Page", manifest: Path) -> None:
    expect = playwright.expect  # waits: the page answers a key or a click a moment later
    dialog, cards = page.locator("dialog"), page.locator("#cards .card")
    names = page.locator("#cards .file").all_inner_texts()
    cards.nth(1).click()
    expect(dialog).to_be_visible()
    expect(page.locator("#detail-name")).to_have_text(names[1])
    row = next(r for r in pq.read_table(manifest).to_pylist() if r["uri"] == names[1])
    text = page.locator("#detail-body").inner_text()
    assert row["id"] in text
    level = re.search(r"Used above noise level ([\d.]+\d)", text)
    assert float(level[1]) == pytest.approx(row["sigma_min"] * 2 / math.sqrt(3), rel=0.02)
    assert page.locator("#detail-body img").count() == 3
    assert page.locator("#detail-body svg circle").count() == 48
    page.keyboard.press("ArrowRight")
    expect(page.locator("#detail-name")).to_have_text(names[2])
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    expect(page.locator("#detail-name")).to_have_text(names[0])
    expect(page.get_by_role("button", name="Previous picture")).to_be_disabled()
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    expect(page.locator("#cards button").first).to_be_focused()
    page.keyboard.press("Enter")
    expect(dialog).to_be_visible()
    page.get_by_role("button", name="Close").click()
    expect(dialog).to_be_hidden()


def test_the_level_slider_reads_the_coverage(page: "Page", manifest: Path) -> None:
    slider = page.get_by_label("Noise level", exact=True)
    slider.focus()
    page.keyboard.press("Home")
    table = pq.read_table(manifest).to_pylist()
    usable = sum(row["status"] == "ok" and row["sigma_min"] * 2 / math.sqrt(3) < 0.01 for row in table)
    assert f"{usable} usable" in page.locator("#level-says").inner_text()
    page.keyboard.press("End")
    finite = sum(row["status"] == "ok" and row["sigma_min"] < 60 for row in table)
    assert f"at 80.0: {finite} usable" in page.locator("#level-says").inner_text()


@pytest.mark.parametrize("told", [False, True])
def test_draws_per_picture_are_what_the_sampler_draws(
    browser: "Browser", manifest: Path, tmp_path: Path, told: bool
) -> None:
    """Also where the manifest tells how much comes from outside the clean set."""
    table, metadata = pq.read_table(manifest), read_metadata(manifest)
    if told:
        metadata = replace(metadata, pool_share=np.linspace(0.05, 0.7, len(metadata.sigma_grid)).tolist())
    path = tmp_path / "m.parquet"
    pq.write_table(table.replace_schema_metadata({METADATA_KEY: metadata.to_bytes()}), path)
    opened = Opened(browser, report(path, tmp_path / "report.html"))
    rows, page = [row for row in table.to_pylist() if row["status"] == "ok"], opened.page
    low, high = (torch.tensor([r[name] for r in rows], dtype=torch.float64) for name in ("sigma_min", "sigma_max"))
    shares = torch.tensor([metadata.sigma_grid, metadata.pool_share]) if told else None
    clean = torch.tensor([row["role"] == "clean" for row in rows])
    sampler = Sampler(low, high, P_mean=-0.5, P_std=1.0, clean=clean, pool_share=shares)
    drawn, _ = sampler.draw(torch.arange(200_000))
    times = np.bincount(drawn.numpy(), minlength=len(rows))
    page.get_by_label("Pictures drawn").fill("200000")
    page.get_by_label("P_mean").fill("-0.5")
    page.get_by_label("P_std").fill("1")
    for by in ("source", "label"):
        page.locator("#by").select_option(label=by)
        for name, shown in zip(column(page, "use-table", 1), numbers(column(page, "use-table", 4)), strict=True):
            mine = np.array([str(row[by]) == name for row in rows])
            assert shown == pytest.approx(times[mine].mean(), rel=0.05), name
    opened.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone(browser: "Browser", file: Path, scheme: str) -> None:
    opened = Opened(browser, file, viewport={"width": 390, "height": 844}, color_scheme=scheme, has_touch=True)
    page = opened.page
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    red = page.evaluate("parseInt(getComputedStyle(document.body).backgroundColor.match(/\\d+/)[0])")
    assert (red > 200) == (scheme == "light")
    page.locator("#cards .card").first.tap()
    box = page.locator("dialog").bounding_box()
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= 390
    small = page.locator(".tick").evaluate_all(
        "texts => Math.min(...texts.map((t) => t.getBoundingClientRect().height))"
    )
    assert small > 10
    opened.close()


def test_print_leaves_the_controls_out(page: "Page") -> None:
    page.emulate_media(media="print", color_scheme="dark")
    assert not page.locator("nav").is_visible()
    assert not page.get_by_label("Sort by").is_visible()
    assert page.locator("#coverage-chart svg").is_visible()
    assert page.evaluate("getComputedStyle(document.body).color") == "rgb(0, 0, 0)"


def test_everything_that_can_be_used_has_a_name(page: "Page") -> None:
    page.locator("#cards .card").first.click()
    unnamed = page.evaluate(
        """() => [...document.querySelectorAll("button, input, select, img, svg, [role=img]")]
            .filter((e) => !(e.getAttribute("aria-label") || e.labels?.length || e.alt || e.textContent.trim()))
            .map((e) => e.outerHTML.slice(0, 80))"""
    )
    assert unnamed == []


@pytest.mark.parametrize("kind", ["fixed", "unusable", "empty", "one", "never"])
def test_manifests_with_little_in_them(browser: "Browser", tmp_path: Path, kind: str) -> None:
    none = {"sigma_min": None, "sigma_max": None, "p_clean": None}
    manifest = (
        write_pool(tmp_path)
        if kind == "fixed"
        else write(
            tmp_path / "m.parquet",
            {
                "unusable": rows(3, status="unreadable", reason="gone", **none),
                "empty": rows(0),
                "one": rows(1, label=7, sigma_max=0.05),
                "never": rows(4, sigma_min=math.inf, sigma_min_hi=math.inf),
            }[kind],
        )
    )
    opened = Opened(browser, report(manifest, tmp_path / "report.html"))
    said = {
        "fixed": "Half of the 8 usable pictures outside the clean set can be trained on from noise level 0.58 up.",
        "unusable": "No picture outside the clean set can be used.",
        "empty": "No picture outside the clean set can be used.",
        "one": "Half of the 1 usable pictures outside the clean set can be trained on from noise level 1.15 up.",
        "never": "Noise cannot fix more than half of the 4 usable pictures outside the clean set.",
    }
    assert opened.page.locator("#lead").inner_text() == said[kind]
    assert opened.page.locator("#facts dd").count() == 9
    opened.close()


def test_a_pool_that_is_gone(browser: "Browser", manifest: Path, tmp_path: Path) -> None:
    file = report(manifest, tmp_path / "gone.html", roots={"pool": str(tmp_path / "<b>nowhere</b>")})
    opened = Opened(browser, file)
    notices = opened.page.locator("#notices").inner_text()
    assert "<b>nowhere</b> any more" in notices
    assert "--root pool=/new/place" in notices
    assert opened.page.locator("img").count() == 0
    opened.page.locator("#cards .card").first.click()
    assert "No such file" in opened.page.locator("#detail-body").inner_text()
    opened.close()
