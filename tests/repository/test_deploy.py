"""The recipes of deploy/ start what the program has, and the workflow what the repository has."""

from __future__ import annotations

import json
import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml

from cotune.cli import app
from cotune.serve.app import make_app
from explained import random_run
from served import served_model
from tiny import Zoo

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
#: What only training, and opening a run, needs.
TRAINING = {
    "torch", "torchvision", "transformers", "timm", "lightning-fabric", "imagehash", "scikit-learn", "scipy"
}  # fmt: skip


def stages() -> list[list[tuple[str, str]]]:
    """Return the instructions of each stage of the Dockerfile."""
    text = re.sub(r"\\\n\s*", " ", (DEPLOY / "Dockerfile").read_text())
    found: list[list[tuple[str, str]]] = [[]]
    for line in text.splitlines():
        if line and not line.startswith("#"):
            word, _, rest = line.partition(" ")
            if word == "FROM":
                found.append([])
            found[-1].append((word, rest.strip()))
    return found


def of(stage: list[tuple[str, str]], word: str) -> str:
    (rest,) = (rest for name, rest in stage if name == word)
    return rest


LAST = stages()[-1]
OBJECTS: dict[str, Any] = {part["kind"]: part for part in yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text())}
POD = OBJECTS["Deployment"]["spec"]["template"]["spec"]
RAY = yaml.safe_load((DEPLOY / "ray-cluster.yaml").read_text())["spec"]
COMPOSE = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]["cotune"]


def parsed(arguments: list[str]) -> dict[str, Any]:
    """Return what the real command line makes of the arguments of `cotune`."""
    group: Any = typer.main.get_command(app)
    name, *rest = arguments
    params: dict[str, Any] = group.commands[name].make_context(name, rest).params
    return params


@pytest.mark.parametrize(
    "arguments",
    [json.loads(of(LAST, "CMD")), COMPOSE["command"], POD["containers"][0]["args"], POD["initContainers"][0]["args"]],
)
def test_what_containers_start_is_a_command(arguments: list[str]) -> None:
    assert json.loads(of(LAST, "ENTRYPOINT")) == ["cotune"]
    params = parsed(arguments)
    assert params["runs"] == ["/model"]
    assert params["check"] or (params["host"], params["port"]) == ("0.0.0.0", 8000)


def test_probes_ask_what_the_service_answers(zoo: Zoo) -> None:
    paths = {getattr(route, "path", "") for route in make_app([served_model(random_run(zoo))]).routes}
    container = POD["containers"][0]
    named = {port["name"]: port["containerPort"] for port in container["ports"]}
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        assert container[probe]["httpGet"]["path"] in paths
        assert named[container[probe]["httpGet"]["port"]] == parsed(container["args"])["port"]
    (asked,) = re.findall(r"http://127\.0\.0\.1:(\d+)(/\w+)", of(LAST, "HEALTHCHECK"))
    assert int(asked[0]) == parsed(json.loads(of(LAST, "CMD")))["port"] == int(of(LAST, "EXPOSE"))
    assert asked[1] in paths
    assert OBJECTS["Service"]["spec"]["ports"][0]["targetPort"] in named


def test_nothing_runs_as_root_or_writes_beside_its_scratch() -> None:
    user = int(of(LAST, "USER").partition(":")[0])
    assert user > 0
    for pod in (POD, RAY["headGroupSpec"]["template"]["spec"], RAY["workerGroupSpecs"][0]["template"]["spec"]):
        assert pod["securityContext"]["runAsNonRoot"]
        assert pod["securityContext"]["runAsUser"] == user
        for container in [*pod["containers"], *pod.get("initContainers", [])]:
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
            assert container["securityContext"]["capabilities"]["drop"] == ["ALL"]
            assert container["resources"]["limits"].keys() == {"cpu", "memory"}
            mounts = {mount["name"]: mount for mount in container["volumeMounts"]}
            assert mounts.keys() <= {volume["name"] for volume in pod["volumes"]}
            assert mounts["model"]["readOnly"]
            assert mounts["scratch"]["mountPath"] == "/tmp"
    assert all(c["securityContext"]["readOnlyRootFilesystem"] for c in [*POD["containers"], *POD["initContainers"]])
    assert COMPOSE["read_only"]
    assert COMPOSE["tmpfs"] == ["/tmp"]
    written = dict(re.findall(r"(\w+)=(\S+)", of(LAST, "ENV")))
    assert written["COTUNE_CACHE"].startswith("/tmp/")
    assert written["HOME"] == "/tmp"


def test_the_service_has_time_to_answer_what_it_accepted() -> None:
    assert POD["terminationGracePeriodSeconds"] > parsed(POD["containers"][0]["args"])["grace"]
    assert int(COMPOSE["stop_grace_period"].rstrip("s")) > parsed(COMPOSE["command"])["grace"]


def locked(name: str) -> dict[str, str]:
    """Return the pinned versions of a file of hashed requirements."""
    text = re.sub(r"\\\n\s*", " ", (DEPLOY / name).read_text())
    lines = [line for line in text.splitlines() if line and not line.lstrip().startswith("#")]
    assert all("--hash=sha256:" in line for line in lines)
    return {found[1].lower(): found[2] for line in lines if (found := re.match(r"([\w.-]+)==([\w.]+)", line))}


def wanted(requirements: list[str]) -> set[str]:
    return {re.split(r"[<>=\[;~! ]", line)[0].lower() for line in requirements}


def test_the_image_holds_what_serving_needs_and_no_torch() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    listed = wanted([line for line in (DEPLOY / "requirements-serve.in").read_text().splitlines()
                     if line and not line.startswith("#")])  # fmt: skip
    needed = wanted([*project["dependencies"], *project["optional-dependencies"]["serve"]])
    assert listed == (needed - TRAINING) | {"openvino", "tokenizers"}, "deploy/requirements-serve.in; then: make lock"
    pinned = locked("requirements-serve.txt")
    assert listed <= pinned.keys(), "make lock"
    assert not pinned.keys() & {"torch", "transformers", "timm"}
    assert {"setuptools", "wheel"} <= locked("requirements-build.txt").keys()
    ray = locked("requirements-ray.txt")
    assert ray["ray"] == RAY["rayVersion"]
    assert all(ray[name] == pinned[name] for name in listed), "make lock"


def test_the_dockerfile_copies_what_is_there_and_pins_what_it_takes() -> None:
    ignored = (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines()
    for stage in stages():
        for word, rest in stage:
            if word == "COPY" and "--from" not in rest:
                for source in shlex.split(rest)[:-1]:
                    assert list(ROOT.glob(source)), source
                    assert f"!{source}" in ignored or source == "deploy/requirements-build.txt"
            if word == "FROM":
                assert rest.split()[0] == "${PYTHON_IMAGE}"
            if word == "RUN" and "pip install" in rest:
                assert "--require-hashes" in rest or "--no-deps" in rest


def test_the_release_is_built_checked_and_published_without_a_token() -> None:
    text = (ROOT / ".github" / "workflows" / "release.yml").read_text()
    jobs = yaml.safe_load(text)["jobs"]
    assert jobs["publish"]["permissions"] == {"id-token": "write"}
    assert jobs["publish"]["needs"] == "build"
    assert "secrets." not in text
    steps = [step for job in jobs.values() for step in job["steps"]]
    assert all(re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}", step["uses"]) for step in steps if "uses" in step)
    for script in ("scripts/check_package.sh", ".ci/run"):
        assert any(step.get("run", "").startswith(script) for step in steps)
        assert (ROOT / script).stat().st_mode & 0o100
