"""The page that lies beside an exported graph: what it is, and the code that runs it without cotune."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cotune.export.package import ABOUT, GRAPH, OPENVINO
from cotune.report.numbers import plural
from cotune.tasks import TASKS, restore_task


def readme(about: Mapping[str, Any], name: str) -> str:
    """Return the text of ``README.md``.

    Parameters
    ----------
    about : mapping
        What ``export.json`` will say.
    name : str
        The folder's name.
    """
    needs = ["numpy", "openvino" if _is_int8(about) else "onnxruntime"]
    kinds = {each["kind"] for each in about["inputs"].values()}
    needs += [package for kind, package in (("image", "pillow"), ("text", "tokenizers")) if kind in kinds]
    if any("processor" in each for each in about["inputs"].values()):
        needs += ["transformers", "torchvision"]
    checks = "\n".join(_check(check, about) for check in about["checks"])
    return f"""# {name}

A model trained with cotune {about["cotune"]}, as one ONNX graph. It reads {_and(about["reads"])} of a post and gives
{_and(about["outputs"])}. It needs neither cotune nor torch; with cotune,
`cotune predict {name} POSTS --out predictions.csv` runs it.

| file | what it is |
|---|---|
| `{GRAPH}` | encoders, fusion head and task; batch and text length are free |
{_int8(about)}| `{ABOUT}` | what goes in and comes out, how images and texts are prepared, checksums |

Inputs: `present` (which of the fields {_and(about["reads"])} a post has, in this order), and for each field
{_and(_inputs(about))}. A post that lacks a field brings any valid input for it.
{_blank(about)}Outputs: `predictions` (posts x outputs), `shares` (posts x fields: each field's part in the decision)
and `contributions` (posts x fields x {_contributed(about)}: what each field adds, on the task's scale){_parts(about)}.

## Use

`pip install {" ".join(needs)}`, then in this folder:

```python
{code(about)}
```

## Checked

Against the run by torch when it was exported:

{checks}
"""


def _contributed(about: Mapping[str, Any]) -> str:
    """Return which outputs the contributions are of: labels of fields have none."""
    n = len(restore_task(about["task"]).outputs)
    return "outputs" if n == len(about["outputs"]) else f"the first {n} outputs"


def _blank(about: Mapping[str, Any]) -> str:
    """Return what counts as no text, which `present` has to say and the graph cannot know."""
    if all(each["kind"] != "text" for each in about["inputs"].values()):
        return ""
    return (
        "A text of white space, control and invisible characters alone counts as none: its place in `present` is "
        "False.\n"
    )


def _check(check: Mapping[str, Any], about: Mapping[str, Any]) -> str:
    line = (
        f"- {check['engine']}, {check['precision']}: {plural(check['posts'], 'post')}, largest difference "
        f"{check['largest_difference']:.1e}"
    )
    if check["agreement"] is not None:
        line += f", {check['agreement']:.2%} with the same label"
    if check["score"] is not None:
        title = TASKS[about["task"]["name"]].main_title
        line += f", {title} {check['score']:.4f} ({check['score_lost']:.4f} lost)"
    return line


def _is_int8(about: Mapping[str, Any]) -> bool:
    return bool(about["precision"] == "int8")


def _int8(about: Mapping[str, Any]) -> str:
    if not _is_int8(about):
        return ""
    return f"| `{OPENVINO}` | the same in INT8, which OpenVINO runs; inputs and outputs have the same names |\n"


def code(about: Mapping[str, Any]) -> str:
    """Return a program that predicts one post, with one block for each field."""
    int8 = _is_int8(about)
    imports = ["import json", "import numpy as np", "import openvino" if int8 else "import onnxruntime"]
    kinds = [each["kind"] for each in about["inputs"].values()]
    imports += ["from PIL import Image"] if "image" in kinds else []
    imports += ["from tokenizers import Tokenizer"] if "text" in kinds else []
    processed = any("processor" in each for each in about["inputs"].values())
    imports += ["from transformers import AutoImageProcessor"] if processed else []
    lines = [
        *imports,
        "",
        f'model = openvino.compile_model("{OPENVINO}", "CPU")'
        if int8
        else f'session = onnxruntime.InferenceSession("{GRAPH}")',
        f'inputs = {{"present": np.array([{[True] * len(kinds)}])}}',
    ]
    blocks = {"text": _text, "image": _image, "table": _table}
    for name, each in about["inputs"].items():
        lines += ["", *blocks[each["kind"]](name, each)]
    lines += [
        "",
        *(
            ["result = model(inputs)", 'predictions, shares = result["predictions"], result["shares"]']
            if int8
            else ['predictions, shares = session.run(["predictions", "shares"], inputs)']
        ),
        f'outputs = json.load(open("{ABOUT}"))["outputs"]',
        "print(dict(zip(outputs, predictions[0].tolist())), shares[0].tolist())",
    ]
    return "\n".join(lines)


def _text(name: str, about: Mapping[str, Any]) -> list[str]:
    lines = [
        f'tokenizer = Tokenizer.from_file("{about["tokenizer"]}")',
        f"tokenizer.enable_truncation({about['max_tokens']})",
        'ids = np.array([tokenizer.encode("what a lovely day").ids])',
        "mask = np.ones_like(ids)",
    ]
    fill = about["max_tokens"] if about["padded"] else about["multiple"] if about["multiple"] > 1 else 0
    if fill:
        keep = "" if about["padded"] else ", constant_values=0"
        lines += [
            f"rest = ((0, 0), (0, -ids.shape[1] % {fill}))",
            f"ids, mask = np.pad(ids, rest, constant_values={about['pad_id']}), "
            f"np.pad(mask, rest{', constant_values=1' if about['padded'] else keep})",
        ]
    return [*lines, f"inputs |= {{{f'{name}.input_ids'!r}: ids, {f'{name}.attention_mask'!r}: mask}}"]


def _image(name: str, about: Mapping[str, Any]) -> list[str]:
    if "processor" in about:
        return [
            f'processor = AutoImageProcessor.from_pretrained("{about["processor"]}")',
            f'image = Image.open("{name}.jpg").convert("RGB")',
            'found = processor(images=image, do_rescale=False, do_normalize=False, return_tensors="np")',
            f'inputs[{f"{name}.pixels"!r}] = found["pixel_values"].astype(np.uint8)',
        ]
    steps = about["pixels"]
    height, width = steps["size"]
    resize, resample = steps["resize"], f"Image.Resampling.{steps['filter'].upper()}"
    if isinstance(resize, int):
        size = [
            "short = min(image.size)",
            f"size = [{resize} if side == short else int({resize} * side / short) for side in image.size]",
        ]
    else:
        size = [f"size = ({resize[1]}, {resize[0]})"]
    return [
        f'image = Image.open("{name}.jpg").convert("RGB")',
        *size,
        f"image = image.resize(size, {resample})",
        f"left, top = round((image.width - {width}) / 2), round((image.height - {height}) / 2)",
        f"image = image.crop((left, top, left + {width}, top + {height}))",
        f"inputs[{f'{name}.pixels'!r}] = np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1)[None])",
    ]


def _table(name: str, about: Mapping[str, Any]) -> list[str]:
    cells = ", ".join(f"{column['name']!r}: None" for column in about["columns"])
    return [
        f'columns = json.load(open("{ABOUT}"))["inputs"][{name!r}]["columns"]',
        f"post = {{{cells}}}  # numbers, or values of categories; None for a missing one",
        "codes = [post[c['name']] if not c['values'] or post[c['name']] is None else",
        "         c['values'].index(post[c['name']]) if post[c['name']] in c['values'] else -1 for c in columns]",
        f"inputs[{f'{name}.cells'!r}] = np.array([[np.nan if code is None else code for code in codes]], np.float32)",
    ]


def _inputs(about: Mapping[str, Any]) -> list[str]:
    names = {"text": ("input_ids", "attention_mask"), "image": ("pixels",), "table": ("cells",)}
    return [f"`{field}.{key}`" for field, each in about["inputs"].items() for key in names[each["kind"]]]


def _parts(about: Mapping[str, Any]) -> str:
    return "; `base`, `alone` and `interactions` on the same scale" if about["parts"] else ""


def _and(words: Any) -> str:
    *first, last = [str(word) for word in words]
    return f"{', '.join(first)} and {last}" if first else last
