"""Every place that refuses a setting is met by one here, and says where it stands, what is wrong and what to write.

So a refusal that is added without a setting that meets it fails this test. Settings that nobody has thought of, and
files that are no TOML, are refused as well, or taken.
"""

from __future__ import annotations

import ast
import math
import re
import tomllib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from dovetail.platform.config.load import Config, load_config
from dovetail.platform.errors import ConfigError
from tests.generated import tries

ROOT = Path(__file__).resolve().parents[3]
ROOM = ROOT / "platform/dovetail/platform/config"

MINIMAL = """\
[streams.behaviour]
key = "user_id"
[labels]
window = "30m"
[labels.streams.exposure]
[labels.streams.click]
"""
MODEL = '[model]\ninputs = [{ column = "a" }]\n'
LABELS, CLICK = "[labels]\n", "[labels.streams.click]\n"
ARMS = (
    '[experiments.e]\nby = "u"\n[experiments.e.arms.a]\nshare = {}\n[experiments.e.arms.b]\nshare = 0.5\nmodel = "{}"\n'
)
FEED = '[scenes.feed.request]\nfeature_set = "feed"\n[scenes.feed.labels]\nwindow = "1h"\n'
ASKED_TOPICS = ("topic", "snapshots_topic")
FEED_MODEL = '[scenes.feed.model]\ninputs = [{ column = "a" }]\n'


def more(text: str) -> str:
    return MINIMAL + text


def within(section: str, text: str) -> str:
    return MINIMAL.replace(section, section + text)


#: By file, the settings that its checks refuse.
REFUSED = [
    more('[worker.gather]\narchive = "1m"\n'),
    more('[worker]\nstop_timeout = "1ms"\n'),
    more('[worker]\nheartbeat = "1h"\n'),
    more('[worker]\nwatchdog_timeout = "1s"\n'),
    more('[redis]\npassword_env = "A"\npassword_file = "b"\n'),
    more('[redis]\nkey = "k.pem"\n'),
    more('[broker]\nuser = "u"\n'),
    more('[broker]\npassword_env = "A"\n'),
    more('[broker]\nca_file = "c.pem"\n'),
    more('[broker]\ntls = true\nkey_file = "k.pem"\n'),
    more('[broker.retention]\nsnapshots = "1m"\n'),
    more('[rekeyed.behaviour]\nstream = "behaviour"\nkey = "k"\n'),
    more('[rekeyed.again]\nstream = "other"\nkey = "k"\n'),
    more('[rekeyed.again]\nstream = "behaviour"\nkey = "k"\nenrich = ["v", "v"]\n'),
    more('[request]\ntopic = "click"\n'),
    more(f'{MODEL}label = "amount"\nabsent_label = "skip"\n'),
    within(LABELS, 'corrections = "1h"\n').replace(CLICK, f'{CLICK}values = {{ n = "sum" }}\n')
    + f'{MODEL}label = "click_n"\nabsent_label = "skip"\nloss = "squared"\n',
    more(f'{MODEL}loss = "squared"\ngate = {{ min_auc = 0.5 }}\n'),
    more(f'{MODEL}evaluation = {{ holdout = 0.1, slices = ["holdout"] }}\n'),
    more(f'{MODEL}absent_label = "zero"\n'),
    more(f'{MODEL}label = "amount"\n'),
    more(f"{MODEL}[trainer]\nstaleness = -1\n"),
    more(f"{MODEL}[trainer]\nbatch_rows = 5\n"),
    more("[trainer]\nshards = 2\n"),
    more(f"{MODEL}[trainer]\nshards = 2\nworkers = 2\n"),
    more(f"{MODEL}[trainer]\nshards = 2\ncompensation = 0.1\n"),
    more(f'{MODEL}slots = {{ admit_after = 2 }}\n[trainer]\nshards = 2\nby = "samples"\n'),
    more(FEED.replace("feed", "made")),
    more(FEED + FEED.replace("scenes.feed", "scenes.Feed")),
    *(more(FEED.replace("[scenes.feed.labels]\n", f'{key} = ""\n[scenes.feed.labels]\n')) for key in ASKED_TOPICS),
    more(f'{FEED}samples_topic = ""\n'),
    more(f'{FEED}[labels.targets.feed]\nwindow = "1h"\nsamples_topic = "other"\n'),
    within(CLICK, 'attribute = "latest_request"\n') + FEED,
    more(f'{FEED}positive = "like"\n'),
    within(CLICK, 'retracts = "exposure"\n') + f'{FEED}corrections = "1h"\n',
    more(f"{MODEL}[trainer]\nshards = 2\n{FEED}{FEED_MODEL}"),
    more(f"{MODEL}{FEED}{FEED_MODEL}"),
    more(f'{FEED}{FEED_MODEL}label = "amount"\nabsent_label = "skip"\n'),
    more(f'{FEED}[scenes.feed.labels.targets.x]\nwindow = "1h"\n'),
    more('[scorer]\nonnx = "m.onnx"\ngate = { max_mae = 1.0 }\n'),
    within(LABELS, 'emit_after = ["1m"]\n'),
    within(LABELS, 'positive = "exposure"\n'),
    MINIMAL.replace("30m", "0s"),
    within(LABELS, 'policy = "fast_emit"\n'),
    within(LABELS, 'policy = "return_days"\n'),
    within(LABELS, 'policy = "return_days"\ndays = [3, 1]\n'),
    within(LABELS, 'positive = "buy"\n'),
    within(CLICK, 'values = { time = "last" }\n'),
    within(CLICK, 'retracts = "clik"\n'),
    within(CLICK, 'retracts = "click"\n'),
    within(LABELS, 'corrections = "1h"\n') + '[labels.streams.undo]\nretracts = "click"\n',
    within(CLICK, 'event_id = "id"\n'),
    within(CLICK, 'attribute_within = "1h"\n'),
    MINIMAL.replace("30m", "30"),
    MINIMAL.replace("30m", "100001d"),
    more('[quality]\nwebhook = "ftp://h"\n'),
    more('[quality]\nwindow = "1s"\n'),
    more("[quality]\nwarmup = 9\n"),
    more('[quality]\nwebhook = "http://h"\nwebhook_env = "A"\n'),
    more('[openlineage]\nurl = "ftp://h"\n'),
    more('[openlineage]\nfile = "f"\nurl_env = "A"\n'),
    more('[api]\ntimeout = "0s"\n'),
    more('[api]\ncert_file = "c.pem"\n'),
    more('[console]\ntokens_file = "t"\ntokens_env = "A"\n'),
    more(ARMS.format(0.5, "@x")),
    more(ARMS.format(0.25, "serving")),
    more(ARMS.format(0.5, "serving") + ARMS.format(0.5, "serving").replace("experiments.e", "experiments.f")),
    more('[storage]\nstate = "a\\u0000b"\n'),
    more(f"{MODEL}optimizer = {{ alpha = inf }}\n"),
    more(f"{MODEL}publish_every = 99999999999999999999\n"),
    more("[request]\npartitions = true\n"),
    more('[request]\nunique_candidates = "true"\n'),
    more('[storage]\nstate = ""\n'),
    *(more(f'[request]\ntopic = "{topic}"\n') for topic in ("", "a b", "é", "..", "a" * 250)),
    more('[request]\nreply_topics = ["a/b"]\n'),
    within(CLICK, 'topic = "a:b"\n'),
]
#: Settings that the types of the sections refuse, one by one, and files that are read as no sections.
OTHERS = [
    "[labels",
    more(f"{MODEL}gate = {{ min_auc = 1.5 }}\n"),
    more(f"{MODEL}gate = {{ max_calibration = -1 }}\n"),
    more('[tables.one]\npath = ""\n'),
    more('[console]\nhost = ""\n'),
    "a = " + "[" * 5_000,
    f"a = {'9' * 5_000}",
    "",
    "labels = 3",
    more("[request]\npartitions = 0\n"),
    more("[request]\npartitions = true\npartition = 1\n").replace("true", '"x"'),
    more('[request]\nfeature_set = "a b"\n'),
    more('[labels.targets.t]\nwindow = "1h"\npolicy = "late"\n'),
    more('[quality]\nwebhook_timeout = "1d"\n'),
    more("[model]\ninputs = []\n"),
    MINIMAL.replace("streams.behaviour", 'streams."be haviour"'),
    MINIMAL.replace('key = "user_id"', ""),
]
#: What a refusal ends with: what to do, or the keys to choose from.
REMEDY = re.compile(r"(write|give|add|remove|set|make|use|name|run|did you mean|known keys:) ?\S")


def lines_of(folder: Path, text: str) -> tuple[ConfigError, list[str]]:
    (folder / "dovetail.toml").write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as raised:
        load_config(folder)
    return raised.value, str(raised.value).splitlines()


def raised_at(error: BaseException | None) -> Iterator[tuple[str, int]]:
    """Files and lines of the checks that pydantic was told by."""
    if isinstance(error, ValidationError):
        for problem in error.errors():
            found = problem.get("ctx", {}).get("error")
            trace: TracebackType | None = getattr(found, "__traceback__", None)
            while trace is not None:
                yield trace.tb_frame.f_code.co_filename, trace.tb_lineno
                trace = trace.tb_next


def checks() -> dict[tuple[str, int], int]:
    """Where a setting is refused by a check of ours: file and line, with the line it ends at."""
    return {
        (str(path), node.lineno): node.end_lineno or node.lineno
        for path in ROOM.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and ast.unparse(node.exc.func) == "ValueError"
    }


def test_every_check_is_met_by_a_setting(tmp_path: Path) -> None:
    met = {line for text in REFUSED for line in raised_at(lines_of(tmp_path, text)[0].__cause__)}
    assert len(checks()) > 50
    missed = [at for at, end in checks().items() if not any((at[0], line) in met for line in range(at[1], end + 1))]
    assert not sorted(missed), "add a setting that is refused there to REFUSED"


@pytest.mark.parametrize("text", [*REFUSED, *OTHERS], ids=lambda text: re.sub(r"\s+", " ", text[-60:]))
def test_a_refusal_says_where_what_and_what_to_do(text: str, tmp_path: Path) -> None:
    _, lines = lines_of(tmp_path, text)
    for said in lines:
        place, _, rest = said.partition(": ")
        file, _, line = place.removeprefix(f"{tmp_path}/").partition(":")
        what, semicolon, remedy = rest.rpartition("; ")
        assert file == "dovetail.toml"
        assert line.isdigit() or "Exceeds" in said or "recursion" in said, said
        assert what.strip(), said
        assert semicolon, said
        assert REMEDY.match(remedy), said
        assert not re.search(r"Input should|Value error|<class|pydantic|\[key\]", said), said
        if line.isdigit() and not text.startswith(("[labels", "labels")) and text:
            assert 1 <= int(line) <= text.count("\n") + 1
            written = text.splitlines()[int(line) - 1]
            keys = set(re.findall(r"\w+", rest))
            assert keys & set(re.findall(r"\w+", written)), f"{said}: that line says {written!r}"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[request]\npartitions = 1979-05-27\n", "8: request.partitions: 1979-05-27 is no whole number;"),
        ("[request]\nreply_topics = [07:32:00]\n", "8: request.reply_topics.0: 07:32:00 is no text;"),
        ("[worker]\nheartbeat = 1979-05-27\n", "8: worker.heartbeat: 1979-05-27 is not a duration;"),
        ("[[model]]\nbits = 3\n", "7: model: it is a list, and a section is wanted; write [model]"),
        ("[request]\npartitions = 1\npartitions = 2\n", "9: not valid TOML: the key partitions is there twice;"),
        ("[api]\n[api]\n", "8: not valid TOML: [api] is there twice;"),
        (f"{MODEL}[model.gate]\n[model.gate]\n", "10: not valid TOML: [model.gate] is there twice;"),
    ],
)
def test_a_refusal_has_the_words_of_the_file(text: str, said: str, tmp_path: Path) -> None:
    assert f"dovetail.toml:{said}" in lines_of(tmp_path, more(text))[1][0]


def test_a_file_that_cannot_be_read_is_refused_in_words(tmp_path: Path) -> None:
    (tmp_path / "dovetail.toml").write_bytes(b'name = "x"\nsql = "\xff"\n')
    with pytest.raises(ConfigError, match=r"dovetail\.toml:2: not valid TOML: it is not UTF-8; write it as UTF-8"):
        load_config(tmp_path)
    (tmp_path / "dovetail.toml").unlink()
    (tmp_path / "dovetail.toml").mkdir()
    with pytest.raises(ConfigError, match="cannot be read: Is a directory; make it a file"):
        load_config(tmp_path / "dovetail.toml" / "..")


def keys(section: type[BaseModel], above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Every key of a section and of those below it; of named sections, one name."""
    for name, field in section.model_fields.items():
        if name == "root":
            continue
        yield (*above, name)
        named = {"streams": "click" if above else "behaviour", "arms": "a"}.get(name, "one")
        for below in _sections(field.annotation):
            inside = (named,) if "dict" in str(field.annotation) else (0,) if name in ("inputs", "rules") else ()
            yield from keys(below, (*above, name, *inside))  # 0 is an entry of a list


def _sections(annotation: object) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from _sections(part)


KEYS = sorted(set(keys(Config)), key=str)
WHOLE = more(MODEL + ARMS.format(0.5, "serving") + '[scorer]\nonnx = "m.onnx"\n[api]\n[console]\n').replace(
    ".e", ".one"
)
#: What TOML can say.
VALUES = st.one_of(
    st.booleans(),
    st.sampled_from(
        ["", "x", "a b", "0s", "1h", "-1h", "99999999999999999999d", "100000d", "\0", "é", "h://[", "../.."]
    ),
    st.text(max_size=6),
    st.sampled_from([0, -1, 7, 2**31, 2**53, 2**63, 10**30, 0.5, -0.0, 1e308, math.nan, math.inf]),
    st.recursive(
        st.one_of(st.integers(), st.text(max_size=3), st.booleans()),
        lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
        max_leaves=4,
    ),
)


@settings(max_examples=tries(400))
@given(key=st.sampled_from(KEYS), value=VALUES)
def test_a_setting_that_is_drawn_is_taken_or_refused(
    key: tuple[Any, ...], value: object, tmp_path_factory: pytest.TempPathFactory
) -> None:
    file = tmp_path_factory.getbasetemp() / "dovetail.toml"
    file.write_text(WHOLE, encoding="utf-8")
    sections = tomllib.loads(WHOLE)
    inner: Any = sections
    for part in key[:-1]:
        if isinstance(inner, list) and not inner:
            inner.append({})
        elif isinstance(inner, dict) and part not in inner:
            inner[part] = [] if part in ("inputs", "rules") else {}
        inner = inner[part]
    inner[key[-1]] = value
    try:
        taken: Any = load_config(file, **sections)
    except ConfigError as error:
        for said in str(error).splitlines():
            assert REMEDY.match(said.rpartition("; ")[2]), said
            assert not re.search(r"Input should|Value error|<class|\[key\]", said), said
        return
    if isinstance(value, bool):
        for part in key:
            taken = taken[part] if isinstance(taken, dict | tuple) else getattr(taken, part)
        assert taken is value, "true and false are no numbers"


@settings(max_examples=tries(200))
@given(
    at=st.integers(0, len(WHOLE)), to=st.integers(0, 20), between=st.text(max_size=4) | st.sampled_from(["[", "=", '"'])
)
def test_a_damaged_file_is_taken_or_refused(
    at: int, to: int, between: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    file = tmp_path_factory.getbasetemp() / "dovetail.toml"
    file.write_text(WHOLE[:at] + between + WHOLE[at + to :], encoding="utf-8", errors="surrogatepass")
    with suppress(ConfigError):
        load_config(file)
