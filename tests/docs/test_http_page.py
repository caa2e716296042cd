"""The page about the HTTP API: its calls are made as they stand, and its tables and examples say what there is."""

from __future__ import annotations

import json
import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

from dovetail.api.tokens import tokens_of
from dovetail.platform.config.served.api import ApiConfig
from tests.api.running import Running, on_a_worker
from tests.docs.demo_project import demo_project
from tests.places import ROOT

PAGE = (ROOT / "docs" / "http.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


def test_its_calls_are_answered_as_it_says(tmp_path: Path) -> None:
    (script,) = blocks("sh")
    words = shlex.split(script.replace("\\\n", ""))
    calls = [(words[at + 2], words[at + 3]) for at, word in enumerate(words) if word == "curl"]

    async def work(running: Running) -> tuple[list[Any], set[tuple[str, str]]]:
        answers = [
            (await running.post(url.removeprefix("http://127.0.0.1:8080"), json.loads(body))).json()
            for body, url in calls
        ]
        page = (await running.client.get("/v1/openapi.json")).json()
        return answers, {(method.upper(), path) for path, methods in page["paths"].items() for method in methods}

    (event, rank, label), routes = on_a_worker(demo_project(tmp_path), work, roles=("features", "snapshots", "labels"))
    assert event["accepted"] == label["accepted"] == 1
    said, sent = blocks("json")
    assert rank == json.loads(said)
    assert event.keys() == json.loads(sent).keys()
    table = re.findall(r"^\| `(GET|POST) (/\S+)`(?:, `(/\S+)`)? \|", PAGE, re.MULTILINE)
    told = {(method, path) for method, *paths in table for path in paths if path}
    names = {"/v1/events/behaviour": "/v1/events/STREAM"} | {
        f"/v1/labels/{kind}": "/v1/labels/KIND" for kind in ("exposure", "click", "conversion")
    }
    names |= {f"/v1/features/{view}": "/v1/features/VIEW" for view in ("user_activity", "item_stats")}
    general = {(method, names.get(path, path)) for method, path in routes}
    assert told == general


def test_its_settings_are_those_there_are(tmp_path: Path) -> None:
    settings = [tomllib.loads(block)["api"] for block in blocks("toml")]
    assert {name for block in settings for name in block} | {"reply_topic", "tokens_env"} == set(ApiConfig.model_fields)
    full = ApiConfig.model_validate(settings[-1])
    defaults = ApiConfig()
    assert [getattr(full, name) for name in ("max_body_bytes", "max_rows", "max_waiting", "timeout")] == [
        getattr(defaults, name) for name in ("max_body_bytes", "max_rows", "max_waiting", "timeout")
    ]
    (tokens,) = re.findall(r"```\n(# token.*?)```", PAGE, re.DOTALL)
    (tmp_path / "tokens").write_text(tokens)
    assert tokens_of(ApiConfig(tokens_file=tmp_path / "tokens"))
