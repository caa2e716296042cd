"""The console's pages: what each shows, who may see it, what it escapes, and that it changes nothing."""

from __future__ import annotations

import asyncio
import html
import re
import sys
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

import httpx
import pytest

from dovetail.api.tokens import Scope, Tokens, tokens_of
from dovetail.app.reports.verdict_log import log_audit, log_consistency
from dovetail.console import vega_script
from dovetail.console.access import COOKIE
from dovetail.demo.kept_run import project_of_run
from dovetail.features import Project, load
from dovetail.features.batch.witness import Witnessed
from dovetail.features.stored.consistency import Consistency, FeatureConsistency, Mismatch
from dovetail.platform.config.served.console import ConsoleConfig
from dovetail.platform.errors import ConfigError
from dovetail.platform.rows.audit import Audit
from dovetail.platform.testing import ManualClock
from tests.app.small_project import TOML, Messages, at, exposure, live, request, stores_of, write_project
from tests.console.shown_run import contents, on_the_console

TOKEN = "a-token-of-this-console"
TOKENS = Tokens({TOKEN: frozenset({Scope.read}), "one-that-may-not-read": frozenset({Scope.send, Scope.rank})})
PAGES = [
    "/",
    "/flow",
    "/trust",
    "/model",
    "/experiments",
    "/definitions",
    "/definition?name=ranking",
    "/definition?name=user_activity",
    "/lineage",
    "/sample",
]


@pytest.fixture(scope="module")
def project(run_folder: Path) -> Project:
    return project_of_run(run_folder)


def links(text: str, path: str) -> list[str]:
    return [html.unescape(link) for link in re.findall(rf'href="({re.escape(path)}\?[^"]*)"', text)]


def test_every_page_is_there_and_looking_changes_nothing(project: Project, run_folder: Path) -> None:
    async def look(client: httpx.AsyncClient) -> None:
        texts = {page: await client.get(page) for page in PAGES}
        assert {page: answer.status_code for page, answer in texts.items()} == dict.fromkeys(PAGES, 200)
        assert "What a user did lately" in texts["/definition?name=user_activity"].text.replace("what a", "What a")
        assert "[experiments.NAME]" in texts["/experiments"].text, "how to declare one"
        asked = links(texts["/sample"].text, "/sample")[0]
        shown = await client.get(asked)
        assert shown.status_code == 200
        candidate = await client.get(links(shown.text, "/candidate")[0])
        assert candidate.status_code == 200
        values = links(candidate.text, "/value")
        assert len(values) == len(project.feature_set.columns) - 2
        for value in values:
            answer = await client.get(value)
            assert answer.status_code == 200, value

    before = contents(run_folder)
    on_the_console(project, look)
    assert contents(run_folder) == before


def test_what_is_not_there_is_said_so(project: Project) -> None:
    async def look(client: httpx.AsyncClient) -> None:
        for path, said in {
            "/sample?id=nobody": "no snapshot of a request 'nobody'",
            "/definition?name=nothing": "there is no definition 'nothing'; there are item_profile",
            "/definition": "needs the parameter name",
            "/lineage?set=nothing": "there is no feature set 'nothing'",
            "/lineage?through=nothing": "'nothing' is no column in the lineage",
            "/candidate?id=nobody&item=1": "had no candidate '1'",
            "/nothing": "there is no such page",
            "/static/nothing": "there is no such page",
        }.items():
            answer = await client.get(path)
            assert answer.status_code == 404, path
            assert said in html.unescape(answer.text), path
        for path in ("/definitions", "/sample"):
            for method in ("POST", "PUT", "DELETE", "PATCH"):
                assert (await client.request(method, path)).status_code == 405

    on_the_console(project, look)


def test_an_item_that_was_no_candidate_is_said_to_be_none(project: Project) -> None:
    async def look(client: httpx.AsyncClient) -> None:
        asked = links((await client.get("/sample")).text, "/sample")[0]
        (item,) = re.findall(r"item=([^&]*)", links((await client.get(asked)).text, "/candidate")[0])
        for chosen, there in ((item, True), ("no-such-item", False)):
            answer = await client.get(f"{asked}/{chosen}")
            assert answer.status_code == 200
            assert (f"Item {chosen} was no candidate of this request" in answer.text) is not there
            assert ('class="chosen"' in answer.text) is there

    on_the_console(project, look)


def test_every_answer_keeps_the_browser_to_this_page(project: Project) -> None:
    async def look(client: httpx.AsyncClient) -> None:
        for path in ("/", "/nothing", "/login", "/static/console.js", "/static/console.css"):
            answer = await client.get(path)
            assert "default-src 'none'" in answer.headers["content-security-policy"]
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert "<script>" not in answer.text
            assert not re.search(r"(https?:)?//[a-z]", answer.text.split("</head>")[0]), (
                "nothing is loaded from elsewhere"
            )

    on_the_console(project, look)


def test_the_script_of_charts_is_made_once_for_all_who_ask_and_kept_by_the_browser(project: Project) -> None:
    async def look(client: httpx.AsyncClient) -> None:
        first, second = await asyncio.gather(*(client.get("/static/vega.js") for _ in range(2)))
        plain = await client.get("/static/vega.js", headers={"Accept-Encoding": "identity"})
        assert first.status_code == 200
        assert first.headers["content-encoding"] == "gzip"
        assert "content-encoding" not in plain.headers
        assert first.content == second.content == plain.content
        assert "immutable" in first.headers["cache-control"]
        assert "default-src 'none'" in first.headers["content-security-policy"]
        assert b"vegaEmbed" in plain.content

    on_the_console(project, look)


@pytest.mark.parametrize(("at_most_s", "why"), [(60, ": exit code 1"), (0, " within 0 s")])
def test_a_script_that_cannot_be_made_is_tried_again(
    project: Project, monkeypatch: pytest.MonkeyPatch, at_most_s: float, why: str
) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    monkeypatch.setattr(vega_script, "_AT_MOST_S", at_most_s)

    async def look(client: httpx.AsyncClient) -> None:
        for _ in range(2):
            answer = await client.get("/static/vega.js")
            assert (answer.status_code, answer.text) == (503, f"the script that draws charts was not made{why}")
        assert "<details open>" in (await client.get("/model")).text

    on_the_console(project, look)


def test_with_tokens_whoever_has_none_sees_the_login_alone(project: Project) -> None:
    async def look(client: httpx.AsyncClient) -> None:
        for path in [*PAGES, "/sample?id=x", "/nothing", "/static/vega.js"]:
            answer = await client.get(path)
            assert (answer.status_code, answer.headers["location"]) == (303, "/login"), path
        for token in ("wrong", "one-that-may-not-read", ""):
            assert (await client.get("/", headers={"Authorization": f"Bearer {token}"})).status_code == 401
            refused = await client.post("/login", content=f"token={token}")
            assert refused.status_code == 401
            assert "set-cookie" not in refused.headers
        assert (await client.get("/", headers={"Authorization": f"Bearer {TOKEN}"})).status_code == 200
        assert (await client.post("/login", content="token=" + "x" * 10_000)).status_code == 413
        assert (await client.post("/login", content=b"\xff")).status_code == 401
        taken = await client.post("/login", content=f"token={quote(TOKEN)}")
        assert (taken.status_code, taken.headers["location"]) == (303, "/")
        cookie = taken.headers["set-cookie"]
        assert cookie.startswith(f"{COOKIE}={TOKEN};")
        assert "HttpOnly" in cookie
        assert "SameSite=strict" in cookie
        assert (await client.get("/definitions")).status_code == 200  # the client keeps cookies

    on_the_console(project, look, tokens=TOKENS, host="console.internal")


def test_without_tokens_another_site_cannot_read_through_a_name_of_its_own(project: Project) -> None:
    async def look(client: httpx.AsyncClient) -> None:
        for host in ("127.0.0.1:8090", "localhost", "[::1]:8090", "LOCALHOST:1"):
            assert (await client.get("/definitions", headers={"Host": host})).status_code == 200, host
        for host in ("evil.example:8090", "localhost.evil.example", ""):
            assert (await client.get("/definitions", headers={"Host": host})).status_code == 421, host

    on_the_console(project, look)


def test_where_others_can_reach_it_it_needs_tokens() -> None:
    with pytest.raises(ConfigError, match=r"console.host '0.0.0.0' can be reached .* console.tokens_file"):
        tokens_of(ConsoleConfig(host="0.0.0.0"))


HOSTILE = "<script>alert(1)</script>\"'/&amp;{{ 7 * 7 }}"
COMMENT = "-- <img src=x onerror=alert(2)> {% raw %}\n"


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Project:
    folder = tmp_path_factory.mktemp("hostile") / "project"
    messages: Messages = {
        "behaviour": [{"user_id": HOSTILE, "event_time": at(1)}],
        "requests": [request(HOSTILE, HOSTILE, [1, 2], 10)],
        "exposure": [exposure(HOSTILE, 1, 12), b"<script>alert(3)</script>"],
        "click": [],
    }
    write_project(folder, TOML, messages)
    view = folder / "sql" / "activity.sql"
    view.write_text(COMMENT + view.read_text())
    for roles in (
        ("features",),
        ("snapshots", "labels", "samples", "archive"),
    ):  # the event is there before the request
        asyncio.run(live(folder, roles=roles))
    with closing(stores_of(folder)) as stores:
        said = Mismatch(HOSTILE, HOSTILE, "2024-01-01 00:00:00", HOSTILE, HOSTILE, sql=HOSTILE)
        found = Consistency((FeatureConsistency("events", 2, 1, 0, [said]),))
        log_consistency(stores.registry, ManualClock(1), found, Witnessed(1, 1, 1, examples=[HOSTILE]))
        log_audit(stores.registry, ManualClock(2), Audit([], [], [HOSTILE]))
    return load(folder)


def test_hostile_ids_comments_and_values_are_shown_as_text(hostile: Project) -> None:
    async def look(client: httpx.AsyncClient) -> None:
        asked = await client.get("/sample")
        (of_request,) = links(asked.text, "/sample")
        shown = await client.get(of_request)
        assert shown.status_code == 200
        candidate = await client.get(links(shown.text, "/candidate")[0])
        value = await client.get(links(candidate.text, "/value")[0])
        assert "1 event seen" in value.text
        definition = await client.get("/definition?name=activity")
        flow = await client.get("/flow")
        assert "&lt;script&gt;alert(3)&lt;/script&gt;" in flow.text, "the dead letter"
        trust = await client.get("/trust")
        assert "FAILS" in trust.text
        assert "The project has none" in (await client.get("/model")).text
        missing = await client.get("/sample", params={"id": f"{HOSTILE}?"})
        assert missing.status_code == 404
        for answer in (asked, shown, candidate, value, definition, flow, trust, missing):
            inside = re.sub(r'<script src="/static/(console|charts)\.js" defer></script>', "", answer.text)
            assert "<script" not in inside
            assert "<img" not in inside
            assert "49" not in re.findall(r"<h1>(.*?)</h1>", inside, re.DOTALL)[0]
        assert html.escape(HOSTILE, quote=False).replace('"', "&#34;").replace("'", "&#39;") in shown.text
        assert "&lt;img src=x onerror=alert(2)&gt;" in definition.text

    on_the_console(hostile, look)
