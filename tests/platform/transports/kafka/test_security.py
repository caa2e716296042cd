"""Passwords and certificates are checked before anything starts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from faust.types.auth import AuthProtocol, SASLMechanism

from dovetail.platform.config.broker import BrokerConfig
from dovetail.platform.errors import ConfigError
from dovetail.platform.transports.kafka.security import credentials


def login(tmp_path: Path, settings: Mapping[str, Any]) -> Any:
    return credentials(BrokerConfig.model_validate(settings), lambda name: tmp_path / name)


def test_nothing_is_asked_for_by_default(tmp_path: Path) -> None:
    assert login(tmp_path, {}) is None


def test_a_password_comes_from_the_environment_or_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "from-environment")
    (tmp_path / "secret").write_text("from-file\n")
    plain = login(tmp_path, {"user": "u", "mechanism": "PLAIN", "password_env": "SECRET"})
    assert (plain.username, plain.password, plain.mechanism) == ("u", "from-environment", SASLMechanism.PLAIN)
    assert plain.protocol is AuthProtocol.SASL_PLAINTEXT
    scram = login(tmp_path, {"user": "u", "password_file": "secret", "tls": True})
    assert (scram.password, scram.mechanism) == ("from-file", SASLMechanism.SCRAM_SHA_512)
    assert scram.protocol is AuthProtocol.SASL_SSL
    assert login(tmp_path, {"tls": True}).protocol is AuthProtocol.SSL


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"user": "u", "password_env": "NOT_SET"}, "broker.password_env: the environment variable NOT_SET is empty"),
        (
            {"user": "u", "password_file": "none"},
            "password_file: the file that it names cannot be read: No such file",
        ),
        (
            {"user": "u", "password_file": "empty"},
            "password_file: the file that it names is empty; put the password of 'u'",
        ),
        ({"tls": True, "ca_file": "empty"}, "broker.ca_file: .*empty is not a file of PEM certificates"),
        ({"tls": True, "cert_file": "empty", "key_file": "none"}, "broker.cert_file and key_file: .* are not a PEM"),
    ],
)
def test_what_cannot_be_used_is_named(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    (tmp_path / "empty").write_text("\n")
    with pytest.raises(ConfigError, match=message):
        login(tmp_path, settings)
