"""An experiment lived through: models side by side, arms in snapshots and samples, and what the samples say."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from dovetail.app.experiments.arm_metrics import experiment_report, report_of, request_aucs
from dovetail.app.experiments.arm_scorers import split_of
from dovetail.app.modelling import encoder_of, recipe_of
from dovetail.app.reports import consistency_of
from dovetail.app.reports.archived import archived_samples, archived_snapshots
from dovetail.app.reports.rejoin import difference, join_archived
from dovetail.app.scoring import scoring_of
from dovetail.app.storage import open_stores
from dovetail.app.worker import features_of
from dovetail.features import load
from dovetail.platform.config.load import load_config
from dovetail.platform.config.served.experiments import ArmConfig, ExperimentConfig
from dovetail.platform.errors import ConfigError, DefinitionError
from dovetail.sdk import EmbeddedFlow
from dovetail.trainer.models.publish import Model, ModelDirectory
from tests.app.small_project import (
    TOML,
    Messages,
    click,
    exposure,
    project_in,
    request,
    run,
    stores_of,
    write_project,
)
from tests.cli.trained_project import show

MODEL = """
[model]
bits = 8
inputs = [{ column = "events" }]
publish_every = 1000000
"""
EXPERIMENT = """
[experiments.trial]
by = "user_id"
[experiments.trial.arms.control]
share = 0.5
[experiments.trial.arms.new]
share = 0.5
model = "@1"
"""
USERS = [f"u{number}" for number in range(8)]


def folder_with(folder: Path, toml: str = EXPERIMENT, versions: int = 2, messages: Messages | None = None) -> Path:
    write_project(folder, TOML + MODEL + toml, messages={} if messages is None else messages)
    model = load_config(folder).model
    assert model is not None
    encoder = encoder_of(model)
    directory = ModelDirectory(folder / "state" / "models" / model.name)
    for version in range(1, versions + 1):
        weights = np.full(1 << encoder.bits, version / 10, np.float32)
        made = Model.from_dense(encoder.fingerprint, encoder.bits, version, weights, encoder.new_moments(),
                                encoder.describe())  # fmt: skip
        directory.publish(version, made)
    return folder


def test_arms_are_served_side_by_side_and_recorded_up_to_the_sample(tmp_path: Path) -> None:
    folder = folder_with(tmp_path / "project")
    with EmbeddedFlow(folder) as flow:
        flow.rank([request(f"r{user}", user, [1, 2], 10) for user in USERS])
        flow.send("exposure", [exposure(f"r{user}", item, 12) for user in USERS for item in (1, 2)])
        flow.send("click", [click(user, 1, 20) for user in USERS[:3]])
        flow.until_idle()
    project = project_in(folder)
    stores = open_stores(project.config)
    snapshots, samples = archived_snapshots(stores), archived_samples(stores, "")
    scored_by = set(zip(*(snapshots.column(c).to_pylist() for c in ("_arm", "model_version")), strict=True))
    assert scored_by == {("control", 2), ("new", 1)}
    assert samples.num_rows >= 16
    kept = samples.select(["request_id", "item_id", "experiment", "arm", "arm_draw"])
    theirs = snapshots.select(["request_id", "item_id", "_experiment", "_arm", "_arm_draw"])
    order = [("request_id", "ascending"), ("item_id", "ascending")]
    assert kept.group_by(kept.column_names).aggregate([]).sort_by(order).to_pylist() == [
        dict(zip(kept.column_names, row.values(), strict=True)) for row in theirs.sort_by(order).to_pylist()
    ]
    batch = join_archived(project, stores, features_of(project, stores))
    assert difference(stores, batch) == (batch.num_rows, 0, 0, {})
    report = experiment_report(stores, "trial", project.config.experiments["trial"])
    assert sum(arm.users for arm in report.arms) == len(USERS)
    assert "warning: [experiments" not in show("check", "-p", tmp_path / "project")
    assert {arm.arm: list(arm.versions) for arm in report.arms} == {"control": [2], "new": [1]}
    assert {each.verdict for each in report.differences} == {"too few users"}
    stores.close()


def test_a_split_that_changes_while_a_worker_is_dead_leaves_what_was_recorded(tmp_path: Path) -> None:
    """It dies when snapshots are published and not committed, and comes back to shares and a salt that are others."""
    sent: Messages = {
        "requests": [request(f"r{user}", user, [1, 2], 10) for user in USERS],
        "exposure": [exposure(f"r{user}", 1, 12) for user in USERS],
        "click": [click(USERS[0], 1, 20)],
    }
    folder = folder_with(tmp_path / "project", messages=sent)
    before = split_of("trial", load_config(folder).experiments["trial"])

    def die(stage: str, step: str) -> None:
        if (stage, step) == ("snapshots", "published"):
            raise RuntimeError("died")

    with pytest.raises(RuntimeError, match="died"):
        run(folder, die)
    changed = EXPERIMENT.replace("0.5", "0.1", 1).replace("0.5", "0.9").replace('"user_id"', '"user_id"\nsalt = "new"')
    (folder / "dovetail.toml").write_text(TOML + MODEL + changed)
    run(folder)
    project, stores = project_in(folder), stores_of(folder)
    arms = [before.arms[place] for place in before.places(before.draws(pa.chunked_array([USERS]))).tolist()]
    recorded = {f"r{user}": arm for user, arm in zip(USERS, arms, strict=True)}
    for rows, column in ((archived_snapshots(stores), "_arm"), (archived_samples(stores, ""), "arm")):
        found = set(zip(rows.column("request_id").to_pylist(), rows.column(column).to_pylist(), strict=True))
        assert found == set(recorded.items())
    assert archived_snapshots(stores).num_rows == 2 * len(USERS)
    batch = join_archived(project, stores, features_of(project, stores))
    assert difference(stores, batch).equal
    assert consistency_of(project, stores).mismatched == 0
    stores.close()


def test_a_version_that_an_arm_is_scored_with_outlives_retention(tmp_path: Path) -> None:
    folder = folder_with(tmp_path / "project")
    stores = open_stores(load_config(folder))
    model = stores.models.load(2)
    for version in range(3, 12):
        stores.models.publish(version, model)
    assert stores.models.versions() == [1, 7, 8, 9, 10, 11]
    scoring = scoring_of(project_in(folder), stores, beside=False)
    for warm in scoring.warm:
        warm()
    assert scoring.experiment is not None
    assert [one.score(pa.table({"events": [1]}))[0] for one in scoring.experiment.models] == [11, 1]
    stores.close()


def test_an_arm_may_be_a_model_of_other_inputs_from_another_folder(tmp_path: Path) -> None:
    other = folder_with(tmp_path / "other", toml="")
    folder = folder_with(tmp_path / "project", EXPERIMENT.replace("@1", str(other / "state/models/ranking@1")))
    stores = open_stores(load_config(folder))
    scoring = scoring_of(project_in(folder), stores, beside=True)
    for warm in scoring.warm:
        warm()
    assert scoring.experiment is not None
    assert scoring.experiment.models[1].score(pa.table({"events": [1]}))[0] == 1
    stores.close()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("share = 0.5\nmodel", "share = 0.6\nmodel"), "0.5 + 0.6 = 1.1; make them add up to 1"),
        (("@1", "@x"), "model: '@x' names none; write serving, @VERSION"),
        (("@1", "@0"), "names none"),
        (("by =", "bye ="), "did you mean 'by'"),
    ],
)
def test_a_wrong_experiment_is_refused_with_its_file(tmp_path: Path, change: tuple[str, str], words: str) -> None:
    write_project(tmp_path / "project", TOML, messages={})
    (tmp_path / "project" / "dovetail.toml").write_text(TOML + MODEL + EXPERIMENT.replace(*change))
    with pytest.raises(ConfigError) as refused:
        load_config(tmp_path / "project")
    assert words in str(refused.value)


def test_two_experiments_at_a_time_are_refused_and_one_that_has_ended_may_stay(tmp_path: Path) -> None:
    second = EXPERIMENT.replace("trial", "second")
    ended = second.replace('"user_id"', '"user_id"\nactive = false')
    write_project(tmp_path / "project", TOML + MODEL + EXPERIMENT + ended, messages={})
    assert len(load_config(tmp_path / "project").experiments) == 2
    (tmp_path / "project" / "dovetail.toml").write_text(TOML + MODEL + EXPERIMENT + second)
    with pytest.raises(ConfigError, match="trial and second are all active"):
        load_config(tmp_path / "project")


@pytest.mark.parametrize("column", ["user", "item_id", "request_id", "request_time"])
def test_a_column_that_no_user_is_split_by_is_refused_where_it_stands(tmp_path: Path, column: str) -> None:
    write_project(tmp_path / "project", TOML + EXPERIMENT.replace('"user_id"', f'"{column}"'), messages={})
    with pytest.raises(DefinitionError, match=f"by = '{column}' is no column of a request that users can be split by"):
        load(tmp_path / "project")


@pytest.mark.parametrize(("model", "words"), [("@7", "there are: 1, 2"), ("gone@1", "there are: none"),
                                              ("gone.onnx", "there is no such file")])  # fmt: skip
def test_an_arm_whose_model_is_not_there_keeps_a_worker_from_starting(tmp_path: Path, model: str, words: str) -> None:
    folder = folder_with(tmp_path / "project", EXPERIMENT.replace("@1", model))
    stores = open_stores(load_config(folder))
    with pytest.raises((ConfigError, ImportError), match=words):
        scoring_of(project_in(folder), stores, beside=False)
    stores.close()
    assert f"warning: [experiments.trial.arms.new] model = '{model}': it is not at {folder}" in show(
        "check", "-p", folder
    )


def test_a_feature_of_a_name_that_samples_need_is_refused(tmp_path: Path) -> None:
    write_project(tmp_path / "project", TOML + EXPERIMENT, messages={})
    file = tmp_path / "project" / "sql" / "ranking.sql"
    file.write_text(file.read_text().replace("activity.events", "activity.events AS arm"))
    with pytest.raises(DefinitionError, match="arm"):
        load(tmp_path / "project")
    (tmp_path / "project" / "dovetail.toml").write_text(TOML)
    assert "arm" in load(tmp_path / "project").feature_set.schema.names


def test_progressive_metrics_are_told_by_arm_also_of_samples_from_before(tmp_path: Path) -> None:
    sliced = MODEL + 'evaluation = { slices = ["arm"] }\n'
    write_project(tmp_path / "project", TOML + sliced + EXPERIMENT, messages={})
    project = project_in(tmp_path / "project")
    assert project.config.model is not None
    groups = recipe_of(project.config.model).groups.anew(time=None)
    one, half = np.ones(2, np.float32), np.full(2, 0.5, np.float32)
    for rows in (pa.table({"events": [1, 2]}), pa.table({"arm": ["new", "control"]})):
        groups.anew().add(rows, half, one, one)
        groups.add(rows, half, one, one)
    assert [(scope, metrics.samples) for scope, metrics in groups.report()] == [
        ("slice:arm=(null)", 2), ("slice:arm=new", 1), ("slice:arm=control", 1),
    ]  # fmt: skip
    (tmp_path / "project" / "dovetail.toml").write_text(TOML + sliced)
    with pytest.raises(ConfigError, match="'arm' is neither an output of feature set"):
        load(tmp_path / "project")


def test_what_was_made_before_an_experiment_is_shown_with_its_columns_too(tmp_path: Path) -> None:
    folder = folder_with(tmp_path / "project", toml="")
    with EmbeddedFlow(folder) as flow:
        flow.rank([request("before", USERS[0], [1, 2], 10)])
    declared = (folder / "dovetail.toml").read_text()
    (folder / "dovetail.toml").write_text(declared + EXPERIMENT)
    with EmbeddedFlow(folder) as flow:
        flow.rank([request(f"r{user}", user, [1, 2], 20) for user in USERS])
    show("snapshots", "--out", tmp_path / "all.parquet", "--project", folder)
    every = pq.read_table(tmp_path / "all.parquet")
    told = dict(zip(every["request_id"].to_pylist(), every["_arm"].to_pylist(), strict=True))
    assert told.pop("before") is None
    assert set(told.values()) == {"control", "new"}
    show("snapshots", "--where", "_arm = 'new'", "--out", tmp_path / "new.parquet", "--project", folder)
    new = pq.read_table(tmp_path / "new.parquet")
    assert set(new["request_id"].to_pylist()) == {name for name, arm in told.items() if arm == "new"}
    shutil.rmtree(folder / "state" / "models")  # an audit needs no model
    assert "trial" not in show("audit", "--project", folder)


def declared(**more: object) -> ExperimentConfig:
    arms = {"control": ArmConfig(share=0.5), "new": ArmConfig(share=0.5, model="@1")}
    return ExperimentConfig.model_validate({"by": "user_id", "arms": arms, "min_users": 30, **more})


def made_samples(users: int, rates: tuple[float, float], seed: int = 1) -> pa.Table:
    """Two requests of five candidates for each user, the users' arms by halves of their draw."""
    rng = np.random.default_rng(seed)
    draw = np.repeat(rng.random(users), 10)
    new = draw >= 0.5
    label = rng.random(len(draw)) < np.where(new, rates[1], rates[0])
    return pa.table(
        {
            "experiment": pa.array(["trial"] * len(draw)), "arm": np.where(new, "new", "control"), "arm_draw": draw,
            "request_id": [f"r{row // 5}" for row in range(len(draw))],
            "score": rng.random(len(draw)).astype(np.float32), "label": label.astype(np.int8),
            "weight": np.ones(len(draw), np.float32), "model_version": np.where(new, 1, 2),
        }
    )  # fmt: skip


@pytest.mark.parametrize(("metric", "rates", "verdict"), [
    ("click_rate", (0.1, 0.3), "better"), ("click_rate", (0.3, 0.1), "worse"), ("click_rate", (0.2, 0.2), "undecided"),
    ("gauc", (0.2, 0.2), "undecided"),
])  # fmt: skip
def test_the_verdict_is_what_the_sequence_says(metric: str, rates: tuple[float, float], verdict: str) -> None:
    report = report_of(made_samples(800, rates), "trial", declared(metric=metric))
    assert report.verdict("new") == verdict
    assert report.verdict("control") == "undecided"
    for each in report.differences:
        assert each.low is not None
        assert each.difference is not None
        assert each.high is not None
        assert each.low < each.difference < each.high


def test_rates_are_weighted_means_and_the_arm_is_the_one_that_was_recorded() -> None:
    samples = made_samples(200, (0.2, 0.4))
    weights = np.random.default_rng(2).random(samples.num_rows).astype(np.float32)
    samples = samples.set_column(samples.column_names.index("weight"), "weight", pa.array(weights))
    # Shares have changed since: some of the users that were in control have been in the new arm, too.
    moved = samples.filter(pc.less(samples.column("arm_draw"), 0.1))
    later = moved.set_column(1, "arm", pa.array(["new"] * moved.num_rows))
    report = report_of(pa.concat_tables([samples, later]), "trial", declared())
    assert report.moved == pc.count_distinct(moved.column("arm_draw")).as_py() > 0
    control = samples.filter(pc.equal(samples.column("arm"), "control"))
    y, w, p = (control.column(name).to_numpy().astype(float) for name in ("label", "weight", "score"))
    found = report.arms[0].metrics
    assert found["click_rate"] == pytest.approx((w * y).sum() / w.sum())
    assert found["log_loss"] == pytest.approx(-(w * np.log(np.where(y > 0, p, 1 - p))).sum() / w.sum(), rel=1e-5)
    assert report.arms[1].samples == samples.num_rows - control.num_rows + later.num_rows


def test_the_auc_of_a_request_is_that_of_its_pairs_ties_by_halves() -> None:
    rng = np.random.default_rng(4)
    request_ids, score = rng.integers(0, 40, 300), rng.integers(0, 4, 300) / 4
    positive = rng.random(300) < 0.4
    auc, size, first = request_aucs(request_ids, score, positive)
    expected = {}
    for one in np.unique(request_ids):
        mine = request_ids == one
        pairs = np.subtract.outer(score[mine & positive], score[mine & ~positive])
        if pairs.size:
            expected[int(one)] = (((pairs > 0) + 0.5 * (pairs == 0)).mean(), mine.sum())
    assert request_ids[first].tolist() == list(expected)
    assert auc == pytest.approx([value for value, _ in expected.values()])
    assert size.tolist() == [float(n) for _, n in expected.values()]
    assert [len(part) for part in request_aucs(request_ids[:0], score[:0], positive[:0])] == [0, 0, 0]
