from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cotune.errors import ConfigError, CotuneError
from cotune.scale.cluster import Cluster, Workers
from cotune.scale.connect import connected
from cotune.scale.library import get

pytestmark = pytest.mark.ray


class Doubling:
    """Doubles numbers; each object notes that it was made."""

    def __init__(self, notes: Path) -> None:
        (notes / f"made-{os.getpid()}").touch()
        self.notes = notes

    def __call__(self, number: int) -> int:
        if number == 5 and not (self.notes / "killed").exists():
            (self.notes / "killed").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return 2 * number


class Dying:
    def __call__(self, number: int) -> int:
        os.kill(os.getpid(), signal.SIGKILL)
        return number


class Refusing:
    def __init__(self) -> None:
        raise ConfigError("this worker cannot be made")


class Broken:
    def __call__(self, number: int) -> int:
        raise ZeroDivisionError("of the program")


def counted(number: int) -> Iterator[int]:
    yield from range(number)


@pytest.fixture
def cluster(ray_cluster: None) -> Iterator[Cluster]:
    with connected(Workers(max_retries=1)) as found:
        yield found


def test_every_item_is_answered_once_though_a_worker_is_killed(cluster: Cluster, tmp_path: Path) -> None:
    assert cluster.size == 2
    found = list(cluster.stream(range(20), Doubling, (tmp_path,)))
    assert sorted(found) == list(range(0, 40, 2))
    assert (tmp_path / "killed").exists()
    assert len(list(tmp_path.glob("made-*"))) == 3


def test_items_are_expanded_one_by_one(cluster: Cluster, tmp_path: Path) -> None:
    (tmp_path / "killed").touch()
    found = list(cluster.stream([3, 0, 4], Doubling, (tmp_path,), expand=counted))
    assert sorted(found) == [0, 0, 2, 2, 4, 4, 6]


@pytest.mark.parametrize(
    ("work", "error", "message"),
    [
        (Refusing, ConfigError, "this worker cannot be made"),
        (Dying, CotuneError, "workers died 2 times at the same work"),
        (Broken, ZeroDivisionError, "of the program"),
    ],
)
def test_errors_of_workers(cluster: Cluster, work: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        list(cluster.stream([1], work))


def test_values_are_shared(cluster: Cluster) -> None:
    assert get(cluster.put([1, 2])) == [1, 2]


@pytest.mark.parametrize(
    ("workers", "message"),
    [
        (Workers(num_cpus=3), "room for no worker with 3 CPUs"),
        (Workers(num_gpus=1), "room for no worker with 1 CPU and 1 GPU"),
        (Workers(concurrency=3), "only 2 workers with 1 CPU each, not 3"),
    ],
)
def test_workers_that_there_is_no_room_for(ray_cluster: None, workers: Workers, message: str) -> None:
    with pytest.raises(ConfigError, match=message), connected(workers):
        pass


def test_parts_of_a_cpu(ray_cluster: None) -> None:
    with connected(Workers(num_cpus=0.5)) as found:
        assert (found.size, found.workers.threads) == (4, 1)


@pytest.mark.parametrize("given", [{"num_cpus": 0}, {"num_cpus": -1}, {"concurrency": 0}])
def test_workers_that_make_no_sense(given: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        Workers(**given)


def test_a_cluster_is_on_loopback_and_reports_nothing(ray_cluster: None) -> None:
    import ray

    assert [node["NodeManagerAddress"] for node in ray.nodes()] == ["127.0.0.1"]
    assert signal.getsignal(signal.SIGTERM) in (signal.SIG_DFL, signal.default_int_handler)


@pytest.fixture
def unconnected(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    monkeypatch.setattr(ray, "is_initialized", lambda: False)


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("127.0.0.1:{port}", r"the Ray cluster at 127\.0\.0\.1:\d+ \(RAY_ADDRESS\) cannot be reached"),
        ("somewhere", "is no address"),
        ("ray://127.0.0.1:10001", "is Ray's client"),
    ],
)
def test_a_cluster_that_cannot_be_reached(
    unconnected: None, monkeypatch: pytest.MonkeyPatch, address: str, message: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    monkeypatch.setenv("RAY_ADDRESS", address.format(port=port))
    with pytest.raises(ConfigError, match=message), connected():
        pass


def test_no_ray_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"pip install 'cotune\[ray\]'"), connected():
        pass
