"""The page of the HTTP API, made from the OpenAPI description of the project that ``dovetail init`` writes."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, cast

from prometheus_client import CollectorRegistry

from dovetail.api.application import Surroundings, application
from dovetail.api.gateway import Gateway
from dovetail.api.replies import ReplyStage
from dovetail.api.tokens import Tokens
from dovetail.app.worker import assemble
from dovetail.demo.shipped import minimal_folder
from dovetail.features import load
from dovetail.platform.clock import SystemClock
from scripts.site.tables import cell, code, table

__all__ = ["http_page", "openapi"]


@cache
def openapi() -> Mapping[str, Any]:
    """The OpenAPI description of the smallest project's API."""
    with tempfile.TemporaryDirectory(prefix="dovetail-reference-") as folder:
        shutil.copytree(minimal_folder(), folder, dirs_exist_ok=True)
        project = load(Path(folder), api={"port": 0})
        assert project.config.api is not None
        worker = assemble(project)
        try:
            replies = ReplyStage(project.config.api.reply_topic)
            gateway = Gateway(project, worker.stores, worker.runtime, replies, SystemClock())
            around = Surroundings(lambda: (True, {}), lambda: (True, {}), CollectorRegistry())
            return cast("Mapping[str, Any]", application(gateway, project.config.api, Tokens({}), around).openapi())
        finally:
            worker.stores.close()


def http_page() -> str:
    """The page, as Markdown."""
    described = openapi()
    parts = [
        "# HTTP",
        "",
        (
            "Made from the OpenAPI description of the project that `dovetail init --minimal` writes; yours has its own "
            "streams, labels and columns, at `/v1/openapi.json`. How the calls are made is on the page "
            "[The HTTP API](../docs/http.md)."
        ),
        "",
    ]
    for path, methods in described["paths"].items():
        for method, call in methods.items():
            parts += [f"## {method.upper()} {path}", "", str(call.get("description") or call.get("summary") or ""), ""]
            parts += _query(call)
            parts += _body(call, described)
            answers = [
                (code(status), cell(str(said.get("description", "")))) for status, said in call["responses"].items()
            ]
            parts += [table(("answer", "means"), answers)]
    return "\n".join(parts)


def _query(call: Mapping[str, Any]) -> Iterator[str]:
    given = call.get("parameters", [])
    if given:
        rows = [(code(each["name"]), each["in"], cell(str(each.get("description", "")))) for each in given]
        yield table(("parameter", "in", "meaning"), rows)


def _body(call: Mapping[str, Any], described: Mapping[str, Any]) -> Iterator[str]:
    content = call.get("requestBody", {}).get("content", {})
    if not content:
        return
    yield f"Body: {', '.join(code(kind) for kind in content)}.\n"
    row = _row(next(iter(content.values())).get("schema", {}), described)
    if row:
        needed = row.get("required", [])
        yield table(
            ("column", "type", ""),
            [
                (code(name), cell(_type(schema)), "required" if name in needed else "")
                for name, schema in row["properties"].items()
            ],
        )


def _row(schema: Mapping[str, Any], described: Mapping[str, Any]) -> Mapping[str, Any]:
    """The object in a body's schema: itself, or of a list of them or of alternatives."""
    if "$ref" in schema:
        found: Any = described
        for part in schema["$ref"].removeprefix("#/").split("/"):
            found = found[part]
        return _row(found, described)
    if "properties" in schema:
        return schema
    for below in [*schema.get("anyOf", []), *schema.get("oneOf", []), schema.get("items", {})]:
        if below and (row := _row(below, described)):
            return row
    return {}


def _type(schema: Mapping[str, Any]) -> str:
    kinds = schema.get("type") or [_type(each) for each in [*schema.get("anyOf", []), *schema.get("oneOf", [])]]
    kinds = [kinds] if isinstance(kinds, str) else kinds
    form = schema.get("format")
    return f"{' or '.join(kind for kind in kinds if kind != 'null')}{f' ({form})' if form else ''}"
