"""The console in a real browser: each page's structure, and the walk from a request's id to rows of the log."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

from dovetail.console.looked import Looked
from dovetail.demo.kept_run import project_of_run
from dovetail.platform.archive.writer import read_dataset
from tests.console.browsing import DESK, PHONE, Browsing, browsing
from tests.console.shown_run import with_looked

if TYPE_CHECKING:
    from playwright.async_api import Page

#: Pages without a request's id: their address, their heading, and the tables on them.
PAGES = {
    "/flow": ("Flow", ["stages"]),
    "/model": ("Model ranking", ["slices", "rankings", "windows", "versions", "weights"]),
    "/experiments": ("Experiments", []),
    "/trust": ("Trust", ["features", "equations", "checks", "audits", "consistencies"]),
    "/definitions": ("Definitions", ["definitions", "streams"]),
    "/definition?name=user_activity": ("user_activity", ["columns"]),
    "/lineage": ("Lineage of ranking", ["edges"]),
    "/sample": ("Sample", ["recent"]),
}


@pytest.fixture(scope="module")
def browser(run_folder: Path) -> Iterator[Browsing]:
    with browsing(project_of_run(run_folder)) as found:
        yield found


#: The blocks of a page that lie on one another, by their first words; rounded, for a border may be half a pixel.
_ON_TOP = """() => {
  const blocks = [...document.querySelectorAll("header, h1, h2, h3, main p, main dl, main .scroll, main pre")]
    .filter((block) => !block.closest("figure, details") && block.getClientRects().length)
    .map((block) => [block.textContent.trim().slice(0, 30), block.getBoundingClientRect()]);
  const on = (a, b) => Math.min(a.right, b.right) - Math.max(a.left, b.left) > 1
    && Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 1;
  return blocks.flatMap(([one, a], at) => blocks.slice(at + 1)
    .filter(([, b]) => on(a, b)).map(([other]) => `${one} | ${other}`));
}"""


async def look_over(page: Page) -> None:
    """See what holds of every page: a heading, tables with heads, nothing broader than the window, links with names.

    What is on it lies below one another, or beside, and nowhere on top.
    """
    assert await page.locator("h1").count() == 1
    assert await page.locator("main#main").count() == 1
    heads = await page.locator("table > thead > tr > th:first-child").count()
    assert await page.locator("table").count() == heads
    assert await page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    assert await page.locator("header nav a").count() >= 2
    assert await page.evaluate("[...document.querySelectorAll('a')].every((link) => link.textContent.trim())")
    assert await page.evaluate(_ON_TOP) == []


@pytest.mark.parametrize("path", PAGES)
def test_a_page_has_its_structure_at_both_widths_and_in_both_schemes(browser: Browsing, path: str) -> None:
    heading, tables = PAGES[path]

    async def look(page: Page) -> None:
        grounds = set()
        for dark in (False, True):
            await page.emulate_media(color_scheme="dark" if dark else "light")
            await page.goto(path)
            for size in (DESK, PHONE):
                await page.set_viewport_size(size)
                assert await page.locator("h1").inner_text() == heading
                for table in tables:
                    assert await page.locator(f"table#{table} tbody tr").count() > 0
                await look_over(page)
            grounds.add(await page.evaluate("getComputedStyle(document.documentElement).backgroundColor"))
        assert len(grounds) == 2

    browser.on_a_page(look)


class Told(NamedTuple):
    """A request that a published model answered for a user with events, an item of it, and the events of the log."""

    request: str
    item: str
    events: set[str]


def told_of(run_folder: Path) -> Told:
    async def look(looked: Looked) -> Told:
        read = partial(read_dataset, looked.stores.registry, looked.stores.offline)
        rows = read("samples").sort_by([("request_time", "descending")]).to_pylist()
        row = next(row for row in rows if row["model_version"] and row["user_events_log_7d"])
        events = read("behaviour")
        places = zip(*(events.column(name).to_pylist() for name in ("_partition", "_offset")), strict=True)
        names = {f"behaviour[{partition}]@{offset}" for partition, offset in places}
        return Told(row["request_id"], str(row["item_id"]), names)

    return with_looked(project_of_run(run_folder), look)


def test_from_a_requests_id_to_the_rows_of_the_log(browser: Browsing, run_folder: Path) -> None:
    """By keyboard to the request, by one click from its score to its values, by one more to the events."""
    told = told_of(run_folder)

    async def walk(page: Page) -> None:
        await page.goto("/")
        await page.keyboard.press("/")
        await page.keyboard.type(told.request)
        await page.keyboard.press("Enter")
        await page.wait_for_url(f"**/sample?id={told.request}")
        assert await page.locator("h1").inner_text() == f"Request {told.request}"
        await look_over(page)
        cell = page.get_by_role("cell", name=told.item, exact=True)
        score = page.locator("table#candidates tbody tr").filter(has=cell).locator("td.number a").first
        said = await score.inner_text()
        await score.click()
        await page.wait_for_url("**/candidate?*")
        assert await page.locator("h1").inner_text() == f"Item {told.item} of request {told.request}"
        assert await page.locator("dl.facts dd").first.inner_text() == said
        assert await page.locator("text=the score that was served, to the bit").count() == 1
        assert await page.locator("table#contributions tbody tr").count() > 20
        await look_over(page)
        value = page.locator("table#values tbody tr", has_text="user_events_log_7d").locator("td a").first
        await value.focus()
        await page.keyboard.press("Enter")
        await page.wait_for_url("**/value?*")
        assert (await page.locator("h1").inner_text()).startswith("user_events_log_7d = ")
        await look_over(page)
        shown = await page.locator("table.events tbody tr > td:first-child").all_inner_texts()
        counted = await page.locator("section p", has_text="seen").inner_text()
        assert counted.startswith(f"{len(shown)} event")
        assert len(set(shown)) == len(shown) > 0
        assert set(shown) <= told.events

    browser.on_a_page(walk)


def test_lineage_is_walked_by_keyboard(browser: Browsing) -> None:
    async def walk(page: Page) -> None:
        await page.goto("/lineage")
        whole = await page.locator("svg.lineage a").count()
        await page.locator("svg.lineage a", has_text="price_to_usual").first.focus()
        await page.keyboard.press("Enter")
        await page.wait_for_url("**through=*")
        assert 4 < await page.locator("svg.lineage a").count() < whole
        assert await page.locator("svg.lineage a.chosen").count() == 1
        await look_over(page)

    browser.on_a_page(walk)


def test_the_flow_is_read_again_by_itself_and_leads_to_its_table(browser: Browsing) -> None:
    async def walk(page: Page) -> None:
        await page.goto("/flow")
        await page.evaluate("document.querySelector('h1').textContent = 'before'")
        await page.get_by_role("heading", name="Flow", exact=True).wait_for()
        assert await page.locator("svg.flow rect").count() == 5 + 8
        await page.locator("svg.flow a", has_text="labels.click").focus()
        await page.keyboard.press("Enter")
        await page.wait_for_url("**/flow#labels.click")
        assert await page.locator("tr:target td").first.inner_text() == "labels.click"

    browser.on_a_page(walk)


def test_the_content_is_one_key_away(browser: Browsing) -> None:
    async def walk(page: Page) -> None:
        await page.goto("/definitions")
        await page.keyboard.press("Tab")
        assert await page.evaluate("document.activeElement.className") == "skip"
        await page.keyboard.press("Enter")
        assert await page.evaluate("document.activeElement.id") == "main"

    browser.on_a_page(walk)


def test_charts_are_drawn_by_vega_and_fit_page_and_scheme(browser: Browsing) -> None:
    """Without a script made of text, which the pages' policy refuses: a refusal would be said, and nothing is."""

    async def walk(page: Page) -> None:
        await page.goto("/model")
        charts = page.locator("figure[data-chart]")
        count = await charts.count()
        assert count == 13
        await page.locator(".drawing svg").nth(count - 1).wait_for()
        # Figures are closed when their chart is drawn.
        await page.locator("figure details[open]").first.wait_for(state="detached")
        for number in range(count):
            chart = charts.nth(number)
            assert await chart.locator("svg path[aria-roledescription='line mark']").count() >= 1
            assert await chart.locator("svg .role-axis text").count() >= 3
            assert await chart.locator(".drawing").get_attribute("aria-label") == (
                await chart.locator("figcaption").inner_text()
            )
        colours = set()
        for dark in (False, True):
            await page.emulate_media(color_scheme="dark" if dark else "light")
            colours.add(
                await page.evaluate("getComputedStyle(document.querySelector('svg [stroke=\"#0b6e4f\"]')).stroke")
            )
        assert len(colours) == 2
        await page.set_viewport_size(PHONE)
        while await page.locator(".drawing svg").first.evaluate("(drawing) => drawing.clientWidth") >= PHONE["width"]:
            pass
        await look_over(page)
        await charts.first.locator("summary").focus()
        await page.keyboard.press("Enter")
        assert await charts.first.locator("table.figures tbody tr").first.is_visible()

    browser.on_a_page(walk)


def test_without_scripts_the_figures_of_charts_are_read(browser: Browsing) -> None:
    async def walk(page: Page) -> None:
        await page.goto("/model")
        assert await page.locator(".drawing svg").count() == 0
        chart = page.locator("figure[data-chart]", has_text="log-loss, by time of the request")
        cells = await chart.locator("table.figures tbody tr").first.locator("td").all_inner_texts()
        newest = await page.locator("table#windows tbody tr").first.locator("td").all_inner_texts()
        assert await chart.locator("table.figures").is_visible()
        assert cells == [newest[0][5:16].replace("T", " "), newest[3]]

    browser.on_a_page(walk, scripts=False)
