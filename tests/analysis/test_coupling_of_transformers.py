"""Small random models of the transformers library: most weights are in free groups, and every cut is proven."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from gossamer.analysis.depth import drop_block, residual_blocks
from gossamer.analysis.proof import proven
from gossamer.frontends.torch_module import capture
from gossamer.program.dialect import op_class

transformers = pytest.importorskip("transformers")

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
TEXT = {**SIZES, "vocab_size": 100}
GROUPED = {**TEXT, "num_key_value_heads": 2, "use_cache": False}
GPT2 = {"n_embd": 32, "n_layer": 2, "n_head": 4, "vocab_size": 100, "use_cache": False}
T5 = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4, "vocab_size": 100, "use_cache": False}
PATCHES = {**SIZES, "image_size": 32, "patch_size": 8}
SWIN = {"image_size": 32, "patch_size": 4, "embed_dim": 16, "depths": [1, 1], "num_heads": [2, 2], "window_size": 4}
STAGES = {"hidden_sizes": [16, 32], "depths": [1, 1], "num_stages": 2}
MOBILEVIT = {"image_size": 64, "hidden_sizes": [16, 24, 32], "neck_hidden_sizes": [8, 8, 16, 16, 24, 24, 32]}
WAV2VEC2 = {
    "conv_dim": [16, 16], "conv_stride": [5, 2], "conv_kernel": [10, 3], "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4, **TEXT,
}  # fmt: skip


def text() -> dict[str, torch.Tensor]:
    return {"input_ids": torch.randint(3, 90, (2, 9)), "attention_mask": torch.ones(2, 9, dtype=torch.int64)}


def both() -> dict[str, torch.Tensor]:
    return {**text(), "decoder_input_ids": torch.randint(3, 90, (2, 5))}


def image(size: int = 32) -> dict[str, torch.Tensor]:
    return {"pixel_values": torch.randn(2, 3, size, size)}


MODELS = {
    "GPT-2": ("GPT2LMHeadModel", "GPT2Config", GPT2, text),
    "Llama, grouped queries": ("LlamaForCausalLM", "LlamaConfig", GROUPED, text),
    "BERT": ("BertForSequenceClassification", "BertConfig", TEXT, text),
    "T5, both stacks": ("T5Model", "T5Config", T5, both),
    "ViT": ("ViTForImageClassification", "ViTConfig", PATCHES, image),
    "Swin": ("SwinForImageClassification", "SwinConfig", SWIN, image),
    "ConvNeXt": ("ConvNextForImageClassification", "ConvNextConfig", STAGES, image),
    "MobileViT": ("MobileViTForImageClassification", "MobileViTConfig", MOBILEVIT, lambda: image(64)),
    "Wav2Vec2": ("Wav2Vec2Model", "Wav2Vec2Config", WAV2VEC2, lambda: {"input_values": torch.randn(2, 800)}),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_most_weights_are_free_and_every_cut_is_proven(name: str):
    model_name, config_name, options, inputs = MODELS[name]
    torch.manual_seed(0)
    model: Any = getattr(transformers, model_name)(getattr(transformers, config_name)(**options)).eval()
    program = capture(model, inputs())
    coupling, proof = proven(program)
    assert proof.refuted == {}
    assert coupling.unknown == ()
    layers = [node for node in program.call_nodes if op_class(node) in ("conv", "linear", "embedding")]
    weights = {
        str(used.target): program.tensors[str(used.target)].numel()
        for node in layers
        for used in node.all_input_nodes
        if used.op == "get_attr" and len(used.meta["value"].shape) > 1
    }
    free = {member.tensor for group in coupling.free for member in group.members}
    assert sum(size for tensor, size in weights.items() if tensor in free) >= 0.8 * sum(weights.values())
    halves = {group.name: range(group.size // 2) for group in coupling.free}
    assert coupling.cut(halves).parameter_count < 0.7 * program.parameter_count
    for block in residual_blocks(program, coupling):
        assert drop_block(program, block).parameter_count < program.parameter_count
