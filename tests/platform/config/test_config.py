"""dovetail.toml: what is wrong is refused, with its place and the nearest right thing."""

from __future__ import annotations

from pathlib import Path

import pytest

from dovetail.platform.config.load import StorageConfig, load_config, parse_duration
from dovetail.platform.errors import ConfigError

MINIMAL = """
[streams.behaviour]
key = "user_id"
[labels]
window = "30m"
[labels.streams.exposure]
[labels.streams.click]
"""


def write(folder: Path, text: str) -> Path:
    (folder / "dovetail.toml").write_text(text)
    return folder


def test_a_minimal_file_gets_the_defaults(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, MINIMAL))
    assert config.labels.window == 30 * 60 * 1_000_000
    assert config.topics() == {
        "behaviour": 1, "exposure": 1, "click": 1, "requests": 1, "snapshots": 1, "samples": 1,
        "dovetail-dead-letters": 1,
    }  # fmt: skip
    assert config.root == tmp_path
    assert config.model is None


def test_overrides_replace_values_and_leave_the_rest(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, MINIMAL), labels={"window": "1h"}, name="other")
    assert config.labels.window == 3_600_000_000
    assert set(config.labels.streams) == {"exposure", "click"}
    assert config.name == "other"


def test_derived_topics_have_the_partitions_of_the_requests(tmp_path: Path) -> None:
    topics = load_config(write(tmp_path, MINIMAL + "[request]\npartitions = 3\n")).topics()
    assert (topics["requests"], topics["snapshots"], topics["samples"]) == (3, 3, 3)


WRONG = {
    "unknown key, near": (
        MINIMAL + "[request]\npartition = 3\n",
        r"request\.partition: unknown key 'partition'; did you mean 'partitions'\?",
    ),
    "unknown key, far": (
        MINIMAL + "[request]\nzzz = 3\n",
        r"request\.zzz: unknown key 'zzz'; known keys: allowed_lateness, feature_set, max_ahead, partitions",
    ),
    "unknown section": (
        "[stream.behaviour]\nkey='u'\n" + MINIMAL,
        r"stream: unknown key 'stream'; did you mean 'streams'\?",
    ),
    "nested unknown": (
        MINIMAL.replace('key = "user_id"', 'key = "user_id"\nevent_tme = "t"'),
        r"streams\.behaviour\.event_tme: unknown key 'event_tme'; did you mean 'event_time'\?",
    ),
    "missing": (MINIMAL.replace('key = "user_id"', ""), r"streams\.behaviour\.key: required, but missing"),
    "duration": (MINIMAL.replace("30m", "30"), r"labels\.window: '30' is not a duration"),
    "range": (
        MINIMAL + "[request]\npartitions = 0\n",
        r"dovetail\.toml:9: request\.partitions: 0 is out of bounds; write at least 1",
    ),
    "role": (
        MINIMAL.replace("[labels]", '[labels]\npositive = "buy"'),
        r"labels\.positive: 'buy' is no label stream; write one of click, exposure, or declare it",
    ),
    "within": (
        MINIMAL + '[labels.streams.buy]\nattribute_within = "1h"\n',
        r'labels\.streams\.buy\.attribute_within: it needs attribute = "latest_request"; add that, or remove',
    ),
    "ids without a window": (
        MINIMAL.replace("[labels.streams.click]", '[labels.streams.click]\nevent_id = "id"'),
        r"labels\.streams\.click\.event_id: ids are remembered for unique_within, which is missing; add it",
    ),
    "no such aggregate": (
        MINIMAL.replace("[labels.streams.click]", '[labels.streams.click]\nvalues = { dwell = "mean" }'),
        r"labels\.streams\.click\.values\.dwell: .*'first', 'last', 'sum', 'min' or 'max'",
    ),
    "a value of a name that is taken": (
        MINIMAL.replace("[labels.streams.click]", '[labels.streams.click]\nvalues = { time = "last" }'),
        r"streams\.click\.values: samples have a column 'click_time' already; give time another name",
    ),
    "takes back nothing": (
        MINIMAL + '[labels.streams.undo]\nretracts = "clik"\n',
        r"streams\.undo\.retracts: 'clik': there is no such label stream; write one of click, exposure, undo",
    ),
    "takes back itself": (
        MINIMAL + '[labels.streams.undo]\nretracts = "undo"\n',
        r"retracts: 'undo': a label that takes back cannot be taken back",
    ),
    "takes back what was sent": (
        MINIMAL.replace("[labels]", '[labels]\ncorrections = "1h"') + '[labels.streams.undo]\nretracts = "click"\n',
        r"the primary target makes samples at 2 times by it, and what was sent at one cannot be taken back at the next",
    ),
    "same topic": (MINIMAL + '[request]\ntopic = "click"\n', r"topic 'click' is declared twice"),
    "gathers for too long": (
        MINIMAL + '[worker.gather]\narchive = "1m"\n',
        r"worker\.gather\.archive: what waits for 1m looks as if it stood still; make it at most 10s",
    ),
    "gathers for longer than the watchdog watches": (
        MINIMAL + '[worker]\nwatchdog_timeout = "2s"\ngather = { archive = "2s" }\n',
        r"worker\.watchdog_timeout: 2s is no longer than messages wait for others, 2s, .*; make it longer",
    ),
    "gathers what is answered": (
        MINIMAL + '[worker.gather]\nsnapshots = "1ms"\n',
        r"worker\.gather\.snapshots: unknown key 'snapshots'",
    ),
    "not toml": ("[labels", r"not valid TOML"),
    "model": (MINIMAL + "[model]\ninputs = []\n", r"model\.inputs: it is empty; give at least 1"),
    "name": (MINIMAL.replace("streams.behaviour", 'streams."be haviour"'), r"streams\.be haviour"),
}


@pytest.mark.parametrize("case", sorted(WRONG))
def test_what_is_wrong_is_named(case: str, tmp_path: Path) -> None:
    text, message = WRONG[case]
    with pytest.raises(ConfigError, match=message) as raised:
        load_config(write(tmp_path, text))
    assert str(tmp_path / "dovetail.toml") in str(raised.value)


def test_a_missing_file_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file; run `dovetail init DIR`"):
        load_config(tmp_path)


def test_labels_without_request_reach_as_far_back_as_any_target_waits_unless_told(tmp_path: Path) -> None:
    text = (
        MINIMAL
        + """
[labels.streams.buy]
attribute = "latest_request"
[labels.streams.cart]
attribute = "latest_request"
attribute_within = "1m"
"""
    )
    assert load_config(write(tmp_path, text)).labels.attributed == {"buy": 1_800_000_000, "cart": 60_000_000}


def test_a_label_may_precede_its_request_by_the_allowed_lateness_unless_told(tmp_path: Path) -> None:
    write(tmp_path, MINIMAL)
    assert load_config(tmp_path).labels.early_us == 0
    assert load_config(tmp_path, labels={"allowed_lateness": "2s"}).labels.early_us == 2_000_000
    assert load_config(tmp_path, labels={"allowed_lateness": "2s", "max_early": "0s"}).labels.early_us == 0


def test_snapshots_are_kept_for_as_long_as_their_request_may_be_repeated(tmp_path: Path) -> None:
    write(tmp_path, MINIMAL)
    config = load_config(tmp_path, request={"unique_within": "9d"})
    assert config.retention()["snapshots"].needed_ms == 9 * 86_400_000
    with pytest.raises(ConfigError, match=r"snapshots answer requests that are repeated \(request.unique_within\)"):
        load_config(tmp_path, request={"unique_within": "9d"}, broker={"retention": {"snapshots": "8d"}})


def test_several_mistakes_are_named_together(tmp_path: Path) -> None:
    text = MINIMAL.replace("30m", "30") + "[request]\npartitions = 0\n"
    with pytest.raises(ConfigError) as raised:
        load_config(write(tmp_path, text))
    assert len(str(raised.value).splitlines()) == 2


@pytest.mark.parametrize(
    ("text", "us"), [("90s", 90_000_000), ("1d", 86_400_000_000), ("5us", 5), ("2 h", 7_200_000_000)]
)
def test_durations(text: str, us: int) -> None:
    assert parse_duration(text) == us


@pytest.mark.parametrize("text", ["", "1", "h", "1.5h", "-1h", 5, None])
def test_what_is_no_duration_is_refused(text: object) -> None:
    with pytest.raises(ValueError, match="is not a duration"):
        parse_duration(text)


def test_embedded_urls_are_below_the_state_folder() -> None:
    storage = StorageConfig(state=Path("there"), online_store="redis://h/0")
    assert storage.url("broker") == "embedded://there/log.sqlite"
    assert storage.url("label_store") == "sqlite:///there/label_store.sqlite"
    assert storage.url("offline_store") == "there/offline"
    assert storage.url("online_store") == "redis://h/0"


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"passwort_env": "X"}, "unknown key 'passwort_env'; did you mean 'password_env'"),
        ({"password_env": "X", "password_file": "y"}, "two places for one password"),
        ({"certificate": "c.pem"}, "certificate and key go together"),
        ({"retries": -1}, "retries: -1 is out of bounds; write at least 0"),
    ],
)
def test_how_redis_is_reached_is_checked(section: dict[str, object], message: str, tmp_path: Path) -> None:
    write(tmp_path, MINIMAL)
    with pytest.raises(ConfigError, match=message):
        load_config(tmp_path, redis=section)
    config = load_config(tmp_path, redis={"username": "u", "ca": "ca.pem", "timeout": "10s"}).redis
    assert (config.username, config.timeout, config.below(tmp_path).ca) == ("u", 10_000_000, tmp_path / "ca.pem")
