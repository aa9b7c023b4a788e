"""The compose file: valid, complete, and of one mind with the program that it starts."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml  # type: ignore[import-untyped]

from dicomnode import plug
from dicomnode.backends import PORTS
from dicomnode.config import ROLES
from dicomnode.config_file import read_config
from dicomnode.config_rules import doubts
from tests.deploy.placed import DEPLOY

CLUSTER = DEPLOY / "config" / "cluster.toml"


def secrets() -> dict[str, str]:
    lines = (DEPLOY / "secrets.env.example").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    told: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    return told


def nodes(compose: dict[str, Any]) -> dict[str, Any]:
    return {name: told for name, told in compose["services"].items() if told.get("command", [""])[0] == "run"}


def test_docker_compose_takes_it(tmp_path: Path) -> None:
    program = shutil.which("docker-compose")
    if program is None:
        pytest.skip("compose.yaml was not read by docker-compose: there is none here (scripts/peers installs it)")
    shutil.copytree(DEPLOY, tmp_path / "deploy")
    (tmp_path / "deploy" / "secrets.env").write_text((DEPLOY / "secrets.env.example").read_text())
    told = subprocess.run(
        [program, "-f", str(tmp_path / "deploy" / "compose.yaml"), "config", "--quiet"],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"DOCKER_HOST": "unix:///nowhere"},
    )
    assert told.returncode == 0, told.stderr


def test_two_of_each_role_with_a_folder_of_their_own(compose: dict[str, Any]) -> None:
    roles, folders, members = [], [], []
    for name, told in nodes(compose).items():
        words = told["command"]
        assert words[:4] == ["run", "--config", "/etc/dicomnode/cluster.toml", "--role"], name
        roles.append(words[4])
        assert name.startswith(words[4])
        members += [word for word in words if word.startswith("broker.options.instance=")]
        assert words[5:] in ([], ["--set", f"broker.options.instance={name}"]), name
        folders += [volume.split(":")[0] for volume in told["volumes"] if volume.endswith(":/var/lib/dicomnode")]
    assert sorted(roles) == sorted([*ROLES, *ROLES])
    assert len(set(folders)) == len(roles), "a data folder belongs to one process"
    assert len(members) == 6, "each worker has a name of its own at the broker"


def test_all_that_is_named_is_there(compose: dict[str, Any]) -> None:
    named = set(compose["volumes"])
    used = set()
    for told in compose["services"].values():
        for volume in told.get("volumes", ()):
            source = volume.split(":")[0]
            if source.startswith("."):
                assert (DEPLOY / source).is_file(), source
            else:
                used.add(source)
        assert set(told.get("depends_on", ())) <= set(compose["services"])
    assert used == named
    build = nodes(compose)["storescp-1"]["build"]
    assert (DEPLOY / build["context"] / build["dockerfile"]).samefile(DEPLOY / "Dockerfile")


def test_every_service_is_watched_started_again_and_pinned(compose: dict[str, Any]) -> None:
    for name, told in compose["services"].items():
        image, _, tag = told["image"].partition(":")
        assert tag, f"{name}: {image} is not pinned"
        assert tag != "latest"
        if told["restart"] == "on-failure":
            continue  # a job that ends
        assert told["restart"] == "unless-stopped"
        assert told["healthcheck"]["test"], name


def test_each_process_waits_for_what_it_uses(compose: dict[str, Any]) -> None:
    backends = {"redpanda", "postgres", "redis", "clickhouse", "bucket", "certificate"}
    for name, told in nodes(compose).items():
        assert set(told["depends_on"]) == backends, name
        assert told["read_only"], name
        assert told["stop_grace_period"] == "90s", "longer than what drains"


def test_no_secret_stands_in_the_files(compose: dict[str, Any]) -> None:
    for told in compose["services"].values():
        for name, value in told.get("environment", {}).items():
            assert "PASSWORD" not in name, value
    for file in ("compose.yaml", "config/cluster.toml"):
        assert not re.search(r"password\s*[:=]\s*\"?[A-Za-z0-9]", (DEPLOY / file).read_text(), re.IGNORECASE)


def test_no_host_of_a_registry_is_named(compose: dict[str, Any]) -> None:
    images = [told["image"] for told in compose["services"].values()]
    images += re.findall(r"^FROM (\S+)", (DEPLOY / "Dockerfile").read_text(), re.MULTILINE)
    assert len(images) > 10
    for image in images:
        assert "." not in image.partition(":")[0].partition("/")[0], image


def test_the_configuration_is_sound_with_the_example_of_secrets() -> None:
    config = read_config(CLUSTER, (), secrets())
    for port, kind in PORTS.items():
        plug.make(port, kind, getattr(config, port), Path(config.node.data_dir))  # an option that is unknown raises
    for role in ROLES:
        assert not doubts(config, (role,)), role
    assert config.server.trusted_proxies == ("172.30.0.0/24",)


def test_it_says_where_the_compose_file_has_things(compose: dict[str, Any]) -> None:
    config = read_config(CLUSTER, (), secrets())
    hosts = re.findall(r"://(?:[^@/\s]+@)?([a-z]+):\d+", CLUSTER.read_text())
    assert set(hosts) == {"minio", "redpanda", "postgres", "redis", "clickhouse"} <= set(compose["services"])
    assert compose["networks"]["cluster"]["ipam"]["config"][0]["subnet"] in config.server.trusted_proxies
    probe = nodes(compose)["server-1"]["healthcheck"]["test"]
    assert f":{config.health.port}/readyz" in " ".join(probe)
    for folder in (config.worklist.folder, config.performed.folder):
        for name, told in nodes(compose).items():
            if name.startswith(("server", "storescp")):
                assert any(folder.startswith(volume.split(":")[1]) for volume in told["volumes"]), name
    bucket = config.storage.options["url"].removeprefix("s3://")
    assert f"site/{bucket}" in " ".join(compose["services"]["bucket"]["command"])


def test_the_image_has_what_the_configuration_uses() -> None:
    said = re.search(r"'\.\[([a-z0-9,]+)\]'", (DEPLOY / "Dockerfile").read_text())
    assert said is not None
    extras = tomllib.loads((DEPLOY.parent / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    config = msgspec.to_builtins(read_config(CLUSTER, (), secrets()))
    used = {config[port]["use"] for port in PORTS}
    assert used <= set(said[1].split(",")) <= set(extras)
    assert "USER 10001" in (DEPLOY / "Dockerfile").read_text()
