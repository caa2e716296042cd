"""The page of experiments: arms as `dovetail experiment` measures them, and how the verdict came about."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest

from dovetail.app.experiments.arm_metrics import experiment_report, report_of
from dovetail.app.reports.verdict_log import kind_of_experiment, log_experiment
from dovetail.app.storage import open_stores
from dovetail.console.looked import Looked
from dovetail.console.pages import experiments_page as pages
from dovetail.console.pages.experiments_page import ShownExperiment, experiments_page
from dovetail.features import Project, load
from dovetail.platform.stores.registry.given_verdicts import Verdict
from dovetail.platform.testing import ManualClock
from dovetail.sdk import EmbeddedFlow
from tests.app.experiments.test_experiments import EXPERIMENT, USERS, declared, folder_with, made_samples
from tests.app.small_project import click, exposure, request
from tests.console.browsing import DESK, PHONE, Browsing, browsing
from tests.console.shown_run import on_the_console, with_looked
from tests.console.test_in_browser import look_over

if TYPE_CHECKING:
    from playwright.async_api import Page

ENDED = EXPERIMENT.replace("trial", "before").replace('"user_id"', '"user_id"\nactive = false')
HOSTILE = "<script>alert(1)</script>'\"{{ 7 * 7 }}"


@pytest.fixture(scope="module")
def tried(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """An experiment that eight users were in, with three reports of a larger one; and one that nobody has measured."""
    folder = folder_with(tmp_path_factory.mktemp("tried") / "project", ENDED + EXPERIMENT)
    with EmbeddedFlow(folder) as flow:
        flow.rank([request(f"r{user}", user, [1, 2], 10) for user in USERS])
        flow.send("exposure", [exposure(f"r{user}", item, 12) for user in USERS for item in (1, 2)])
        flow.send("click", [click(user, 1, 20) for user in USERS[:3]])
        flow.until_idle()
    project = load(folder)
    with closing(open_stores(project.config)) as stores:
        for number, users in enumerate((20, 400, 800)):
            report = report_of(made_samples(users, (0.1, 0.3)), "trial", declared())
            log_experiment(stores.registry, ManualClock(number * 3_600_000_000), report)
    return project


def shown(project: Project) -> list[ShownExperiment]:
    async def look(looked: Looked) -> list[ShownExperiment]:
        found: list[ShownExperiment] = experiments_page(looked)["experiments"]
        return found

    return with_looked(project, look)


def text_of(project: Project) -> str:
    async def look(client: httpx.AsyncClient) -> str:
        answer = await client.get("/experiments")
        assert answer.status_code == 200
        return answer.text

    return on_the_console(project, look)


def test_arms_are_measured_now_and_reports_told_from_the_newest_on(tried: Project) -> None:
    running, ended = shown(tried)
    assert (running.name, ended.name) == ("trial", "before")
    with closing(open_stores(tried.config, read_only=True)) as stores:
        expected = experiment_report(stores, "trial", tried.config.experiments["trial"])
    assert running.report == expected.to_json()
    assert sum(arm.users for arm in expected.arms) == len(USERS)
    assert running.at_us is None
    assert [given.holds for given in running.given] == [True, True, False]
    (chart,) = running.charts
    assert chart.title == "click rate of new less that of control"
    assert chart.lines == ["difference", "lower bound", "upper bound"]
    newest = next(d for d in running.given[0].report["differences"] if d["metric"] == "click_rate")
    assert chart.rows[0] == ("01-01 02:00", [newest["difference"], newest["low"], newest["high"]])
    assert chart.rows[-1][1][1:] == [None, None], "twenty users have no bounds"
    assert (ended.given, ended.charts) == ([], [])
    said = text_of(tried)
    assert "measured now" in said
    assert "too few users" in said
    assert said.index('id="trial"') < said.index('id="before"')


def test_many_samples_are_told_by_the_last_report(tried: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "_MEASURED", 0)
    running, ended = shown(tried)
    assert running.report == running.given[0].report
    assert running.at_us == 7_200_000_000
    assert ended.report is None
    said = text_of(tried)
    assert "measured at 1970-01-01 02:00:00" in said
    assert '<strong class="good">better</strong>' in said
    assert "nobody has measured them" in said


def test_names_in_a_report_are_shown_as_text(tried: Project, tmp_path: Path) -> None:
    """An arm that a report of another configuration had may have had any name."""
    shutil.copytree(tried.config.root, tmp_path / "project")
    project = load(tmp_path / "project")
    report = report_of(made_samples(400, (0.1, 0.3)), "trial", declared())
    text = json.dumps(report.to_json()).replace('"new"', json.dumps(HOSTILE))
    with closing(open_stores(project.config)) as stores:
        for at in (1, 2):
            stores.registry.add_verdict(Verdict(kind_of_experiment("before"), at, True, text))
    said = text_of(project)
    assert "&lt;script&gt;alert(1)" in said
    assert "<script>" not in said
    assert "{{ 7 * 7 }}" in said


@pytest.fixture(scope="module")
def browser(tried: Project) -> Iterator[Browsing]:
    with browsing(tried) as found:
        yield found


def test_the_page_has_its_structure_and_its_chart(browser: Browsing) -> None:
    async def look(page: Page) -> None:
        for dark in (False, True):
            await page.emulate_media(color_scheme="dark" if dark else "light")
            await page.goto("/experiments")
            for size in (DESK, PHONE):
                await page.set_viewport_size(size)
                assert await page.locator("h1").inner_text() == "Experiments"
                assert await page.locator("h2").all_inner_texts() == ["trial", "before"]
                assert await page.locator("table.arms tbody tr").count() == 4
                assert await page.locator("table.differences tbody tr").count() == 6
                assert await page.locator("table.given tbody tr").count() == 3
                await look_over(page)
        await page.locator(".drawing svg path[aria-roledescription='line mark']").first.wait_for(state="attached")
        assert await page.locator("figcaption").all_inner_texts() == ["click rate of new less that of control"]

    browser.on_a_page(look)
