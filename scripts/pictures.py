"""Pictures for the documents, of a demo's run: the console by Chromium in docs/pictures, its model in docs/plots.

Usage: python -m scripts.pictures [CHROMIUM], by default the ``chromium`` on the PATH.
"""

from __future__ import annotations

import asyncio
import shutil
import sys
import tempfile
from pathlib import Path

from playwright.async_api import Page, async_playwright

from dovetail.app.looking.model_history import metrics_history, recent_reliability
from dovetail.app.reports import audit_all
from dovetail.app.reports.verdict_log import log_audit
from dovetail.app.worker import assemble
from dovetail.console.hosting import Console
from dovetail.console.pages.model_page import charts_of
from dovetail.demo.kept_run import project_of_run
from dovetail.demo.logs.simulator import SimulatorConfig, simulate
from dovetail.demo.run import run_demo
from dovetail.features import Project
from dovetail.platform.archive.writer import read_dataset
from dovetail.platform.clock import SystemClock
from dovetail.platform.config.served.console import ConsoleConfig
from dovetail.trainer.metrics.charts import Chart
from dovetail.trainer.metrics.plots import write_plots

DOCUMENTS = Path(__file__).resolve().parent.parent / "docs"
FOLDER = DOCUMENTS / "pictures"
PLOT = DOCUMENTS / "plots" / "demo-model.svg"
WIDTH, HEIGHT = 1000, 640
REQUESTS = 1_000


async def make_run(keep: Path) -> Project:
    """A run of the demo with some versions of the model, and its audit."""
    overrides = {"model": {"publish_every": 200}}
    await run_demo(simulate(SimulatorConfig(requests=REQUESTS)), keep, on_progress=lambda _: None, overrides=overrides)
    project = project_of_run(keep)
    worker = assemble(project)
    audited = audit_all(project, worker)
    log_audit(worker.stores.registry, SystemClock(), audited.result, audited.labels)
    worker.stores.close()
    return project


def pages_of(project: Project) -> dict[str, str]:
    """By name of a picture, the page on it: a request of the last ones whose user has events, down to a value."""
    worker = assemble(project)
    rows = read_dataset(worker.stores.registry, worker.stores.offline, "samples")
    worker.stores.close()
    ordered = rows.sort_by([("request_time", "descending")]).to_pylist()
    row = next(row for row in ordered if row["model_version"] and (row["user_events_log_7d"] or 0) > 1)
    request, item = row["request_id"], row["item_id"]
    return {
        "flow": "/flow",
        "lineage": "/lineage?through=feature:ranking:price_to_usual",
        "request": f"/sample?id={request}",
        "score": f"/candidate?id={request}&item={item}",
        "value": f"/value?id={request}&item={item}&feature=user_events_log_7d",
        "model": "/model",
        "trust": "/trust",
    }


def draw_model(project: Project, path: Path) -> None:
    """How the run's model did on each hour's samples before it was trained on them, and how true its scores were."""
    model = project.config.model
    assert model is not None
    worker = assemble(project)
    charts = [
        chart
        for chart in charts_of(metrics_history(worker.stores, model.name), model.loss)
        if chart.title.endswith("by time of the request") and "entropy" not in chart.title
    ]
    served = recent_reliability(worker.stores, model)
    worker.stores.close()
    if served is not None:
        charts.append(Chart("observed rate over mean score", [served[0]], diagonal=True))
    write_plots(path, "the demo's model, each sample predicted before it was trained on", charts)


async def take(page: Page, address: str, pages: dict[str, str]) -> None:
    """One picture of each page."""
    FOLDER.mkdir(exist_ok=True)
    for name, path in pages.items():
        await page.goto(f"{address.rstrip('/')}{path}")
        # Figures are closed when their chart is drawn.
        await page.locator("figure details[open]").first.wait_for(state="detached", timeout=120_000)
        await page.screenshot(path=FOLDER / f"{name}.png")


async def main(chromium: str) -> None:
    """Make the run, serve it, and take the pictures."""
    with tempfile.TemporaryDirectory(prefix="dovetail-pictures-") as folder:
        project = await make_run(Path(folder) / "run")
        pages = pages_of(project)
        draw_model(project, PLOT)
        console = Console(project, ConsoleConfig(port=0))

        async def watch() -> None:
            async with async_playwright() as playwright:
                browser = await playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
                page = await browser.new_page(viewport={"width": WIDTH, "height": HEIGHT}, color_scheme="light")
                await take(page, console.url, pages)
                await browser.close()

        try:
            await console.beside(watch)()
        finally:
            console.close()


if __name__ == "__main__":
    found = sys.argv[1] if len(sys.argv) > 1 else shutil.which("chromium")
    if found is None:
        sys.exit("there is no chromium on the PATH (Debian: apt-get install chromium); or name one: pictures.py PATH")
    asyncio.run(main(found))
