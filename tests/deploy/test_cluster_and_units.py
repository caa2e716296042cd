"""The Helm chart and the systemd units: their commands, settings and values are those there are. Nothing is started."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from dovetail.app.roles import ROLES
from dovetail.demo.shipped import minimal_folder
from dovetail.platform.config.load import Config, load_config, parse_duration
from tests.command_lines import parsed
from tests.places import ROOT

CHART = ROOT / "deploy" / "helm"
VALUES = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
TEMPLATES = {path.name: path.read_text(encoding="utf-8") for path in sorted((CHART / "templates").iterdir())}
UNITS = sorted((ROOT / "deploy" / "systemd").iterdir())
MINIMAL = (
    (minimal_folder() / "dovetail.toml").read_text(encoding="utf-8").replace("[model]", '[model]\ntopic = "models"')
)


def test_the_chart_is_of_this_version() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text(encoding="utf-8"))
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    assert (chart["apiVersion"], chart["appVersion"]) == ("v2", version)


def test_every_command_of_the_chart_is_one() -> None:
    lines = [line for text in TEMPLATES.values() for line in re.findall(r"args: (\[.*\])", text)]
    calls = [parsed(json.loads(re.sub(r"\{\{.*?\}\}", "features", line))) for line in lines]
    assert sorted(name for name, _ in calls) == ["console", "serve", "worker"]
    ports = {name: parameters.get("port") for name, parameters in calls}
    assert f"containerPort: {ports['serve']} " in TEMPLATES["api.yaml"]
    assert f"containerPort: {ports['console']} " in TEMPLATES["console.yaml"]


def test_each_role_is_in_one_group_but_for_models() -> None:
    roles = [role for group in VALUES["roles"].values() for role in group["agents"].split(",")]
    assert set(roles) == set(ROLES) - {"rekey", "shards", "gradients"}, (
        "without [rekeyed] and [trainer] there is nothing for them"
    )
    assert len(roles) == len(set(roles))


def test_what_templates_ask_for_has_a_value() -> None:
    missing = []
    for name, text in TEMPLATES.items():
        for path in re.findall(r"\.Values\.([\w.]+)", text):
            found: Any = VALUES
            for part in path.split("."):
                found = found.get(part) if isinstance(found, dict) else None
            if found is None:
                missing.append(f"{name}: {path}")
    assert missing == []


def config_of(text: str, folder: Path) -> Config:
    (folder / "dovetail.toml").write_text(text, encoding="utf-8")
    return load_config(folder)


def test_the_chart_writes_a_configuration(tmp_path: Path) -> None:
    block = TEMPLATES["project.yaml"].partition("dovetail.toml: |\n")[2]

    def filled(match: re.Match[str]) -> str:
        path = re.findall(r"\.Values\.([\w.]+)", match[0])[0].split(".")
        return MINIMAL if path == ["project", "toml"] else json.dumps(VALUES[path[0]][path[1]])

    config = config_of(re.sub(r"^    ", "", re.sub(r"\{\{.*?\}\}", filled, block), flags=re.MULTILINE), tmp_path)
    assert config.storage.broker == VALUES["stores"]["broker"]
    assert config.storage.registry == VALUES["stores"]["registry"]
    port = config.worker.health_port
    assert f"containerPort: {port} " in TEMPLATES["workers.yaml"]
    assert f'prometheus.io/port: "{port}"' in TEMPLATES["workers.yaml"]
    assert VALUES["worker"]["gracePeriodSeconds"] * 1_000_000 > parse_duration(VALUES["worker"]["stopTimeout"])


@pytest.mark.skipif(shutil.which("helm") is None, reason="helm is not installed")
def test_helm_makes_what_kubernetes_takes(tmp_path: Path) -> None:
    (tmp_path / "dovetail.toml").write_text(MINIMAL, encoding="utf-8")
    given = ["--set-file", "project.toml=dovetail.toml", "--set", "secret=s,project.sqlConfigMap=q"]
    subprocess.run(["helm", "lint", "--strict", str(CHART), *given], check=True, cwd=tmp_path)
    done = subprocess.run(
        ["helm", "template", "x", str(CHART), *given], check=True, cwd=tmp_path, stdout=subprocess.PIPE, text=True
    )
    made = [each for each in yaml.safe_load_all(done.stdout) if each]
    kinds = [each["kind"] for each in made]
    assert (kinds.count("StatefulSet"), kinds.count("Deployment")) == (len(VALUES["roles"]), 2)
    (project,) = [each["data"]["dovetail.toml"] for each in made if each["kind"] == "ConfigMap"]
    assert config_of(project, tmp_path).storage.offline_store == "/offline"
    for each in made:
        if each["kind"] not in ("StatefulSet", "Deployment"):
            continue
        pod = each["spec"]["template"]["spec"]
        (container,) = pod["containers"]
        parsed(container["args"])
        claims = {claim["metadata"]["name"] for claim in each["spec"].get("volumeClaimTemplates", [])}
        volumes = {volume["name"] for volume in pod["volumes"]} | claims
        assert {mount["name"] for mount in container["volumeMounts"]} == volumes
        ports = {port["name"] for port in container["ports"]}
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            assert container.get(probe, {}).get("httpGet", {}).get("port", *ports) in ports


def settings(unit: Path) -> Iterator[tuple[str, str]]:
    for line in unit.read_text(encoding="utf-8").splitlines():
        if line and not line.startswith(("#", "[")):
            name, _, value = line.partition("=")
            yield name, value


@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.name)
def test_a_unit_starts_a_command_and_does_not_insist_on_misuse(unit: Path) -> None:
    said = dict(settings(unit))
    program, *words = shlex.split(said["ExecStart"])
    assert program == "/opt/dovetail/bin/dovetail"
    name, parameters = parsed(words)
    assert unit.name == f"dovetail-{'api' if name == 'serve' else name}@.service"
    assert parameters["project"] == Path("${DOVETAIL_PROJECT}")
    assert said["RestartPreventExitStatus"] == "2"
    assert said["User"] == "dovetail"
    if name == "worker":
        stop = load_config(ROOT).worker.stop_timeout
        assert int(said["TimeoutStopSec"].removesuffix("s")) * 1_000_000 > stop
