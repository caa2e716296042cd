"""Alerts reach a real server: as one document, again while the failure may pass, and never as an error."""

from __future__ import annotations

import base64
import json
import logging
import socket
from pathlib import Path
from typing import Any

import pytest

from dovetail.app.quality.alerts import PROFILES, Alert, Quality
from dovetail.app.quality.telling import MOST, document_of, log_alerts, post_alerts
from dovetail.app.quality.webhook import PAUSES_S, Webhook, webhook_of
from dovetail.platform.config.load import load_config
from dovetail.platform.config.quality.rules import QualityConfig
from dovetail.platform.errors import ConfigError
from dovetail.platform.logs import Event
from tests.app.quality.receiver import Receiver
from tests.platform.config.test_secrets import TOML

SECRET = "hunter2-S3cret"
HOUR_US = 3_600_000_000


def quality(count: int = 2) -> Quality:
    """Alerts in as many windows; the first is no finite number, and a warning."""
    alerts = [Alert("warning", "samples", "price", "psi", 0, float("inf"), 0.1, 0.5)]
    alerts += [Alert("error", "click", "", "rows", at * HOUR_US, 0.0, 120.0, 0.2) for at in range(1, count)]
    windows = tuple(at * HOUR_US for at in range(count))
    return Quality(HOUR_US, windows, PROFILES.empty_table(), tuple(alerts[:count]))


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")


def hook(url: str, timeout_us: int = 20_000_000) -> Webhook:
    return Webhook(url, timeout_us)


def test_the_alerts_are_posted_as_one_document(caplog: pytest.LogCaptureFixture) -> None:
    with Receiver() as receiver, caplog.at_level(logging.INFO):
        delivery = post_alerts("shop", quality(), hook(receiver.url(SECRET)))
    assert delivery is not None
    assert (delivery.delivered, delivery.attempts, delivery.problems, delivery.to) == (True, 1, (), receiver.shown)
    ((headers, posted),) = receiver.received
    assert receiver.paths == [f"/{SECRET}?token={SECRET}"]
    assert headers["Content-Type"] == "application/json"
    assert headers["Authorization"] == f"Basic {base64.b64encode(f'me:{SECRET}'.encode()).decode()}"
    assert posted == document_of("shop", quality())
    assert (posted["project"], posted["failed"], posted["window_us"], posted["left_out"]) == ("shop", True, HOUR_US, 0)
    first, second = posted["alerts"]
    assert (first["id"], first["found"], first["severity"]) == (
        "psi:samples.price@1970-01-01T00:00:00Z",
        None,
        "warning",
    )
    assert (second["window"], second["found"], second["expected"]) == ("1970-01-01T01:00:00Z", 0.0, 120.0)
    assert second["text"] == "click: 0 rows, 120 were usual"
    assert posted["text"] == "shop: 2 alerts of data quality, such as click: 0 rows, 120 were usual"
    assert SECRET not in caplog.text


@pytest.mark.parametrize(
    ("answers", "delivered", "problems", "waited"),
    [
        ([503, 429, 200], True, ("HTTP 503", "HTTP 429"), list(PAUSES_S)),
        ([500], False, ("HTTP 500",) * 3, list(PAUSES_S)),
        ([404], False, ("HTTP 404",), []),
        ([500, 403], False, ("HTTP 500", "HTTP 403"), [PAUSES_S[0]]),
        ([302], False, ("HTTP 302",), []),
    ],
)
def test_it_is_tried_again_while_the_failure_may_pass(
    answers: list[int],
    delivered: bool,
    problems: tuple[str, ...],
    waited: list[float],
    caplog: pytest.LogCaptureFixture,
) -> None:
    pauses: list[float] = []
    with Receiver(answers, {"Location": f"/{SECRET}"}) as receiver:
        delivery = post_alerts("shop", quality(), hook(receiver.url(SECRET)), wait=pauses.append)
    assert delivery is not None
    assert (delivery.delivered, delivery.problems, pauses) == (delivered, problems, waited)
    assert delivery.attempts == len(receiver.received) == len(problems) + delivered
    assert SECRET not in f"{caplog.text} {delivery!r} {hook(receiver.url(SECRET))!r}"
    assert ("quality alerts not posted" in caplog.text) is not delivered


def test_a_server_that_is_silent_or_away_ends_in_time() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        delivery = hook(f"http://127.0.0.1:{port}/{SECRET}", 50_000).post({}, pauses_s=[0.0], wait=lambda _: None)
    assert (delivery.delivered, delivery.problems) == (False, ("no answer within 0.05 s",) * 2)
    delivery = hook(f"http://127.0.0.1:{port}/{SECRET}").post({}, pauses_s=[0.0], wait=lambda _: None)
    assert (delivery.delivered, delivery.problems) == (False, ("Connection refused",) * 2)


def test_what_answers_in_another_language_is_told_too() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"https://127.0.0.1:{server.getsockname()[1]}/{SECRET}"
        server.close()
        assert not hook(url).post({}, pauses_s=[]).delivered
    broken = hook("http://127.0.0.1:1/\n" + SECRET).post({}, pauses_s=[])
    assert not broken.delivered
    assert SECRET not in repr(broken)


def test_nothing_is_posted_without_an_alert_or_an_address() -> None:
    with Receiver() as receiver:
        assert post_alerts("shop", quality(0), hook(receiver.url(SECRET))) is None
    assert not receiver.received
    assert post_alerts("shop", quality(), None) is None


def test_of_many_alerts_the_newest_are_posted() -> None:
    posted = document_of("shop", quality(MOST + 7))
    assert (len(posted["alerts"]), posted["left_out"]) == (MOST, 7)
    assert posted["alerts"][-1]["window_us"] == (MOST + 6) * HOUR_US
    assert json.loads(json.dumps(posted, allow_nan=False)) == posted


def test_every_alert_is_a_line_of_the_log(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        log_alerts(quality())
    assert [record.levelname for record in caplog.records] == ["WARNING", "ERROR"]
    event: Any = caplog.records[1].msg
    assert isinstance(event, Event)
    assert event.what == "quality alert"
    assert event.fields["dataset"] == "click"
    assert event.fields["window"] == "1970-01-01T01:00:00Z"


@pytest.mark.parametrize("given", ["ftp://host/{}", "{}", "https:///{}", "http://host:x/{}", "http://host/a {}"])
def test_an_address_that_is_none_is_refused_unsaid(tmp_path: Path, given: str, monkeypatch: pytest.MonkeyPatch) -> None:
    url = given.format(SECRET)
    (tmp_path / "dovetail.toml").write_text(f'{TOML}[quality]\nwebhook = "{url}"\n')
    with pytest.raises(
        ConfigError, match=r"quality\.webhook: it is no address; write one that begins with http"
    ) as caught:
        load_config(tmp_path)
    assert SECRET not in str(caught.value)
    monkeypatch.setenv("ALERTS_TO", url)
    with pytest.raises(
        ConfigError, match=r"quality\.webhook_env: the environment variable ALERTS_TO holds no"
    ) as caught:
        webhook_of(QualityConfig(webhook_env="ALERTS_TO"))
    assert SECRET not in str(caught.value)


def test_the_address_is_in_no_text_of_the_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"https://hooks.example.org/services/{SECRET}"
    (tmp_path / "dovetail.toml").write_text(f'{TOML}[quality]\nwebhook = "{url}"\n')
    config = load_config(tmp_path)
    assert SECRET not in f"{config!r} {config} {config.model_dump()} {config.model_dump_json()}"
    found = webhook_of(config.quality)
    assert found is not None
    assert (found.url, found.shown) == (url, "https://hooks.example.org/***")
    monkeypatch.setenv("ALERTS_TO", f" {url}\n")
    assert webhook_of(QualityConfig(webhook_env="ALERTS_TO")) == Webhook(url, 10_000_000)
    assert webhook_of(QualityConfig()) is None
    with pytest.raises(ConfigError, match="two places for one thing"):
        load_config(tmp_path, quality={"webhook_env": "ALERTS_TO"})
    with pytest.raises(ConfigError) as caught:
        webhook_of(QualityConfig(webhook_env=url))
    assert SECRET not in str(caught.value)
