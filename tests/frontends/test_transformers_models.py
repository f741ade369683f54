"""Small random models of the transformers library are captured, agree, and come back from disk.

``capture`` compares with the model at batch 1, 2, 3, with masked tails, and on scaled and flipped inputs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from gossamer.frontends.torch_module import capture
from gossamer.program import load_program, save_program

transformers = pytest.importorskip("transformers")

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
TEXT = {**SIZES, "vocab_size": 100}
GROUPED = {**TEXT, "num_key_value_heads": 2, "use_cache": False}
MODERN = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2}
GPT2 = {"n_embd": 32, "n_layer": 2, "n_head": 4, "vocab_size": 100, "use_cache": False}
T5 = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4, "vocab_size": 100}
DISTIL = {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64, "vocab_size": 100}
PATCHES = {**SIZES, "image_size": 32, "patch_size": 8}
STAGES = {"embedding_size": 16, "hidden_sizes": [16, 32], "depths": [1, 1]}
SWIN = {"image_size": 32, "patch_size": 4, "embed_dim": 16, "depths": [1, 1], "num_heads": [2, 2], "window_size": 4}
SEGFORMER = {
    "depths": [1, 1], "num_encoder_blocks": 2, "sr_ratios": [2, 1], "hidden_sizes": [16, 32], "patch_sizes": [7, 3],
    "strides": [4, 2], "num_attention_heads": [1, 2], "mlp_ratios": [2, 2], "decoder_hidden_size": 16,
}  # fmt: skip
MOBILEVIT = {"image_size": 64, "hidden_sizes": [16, 24, 32], "neck_hidden_sizes": [8, 8, 16, 16, 24, 24, 32]}
WAV2VEC2 = {
    "conv_dim": [16, 16], "conv_stride": [5, 2], "conv_kernel": [10, 3], "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4, **TEXT,
}  # fmt: skip


def text() -> dict[str, torch.Tensor]:
    return {"input_ids": torch.randint(3, 90, (2, 9)), "attention_mask": torch.ones(2, 9, dtype=torch.int64)}


def image(size: int = 32) -> dict[str, torch.Tensor]:
    return {"pixel_values": torch.randn(2, 3, size, size)}


def wave() -> dict[str, torch.Tensor]:
    return {"input_values": torch.randn(2, 800)}


slow = pytest.mark.slow

MODELS = [
    pytest.param("DistilBertForSequenceClassification", "DistilBertConfig", DISTIL, text),
    pytest.param("LlamaForCausalLM", "LlamaConfig", GROUPED, text),
    pytest.param("ViTForImageClassification", "ViTConfig", PATCHES, image),
    pytest.param("BertForSequenceClassification", "BertConfig", TEXT, text, marks=slow),
    pytest.param("RobertaForSequenceClassification", "RobertaConfig", TEXT, text, marks=slow),
    pytest.param("DebertaV2Model", "DebertaV2Config", TEXT, text, marks=slow),
    pytest.param("ModernBertModel", "ModernBertConfig", {**MODERN, **TEXT}, text, marks=slow),
    pytest.param("GPT2LMHeadModel", "GPT2Config", GPT2, text, marks=slow),
    pytest.param("Qwen2ForCausalLM", "Qwen2Config", GROUPED, text, marks=slow),
    pytest.param("T5EncoderModel", "T5Config", T5, text, marks=slow),
    pytest.param("SwinForImageClassification", "SwinConfig", SWIN, image, marks=slow),
    pytest.param("ResNetForImageClassification", "ResNetConfig", {**STAGES, "layer_type": "basic"}, image, marks=slow),
    pytest.param("SegformerForSemanticSegmentation", "SegformerConfig", SEGFORMER, lambda: image(64), marks=slow),
    pytest.param("MobileViTForImageClassification", "MobileViTConfig", MOBILEVIT, lambda: image(64), marks=slow),
    pytest.param("Wav2Vec2Model", "Wav2Vec2Config", WAV2VEC2, wave, marks=slow),
]


@pytest.mark.parametrize(("model_name", "config_name", "options", "inputs"), MODELS)
def test_a_model_is_captured_and_comes_back_from_disk(
    tmp_path: Path, model_name: str, config_name: str, options: dict[str, Any], inputs
) -> None:
    torch.manual_seed(0)
    model = getattr(transformers, model_name)(getattr(transformers, config_name)(**options)).eval()
    program = capture(model, inputs())
    assert program.signature.dims == {"batch": (1, None)}
    assert program.parameter_count <= sum(parameter.numel() for parameter in model.parameters())
    save_program(program, tmp_path)
    assert load_program(tmp_path).digest == program.digest
