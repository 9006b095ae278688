"""The engines that run an exported graph: ONNX Runtime and OpenVINO."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from cotune.errors import ConfigError, ExportError

Engine = Literal["auto", "torch", "onnx", "openvino"]
#: The fastest first, as measured (docs/results/engines.md).
ENGINES = ("openvino", "onnx")
_PACKAGES = {"openvino": "openvino", "onnx": "onnxruntime"}


class Session(Protocol):
    """A graph that is ready to run."""

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return the outputs by name."""


class OnnxSession:
    """ONNX Runtime.

    Parameters
    ----------
    path : Path
        The graph.
    threads : int
        How many threads a pass may use.
    """

    def __init__(self, path: Path, threads: int) -> None:
        import onnxruntime

        onnxruntime.set_default_logger_severity(3)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:
            raise ExportError(f"ONNX Runtime cannot open {path} ({str(error)[:200]}); export the run again") from error
        self._outputs = [output.name for output in self._session.get_outputs()]
        self._inputs = {given.name for given in self._session.get_inputs()}

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return the outputs by name."""
        wanted = {name: value for name, value in inputs.items() if name in self._inputs}
        return dict(zip(self._outputs, self._session.run(None, wanted), strict=True))


class OpenVinoSession:
    """OpenVINO.

    Parameters
    ----------
    path : Path
        The graph.
    threads : int
        How many threads a pass may use.
    """

    def __init__(self, path: Path, threads: int) -> None:
        openvino = import_openvino()
        core = openvino.Core()
        # Single precision throughout, as the graph was checked in; bf16 where the processor has it would be faster.
        settings = {
            "INFERENCE_PRECISION_HINT": "f32",
            "INFERENCE_NUM_THREADS": threads,
            "PERFORMANCE_HINT": "LATENCY",
            # Else several processes with a thread each are all bound to the first core.
            "ENABLE_CPU_PINNING": threads >= usable_cores(),
            # What is prepared for each shape of a batch; thousands are kept by default, and memory grows with them.
            "CPU_RUNTIME_CACHE_CAPACITY": 100,
        }
        try:
            self._model = core.compile_model(core.read_model(path), "CPU", settings)
        except Exception as error:
            raise ExportError(f"OpenVINO cannot open {path} ({str(error)[:200]}); export the run again") from error
        self._inputs = {name for port in self._model.inputs for name in port.get_names()}
        self._outputs = [port.get_any_name() for port in self._model.outputs]

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return the outputs by name."""
        wanted = {name: value for name, value in inputs.items() if name in self._inputs}
        found: Any = self._model(wanted)
        return {name: np.array(found[at]) for at, name in enumerate(self._outputs)}


def import_openvino() -> Any:
    """Return OpenVINO, imported without the package that reports its use to its makers over the network."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino

    return openvino


def installed() -> dict[str, str]:
    """Return the engines that are installed, the fastest first, with their versions."""
    found = {}
    for engine in ENGINES:
        try:
            found[engine] = metadata.version(_PACKAGES[engine])
        except metadata.PackageNotFoundError:
            continue
    return found


def choose_engine(asked: str) -> str:
    """Return the engine that is asked for; of ``auto`` the fastest that is installed.

    Raises
    ------
    ConfigError
        If it is not installed; the message names the extra.
    """
    there = installed()
    if asked == "auto" and there:
        return next(iter(there))
    if asked in there:
        return asked
    if asked not in (*ENGINES, "auto"):
        raise ConfigError(f"an engine is {', '.join(ENGINES)} or auto, not {asked!r}")
    what = "neither OpenVINO nor ONNX Runtime" if asked == "auto" else f"the engine {asked}, {_PACKAGES[asked]}, not"
    raise ConfigError(f"there is {what} installed; pip install 'cotune[export]'")


def open_session(path: Path, engine: str, threads: int | None = None) -> Session:
    """Open a graph with one of the :data:`ENGINES`."""
    kind = OpenVinoSession if engine == "openvino" else OnnxSession
    return kind(path, threads or usable_cores())


def usable_cores(limits: Path = Path("/sys/fs/cgroup/cpu.max")) -> int:
    """Return how many cores this process may use: those of the machine, or the share a container is limited to."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = limits.read_text(encoding="ascii").split()
        return min(cores, max(1, math.ceil(int(quota) / int(period))))
    except (OSError, ValueError):  # not limited ("max"), or no Linux
        return cores
