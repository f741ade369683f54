"""Image models of the transformers library: convolutional, attention, both, detection, segmentation."""

from __future__ import annotations

from typing import Any

from zoo.entry import Architecture, image, pretrained

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
PATCHES = {**SIZES, "image_size": 32, "patch_size": 8}
STAGES: dict[str, Any] = {"embedding_size": 16, "hidden_sizes": [16, 32], "depths": [1, 2]}
BIT: dict[str, Any] = {"embedding_size": 32, "hidden_sizes": [32, 64], "depths": [1, 2], "num_groups": 8}
CONVNEXT: dict[str, Any] = {"num_stages": 3, "hidden_sizes": [16, 24, 32], "depths": [1, 2, 1]}
EFFICIENT: dict[str, Any] = {
    "image_size": 32, "kernel_sizes": [3, 5], "in_channels": [160, 320], "out_channels": [320, 480], "strides": [1, 2],
    "num_block_repeats": [1, 2], "expand_ratios": [1, 4], "width_coefficient": 0.05, "depth_coefficient": 1.0,
    "hidden_dim": 64, "depthwise_padding": [],
}  # fmt: skip
POOLFORMER: dict[str, Any] = {
    "depths": [1, 1, 1, 1], "hidden_sizes": [16, 16, 24, 32], "mlp_ratio": 2.0,
}  # fmt: skip
FOCAL: dict[str, Any] = {
    "image_size": 32, "embed_dim": 16, "depths": [1, 1], "focal_levels": [2, 2], "focal_windows": [3, 3],
    "hidden_sizes": [16, 32],
}  # fmt: skip
TEXTNET: dict[str, Any] = {
    "image_size": [64, 64], "stem_out_channels": 16, "hidden_sizes": [16, 16, 24, 32, 48],
    "conv_layer_kernel_sizes": [[[3, 3]], [[3, 3], [1, 3]], [[3, 1]], [[3, 3]]],
    "conv_layer_strides": [[1], [2, 1], [2], [2]],
}  # fmt: skip
HGNET: dict[str, Any] = {
    "embedding_size": 16, "depths": [1] * 4, "hidden_sizes": [24, 32, 48, 64], "stem_channels": [3, 8, 16],
    "stage_in_channels": [16, 24, 32, 48], "stage_mid_channels": [8, 8, 16, 16], "stage_out_channels": [24, 32, 48, 64],
    "stage_num_blocks": [1, 2, 1, 1], "stage_numb_of_layers": [2, 2, 3, 2],
}  # fmt: skip
SWIN: dict[str, Any] = {
    "image_size": 32, "patch_size": 4, "embed_dim": 16, "depths": [2, 1], "num_heads": [2, 2], "window_size": 4,
}  # fmt: skip
PVT: dict[str, Any] = {
    "image_size": 64, "depths": [1, 1, 1, 1], "hidden_sizes": [16, 16, 32, 32], "num_attention_heads": [1, 1, 2, 2],
    "mlp_ratios": [2, 2, 2, 2], "sequence_reduction_ratios": [4, 2, 1, 1],
}  # fmt: skip
PVT_V2: dict[str, Any] = {
    "image_size": 64, "depths": [1, 1, 1, 1], "hidden_sizes": [16, 16, 32, 32], "num_attention_heads": [1, 1, 2, 2],
    "mlp_ratios": [2, 2, 2, 2], "sr_ratios": [4, 2, 1, 1],
}  # fmt: skip
CVT: dict[str, Any] = {"embed_dim": [16, 32, 32], "num_heads": [1, 2, 2], "depth": [1, 2, 3]}
LEVIT: dict[str, Any] = {
    "image_size": 64, "hidden_sizes": [32, 48, 64], "num_attention_heads": [2, 3, 4], "depths": [1, 1, 1],
    "key_dim": [8, 8, 8],
}  # fmt: skip
HIERA: dict[str, Any] = {
    "image_size": [32, 32], "embed_dim": 16, "depths": [1, 1, 2], "num_heads": [1, 2, 4], "patch_stride": [4, 4],
    "masked_unit_size": [4, 4], "query_stride": [2, 2], "num_query_pool": 2,
}  # fmt: skip
SWIFT: dict[str, Any] = {
    "image_size": 64, "depths": [1, 1, 1, 1], "embed_dims": [16, 24, 32, 48], "mlp_ratio": 2,
}  # fmt: skip
MOBILEVIT: dict[str, Any] = {
    "image_size": 64, "hidden_sizes": [16, 24, 32], "neck_hidden_sizes": [8, 8, 16, 16, 24, 24, 32],
}  # fmt: skip
SEGFORMER: dict[str, Any] = {
    "depths": [1, 1], "num_encoder_blocks": 2, "sr_ratios": [2, 1], "hidden_sizes": [16, 32], "patch_sizes": [7, 3],
    "strides": [4, 2], "num_attention_heads": [1, 2], "mlp_ratios": [2, 2], "decoder_hidden_size": 16,
}  # fmt: skip
DPT: dict[str, Any] = {
    **PATCHES, "num_hidden_layers": 4, "backbone_out_indices": [0, 1, 2, 3], "neck_hidden_sizes": [16, 16, 16, 16],
    "fusion_hidden_size": 16, "is_hybrid": False,
}  # fmt: skip
GLPN: dict[str, Any] = {
    "depths": [1, 1, 1, 1], "hidden_sizes": [16, 16, 32, 32], "num_attention_heads": [1, 1, 2, 2],
    "decoder_hidden_size": 16, "mlp_ratios": [2, 2, 2, 2],
}  # fmt: skip


def _detr() -> dict[str, Any]:
    from transformers import ResNetConfig

    return {
        "backbone_config": ResNetConfig(**STAGES, layer_type="basic", out_features=["stage2"]), "d_model": 32,
        "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 4, "decoder_attention_heads": 4,
        "encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "num_queries": 5, "num_labels": 4,
    }  # fmt: skip


def _upernet() -> dict[str, Any]:
    from transformers import ConvNextConfig

    backbone = ConvNextConfig(
        num_stages=4, hidden_sizes=[16, 16, 24, 32], depths=[1, 1, 1, 1],
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )  # fmt: skip
    return {
        "backbone_config": backbone, "hidden_size": 16, "pool_scales": [1, 2], "auxiliary_in_channels": 24,
        "auxiliary_channels": 16, "num_labels": 5,
    }  # fmt: skip


def _maskformer() -> dict[str, Any]:
    from transformers import DetrConfig, SwinConfig

    backbone = SwinConfig(**{**SWIN, "image_size": 64, "depths": [1] * 4, "num_heads": [2] * 4})
    return {
        "backbone_config": backbone, "decoder_config": DetrConfig(**{**_detr(), "encoder_layers": 0}),
        "fpn_feature_size": 32, "mask_feature_size": 16, "num_labels": 4,
    }  # fmt: skip


def _cnn(name: str, stem: str, options: dict[str, Any], size: int = 32) -> Architecture:
    return pretrained(name, "cnn", (f"{stem}ForImageClassification", f"{stem}Config"), options, image(size))


def _vit(name: str, stem: str, options: dict[str, Any], size: int = 32, family: str = "vit") -> Architecture:
    return pretrained(name, family, (f"{stem}ForImageClassification", f"{stem}Config"), options, image(size))


CONVOLUTIONAL = [
    _cnn("resnet-basic", "ResNet", {**STAGES, "layer_type": "basic"}),
    _cnn("resnet-bottleneck", "ResNet", {**STAGES, "layer_type": "bottleneck"}),
    _cnn("convnext", "ConvNext", CONVNEXT),
    _cnn("convnext-v2", "ConvNextV2", CONVNEXT),
    _cnn("regnet-y", "RegNet", {**STAGES, "groups_width": 8, "layer_type": "y"}),
    _cnn("regnet-x", "RegNet", {**STAGES, "groups_width": 8, "layer_type": "x"}),
    _cnn("mobilenet-v1", "MobileNetV1", {"image_size": 64, "depth_multiplier": 0.25}, 64),
    _cnn("mobilenet-v2", "MobileNetV2", {"image_size": 64, "depth_multiplier": 0.25}, 64),
    _cnn("efficientnet", "EfficientNet", EFFICIENT),
    _cnn("bit", "Bit", BIT, 64),
    _cnn("focalnet", "FocalNet", FOCAL),
    _cnn("textnet", "TextNet", TEXTNET, 64),
    _cnn("hgnet-v2", "HGNetV2", HGNET, 64),
    _vit("poolformer", "PoolFormer", POOLFORMER, 64, family="cnn"),
]

ATTENTION = [
    _vit("vit", "ViT", PATCHES),
    _vit("deit", "DeiT", PATCHES),
    _vit("beit", "Beit", PATCHES),
    _vit("data2vec-vision", "Data2VecVision", PATCHES),
    _vit("vit-msn", "ViTMSN", PATCHES),
    _vit("dinov2", "Dinov2", PATCHES),
    _vit("dinov2-registers", "Dinov2WithRegisters", PATCHES),
    _vit("ijepa", "IJepa", PATCHES),
    _vit("swin", "Swin", SWIN),
    _vit("swin-v2", "Swinv2", SWIN),
    _vit("pvt", "Pvt", PVT, 64),
    _vit("pvt-v2", "PvtV2", PVT_V2, 64),
    _vit("hiera", "Hiera", HIERA),
    _vit("segformer-classifier", "Segformer", SEGFORMER, 64),
]

HYBRID = [
    _vit("cvt", "Cvt", CVT, 64, family="hybrid"),
    _vit("levit", "Levit", LEVIT, 64, family="hybrid"),
    _vit("mobilevit", "MobileViT", MOBILEVIT, 64, family="hybrid"),
    _vit("mobilevit-v2", "MobileViTV2", {"image_size": 64, "width_multiplier": 0.25}, 64, family="hybrid"),
    _vit("swiftformer", "SwiftFormer", SWIFT, 64, family="hybrid"),
]


BOXES = ("logits", "pred_boxes")
MASKS = ("class_queries_logits", "masks_queries_logits")
DEPTH = ("predicted_depth",)
YOLOS: dict[str, Any] = {**PATCHES, "image_size": [32, 32], "num_detection_tokens": 5}
DEEPLAB: dict[str, Any] = {**MOBILEVIT, "aspp_out_channels": 16, "atrous_rates": [2, 4, 6]}


def _dense(name: str, classes: tuple[str, str], options: Any, size: int, fields: tuple[str, ...]) -> Architecture:
    return pretrained(name, "detection" if fields == BOXES else "segmentation", classes, options, image(size), fields)


DENSE = [
    _dense("detr", ("DetrForObjectDetection", "DetrConfig"), _detr, 64, BOXES),
    _dense("yolos", ("YolosForObjectDetection", "YolosConfig"), YOLOS, 32, BOXES),
    _dense("segformer", ("SegformerForSemanticSegmentation", "SegformerConfig"), SEGFORMER, 64, ("logits",)),
    _dense("upernet", ("UperNetForSemanticSegmentation", "UperNetConfig"), _upernet, 64, ("logits",)),
    _dense("maskformer", ("MaskFormerForInstanceSegmentation", "MaskFormerConfig"), _maskformer, 64, MASKS),
    _dense("dpt", ("DPTForDepthEstimation", "DPTConfig"), DPT, 32, DEPTH),
    _dense("glpn", ("GLPNForDepthEstimation", "GLPNConfig"), GLPN, 64, DEPTH),
    _dense("mobilevit-deeplab", ("MobileViTForSemanticSegmentation", "MobileViTConfig"), DEEPLAB, 64, ("logits",)),
]
