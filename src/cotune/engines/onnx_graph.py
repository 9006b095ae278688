"""A torch module written as an ONNX graph."""

from __future__ import annotations

import contextlib
import io
import logging
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cotune.errors import CotuneError, ExportError, clip, first_line

#: Which axes of each input may have any length.
Shapes = Mapping[str, Mapping[int, Any]]
_OPERATOR = re.compile(r"\b(?:aten|torchvision|prims|higher_order)[.:]+[A-Za-z_]\w*(?:\.\w+)?")


def write_graph(
    module: nn.Module, path: Path, inputs: Mapping[str, Tensor], shapes: Shapes, outputs: Sequence[str], name: str
) -> None:
    """Write a module that takes a mapping of tensors.

    Parameters
    ----------
    module : nn.Module
        In evaluation mode, on the CPU.
    path : Path
        The file.
    inputs : mapping
        An example.
    shapes : mapping
        Axes of the inputs that may have any length.
    outputs : sequence of str
        Names of what the module returns.
    name : str
        What messages call the module.

    Raises
    ------
    ExportError
        If ONNX has no counterpart to an operator, which is named.
    """
    program: Any = None
    with quiet(), torch.no_grad():
        before = torch.backends.mha.get_fastpath_enabled()
        torch.backends.mha.set_fastpath_enabled(False)  # its fused operator has no counterpart
        try:
            program = torch.onnx.export(
                module,
                kwargs={"inputs": dict(inputs)},  # a dict among the positional ones would be taken for keywords
                dynamo=True,
                input_names=list(inputs),
                output_names=list(outputs),
                dynamic_shapes={"inputs": {key: dict(axes) for key, axes in shapes.items()}},
                external_data=False,
                verbose=False,
            )
        except CotuneError:
            raise
        except Exception as error:
            raise ExportError(_reason(name, error)) from error
        finally:
            torch.backends.mha.set_fastpath_enabled(before)
        program.save(str(path), external_data=False)


def _reason(name: str, error: Exception) -> str:
    """Return in one line why a module cannot be exported, with the operator if one is at fault."""
    chain: list[BaseException] = [error]
    while (inner := chain[-1].__cause__) is not None:
        chain.append(inner)
    words = "\n".join(str(each) for each in chain)
    operators = list(dict.fromkeys(_OPERATOR.findall(words)))
    what = f"the operator {operators[0]}" if operators else clip(first_line(chain[-1], 200))
    return f"the model ({name}) cannot be exported to ONNX: {what} is in the way"


@contextlib.contextmanager
def quiet(*others: str) -> Iterator[None]:
    """Keep the exporter's own progress and warnings to itself; what matters comes back as an error."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "torch.export", *others)]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
