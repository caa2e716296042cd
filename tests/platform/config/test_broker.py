"""``[broker]`` of ``dovetail.toml``."""

from __future__ import annotations

from typing import Any

import pytest

from dovetail.platform.config.broker import FOREVER_MS, Retention
from dovetail.platform.config.load import load_config
from dovetail.platform.errors import ConfigError
from tests.places import ROOT


def broker(**settings: Any) -> Any:
    return load_config(ROOT, broker=settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"user": "u"}, "broker.user: it needs one password; give one of password_env and password_file"),
        ({"user": "u", "password_env": "A", "password_file": "b"}, "give one of password_env and password_file"),
        ({"password_env": "A"}, "password_env: it is the password of a user, and there is none; give user"),
        ({"ca_file": "ca.pem"}, "ca_file: it is used with TLS alone; set tls = true"),
        ({"tls": True, "cert_file": "c.pem"}, "cert_file and key_file belong together"),
        ({"password": "p"}, "unknown key 'password'; did you mean 'password_env'?"),
        ({"retention": {"inputs": "a week"}}, "is not a duration"),
        (
            {"retention": {"snapshots": "1h"}},
            "snapshots: it is 1h, but snapshots wait in their topic for their labels, 1475m; make it as long",
        ),
    ],
)
def test_what_does_not_go_together_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(ROOT, broker=settings, labels={"window": "1d"})


def test_every_topic_has_its_retention() -> None:
    kept = {"inputs": "7d", "snapshots": "2d", "samples": "3d", "dead_letters": "30d", "models": "forever"}
    config = load_config(
        ROOT,
        broker={"retention": kept},
        model={"topic": "models"},
        labels={"window": "1d", "order": {}},
    )
    day, wait = 86_400_000, 86_400_000 + 5 * 60_000 + 30 * 60_000
    assert config.retention() == {
        "behaviour": Retention(7 * day),
        "exposure": Retention(7 * day),
        "click": Retention(7 * day),
        "conversion": Retention(7 * day),
        "requests": Retention(7 * day),
        "snapshots": Retention(2 * day, wait),
        "samples": Retention(3 * day),
        "samples-ordered": Retention(3 * day),
        "demo-dead-letters": Retention(30 * day),
        "models": Retention(FOREVER_MS),
    }
    assert broker().retention()["requests"] == Retention()
