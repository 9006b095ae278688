"""The encoders and the head of an estimator, as scikit-learn draws estimators in a notebook."""

from __future__ import annotations

from typing import Any

from cotune.heads import HEADS
from cotune.run import Run
from cotune.settings import FitConfig


def estimator_diagram(config: FitConfig, run: Run | None = None) -> Any:
    """Return the encoders side by side and the head below them, as a block of scikit-learn's diagram.

    Parameters
    ----------
    config : FitConfig
        The settings, of the run if there is one.
    run : Run, optional
        The trained run, whose numbers of parameters are shown.
    """
    try:
        from sklearn.utils._repr_html.estimator import _VisualBlock
    except ImportError:  # scikit-learn before 1.7
        from sklearn.utils._estimator_html_repr import _VisualBlock

    def block(name: str, *details: str) -> Any:
        return _VisualBlock("single", None, names=name, name_details="\n".join(details))

    kinds = {field.name: field for field in config.read_fields()}
    encoders = []
    reads = HEADS[config.fusion].reads({name: field.kind for name, field in kinds.items()})
    for name in reads:
        field = kinds[kinds[name].shared or name]
        named = {"text": config.text_encoder, "image": config.image_encoder}.get(field.kind, "learned from scratch")
        size = [] if run is None else [f"{run.model.encoders[name].n_parameters():,} parameters"]
        encoders.append(block(field.encoder or named, f"{field.kind} encoder", f"tune: {config.tune}", *size))
    about = [] if run is None else [f"{run.model.parameter_counts()['head']:,} parameters", run.task.describe()]
    side_by_side = _VisualBlock("parallel", encoders, names=list(reads), dash_wrapped=False)
    head = block(f"{config.fusion} head", "fusion head", f"width: {config.width}", *about)
    return _VisualBlock("serial", [side_by_side, head], dash_wrapped=False)
