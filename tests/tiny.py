"""Tiny random encoders of the real classes, pictures and posts, all made on the spot."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch import nn

TEXTS = ("bert", "distilbert", "roberta", "deberta-v2", "mpnet", "xlm-roberta", "modernbert", "electra")
HF_IMAGES = ("resnet", "vit", "swin", "convnext", "dinov2")
TIMM_IMAGES = ("timm-resnet", "timm-efficientnet", "timm-convnext", "timm-vit")
IMAGES = HF_IMAGES + TIMM_IMAGES

WORDS = [
    "a",
    "the",
    "good",
    "bad",
    "happy",
    "sad",
    "sun",
    "rain",
    "day",
    "dog",
    "cat",
    "food",
    "film",
    "love",
    "hate",
    "so",
    "very",
    "not",
    "is",
    "was",
    "my",
    "i",
    "we",
    "you",
    "!",
]
_OFFSET = {"roberta", "xlm-roberta", "mpnet"}  # these number positions from the padding index onwards


def stir(model: nn.Module, seed: int = 0) -> nn.Module:
    """Make every weight and batch-norm statistic tell, the ones too that a fresh model has at 0 or 1."""
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=random) * 0.05)
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.running_mean.copy_(torch.randn(module.running_mean.shape, generator=random) * 0.1)
                module.running_var.copy_(torch.rand(module.running_var.shape, generator=random) + 0.5)
    return model.eval()


def make_tokenizer(kind: str, *, special: bool = True) -> Any:
    """Return a WordPiece tokenizer with the special tokens in the places where `kind` has them."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    names = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"] if kind in _OFFSET else [
        "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"
    ]  # fmt: skip
    cls, pad, sep, unk, mask = names if kind in _OFFSET else [names[i] for i in (2, 0, 3, 1, 4)]
    letters = [chr(c) for c in range(ord("a"), ord("z") + 1)]
    pieces = list(dict.fromkeys([*names, *letters, *("##" + letter for letter in letters), *WORDS]))
    tokenizer = Tokenizer(models.WordPiece({piece: i for i, piece in enumerate(pieces)}, unk_token=unk))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    if special:
        at = [(token, pieces.index(token)) for token in (cls, sep)]
        tokenizer.post_processor = processors.TemplateProcessing(single=f"{cls} $A {sep}", special_tokens=at)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token=unk,
        pad_token=pad,
        cls_token=cls,
        sep_token=sep,
        mask_token=mask,
        model_max_length=64,
    )


def make_text_model(kind: str, **more: Any) -> nn.Module:
    """Return a random text encoder, hidden size 32, three layers."""
    import transformers as t

    settings: dict[str, Any] = {
        "vocab_size": 128,
        "hidden_size": 32,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "intermediate_size": 48,
        "max_position_embeddings": 70,
        "pad_token_id": 1 if kind in _OFFSET else 0,
        "initializer_range": 0.1,
        **more,
    }
    if kind == "distilbert":
        sizes = {"dim": 32, "n_layers": 3, "n_heads": 2, "hidden_dim": 48}
        keep = ("vocab_size", "max_position_embeddings", "pad_token_id", "initializer_range")
        return stir(t.DistilBertModel(t.DistilBertConfig(**sizes, **{key: settings[key] for key in keep})))
    if kind == "deberta-v2":
        settings |= {
            "relative_attention": True,
            "position_buckets": 8,
            "pos_att_type": ["p2c", "c2p"],
            "norm_rel_ebd": "layer_norm",
            "share_att_key": True,
            "position_biased_input": False,
            "conv_kernel_size": 3,
            "conv_act": "gelu",
        }
    if kind == "electra":
        settings["embedding_size"] = 16
    if kind == "modernbert":
        settings |= {"global_attn_every_n_layers": 2, "local_attention": 6, "cls_token_id": 2, "sep_token_id": 3,
                     "bos_token_id": 2, "eos_token_id": 3}  # fmt: skip
    names = {
        "bert": "Bert", "roberta": "Roberta", "deberta-v2": "DebertaV2", "mpnet": "MPNet",
        "xlm-roberta": "XLMRoberta", "modernbert": "ModernBert", "electra": "Electra",
    }  # fmt: skip
    config = getattr(t, names[kind] + "Config")(**settings)
    return stir(getattr(t, names[kind] + "Model")(config))


def make_image_model(kind: str) -> tuple[nn.Module, Any]:
    """Return a random image encoder of transformers for 32 x 32 pixels, and its processor."""
    import transformers as t

    square = {"height": 32, "width": 32}
    torch.manual_seed(0)
    if kind == "resnet":
        sizes = {"embedding_size": 8, "hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1], "layer_type": "basic"}
        return stir(t.ResNetModel(t.ResNetConfig(**sizes))), t.ConvNextImageProcessor(size={"shortest_edge": 32})
    if kind == "convnext":
        convnext = t.ConvNextConfig(hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 2, 1], layer_scale_init_value=0.5)
        return stir(t.ConvNextModel(convnext)), t.ConvNextImageProcessor(size={"shortest_edge": 32}, crop_pct=0.875)
    if kind == "swin":
        swin = t.SwinConfig(
            image_size=32, patch_size=2, embed_dim=8, depths=[2, 2, 1], num_heads=[1, 2, 2], window_size=4
        )
        return stir(t.SwinModel(swin)), t.ViTImageProcessor(size=square)
    shape = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "image_size": 32, "patch_size": 8}
    if kind == "vit":
        vit = t.ViTModel(t.ViTConfig(**shape, intermediate_size=48), add_pooling_layer=False)
        return stir(vit), t.ViTImageProcessor(size=square)
    crop = {"size": {"shortest_edge": 36}, "crop_size": square}
    return stir(t.Dinov2Model(t.Dinov2Config(**shape, mlp_ratio=2))), t.BitImageProcessor(**crop)


_TIMM: dict[str, tuple[str, dict[str, Any], int]] = {
    "timm-resnet": ("test_resnet", {}, 64),
    "timm-efficientnet": ("test_efficientnet", {}, 64),
    "timm-convnext": ("test_convnext", {}, 64),
    "timm-vit": ("test_vit", {"img_size": 32}, 32),
}


def save_timm(kind: str, folder: Path) -> None:
    """Write a random timm model in timm's own folder layout."""
    import timm
    from safetensors.torch import save_file

    architecture, args, side = _TIMM[kind]
    torch.manual_seed(0)
    model = stir(timm.create_model(architecture, pretrained=False, num_classes=0, **args))
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, folder / "model.safetensors")
    settings = {
        "architecture": architecture,
        "num_classes": 0,
        "model_args": args,
        "pretrained_cfg": {
            "input_size": [3, side, side],
            "interpolation": "bicubic",
            "crop_pct": 0.9,
            "crop_mode": "center",
            "mean": [0.5, 0.45, 0.4],
            "std": [0.2, 0.25, 0.3],
        },
    }
    (folder / "config.json").write_text(json.dumps(settings), encoding="utf-8")


def save_encoder(kind: str, folder: Path) -> Path:
    """Write the tiny encoder `kind` as a user would have it on disk."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    if kind in TEXTS:
        make_text_model(kind).save_pretrained(folder)
        make_tokenizer(kind).save_pretrained(folder)
    elif kind in HF_IMAGES:
        model, processor = make_image_model(kind)
        model.save_pretrained(folder)
        processor.save_pretrained(folder)
    else:
        save_timm(kind, folder)
    return folder


class Zoo:
    """Hands out the folder of a tiny encoder; each is made once."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def __call__(self, kind: str) -> Path:
        folder = self.root / kind
        return folder if folder.exists() else save_encoder(kind, folder)

    def copy(self, kind: str, to: Path) -> Path:
        """Return a copy that a test may damage."""
        return Path(shutil.copytree(self(kind), to))

    def text(self, kind: str = "distilbert", **settings: Any) -> Any:
        """Open a text encoder."""
        from cotune.encoders.resolve import resolve_text

        return resolve_text(str(self(kind)), **settings)

    def image(self, kind: str = "timm-resnet") -> Any:
        """Open an image encoder."""
        from cotune.encoders.resolve import resolve_image

        return resolve_image(str(self(kind)))

    def pair(self, text: str = "distilbert", image: str = "timm-resnet") -> dict[str, Any]:
        """Open both."""
        return {"text": self.text(text), "image": self.image(image)}


def picture(seed: int, *, size: tuple[int, int] = (48, 40), tint: tuple[int, int, int] = (0, 0, 0)) -> Image.Image:
    """Return smooth random colours around `tint`."""
    random = np.random.default_rng(seed)
    small = random.integers(0, 120, (5, 5, 3)) + np.asarray(tint)
    return Image.fromarray(np.clip(small, 0, 255).astype(np.uint8)).resize(size, Image.Resampling.BICUBIC)


def make_posts(folder: Path, n: int = 12, *, gaps: bool = True, classes: int = 2, seed: int = 0) -> pd.DataFrame:
    """Return posts whose words and colours both tell the label; with `gaps` some lack a text or an image."""
    random = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    tints = [(120, 0, 0), (0, 0, 130), (0, 125, 0)]
    tell = [["good", "happy", "love"], ["bad", "sad", "hate"], ["dog", "cat", "food"]]
    rows = []
    for i in range(n):
        label = i % classes
        name = folder / f"{i}.png"
        picture(seed * 1000 + i, tint=tints[label]).save(name)
        filler = random.choice(WORDS[10:20], size=int(random.integers(1, 9)))
        words = [*filler, *random.choice(tell[label], size=2)]
        rows.append(
            {
                "id": f"p{i}",
                "text": None if gaps and i % 6 == 4 else " ".join(words),
                "image": None if gaps and i % 6 == 5 else str(name),
                "label": f"class{label}",
                "group": None,
                "row": i + 1,
            }
        )
    return pd.DataFrame(rows, dtype=object)


def labels_of(posts: pd.DataFrame) -> np.ndarray:
    """Return class indices."""
    return np.asarray([int(label.removeprefix("class")) for label in posts["label"]])


def weights_of(module: nn.Module) -> dict[str, torch.Tensor]:
    """Return a copy of all parameters and buffers."""
    return {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}


def same_weights(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    """Tell whether two sets of weights are bitwise equal."""
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


PostsMaker = Callable[..., pd.DataFrame]


def scene(seed: int, size: tuple[int, int] = (160, 120)) -> Image.Image:
    """Return a smooth picture that looks like no other of another seed."""
    pixels = np.random.default_rng(seed).integers(0, 255, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC)
