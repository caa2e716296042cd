"""``dovetail train | evaluate | model`` on stored samples, as a program would call them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dovetail.app.modelling import checkpointing_of, publication_of, recipe_of
from dovetail.app.storage import open_stores
from dovetail.cli.models.report import metrics_table
from dovetail.platform.config.load import load_config
from dovetail.platform.errors import ConfigError, DovetailError, ModelError, StoreError
from dovetail.platform.rows.positions import Progress
from dovetail.platform.stores.registry.store import DataFile
from dovetail.trainer.models.publish import ModelDirectory
from dovetail.trainer.settings import SampleTopic
from dovetail.trainer.training import TrainerStage
from tests.cli.trained_project import PROJECT, archive, call, samples, show

TITLES = ("log-loss", "AUC", "calibration (Σp / Σy)", "reliability: observed rate over mean prediction")


def test_train_evaluate_and_compare(project: Path) -> None:
    pq.write_table(samples(), project / "s.parquet")
    options = ("-p", project, project / "s.parquet")
    first = call("train", *options, "--out", project / "m")
    assert (first["samples"], first["version"]) == (600, 1)
    assert first["optimizer"]["name"] == "adagrad"
    assert first["metrics"]["auc"] > 0.6
    second = call("train", *options, "--out", project / "m", "--passes", 3, "--shuffle-rows", 200, "--set", "alpha=0.2")
    assert second["version"] == 2
    assert len(second["loss_by_pass"]) == 3
    assert second["optimizer"]["alpha"] == 0.2
    plot = project / "e.html"
    scored = call("evaluate", *options, "-m", f"{project / 'm'}@1", "--slice", "city", "--window", "1d", "--plot", plot)
    assert scored["version"] == 1
    assert scored["total"]["auc_error"] == 0.0
    assert [scope.partition(":")[0] for scope in scored["groups"]] == ["time"] * 3 + ["slice"] * 5
    assert all(f">{title}</text>" in plot.read_text(encoding="utf-8") for title in TITLES)
    both = call("model", "compare", f"{project / 'm'}@1", f"{project / 'm'}@2", "--samples", project / "s.parquet")
    assert len(both) == 2
    one_day = call("train", *options, "--out", project / "d", "--from-day", "2024-10-05", "--to-day", "2024-10-05")
    assert one_day["samples"] == 200
    batch = call("train", *options, "--out", project / "b", "--batch", 32, "--compensation", 0.1)
    assert batch["optimizer"]["name"] == "delay_compensated"


def test_shards_are_one_process_until_they_are_stale(project: Path) -> None:
    pq.write_table(samples(), project / "s.parquet")
    given = ("train", "-p", project, project / "s.parquet", "--batch", 32)
    one = call(*given, "--out", project / "one")
    four = call(*given, "--out", project / "four", "--shards", 4)
    stored = [ModelDirectory(project / name).load(1) for name in ("one", "four")]
    assert stored[0].content(1) == stored[1].content(1)
    assert one["metrics"] == four["metrics"]
    assert four["staleness"] == {"0": 19}
    late = call(*given, "--out", project / "late", "--shards", 3, "--staleness", 2, "--passes", 2)
    assert late["staleness"] == {"0": 2, "1": 2, "2": 34}
    free = call(*given, "--out", project / "free", "--shards", 3, "--staleness", "async", "--compensation", 0.1)
    assert sum(free["staleness"].values()) == 19
    assert "on 4 shards; the weights of the slowest lacked 0.0 batches" in show(
        *given, "--out", project / "four", "--shards", 4
    )
    for wrong, told in (
        ("-1", "write a number of batches"),
        ("soon", "or async"),
        ("2", "staleness is between shards"),
    ):
        with pytest.raises(ConfigError, match=told):
            call(*given, "--out", project / "none", f"--staleness={wrong}")
    with pytest.raises(ConfigError, match="shards train in mini-batches"):
        call(*given[:4], "--out", project / "none", "--shards", 2)


def test_a_training_is_told_as_a_run(project: Path) -> None:
    toml = project / "dovetail.toml"
    toml.write_text(toml.read_text() + '\n[openlineage]\nfile = "lineage.jsonl"\n')
    pq.write_table(samples(), project / "s.parquet")
    call("train", "-p", project, project / "s.parquet", "--out", project / "m")
    with pytest.raises(DovetailError):
        call("train", "-p", project, project / "none.parquet", "--out", project / "m")
    events = [json.loads(line) for line in (project / "lineage.jsonl").read_text().splitlines()]
    assert [event["eventType"] for event in events] == ["START", "COMPLETE", "START", "FAIL"]
    assert [each["name"] for each in events[1]["inputs"]] == [str(project / "s.parquet")]
    assert [each["name"] for each in events[1]["outputs"]] == [str(project / "m")]
    assert events[3]["outputs"] == []


def test_rankings_are_those_of_requests(project: Path) -> None:
    table = samples()
    ids = pa.array([f"r{i // 6}" for i in range(600)])
    table = table.set_column(table.column_names.index("request_id"), "request_id", ids)
    pq.write_table(table, project / "s.parquet")
    options = ("-p", project, project / "s.parquet")
    trained = call("train", *options, "--out", project / "m", "--shuffle-rows", 600)["metrics"]["ranking"]
    asked = ("evaluate", *options, "-m", project / "m", "--slice", "city", "--at", 3)
    scored = call(*asked)
    total = scored["total"]["ranking"]
    one_class = total["without_positive"] + total["without_negative"]
    assert total["requests"] + one_class == 100
    assert trained["requests"] == total["requests"]
    assert (total["at"], trained["at"]) == (3, 10)
    assert total["gauc"] > 0.6
    assert trained["hit_rate"] == 1.0
    assert {group["ranking"]["at"] for group in scored["groups"].values()} == {3}
    hours = [group["ranking"] for scope, group in scored["groups"].items() if scope.startswith("time:")]
    assert sum(hour["requests"] for hour in hours) >= total["requests"]
    shown = show(*asked)
    assert "NDCG@3" in shown
    assert "hit@3" in shown
    pq.write_table(table.drop_columns(["request_id"]), project / "s.parquet")
    assert call(*asked)["total"]["ranking"] is None
    assert call("train", *options, "--out", project / "m")["metrics"]["ranking"] is None
    assert "NDCG" not in show(*asked)


def test_a_terminal_gets_tables(project: Path) -> None:
    pq.write_table(samples(), project / "s.parquet")
    options = ("-p", project, project / "s.parquet")
    assert "log-loss by pass" in show("train", *options, "--out", project / "m", "--passes", 2)
    assert "true and" in show("evaluate", *options, "-m", project / "m", "--plot", project / "x.html")
    assert "serves" in show("model", "list", project / "m")
    assert "largest_weight" in show("model", "show", project / "m", "-p", project)
    assert "weights to" in show("model", "export", project / "w.txt", project / "m", "--format", "text")
    assert "scorers take up version 1" in show("model", "rollback", f"{project / 'm'}@1")
    assert "scored beside" in show("model", "shadow", f"{project / 'm'}@1")
    assert "shadow scoring is off" in show("model", "shadow", project / "m", "--off")
    plot = project / "c.html"
    files = ("--samples", project / "s.parquet", "--plot", plot)
    assert "models compared" in show("model", "compare", f"{project / 'm'}@1", project / "m", "-p", project, *files)
    assert plot.exists()
    assert metrics_table("empty", []).rows == []


def test_models_are_listed_shown_and_exported(project: Path) -> None:
    pq.write_table(samples(), project / "s.parquet")
    models = project / "m"
    for _ in range(2):
        call("train", "-p", project, project / "s.parquet", "--out", models)
    ModelDirectory(models).refuse(3, ["auc is 0.4"])
    listed = call("model", "list", models)
    assert [(row["version"], row["kind"]) for row in listed] == [(1, "full"), (2, "full"), (3, "refused")]
    assert [row.get("serves") for row in listed] == [False, True, None]
    assert "auc is 0.4" in show("model", "list", models)
    call("model", "rollback", f"{models}@1")
    call("model", "shadow", f"{models}@2")
    assert [(row["serves"], row["shadow"]) for row in call("model", "list", models)[:2]] == [
        (True, False),
        (False, True),
    ]
    assert call("model", "rollback", models, "--release") == {"serving": 2, "pinned": False}
    shown = call("model", "show", models, "-p", project)
    assert [spec["kind"] for spec in shown["inputs"]] == ["categorical", "standardised", "cross"]
    assert shown["moments"][0][0] == 600
    exported = call("model", "export", project / "w.parquet", models)
    assert exported["weights"] == shown["weights"]
    hot = call("train", "-p", project, project / "s.parquet", "--start", project / "w.parquet", "--out", project / "h")
    cold = call("train", "-p", project, project / "s.parquet", "--out", project / "c")
    assert hot["metrics"]["log_loss"] < cold["metrics"]["log_loss"]
    again = call("train", "-p", project, project / "s.parquet", "--start", f"{models}@1", "--out", project / "h")
    assert again["metrics"] == hot["metrics"]


def test_a_seed_is_where_the_worker_goes_on(project: Path) -> None:
    archive(project, "samples", samples())
    answer = call("train", "-p", project, "--seed", "--passes", 2)
    assert "behind 600 samples" in answer["checkpoint"]
    config = load_config(project)
    assert config.model is not None
    stage = TrainerStage(
        SampleTopic("samples", decode=lambda _: pa.table({})),
        recipe_of(config.model),
        checkpointing_of(config.model, project / ".dovetail/checkpoints/ranking"),
        publication_of(config.model, ModelDirectory(project / ".dovetail/models/ranking"), 1 << 20),
    )
    assert stage.resume("samples") == {0: 60}
    assert stage.learner.trained == 1200
    assert {account.outcome: account.rows for account in stage.accounts()} == {"read": 600, "trained": 600}
    with pytest.raises(ConfigError, match="has checkpoints of ranking already"):
        call("train", "-p", project, "--seed")


@pytest.mark.parametrize("how", [(), ("--batch", 32), ("--threads", 2)])
def test_a_diverging_model_is_never_published(project: Path, how: tuple[object, ...]) -> None:
    table = samples(200)
    table = table.set_column(table.column_names.index("weight"), "weight", pa.array(np.full(200, 3e38, np.float32)))
    pq.write_table(table, project / "s.parquet")
    wild = ("--optimizer", "ogd", "--set", "alpha=1e38", "--set", "lr_power=0")
    for where in (("--out", project / "m"), ("--seed",)):
        with pytest.raises(ModelError, match=r"diverged|not finite"):
            call("train", "-p", project, project / "s.parquet", *wild, *how, *where)
    assert ModelDirectory(project / "m").latest() == 0
    assert not list(project.rglob("checkpoint-*"))


def test_no_samples_give_an_empty_model_and_empty_metrics(project: Path) -> None:
    pq.write_table(samples(20)[:0], project / "none.parquet")
    trained = call("train", "-p", project, project / "none.parquet", "--out", project / "m")
    assert trained["samples"] == trained["non_zero_weights"] == 0
    scored = call("evaluate", "-p", project, "-m", project / "m", project / "none.parquet")
    assert scored["total"]["log_loss"] is None
    assert scored["total"]["auc"] is None
    assert "0 of 0" not in show("evaluate", "-p", project, "-m", project / "m", project / "none.parquet")


def test_text_of_others_needs_no_project(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    features = rng.integers(0, 9, (300, 3))
    label = rng.random(300) < features[:, 0] / 9
    lines = [f"{int(y)} " + " ".join(f"{f}:1" for f in sorted(set(x))) for x, y in zip(features, label, strict=True)]
    (tmp_path / "x.svm").write_text("\n".join(lines), encoding="utf-8")
    text = ("-p", tmp_path, tmp_path / "x.svm", "--format", "libsvm")
    answer = call("train", *text, "--out", tmp_path / "m", "--bits", 10, "--optimizer", "ogd", "--set", "alpha=0.3")
    assert answer["samples"] == 300
    assert call("evaluate", *text, "-m", tmp_path / "m")["total"]["auc"] > 0.55
    hogwild = call("train", *text, "--out", tmp_path / "t", "--threads", 2, "--bits", 10)
    assert hogwild["samples"] == 300


def test_shadow_and_serving_are_compared_on_live_requests(project: Path) -> None:
    table = samples(100)
    archive(project, "samples", table)
    with pytest.raises(ModelError, match="no archived sample has a shadow score"):
        call("model", "compare", "--live", "-p", project)
    label = table.column("label").to_numpy()
    nearly = np.where(label == 1, 0.9, 0.1).astype(np.float32)
    snapshots = table.select(["request_id", "item_id", "score", "model_version"])
    snapshots = snapshots.append_column("shadow_score", pa.array(nearly, pa.float32(), mask=np.arange(100) < 10))
    snapshots = snapshots.append_column("shadow_version", pa.array(np.full(100, 2)))
    archive(project, "snapshots", snapshots)
    both = call("model", "compare", "--live", "-p", project)
    assert both["shadow"]["samples"] == both["serving"]["samples"] == 90
    assert both["shadow"]["auc"] == 1.0
    assert both["shadow"]["log_loss"] < both["serving"]["log_loss"]
    assert "live requests" in show("model", "compare", "--live", "-p", project)


def test_a_sample_is_explained_by_name(project: Path) -> None:
    pq.write_table(samples(), project / "s.parquet", row_group_size=100)
    where = ("-p", project, "--samples", project / "s.parquet")
    call("train", *where[:2], where[3], "--out", project / "m")
    told = call("model", "explain", project / "m", *where, "--row", 123)
    row = samples().slice(123, 1).to_pylist()[0]
    by_input = {each["input"]: each for each in told["inputs"]}
    assert by_input["city"]["value"] == row["city"]
    assert by_input["city*tier"]["value"] == f"{row['city']}*{row['tier']}"
    assert set(by_input) == {"city", "price", "city*tier", "(bias)"}
    assert told["margin"] == pytest.approx(sum(each["weight"] * each["x"] for each in told["inputs"]), rel=1e-6)
    assert told["prediction"] == pytest.approx(1 / (1 + np.exp(-told["margin"])), rel=1e-5)
    assert "prediction" in show("model", "explain", f"{project / 'm'}@1", *where)
    pq.write_table(samples(2).set_column(3, "city", pa.array([None, "c1"])), project / "null.parquet")
    assert "NULL" in show("model", "explain", project / "m", "-p", project, "--samples", project / "null.parquet")
    with pytest.raises(ConfigError, match="--row 600: the samples have the rows 0 to 599"):
        call("model", "explain", project / "m", *where, "--row", 600)


def test_collisions_are_counted_before_anything_is_trained(project: Path) -> None:
    pq.write_table(samples(), project / "s.parquet", row_group_size=100)
    where = ("-p", project, "--samples", project / "s.parquet")
    told = call("model", "collisions", *where)
    assert (told["bits"], told["rows"]) == (12, 600)
    assert [(each["input"], each["values"]) for each in told["inputs"][:2]] == [("city", 5), ("price", 1)]
    assert call("model", "collisions", *where, "--rows", 150)["rows"] == 150
    call("train", *where[:2], where[3], "--out", project / "m")
    assert call("model", "collisions", project / "m", *where)["inputs"] == told["inputs"]
    assert "2^12 slots" in show("model", "collisions", *where)
    with pytest.raises(ConfigError, match="--rows 0: there is no sample to look at"):
        call("model", "collisions", *where, "--rows", 0)


@pytest.mark.parametrize("scheme", ["memory", "file"])
def test_samples_may_be_archived_at_any_url(project: Path, scheme: str) -> None:
    """As the worker archives them: files by day of request_time, of which a range of days opens only its own."""
    url = f"memory://bucket-{project.name}" if scheme == "memory" else (project / "elsewhere").as_uri()
    (project / "dovetail.toml").write_text(f'{PROJECT}\n[storage]\noffline_store = "{url}"\n', encoding="utf-8")
    table = samples()
    stores = open_stores(load_config(project))
    files = []
    for number, day in enumerate(("2024-10-04", "2024-10-05", "2024-10-06")):
        path = f"samples/day={day}/00000.parquet"
        stores.offline.write(path, table.slice(200 * number, 200))
        files.append(DataFile("samples", day, path, 200, 0, 20 * number, 20 * number + 19))
    stores.registry.commit("a.samples", 0, expected=0, progress=Progress(60), accounts=[], files=files)
    options = ("-p", project, "--out", project / "m")
    whole = call("train", *options)
    assert whole["samples"] == 600
    pq.write_table(table, project / "s.parquet")
    assert call("train", *options, project / "s.parquet")["metrics"] == whole["metrics"]
    last = call("train", *options, "--from-day", "2024-10-06")
    assert last["samples"] == 200
    scored = call("evaluate", "-p", project, "-m", f"{project / 'm'}@3", "--to-day", "2024-10-05")
    assert scored["total"]["samples"] == 400
    assert call("evaluate", "-p", project, "-m", f"{project / 'm'}@3", f"{url}/samples")["total"]["samples"] == 600
    one = f"{url}/samples/day=2024-10-05/00000.parquet"
    assert call("model", "compare", f"{project / 'm'}@1", f"{project / 'm'}@3", "-p", project, "--samples", one)
    with pytest.raises(ConfigError, match=r"nothing: no Parquet file there; name a \.parquet file"):
        call("evaluate", "-p", project, "-m", project / "m", f"{url}/nothing")
    stores.offline.delete("samples/day=2024-10-05/00000.parquet")
    assert call("train", *options, "--from-day", "2024-10-06")["metrics"] == last["metrics"]
    with pytest.raises(StoreError, match="no readable Parquet file"):
        call("train", *options)
    stores.close()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("train s.parquet", "nothing would remain of this training"),
        ("train x.parquet y", "x.parquet, y: there is no such file or folder of samples"),
        ("train s.parquet --set l1=1", "adagrad has no hyperparameter 'l1'"),
        ("train s.parquet --out m --compensation 0.1", "--compensation 0.1 is of mini-batches; say how many rows"),
        ("evaluate x.parquet -m good", "x.parquet: there is no such file or folder of samples"),
        ("train --out m", "the project has no archived samples yet"),
        ("train x.svm --format csv --out m", "there is no format 'csv'"),
        ("train --format vw --out m", "--format vw needs files"),
        ("train s.parquet --out m --from-day yesterday", "--from-day: 'yesterday' is not a day"),
        ("train s.parquet --out m --set alpha", "--set alpha: write NAME=NUMBER"),
        ("train s.parquet --out m --set l1=1", "adagrad has no hyperparameter 'l1'"),
        ("train s.parquet --out m --start none", "--start none: none: there is no such folder of models; name one"),
        ("train bare.parquet --out m --from-day 2024-10-04", "choose by request_time"),
        ("train bare.parquet --seed", "--seed needs samples that know their positions"),
        ("train s.parquet --seed --passes 0", "passes >= 1"),
        ("evaluate s.parquet -m m@x", "the version after @ must be a number"),
        ("evaluate s.parquet", "no model is published there yet"),
        ("evaluate s.parquet --window soon", "--window: 'soon' is not a duration"),
        ("model compare", "compare what"),
        ("model rollback good", "which version"),
        ("model export w --format onnx good", "exported as parquet, arrow, text"),
        ("train s.parquet --out m --start good@9", "--start good@9: good has no version 9; there are 1"),
        ("train s.parquet --out m --start bare.parquet", "--start bare.parquet: bare.parquet: not an exported model"),
        ("model show good@9", "good has no version 9; there are 1"),
        ("model rollback none@1", "there is no such folder of models"),
        ("train s.parquet --out m --start other", "it has bits = 22 and this model 12"),
    ],
)
def test_misuse_is_named(project: Path, monkeypatch: pytest.MonkeyPatch, arguments: str, message: str) -> None:
    monkeypatch.chdir(project)
    pq.write_table(samples(20), "s.parquet")
    inputs = ["city", "tier", "price", "label", "weight"]
    pq.write_table(samples(20).select(inputs), "bare.parquet")
    Path("x.svm").write_text("1 2:1\n", encoding="utf-8")
    if "good" in arguments:
        call("train", "s.parquet", "--out", "good")
    if "other" in arguments:
        call("train", "x.svm", "--format", "libsvm", "--out", "other")
    with pytest.raises(DovetailError, match=message):
        show(*arguments.split())


def test_slices_that_samples_do_not_have_are_named(project: Path) -> None:
    pq.write_table(samples(20), project / "s.parquet")
    toml = project / "dovetail.toml"
    toml.write_text(toml.read_text().replace('slices = ["city"]', 'slices = ["citty"]'), encoding="utf-8")
    with pytest.raises(ConfigError, match=r"slices: the samples have no column citty; they have .*city, "):
        call("train", "-p", project, project / "s.parquet", "--out", project / "m")


def test_no_project_and_no_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="no samples: name files or folders"):
        show("train", "--out", "m")
    pq.write_table(samples(20), "s.parquet")
    with pytest.raises(ConfigError, match=r"there is no \[model\] section here"):
        show("train", "s.parquet", "--out", "m")
    with pytest.raises(ConfigError, match="no such file"):
        show("train", "s.parquet", "--seed")


def test_models_without_a_description_need_the_project(project: Path) -> None:
    pq.write_table(samples(50), project / "s.parquet")
    call("train", "-p", project, project / "s.parquet", "--out", project / "m")
    directory = ModelDirectory(project / "m")
    directory.publish(2, directory.load(1)._replace(encoder=None))
    assert call("evaluate", "-p", project, project / "s.parquet", "-m", project / "m")["version"] == 2
    directory.publish(3, directory.load(1)._replace(encoder=None, fingerprint="f" * 64))
    with pytest.raises(ConfigError, match="trained with other inputs than the project's model has"):
        call("evaluate", "-p", project, project / "s.parquet", "-m", project / "m")
