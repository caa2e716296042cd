"""What scenes are refused for: by the loader with its line, by a worker, and by commands that are of one scene."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from dovetail.app.worker import assemble
from dovetail.cli import main
from dovetail.features import load
from dovetail.platform.errors import ConfigError, DefinitionError
from tests.app.scenes.two_scenes import small_log, write_scenes


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_scenes(tmp_path, small_log())
    return tmp_path


def change(folder: Path, old: str, new: str) -> None:
    file = folder / "dovetail.toml"
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


@pytest.mark.parametrize(
    ("old", "new", "place", "said"),
    [
        (
            'feature_set = "feed"',
            'feature_set = "fed"',
            'feature_set = "fed"',
            "scenes.feed.request.feature_set: there is no feature set 'fed'; did you mean feed?",
        ),
        (
            'feature_set = "feed"',
            'feature_set = "ranking"',
            'feature_set = "ranking"\n\n[scenes.feed.labels]',
            "feature set 'ranking' is over request, and these requests are declared by feed_request; known are feed",
        ),
        (
            '{ column = "rank" }',
            '{ column = "rnk" }',
            "[scenes.feed.model]\nname",
            "scenes.feed.model.inputs.1: 'rnk' is not an output of feature set feed; did you mean rank?",
        ),
        (
            "[scenes.feed.",
            "[scenes.item_stats.",
            "[scenes.item_stats.request]",
            "scenes.item_stats: a streaming view has this name, and over HTTP /v1/features/item_stats gives its",
        ),
        (
            'corrections = "1h"\n\n[scenes.feed.labels.targets',
            'allowed_lateness = "1m"\n\n[scenes.feed.labels.targets',
            'allowed_lateness = "1m"\n\n[scenes',
            "scenes.feed.labels.allowed_lateness: it is shared by all scenes, and not of one; declare it in [labels]",
        ),
        (
            "[scenes.feed.model]",
            "[scenes.feed.labels.streams.click]\n\n[scenes.feed.model]",
            "[scenes.feed.labels.streams.click]",
            "scenes.feed.labels.streams: it is shared by all scenes, and not of one; declare it in [labels.streams.",
        ),
        (
            'samples_topic = "feed-bought"',
            "",
            "[scenes.feed.labels.targets.bought]",
            'bought: a target of a scene names the topic of its samples; write samples_topic = "feed-bought"',
        ),
    ],
)
def test_names_of_a_scene_are_looked_up_in_it(folder: Path, old: str, new: str, place: str, said: str) -> None:
    change(folder, old, new)
    with pytest.raises(ConfigError) as refused:
        load(folder)
    text = (folder / "dovetail.toml").read_text()
    line = int(str(refused.value).split(":")[1])
    declared = text[: text.index(place)].count("\n") + 1
    assert said in str(refused.value)
    assert line in (declared, declared + 2)  # the key, or the section it would stand in


@pytest.mark.parametrize(
    ("section", "key"),
    [("feed.request", "topic"), ("feed.request", "snapshots_topic"), ("feed.labels", "samples_topic")],
)
def test_a_topic_of_a_scene_is_left_out_or_has_a_name(folder: Path, section: str, key: str) -> None:
    change(folder, f"[scenes.{section}]\n", f'[scenes.{section}]\n{key} = ""\n')
    with pytest.raises(ConfigError) as refused:
        load(folder)
    assert f"topic '', of [scenes.{section}] {key}, is no name that Kafka takes; write" in str(refused.value)


def test_names_of_scenes_differ_in_more_than_case(folder: Path) -> None:
    file = folder / "dovetail.toml"
    more = '[scenes.Feed.request]\ntable = "feed_request"\nfeature_set = "feed"\n[scenes.Feed.labels]\nwindow = "1h"\n'
    file.write_text(f"{file.read_text()}\n{more}")
    with pytest.raises(ConfigError, match=r"Feed: it differs from feed only in case, .*; give the scene another name"):
        load(folder)


def test_a_worker_runs_all_scenes(folder: Path) -> None:
    with pytest.raises(ConfigError, match="a worker runs all scenes; give the project that feed is a scene of"):
        assemble(load(folder).scene("feed"))


def test_there_is_no_other_scene(folder: Path) -> None:
    project = load(folder)
    with pytest.raises(ConfigError, match=r"there is no scene 'food'; \[scenes\] has feed"):
        project.scene("food")
    with pytest.raises(ConfigError, match="there is no feature set 'ranking'; known are feed"):
        project.scene("feed").evaluate("ranking", project.request.arrow.empty_table(), {})
    assert project.scene("feed").whole.request == project.request


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["consistency", "--scene", "food"], "there is no scene 'food'; [scenes] has feed"),
        (["evaluate", "--scene", "food"], "there is no scene 'food'"),
        *(
            ([*command, "--scene", ""], "--scene '': write the name of a scene; leave --scene out for the one without")
            for command in (["consistency"], ["join"], ["samples"], ["train"], ["export", "out"], ["labels"])
        ),
        (["labels", "--scene", "food"], "there is no scene 'food'"),
        (["staleness", "--scene", "food"], "there is no scene 'food'"),
        (["join", "--scene", "feed", "--target", "soon"], "in [scenes.feed.labels.targets]; there are: bought"),
        (["backfill", "feed", "--out", "out"], "feature set 'feed' is over feed_request"),
        (["backfill", "ranking", "--out", "out", "--scene", "feed"], "feature set 'ranking' is over request"),
        (["replay", "--requests", "a", "--scene", "b"], "--scene 'b': write NAME=FILE"),
        (["replay", "--requests", "a", "--scene", "food=F"], "there is no scene 'food'; [scenes] has feed"),
        (["model", "list", "feed"], "feed: a model is given by its folder; write FOLDER/.dovetail/models/feed"),
        (["model", "show", "feed@3"], "feed: a model is given by its folder; write FOLDER/.dovetail/models/feed@3"),
        (["model", "list", "food"], "food: there is no such folder of models"),
        (["replay", "--stream", "behaviour=a"], "no requests to replay: give --requests FILE, or --scene NAME=FILE"),
        (["send", "requests.food", "a.jsonl"], "no rows are sent to 'requests.food'; did you mean requests.feed?"),
    ],
)  # fmt: skip
def test_commands_of_one_scene_say_what_is_none(
    folder: Path, arguments: list[str], said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", ["dovetail", *arguments, "-p", str(folder)])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert said.replace("FOLDER", str(folder)) in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["train", "requests.parquet", "--out", "m"], "[scenes.feed.model] is missing: the scene feed has no model"),
        (["evaluate", "requests.parquet"], "[scenes.feed.model] is missing: the scene feed has no model"),
        (["staleness", "requests.parquet"], "dovetail.toml has no [scenes.feed.model]"),
    ],
)
def test_a_scene_without_a_model_has_none_to_train(
    folder: Path, arguments: list[str], said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (folder / "dovetail.toml").read_text()
    (folder / "dovetail.toml").write_text(text[: text.index("[scenes.feed.model]")])
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", ["dovetail", *arguments, "--scene", "feed"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert said in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("left_out", ["a scene", "its table"])
def test_a_table_of_requests_that_no_scene_has(folder: Path, left_out: str) -> None:
    text = (folder / "dovetail.toml").read_text()
    scene = text.index("[scenes.feed.request]")
    kept = text[:scene] if left_out == "a scene" else text.replace('table = "feed_request"\n', "")
    (folder / "dovetail.toml").write_text(kept)
    with pytest.raises(
        DefinitionError, match=r'table = "feed_request" in \[scenes\.NAME\.request\] if these are requests'
    ):
        load(folder)


def test_check_shows_every_scene(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["dovetail", "check", "-p", str(folder)])
    with pytest.raises(SystemExit):
        main()
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["feed", "feed-requests:", "feed_request", "feed"] in [line[:4] for line in lines]
