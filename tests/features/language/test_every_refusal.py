"""Every place in the code that refuses a definition is met by one here, and says what, where and what to write.

So a refusal that is added without a definition that meets it fails this test.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from dovetail.features import load
from dovetail.platform.errors import DefinitionError
from tests.features.language.conftest import FILES as PROJECT
from tests.features.language.conftest import MODEL, TOML
from tests.features.language.refusing import view
from tests.features.language.test_refusals import STREAMING
from tests.features.language.test_refused_files import FILES
from tests.features.language.test_refused_selects import BATCH, CLEANED, FEATURE_SETS, OTHERS, UNITED

ROOT = Path(__file__).resolve().parents[3]
#: Where definitions are read.
ROOMS = ("features/dovetail/features/language", "features/dovetail/features/plan", "platform/dovetail/platform/rows")
#: Calls that make a refusal.
MAKERS = {"DefinitionError", "refuse", "wrong", "_wrong"}
#: By function, refusals of what DuckDB refuses of a text when it has taken its parts, or has parsed it before: none is
#: known that comes so far.
LAST_WORDS = {"_bind_whole", "_without_errors", "_one_value", "not_row_by_row"}

REKEYED = '[rekeyed.by_item]\nstream = "behaviour"\nkey = "item_id"\n'
ROWS = "PARTITION BY user_id ORDER BY event_time ROWS BETWEEN 3 PRECEDING AND CURRENT ROW"
COUNT = view("count(*) OVER w AS s")
CLICK = "[labels.streams.click]"
SPLIT = """[experiments.e]
by = "{}"
[experiments.e.arms.control]
share = 0.5
[experiments.e.arms.other]
share = 0.5
model = "models/other@7"
"""
SCENE = """[scenes.feed.request]
table = "{}"
feature_set = "ranking"
[scenes.feed.labels]
window = "1h"
"""


def scene(ids: str, table: str = "feed_request") -> dict[str, str | None]:
    """The project with a scene whose ``table`` declares requests with these ids."""
    columns = (
        f"request_id {ids} NOT NULL, request_time TIMESTAMP NOT NULL, candidates STRUCT(item_id BIGINT)[] NOT NULL"
    )
    return {"dovetail.toml": TOML + SCENE.format(table) + MODEL, "sql/x.sql": f"CREATE TABLE feed_request ({columns})"}


def enriched(*views: str) -> dict[str, str | None]:
    """The project's declarations with a re-keyed stream that is enriched from ``views``."""
    names = ", ".join(f'"{name}"' for name in views)
    section = f'[rekeyed.by_item]\nstream = "behaviour"\nkey = "item_id"\nenrich = [{names}]\n'
    return {"dovetail.toml": TOML + section + MODEL}


def table(columns: str) -> dict[str, str | None]:
    return {"sql/behaviour.sql": f"CREATE TABLE behaviour ({columns} user_id BIGINT, event_time TIMESTAMP NOT NULL)"}


#: Files of the project that others of the tables here do not have.
MORE: list[dict[str, str | None]] = [
    {"sql/item_profile.sql": "SELECT item_id, arg_max(category, score) AS c FROM items GROUP BY item_id"},
    {"sql/item_profile.sql": "SELECT item_id, max(score) AS _s FROM items GROUP BY item_id"},
    {"sql/x.sql": view("histogram_each(list(tags) OVER w) AS s", window=ROWS)},
    {"sql/x.sql": view("sum_each(max(tags) OVER w) AS s")},
    {"sql/x.sql": view("sum_each(list(tags) OVER w) AS s")},
    {"sql/x.sql": COUNT.replace("FROM behaviour", "FROM (behaviour JOIN items USING (item_id))")},
    {"sql/request.sql": str(PROJECT["sql/request.sql"]).replace("slot INTEGER", "_slot INTEGER")},
    {"sql/request.sql": str(PROJECT["sql/request.sql"]).replace("page INTEGER", '"user_activity.clicks_1h" INTEGER')},
    {"dovetail.toml": TOML + REKEYED + MODEL, "sql/x.sql": "CREATE TABLE by_item (item_id BIGINT)"},
    {"dovetail.toml": TOML + REKEYED.replace('"item_id"', '"tags"') + MODEL},
    enriched("nothing"),
    {**enriched("x"), "sql/x.sql": view("histogram(wide) OVER w AS s")},
    {**enriched("x"), "sql/x.sql": view("arg_max(wide, event_time, 2000) OVER w AS s")},
    {**enriched("x"), "sql/x.sql": view("count(*) OVER w AS shop")},
    {**enriched("x"), "sql/x.sql": COUNT.replace("user_id", "item_id")},
    {**enriched("x"), "sql/x.sql": COUNT.replace("behaviour", "(SELECT user_id, event_time FROM behaviour)")},
    {**enriched("x"), "sql/x.sql": "SELECT item_id::VARCHAR AS item_id, max(score) AS s FROM items GROUP BY 1"},
    {**enriched("x"), "sql/x.sql": COUNT.replace("behaviour", "by_item")},
    table("a DECIMAL(38,2),"),
    table("a BIGINT[3],"),
    table("a JSON,"),
    table("a,"),
    {"sql/x.sql": "CREATE TABLE y"},
    {"sql/x.sql": "SELECT 'open FROM items"},
    {"sql/x.sql": "SELECT item_id FROM items QUALIFY"},
    {"sql/x.sql": "SELECT FROM WHERE"},
    {
        "dovetail.toml": TOML.replace(CLICK, f'{CLICK}\nevent_id = "t"\nunique_within = "1h"'),
        "sql/labels.sql": str(PROJECT["sql/labels.sql"]).replace("TABLE click (", "TABLE click (t VARCHAR[], "),
    },
    {
        "dovetail.toml": TOML.replace(CLICK, f'{CLICK}\nvalues = {{ t = "first" }}'),
        "sql/labels.sql": str(PROJECT["sql/labels.sql"]).replace("TABLE click (", "TABLE click (t VARCHAR[], "),
    },
    {"dovetail.toml": TOML.replace('every = "6h"', 'every = "0s"') + MODEL},
    dict.fromkeys(PROJECT),
    {"dovetail.toml": TOML + MODEL + SPLIT.format("usr_id")},
    {"dovetail.toml": TOML + MODEL + SPLIT.format("tags")},
    {"sql/x.sql": str(PROJECT["sql/items.sql"]), "sql/items.sql": "SELECT item_id FROM items"},
    scene("BIGINT"),
    {**scene("VARCHAR", "click"), "sql/x.sql": None},
]  # fmt: skip


def definitions() -> list[dict[str, str | None]]:
    """Every definition that tests know to be refused, as files of a project."""
    found: list[dict[str, str | None]] = [{"sql/x.sql": sql} for sql, _ in [*STREAMING, *CLEANED, *UNITED, *BATCH]]
    found += [{**OTHERS, "sql/x.sql": sql} for sql, _ in FEATURE_SETS]
    found += [files for files, _ in FILES]
    return [*found, *MORE]


def makers() -> dict[tuple[str, int], tuple[int, str]]:
    """Where a refusal is made: file and line, with the line it ends at and the function it stands in."""
    found = {}
    for room in ROOMS:
        # The intake of messages has a function of such a name, too.
        for path in sorted(each for each in (ROOT / room).rglob("*.py") if each.name != "wire.py"):
            for function in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(function, ast.FunctionDef) and function.name not in MAKERS:
                    for node in ast.walk(function):
                        if isinstance(node, ast.Call) and _called(node) in MAKERS:
                            at = path.relative_to(ROOT).as_posix(), node.lineno
                            found[at] = node.end_lineno or node.lineno, function.name
    return found


def _called(node: ast.Call) -> str:
    return node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")


@pytest.fixture(scope="module")
def refusals(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[DefinitionError, set[tuple[str, int]]]]:
    """Each definition's refusal, and the lines of the code that made it."""
    made: list[tuple[DefinitionError, set[tuple[str, int]]]] = []
    lines: set[tuple[str, int]] = set()
    plain = DefinitionError.__init__

    def noted(error: DefinitionError, *args: Any, **more: Any) -> None:
        lines.update(_callers(sys._getframe(1)))
        plain(error, *args, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DefinitionError, "__init__", noted)
        for number, files in enumerate(definitions()):
            folder = tmp_path_factory.mktemp(f"project-{number}")
            (folder / "sql").mkdir()
            for name, text in {**PROJECT, "dovetail.toml": TOML + MODEL, **files}.items():
                if text is not None:
                    (folder / name).write_text(text, encoding="utf-8")
            patch.chdir(folder)
            lines.clear()
            try:
                load(".")
            except DefinitionError as error:
                made.append((error, set(lines)))
            else:
                pytest.fail(f"this is not refused: {files}")
    return made


def _callers(frame: FrameType | None) -> Iterator[tuple[str, int]]:
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        if path.is_relative_to(ROOT):
            yield path.relative_to(ROOT).as_posix(), frame.f_lineno
        frame = frame.f_back


def test_every_refusal_is_met_by_a_definition(refusals: list[tuple[DefinitionError, set[tuple[str, int]]]]) -> None:
    lines = {line for _, through in refusals for line in through}
    sites = makers()
    assert len(sites) > 100
    missed = {
        f"{file}:{start} in {function}"
        for (file, start), (end, function) in sites.items()
        if function not in LAST_WORDS and not any((file, line) in lines for line in range(start, end + 1))
    }
    assert not sorted(missed), "add a definition that is refused there to MORE"


#: What is no remedy, and what says how the code is made.
HOLLOW = re.compile(r"correct the (expression|statement)|sqlglot|TokenType|<class|what DuckDB's message asks for")


def test_every_refusal_says_what_and_where_and_what_to_write(
    refusals: list[tuple[DefinitionError, set[tuple[str, int]]]],
) -> None:
    for error, _ in refusals:
        said = f"{error.file}:{error.line}: {error.what}; {error.remedy}"
        assert str(error) == said
        assert error.line >= 1
        assert error.what.strip()
        assert len(error.remedy.split()) >= 2, said
        assert not HOLLOW.search(said), said
