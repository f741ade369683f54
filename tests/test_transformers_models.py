"""Small random models of the transformers library: captured, saved, lowered, quantized, and run.

``capture`` compares with the model at batch 1, 2, 3, with masked tails, and on scaled and flipped inputs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gossamer import flow
from gossamer.frontends.torch_module import capture
from gossamer.program import Interpreter, Program, load_program, save_program
from gossamer.program.dialect import op_class
from gossamer.runtimes import open_executable, resolve_target
from gossamer.techniques.quantize.int8 import Int8, int8_layers
from gossamer.techniques.quantize.placement import weighted_sites

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
def test_a_model_goes_down_the_street(
    tmp_path: Path, model_name: str, config_name: str, options: dict[str, Any], inputs
) -> None:
    torch.manual_seed(0)
    model = getattr(transformers, model_name)(getattr(transformers, config_name)(**options)).eval()
    example = inputs()
    program = capture(model, example)
    assert program.signature.dims == {"batch": (1, None)}
    assert program.parameter_count <= sum(parameter.numel() for parameter in model.parameters())
    save_program(program, tmp_path)
    assert load_program(tmp_path).digest == program.digest
    batches = [resized(example, size) for size in (1, 2, 3)]
    # 1e-5: a tenth of the scaled maximum that the fp32 policy allows, since these models are small.
    assert all(difference(program, batch, tmp_path) < 1e-5 for batch in batches)
    target = resolve_target("onnxruntime:cpu")
    quantized = Int8().apply(program, resized(example, 8), target)
    assert len(int8_layers(quantized)) == len([n for n in weighted_sites(program).values() if is_layer(n)])
    # A code may round the other way and move what comes after by a step or more; a wrong node moves it by its scale.
    assert all(difference(quantized, batch, tmp_path) < 0.1 for batch in batches)


def is_layer(node: torch.fx.Node) -> bool:
    return op_class(node) in ("conv", "linear")


def resized(example: dict[str, torch.Tensor], size: int) -> dict[str, np.ndarray]:
    """The example at another batch size, with the tail of a mask masked."""
    arrays = {name: np.resize(tensor.numpy(), (size, *tensor.shape[1:])) for name, tensor in example.items()}
    if "attention_mask" in arrays:
        arrays["attention_mask"][:, 6:] = 0
    return arrays


def difference(program: Program, inputs: dict[str, np.ndarray], folder: Path) -> float:
    """Largest difference of any output between ONNX Runtime and the interpreter, by the largest value."""
    path = folder / "model.onnx"
    path.write_bytes(flow.lower(program).model)
    executable = open_executable(path, program.signature, resolve_target("onnxruntime:cpu"))
    got, expected = executable.run(inputs), Interpreter(program).run(inputs)
    executable.close()
    return max(float(np.abs(got[k] - expected[k]).max() / max(np.abs(expected[k]).max(), 1e-9)) for k in expected)
