from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cotune.engines.sessions import usable_cores


@pytest.mark.parametrize(("quota", "cores"), [("100000 100000", 1), ("150000 100000", 2), ("10000 100000", 1)])
def test_a_containers_share_counts(tmp_path: Path, quota: str, cores: int) -> None:
    (tmp_path / "cpu.max").write_text(quota + "\n")
    assert usable_cores(tmp_path / "cpu.max") == min(cores, usable_cores(tmp_path / "none"))


@pytest.mark.parametrize("text", ["max 100000\n", "", "strange"])
def test_without_a_limit_all_cores_count(tmp_path: Path, text: str) -> None:
    (tmp_path / "cpu.max").write_text(text)
    assert usable_cores(tmp_path / "cpu.max") == usable_cores(tmp_path / "none") >= 1


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="cores of a thread are looked up as Linux has them")
@pytest.mark.skipif(usable_cores() < 2, reason="needs two cores")
def test_a_session_of_one_thread_is_not_bound_to_a_core(tmp_path: Path) -> None:
    """Several processes with one thread each, as on a cluster, would all be bound to the first."""
    onnx = pytest.importorskip("onnx", reason="the extra `export` is not installed")
    pytest.importorskip("openvino", reason="the extra `export` is not installed")
    shape = (256, 256)
    x, y = (onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape) for name in "xy")
    graph = onnx.helper.make_graph([onnx.helper.make_node("MatMul", ["x", "x"], ["y"])], "g", [x], [y])
    onnx.save(onnx.helper.make_model(graph), tmp_path / "g.onnx")
    code = (
        "import os, sys, pathlib, numpy; from cotune.engines.sessions import OpenVinoSession\n"
        "OpenVinoSession(pathlib.Path(sys.argv[1]), 1).run({'x': numpy.ones((256, 256), dtype=numpy.float32)})\n"
        "print(min(len(os.sched_getaffinity(int(task))) for task in os.listdir('/proc/self/task')))"
    )  # in a process of its own, as sessions of other tests have threads that are bound
    said = subprocess.run([sys.executable, "-c", code, tmp_path / "g.onnx"], capture_output=True, text=True, check=True)
    assert int(said.stdout) == usable_cores(Path("none"))
