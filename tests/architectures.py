"""Tiny random models of many architectures, as a user would have them in a folder: what the encoder matrix opens."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tiny import make_tokenizer, stir

# What most text configurations call their sizes; each architecture takes from it, and adds its own.
_SIZES: dict[str, Any] = {
    "vocab_size": 128,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 70,
    "pad_token_id": 0,
    "bos_token_id": 2,
    "eos_token_id": 3,
    "initializer_range": 0.1,
}


@dataclass(frozen=True)
class Architecture:
    """One architecture of a library, with the settings that make it tiny.

    Attributes
    ----------
    name : str
        What the table calls it.
    cls : str
        The model's class in transformers (``Bert`` for ``BertConfig`` and ``BertModel``), or timm's name for it.
    sizes : dict
        Settings of the configuration, or arguments of ``timm.create_model``.
    model : str
        The model's class where it is not ``clsModel``.
    config : str
        The configuration's class where it is not ``clsConfig``.
    special : str
        Which tokenizer (see :func:`tiny.make_tokenizer`), or how images are processed.
    """

    name: str
    cls: str
    sizes: dict[str, Any] = field(default_factory=dict)
    model: str = ""
    config: str = ""
    special: str = "bert"


def _like_bert(name: str, cls: str, special: str = "bert", without: tuple[str, ...] = (), **more: Any) -> Architecture:
    offset = {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2} if special == "roberta" else {}
    sizes = {key: value for key, value in {**_SIZES, **offset, **more}.items() if key not in without}
    return Architecture(name, cls, sizes, special=special)


def _decoder(name: str, cls: str, **more: Any) -> Architecture:
    return _like_bert(name, cls, num_key_value_heads=1, head_dim=16, tie_word_embeddings=True, **more)


_GPT = {"n_embd": 32, "n_layer": 3, "n_head": 2, "n_positions": 70, "n_inner": 48}
_ENCODER_DECODER = {
    "d_model": 32, "encoder_layers": 3, "decoder_layers": 1, "encoder_attention_heads": 2, "decoder_attention_heads": 2,
    "encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "decoder_start_token_id": 2,
}  # fmt: skip
_T5 = {"d_model": 32, "d_kv": 16, "d_ff": 48, "num_layers": 3, "num_heads": 2, "decoder_start_token_id": 0}
_CLIP_TEXT = {"max_position_embeddings": 16, "projection_dim": 32}

TEXT: tuple[Architecture, ...] = (
    _like_bert("ALBERT", "Albert", embedding_size=16),
    _like_bert("BART", "Bart", **_ENCODER_DECODER),
    _like_bert("BERT", "Bert"),
    _like_bert("BigBird", "BigBird", attention_type="original_full"),
    _like_bert("BigBird (block sparse)", "BigBird", block_size=4, num_random_blocks=1, attention_type="block_sparse"),
    _like_bert("BLOOM", "Bloom", n_head=2, n_layer=3),
    _like_bert("CamemBERT", "Camembert", "roberta"),
    _like_bert("CLIP text", "CLIPText", **_CLIP_TEXT),
    _like_bert("ConvBERT", "ConvBert", embedding_size=32, conv_kernel_size=3, head_ratio=2),
    _like_bert("Data2Vec text", "Data2VecText", "roberta"),
    _like_bert("DeBERTa", "Deberta", relative_attention=True, pos_att_type=["p2c", "c2p"], position_biased_input=False,
               max_relative_positions=16),
    _like_bert("DeBERTa-v2", "DebertaV2", relative_attention=True, position_buckets=8, pos_att_type=["p2c", "c2p"],
               norm_rel_ebd="layer_norm", share_att_key=True, position_biased_input=False),
    _like_bert("DistilBERT", "DistilBert", dim=32, n_layers=3, n_heads=2, hidden_dim=48),
    _like_bert("ELECTRA", "Electra", embedding_size=16),
    _like_bert("ERNIE", "Ernie"),
    _like_bert("ESM", "Esm", mask_token_id=4, position_embedding_type="absolute"),
    _like_bert("EuroBERT", "EuroBert", num_key_value_heads=2, head_dim=16),
    _like_bert("FlauBERT", "Flaubert", emb_dim=32, n_layers=3, n_heads=2, n_langs=1, pad_index=0, asm=False),
    _like_bert("FNet", "FNet"),
    _like_bert("Funnel", "Funnel", without=("num_hidden_layers",), d_model=32, n_head=2, d_head=16, d_inner=48, block_sizes=[2, 2], num_decoder_layers=1),
    _decoder("Gemma", "Gemma"),
    _decoder("Gemma 2", "Gemma2", sliding_window=16, query_pre_attn_scalar=16),
    _like_bert("GPT-2", "GPT2", **_GPT),
    _like_bert("GPT-Neo", "GPTNeo", num_layers=3, num_heads=2, attention_types=[[["global", "local", "global"], 1]],
               window_size=8),
    _like_bert("GPT-NeoX", "GPTNeoX"),
    _like_bert("I-BERT", "IBert", "roberta"),
    _like_bert("LayoutLM", "LayoutLM"),
    _decoder("Llama", "Llama"),
    _like_bert("Longformer", "Longformer", "roberta", attention_window=[8, 8, 8]),
    _like_bert("LUKE", "Luke", "roberta", entity_vocab_size=8, entity_emb_size=16),
    _like_bert("Mamba", "Mamba", state_size=8, expand=2, time_step_rank=4),
    _like_bert("mBART", "MBart", **_ENCODER_DECODER),
    _like_bert("Megatron-BERT", "MegatronBert"),
    _decoder("Mistral", "Mistral", sliding_window=16),
    _like_bert("MobileBERT", "MobileBert", embedding_size=16, true_hidden_size=16, intra_bottleneck_size=16,
               use_bottleneck=True),
    _like_bert("ModernBERT", "ModernBert", global_attn_every_n_layers=2, local_attention=6, cls_token_id=2,
               sep_token_id=3),
    _like_bert("MPNet", "MPNet", "roberta"),
    _like_bert("MRA", "Mra", max_position_embeddings=64),
    _like_bert("mT5", "MT5", **_T5),
    _like_bert("Nomic BERT", "NomicBert", head_dim=16),
    _like_bert("Nystromformer", "Nystromformer", num_landmarks=8, segment_means_seq_len=8),
    _decoder("OLMo 2", "Olmo2"),
    _like_bert("OPT", "OPT", ffn_dim=48, word_embed_proj_dim=32),
    _decoder("Qwen2", "Qwen2"),
    _decoder("Qwen3", "Qwen3"),
    _like_bert("RemBERT", "RemBert", input_embedding_size=16, output_embedding_size=16),
    _like_bert("RoBERTa", "Roberta", "roberta"),
    _like_bert("RoBERTa pre-layer-norm", "RobertaPreLayerNorm", "roberta"),
    _like_bert("RoFormer", "RoFormer", embedding_size=32),
    _like_bert("SigLIP text", "SiglipText", max_position_embeddings=16, projection_size=32),
    _like_bert("Splinter", "Splinter"),
    _like_bert("SqueezeBERT", "SqueezeBert", embedding_size=32, q_groups=2, k_groups=2, v_groups=2,
               post_attention_groups=1, intermediate_groups=2, output_groups=2),
    _like_bert("T5", "T5", **_T5),
    _like_bert("XGLM", "XGLM", d_model=32, num_layers=3, attention_heads=2, ffn_dim=48),
    _like_bert("XLM", "XLM", emb_dim=32, n_layers=3, n_heads=2, n_langs=1, pad_index=0, asm=False),
    _like_bert("XLM-RoBERTa", "XLMRoberta", "roberta"),
    _like_bert("XLM-RoBERTa-XL", "XLMRobertaXL", "roberta"),
    _like_bert("XLNet", "XLNet", without=("max_position_embeddings",), d_model=32, n_layer=3, n_head=2, d_inner=48),
    _like_bert("X-MOD", "Xmod", "roberta", languages=["en_XX"], default_language="en_XX"),
    _like_bert("YOSO", "Yoso", use_expectation=True, use_fast_hash=False),
)  # fmt: skip

_VIT = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 48, "image_size": 32,
        "patch_size": 8}  # fmt: skip
_STAGES = {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 2, 1]}
_SWIN = {"image_size": 32, "patch_size": 2, "embed_dim": 8, "depths": [2, 2, 1], "num_heads": [1, 2, 2],
         "window_size": 4}  # fmt: skip


def _hf(name: str, cls: str, special: str = "ViT", model: str = "", config: str = "", **sizes: Any) -> Architecture:
    return Architecture(name, cls, sizes, model, config, special)


def _timm(name: str, side: int = 64, **sizes: Any) -> Architecture:
    return Architecture(f"timm {name}", name, sizes, special=f"timm:{side}")


IMAGE: tuple[Architecture, ...] = (
    _hf("BEiT", "Beit", **_VIT, layer_scale_init_value=0.5, use_relative_position_bias=True),
    _hf("BiT", "Bit", "Bit", embedding_size=8, num_groups=4, **_STAGES),
    _hf("CLIP vision", "CLIPVision", "CLIP", **_VIT),
    _hf("ConvNeXt", "ConvNext", "ConvNext", layer_scale_init_value=0.5, **_STAGES),
    _hf("ConvNeXt V2", "ConvNextV2", "ConvNext", **_STAGES),
    _hf("CvT", "Cvt", "ConvNext", embed_dim=[8, 16, 32], num_heads=[1, 2, 2], depth=[1, 2, 3]),
    _hf("Data2Vec vision", "Data2VecVision", **_VIT, layer_scale_init_value=0.5, use_relative_position_bias=True),
    _hf("DeiT", "DeiT", **_VIT),
    _hf("DINOv2", "Dinov2", "Bit", **{**_VIT, "mlp_ratio": 2}),
    _hf("DINOv2 with registers", "Dinov2WithRegisters", "Bit", **{**_VIT, "mlp_ratio": 2}),
    _hf("DINOv3 ViT", "DINOv3ViT", **_VIT),
    _hf("DINOv3 ConvNeXt", "DINOv3ConvNext", "ConvNext", **_STAGES),
    _hf("Donut Swin", "DonutSwin", "ViT", **_SWIN),
    _hf("EfficientNet", "EfficientNet", "EfficientNet", image_size=64, width_coefficient=0.25, depth_coefficient=0.1,
        hidden_dim=320),
    _hf("FocalNet", "FocalNet", "ViT", image_size=32, patch_size=2, embed_dim=8, depths=[1, 1, 2],
        hidden_sizes=[8, 16, 32], focal_levels=[2, 2, 2], focal_windows=[3, 3, 3]),
    _hf("HGNet-V2", "HGNetV2", "ConvNext", model="HGNetV2ForImageClassification"),
    _hf("Hiera", "Hiera", "ViT", image_size=[32, 32], patch_size=[3, 3], patch_stride=[2, 2], patch_padding=[1, 1],
        embed_dim=8, depths=[1, 1, 1], num_heads=[1, 2, 2], masked_unit_size=[4, 4], query_stride=[2, 2], num_query_pool=2),
    _hf("I-JEPA", "IJepa", **_VIT),
    _hf("LeViT", "Levit", "Levit", image_size=64, hidden_sizes=[16, 32, 48], num_attention_heads=[1, 2, 2],
        depths=[1, 1, 1], key_dim=[8, 8, 8], mlp_ratio=[2, 2, 2], attention_ratio=[2, 2, 2]),
    _hf("MobileNetV1", "MobileNetV1", "MobileNetV1", depth_multiplier=0.25, image_size=32),
    _hf("MobileNetV2", "MobileNetV2", "MobileNetV2", depth_multiplier=0.25, image_size=32),
    _hf("MobileViT", "MobileViT", "MobileViT", image_size=64, hidden_sizes=[16, 24, 32],
        neck_hidden_sizes=[8, 8, 16, 16, 24, 24, 32], num_attention_heads=2),
    _hf("MobileViT V2", "MobileViTV2", "MobileViT", image_size=64, width_multiplier=0.25),
    _hf("PoolFormer", "PoolFormer", "PoolFormer", hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 2, 1]),
    _hf("PVT", "Pvt", "ViT", image_size=64, hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 2, 1],
        num_attention_heads=[1, 2, 2, 4]),
    _hf("PVT v2", "PvtV2", "ConvNext", image_size=64, hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 2, 1],
        num_attention_heads=[1, 2, 2, 4]),
    _hf("RegNet", "RegNet", "ConvNext", embedding_size=8, groups_width=8, **_STAGES),
    _hf("ResNet", "ResNet", "ConvNext", embedding_size=8, layer_type="basic", **_STAGES),
    _hf("SegFormer", "Segformer", "Segformer", hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 2, 1],
        num_attention_heads=[1, 2, 2, 4]),
    _hf("SigLIP vision", "SiglipVision", "Siglip", **_VIT),
    _hf("SigLIP2 vision", "Siglip2Vision", "Siglip2", **{**_VIT, "num_patches": 16}),
    _hf("SwiftFormer", "SwiftFormer", "ViT", image_size=64, depths=[1, 1, 2, 1], embed_dims=[8, 16, 24, 32]),
    _hf("Swin", "Swin", "ViT", **_SWIN),
    _hf("Swin V2", "Swinv2", "ViT", **_SWIN),
    _hf("TextNet", "TextNet", "ConvNext"),
    _hf("ViT", "ViT", **_VIT),
    _hf("ViT MAE", "ViTMAE", **_VIT, decoder_hidden_size=16, decoder_num_hidden_layers=1, decoder_num_attention_heads=2,
        decoder_intermediate_size=16),
    _hf("ViT MSN", "ViTMSN", **_VIT),
    _hf("YOLOS", "Yolos", **{**_VIT, "image_size": [32, 32], "num_detection_tokens": 4}),
    _timm("beit_base_patch16_224", 32, img_size=32, patch_size=8, embed_dim=32, depth=3, num_heads=2),
    _timm("cait_xxs24_224", 32, img_size=32, patch_size=8, embed_dim=32, depth=3, num_heads=2, depth_token_only=2),
    _timm("coatnet_nano_rw_224", 64, img_size=64),
    _timm("convit_tiny", 32, img_size=32, patch_size=8, embed_dim=32, depth=3, num_heads=2, local_up_to_layer=2),
    _timm("test_convnext"),
    _timm("crossvit_tiny_240", 240, img_size=240, embed_dim=(16, 32), depth=((1, 2, 0), (1, 2, 0)), num_heads=(2, 2)),
    _timm("davit_tiny", 64, embed_dims=(16, 32, 48, 64), depths=(1, 1, 1, 1), num_heads=(2, 2, 2, 2)),
    _timm("deit3_small_patch16_224", 32, img_size=32, patch_size=8, embed_dim=32, depth=3, num_heads=2),
    _timm("densenet121", 64, growth_rate=8, block_config=(2, 2, 2, 2)),
    _timm("edgenext_xx_small"),
    _timm("test_efficientnet"),
    _timm("efficientformer_l1", 224),
    _timm("efficientvit_b0"),
    _timm("eva02_tiny_patch14_224", 32, img_size=32, patch_size=8, embed_dim=32, depth=3, num_heads=2),
    _timm("fastvit_t8", 64),
    _timm("ghostnet_050"),
    _timm("inception_next_tiny", 64, depths=(1, 1, 1, 1), dims=(8, 16, 24, 32)),
    _timm("inception_resnet_v2", 96),
    _timm("inception_v3", 96),
    _timm("maxvit_pico_rw_256", 64, img_size=64),
    _timm("mnasnet_small"),
    _timm("mobilenetv3_small_050"),
    _timm("mobilenetv4_conv_small_050"),
    _timm("mobilevit_xxs"),
    _timm("pit_ti_224", 64, img_size=64),
    _timm("poolformer_s12"),
    _timm("pvt_v2_b0", 64, depths=(1, 1, 1, 1)),
    _timm("rdnet_tiny", 64),
    _timm("regnetx_002"),
    _timm("repvgg_a0"),
    _timm("res2net50_26w_4s", 64, layers=(1, 1, 1, 1)),
    _timm("test_resnet"),
    _timm("sequencer2d_s", 32, img_size=32, layers=(1, 1, 1, 1), embed_dims=(16, 16, 16, 16), hidden_sizes=(8, 8, 8, 8)),
    _timm("swin_tiny_patch4_window7_224", 64, img_size=64, embed_dim=16, depths=(1, 1, 2), num_heads=(2, 2, 2), window_size=4),
    _timm("swinv2_tiny_window8_256", 64, img_size=64, embed_dim=16, depths=(1, 1, 2), num_heads=(2, 2, 2), window_size=4),
    _timm("tiny_vit_5m_224", 224),
    _timm("twins_pcpvt_small", 64, img_size=64, embed_dims=(16, 16, 32, 32), depths=(1, 1, 1, 1), num_heads=(1, 2, 2, 2)),
    _timm("visformer_tiny", 64, img_size=64),
    _timm("test_vit", 32, img_size=32),
    _timm("test_vit3", 32, img_size=32),
    _timm("xcit_nano_12_p16_224", 32, img_size=32, patch_size=8, embed_dim=32, depth=3, num_heads=2),
)  # fmt: skip


def settle(model: nn.Module, side: int) -> nn.Module:
    """Give batch norms the statistics of random images, without which deep random networks see no difference.

    They are statistics of many images, as a trained network's are: the last layers of some have one position for each
    image, and what a few images happen to have in common is so narrow that every other picture lies 50 standard
    deviations outside, where a network magnifies rounding a hundred times.
    """
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats]
    if not norms:
        return model
    usual = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the plain mean over all batches
        norm.train()
    random = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for norm in norms:  # some classes begin with weights near zero
            if norm.weight is not None:
                norm.weight.copy_(1 + 0.1 * torch.randn(norm.weight.shape, generator=random))
    coarse = torch.rand((64, 3, 5, 5), generator=random) * 4 - 2
    with torch.no_grad():
        model(nn.functional.interpolate(coarse, size=(side, side), mode="bilinear"))
    for norm, momentum in zip(norms, usual, strict=True):
        norm.momentum = momentum
    return model.eval()


def make_text(architecture: Architecture, folder: Path) -> Path:
    """Write a random text model and a tokenizer that suits it."""
    import transformers

    torch.manual_seed(0)
    cls = architecture.cls
    config = getattr(transformers, architecture.config or f"{cls}Config")(**architecture.sizes)
    model = getattr(transformers, architecture.model or f"{cls}Model")(config)
    stir(model).save_pretrained(folder)
    tokenizer = make_tokenizer(architecture.special)
    if "max_position_embeddings" in architecture.sizes and architecture.sizes["max_position_embeddings"] < 64:
        tokenizer.model_max_length = architecture.sizes["max_position_embeddings"]
    tokenizer.save_pretrained(folder)
    return folder


def make_image(architecture: Architecture, folder: Path) -> Path:
    """Write a random image model, with an image processor or in timm's layout."""
    torch.manual_seed(0)
    if architecture.special.startswith("timm:"):
        return _save_timm(architecture, folder)
    import transformers

    cls = architecture.cls
    config = getattr(transformers, architecture.config or f"{cls}Config")(**architecture.sizes)
    model = getattr(transformers, architecture.model or f"{cls}Model")(config)
    side = architecture.sizes.get("image_size", 64)
    side = side[0] if isinstance(side, list) else side
    settle(stir(model), side).save_pretrained(folder)
    _processor(architecture.special, side).save_pretrained(folder)
    return folder


def _processor(kind: str, side: int) -> Any:
    import transformers

    square, edge = {"height": side, "width": side}, {"shortest_edge": side}
    settings: dict[str, Any] = {
        "ConvNext": {"size": edge},
        "Bit": {"size": {"shortest_edge": side + 4}, "crop_size": square},
        "CLIP": {"size": edge, "crop_size": square},
        "Levit": {"size": edge, "crop_size": square},
        "MobileNetV1": {"size": edge, "crop_size": square},
        "MobileNetV2": {"size": edge, "crop_size": square},
        "MobileViT": {"size": edge, "crop_size": square},
        "PoolFormer": {"size": edge, "crop_size": square},
        "Siglip2": {"patch_size": 8, "max_num_patches": 16},
    }.get(kind, {"size": square})
    return getattr(transformers, f"{kind}ImageProcessor")(**settings)


def _save_timm(architecture: Architecture, folder: Path) -> Path:
    """Write what timm itself writes."""
    import timm
    from timm.models import save_for_hf

    side = int(architecture.special.partition(":")[2])
    cfg = {"input_size": (3, side, side), "fixed_input_size": False, "pool_size": None}
    model = timm.create_model(architecture.cls, pretrained=False, pretrained_cfg_overlay=cfg, **architecture.sizes)
    save_for_hf(settle(stir(model), side), str(folder), model_args=architecture.sizes or None, safe_serialization=True)
    (folder / "pytorch_model.bin").unlink(missing_ok=True)
    settings = json.loads((folder / "config.json").read_text())
    assert settings["architecture"] == architecture.cls
    return folder


MAKERS: dict[str, Callable[[Architecture, Path], Path]] = {"text": make_text, "image": make_image}


def n_parameters(model: nn.Module) -> int:
    """Return the number of parameters."""
    return sum(p.numel() for p in model.parameters())
