"""The image and the compose file: what they start exists, and they agree with each other. No container is run."""

from __future__ import annotations

import json
import re
import shlex
import tomllib
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from dovetail.app.roles import all_roles
from dovetail.cli.init import run as init
from dovetail.platform.config.load import Config, load_config
from tests.command_lines import parsed
from tests.places import ROOT

DEPLOY = ROOT / "deploy"
DOCKERFILE = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
COMPOSE = yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))
OURS = {name: service for name, service in COMPOSE["services"].items() if service["image"] == "dovetail"}


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    """The configuration of the project in the image."""
    folder = tmp_path_factory.mktemp("image") / "project"
    init(folder, minimal=True)
    with (folder / "dovetail.toml").open("a", encoding="utf-8") as file:
        file.write((DEPLOY / "servers.toml").read_text(encoding="utf-8"))
    return load_config(folder)


def address_of(test: list[str]) -> tuple[int, str]:
    """Port and path that a health check asks."""
    (url,) = re.findall(r"http://127\.0\.0\.1:[^']+", " ".join(test))
    parts = urlsplit(url)
    assert parts.port is not None
    return parts.port, parts.path


def test_every_command_is_one() -> None:
    assert {parsed(service["command"])[0] for service in OURS.values()} == {"worker", "serve", "console"}
    (command,) = re.findall(r"^CMD (\[.*\])$", DOCKERFILE, re.MULTILINE)
    assert parsed(json.loads(command))[0] == "worker"
    (initial,) = re.findall(r"dovetail (init .*?) &&", DOCKERFILE)
    assert parsed(shlex.split(initial)) == ("init", {"folder": Path("/project"), "minimal": True})


def test_each_role_of_the_project_runs_in_one_group(config: Config) -> None:
    workers = [parsed(service["command"])[1] for service in OURS.values() if service["command"][0] == "worker"]
    roles = [role for worker in workers for role in worker["agents"].split(",")]
    assert sorted(roles) == sorted(all_roles(config))
    assert not any(worker["serve_api"] for worker in workers)


def test_the_servers_of_the_configuration_are_services(config: Config) -> None:
    storage = config.storage
    urls = [storage.broker, storage.online_store, storage.label_store, storage.registry]
    assert {urlsplit(url).hostname for url in urls} == set(COMPOSE["services"]) - set(OURS)
    listening = COMPOSE["services"]["kafka"]["environment"]["KAFKA_ADVERTISED_LISTENERS"]
    assert urlsplit(storage.broker).netloc == urlsplit(listening).netloc
    user = COMPOSE["services"]["postgresql"]["environment"]["POSTGRES_USER"]
    assert urlsplit(storage.registry).username == user
    assert "noeviction" in COMPOSE["services"]["redis"]["command"]


def test_health_is_asked_where_it_is_said(config: Config) -> None:
    (check,) = re.findall(r"HEALTHCHECK .*?CMD (\[.*?\])$", DOCKERFILE, re.MULTILINE | re.DOTALL)
    assert address_of(json.loads(check)) == (config.worker.health_port, "/healthz")
    for name, path in (("api", "/readyz"), ("console", "/login")):
        service = OURS[name]
        port = parsed(service["command"])[1]["port"]
        assert address_of(service["healthcheck"]["test"]) == (port, path)
        assert service["ports"] == [f"127.0.0.1:{port}:{port}"]
    grace = int(COMPOSE["x-dovetail"]["stop_grace_period"].removesuffix("s"))
    assert grace * 1_000_000 > config.worker.stop_timeout


def test_tokens_and_volumes_are_declared(config: Config) -> None:
    assert config.api is not None
    console = parsed(OURS["console"]["command"])[1]
    for path in (config.api.tokens_file, console["tokens_file"]):
        assert path is not None
        assert Path("/run/secrets") / path.name == path
        assert path.name in COMPOSE["secrets"]
    for service in COMPOSE["services"].values():
        assert set(service.get("secrets", [])) <= set(COMPOSE["secrets"])
        volumes = {volume.partition(":")[0] for volume in service.get("volumes", [])}
        assert volumes <= set(COMPOSE["volumes"])
        assert set(service.get("depends_on", {})) <= set(COMPOSE["services"])
    assert f"{config.storage.state}" in DOCKERFILE


def test_the_image_copies_what_there_is_and_runs_without_rights() -> None:
    ignored = (DEPLOY / "Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines()
    for line in re.findall(r"^COPY (?!--from)(.*)$", DOCKERFILE, re.MULTILINE):
        *sources, _ = line.split()
        for source in sources:
            assert (ROOT / source).exists(), source
            assert f"!{source}" in ignored, source
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    (extra,) = re.findall(r"'\.\[(\w+)\]'", DOCKERFILE)
    assert extra in project["project"]["optional-dependencies"]
    wheel = project["tool"]["hatch"]["build"]["targets"]["wheel"]
    needed = {*wheel["only-include"], *wheel["force-include"], project["project"]["readme"]}
    assert {f"!{path}" for path in needed} <= set(ignored)
    last = DOCKERFILE.rpartition("\nFROM ")[2]
    assert last.index("\nUSER dovetail") < last.index("\nENTRYPOINT")


def test_it_is_as_compose_wants_it() -> None:
    """Keys of services are those of the specification, as far as they are used here."""
    keys: set[Any] = {key for service in COMPOSE["services"].values() for key in service}
    assert keys <= {
        *(
            "build",
            "command",
            "depends_on",
            "environment",
            "healthcheck",
            "image",
            "init",
            "ports",
            "restart",
            "secrets",
        ),
        *("stop_grace_period", "volumes"),
    }
