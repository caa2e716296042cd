"""Roles, groups and the settings of a worker."""

from __future__ import annotations

from typing import Any

import pytest

from dovetail.app.roles import ROLES, group_of, roles_of
from dovetail.platform.config.load import Config, load_config
from dovetail.platform.errors import ConfigError
from tests.places import ROOT

#: What only some projects have something for.
OPTIONAL = ("rekey", "shards", "gradients", "models")


def config(**overrides: Any) -> Config:
    return load_config(ROOT, **overrides)


def test_the_group_is_named_after_the_roles_unless_they_are_all() -> None:
    rekeyed = {"by_item": {"stream": "behaviour", "key": "item_id"}}
    plain, mirrored = (
        config(),
        config(model={"topic": "models"}, rekeyed=rekeyed, trainer={"shards": 2, "by": "samples"}),
    )
    assert roles_of(plain, []) == tuple(role for role in ROLES if role not in OPTIONAL)
    assert roles_of(mirrored, []) == ROLES
    assert group_of(plain, roles_of(plain, [])) == "dovetail-demo"
    assert group_of(plain, roles_of(plain, [role for role in ROLES if role not in OPTIONAL])) == "dovetail-demo"
    assert group_of(plain, roles_of(plain, ["labels", "features"])) == "dovetail-demo.features+labels"
    assert group_of(mirrored, roles_of(mirrored, ["models"])) == "dovetail-demo.models"


def test_roles_that_are_not_there_are_refused() -> None:
    with pytest.raises(
        ConfigError, match="--agents: there is no agent 'feature'; choose from rekey, features, snapshots"
    ):
        roles_of(config(), ["feature"])
    with pytest.raises(ConfigError, match=r"--agents: rekey needs a \[rekeyed.NAME\] section"):
        roles_of(config(), ["rekey"])
    with pytest.raises(ConfigError, match=r"--agents: shards needs \[trainer\] shards"):
        roles_of(config(), ["shards"])
    with pytest.raises(ConfigError, match='--agents: gradients needs \\[trainer\\] by = "samples"'):
        roles_of(config(trainer={"shards": 2}), ["gradients"])
    with pytest.raises(ConfigError, match="--agents: trainer needs a \\[model\\] section"):
        roles_of(config().model_copy(update={"model": None}), ["trainer"])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"health_port": 70_000}, "worker.health_port: 70000 is out of bounds; write at most 65535"),
        ({"stop_timeout": "10ms"}, "stop_timeout: less than 1s would cut every commit off"),
        ({"heartbeat": "0s"}, "heartbeat: 0us is nothing, or more than a third of session_timeout, 20s"),
        ({"heartbeat": "7s"}, "heartbeat: 7s is nothing, or more than a third of session_timeout, 20s"),
        ({"watchdog_timeout": "soon"}, "'soon' is not a duration"),
        ({"health_prot": 1}, "did you mean 'health_port'?"),
    ],
)
def test_settings_of_a_worker_that_cannot_be_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as refused:
        config(worker=given)
    assert message in str(refused.value)


def test_settings_reach_faust() -> None:
    settings = config(worker={"session_timeout": "2m", "heartbeat": "10s"}).worker.faust_settings()
    assert settings == {
        "broker_session_timeout": 120.0,
        "broker_heartbeat_interval": 10.0,
        "broker_request_timeout": 120.0,
    }
    assert config().worker.faust_settings()["broker_request_timeout"] == 90.0


def test_what_somebody_waits_for_is_gathered_nowhere() -> None:
    given = config(worker={"gather": {"archive": "3s"}}).worker.gather
    waits = {role: given.wait_us(role) for role in ROLES}
    assert waits.pop("archive") == 3_000_000
    assert (waits.pop("snapshots"), waits.pop("models")) == (0, 0)
    # An event is seen within a tenth of a second, and a closed window is trained on within a second.
    assert waits["rekey"] + waits["features"] < 50_000
    assert waits["labels"] + waits["samples"] + waits["trainer"] < 700_000
