"""Hugging Face folders: local, safetensors, no code of their own, whole."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from gossamer.core.errors import MissingExtra, ModelError
from gossamer.frontends.huggingface import example_inputs, load_huggingface, read_huggingface
from gossamer.program import Interpreter

transformers = pytest.importorskip("transformers")

TEXT = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32, "vocab_size": 50}


@pytest.fixture(scope="module")
def bert() -> nn.Module:
    torch.manual_seed(0)
    config = transformers.BertConfig(max_position_embeddings=20, num_labels=3, **TEXT)
    return transformers.BertForSequenceClassification(config).eval()


@pytest.fixture(scope="module")
def saved(bert: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bert")
    bert.save_pretrained(folder)
    return folder


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "bert"))


def change_config(folder: Path, **changes: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    config |= changes
    (folder / "config.json").write_text(json.dumps({key: value for key, value in config.items() if value is not ...}))


def test_a_text_model_is_read_and_agrees(bert: Any, saved: Path) -> None:
    program = read_huggingface(saved)
    assert [str(spec) for spec in program.signature.inputs] == [
        "input_ids: i64[batch, 18]",
        "attention_mask: i64[batch, 18]",
    ]
    assert [str(spec) for spec in program.signature.outputs] == ["logits: f32[batch, 3]"]
    inputs = {name: tensor.numpy() for name, tensor in example_inputs(bert).items()}
    inputs["attention_mask"][:, 10:] = 0
    with torch.no_grad():
        expected = bert(**{name: torch.from_numpy(array) for name, array in inputs.items()}).logits
    np.testing.assert_allclose(Interpreter(program).run(inputs)["logits"], expected, rtol=1e-5, atol=1e-6)


def test_the_length_and_dims_may_be_given(saved: Path) -> None:
    tokens = torch.randint(5, 40, (2, 7))
    program = read_huggingface(
        saved, example={"input_ids": tokens}, dynamic={"input_ids": {0: "batch", 1: "length=2..9"}}
    )
    assert [str(spec) for spec in program.signature.inputs] == ["input_ids: i64[batch, length]"]
    assert read_huggingface(saved, length=5).signature.inputs[0].shape == ("batch", 5)


def test_weights_in_half_precision_are_widened(bert: Any, tmp_path: Path) -> None:
    bert_half = transformers.BertForSequenceClassification(bert.config).half()
    bert_half.save_pretrained(tmp_path)
    model = load_huggingface(tmp_path)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert not model.training
    assert model.config.use_cache is False


class Planted:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


def test_pickled_weights_are_refused_and_not_run(folder: Path, tmp_path: Path) -> None:
    (folder / "model.safetensors").unlink()
    torch.save({"weight": Planted(tmp_path / "ran")}, folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"pickled weights only: pytorch_model\.bin") as caught:
        read_huggingface(folder)
    assert "save_pretrained(folder)" in caught.value.try_
    assert not (tmp_path / "ran").exists()


def test_code_in_the_folder_is_not_run(folder: Path, tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    (folder / "modeling_own.py").write_text(f"import os\nos.mkdir({str(marker)!r})\nclass OwnModel: pass\n")
    auto_map = {"AutoModel": "modeling_own.OwnModel", "AutoConfig": "modeling_own.OwnModel"}
    change_config(folder, auto_map=auto_map, architectures=["OwnModel"])
    with pytest.raises(ModelError, match="code in the folder is never run"):
        read_huggingface(folder)
    change_config(folder, auto_map=auto_map, architectures=["BertForSequenceClassification"])
    load_huggingface(folder)
    assert not marker.exists()


def test_an_attention_kernel_named_in_the_config_is_not_fetched(folder: Path) -> None:
    change_config(folder, _attn_implementation="someone/kernel", attn_implementation="someone/kernel")
    assert load_huggingface(folder).config._attn_implementation in ("sdpa", "eager")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architectures": ...}, "architectures: None"),
        ({"architectures": []}, r"architectures: \[\]"),
        ({"architectures": ["A", "B"]}, "the name of one class"),
        ({"architectures": ["BertConfig"]}, "expected: a model class of transformers"),
        ({"architectures": ["__class__"]}, "architecture '__class__'"),
        ({"architectures": ["os.system"]}, r"architecture 'os\.system'"),
        ({"quantization_config": {"quant_method": "gptq"}}, "weights that are quantized already"),
        ({"num_hidden_layers": 2}, r"16 tensors of BertForSequenceClassification are not in the file"),
        ({"num_hidden_layers": "many"}, "a folder that save_pretrained wrote"),
        ({"hidden_size": 32}, "reading the Hugging Face folder"),
    ],
)
def test_a_config_that_does_not_fit_is_refused(folder: Path, changes: dict[str, Any], message: str) -> None:
    change_config(folder, **changes)
    with pytest.raises(ModelError, match=message):
        read_huggingface(folder)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("config.json", b"{", r"config\.json: "),
        ("config.json", b"[]", "holds a list"),
        ("config.json", b"\xff", r"config\.json: "),
        ("model.safetensors", b"", "a folder that save_pretrained wrote"),
        ("model.safetensors", b"\xff" * 100, "a folder that save_pretrained wrote"),
        ("adapter_config.json", b"{}", "merge_and_unload"),
    ],
)
def test_a_damaged_folder_is_refused(folder: Path, file: str, content: bytes, message: str) -> None:
    (folder / file).write_bytes(content)
    with pytest.raises(ModelError, match=message):
        read_huggingface(folder)


def test_a_folder_without_weights_is_refused(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="got: no weights"):
        read_huggingface(folder)


def test_without_transformers_the_extra_is_named(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gossamer.core.extras.find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r'pip install "gossamer\[hf\]"'):
        read_huggingface(saved)


class TestExampleInputs:
    def test_text_avoids_special_tokens(self, bert: Any) -> None:
        inputs = example_inputs(bert, 400)
        assert inputs["input_ids"].shape == (2, 18)  # two positions fewer than the model has
        assert not (inputs["input_ids"] == bert.config.pad_token_id).any()
        assert inputs["attention_mask"].all()

    def test_images_have_the_models_size(self) -> None:
        sizes = {key: value for key, value in TEXT.items() if key != "vocab_size"}
        vit = transformers.ViTModel(transformers.ViTConfig(image_size=16, patch_size=8, num_channels=1, **sizes))
        assert {name: tuple(x.shape) for name, x in example_inputs(vit).items()} == {"pixel_values": (2, 1, 16, 16)}
        resnet = transformers.ResNetModel(transformers.ResNetConfig(embedding_size=4, hidden_sizes=[4], depths=[1]))
        assert example_inputs(resnet)["pixel_values"].shape == (2, 3, 224, 224)

    def test_speech(self) -> None:
        sizes = {"d_model": 16, "encoder_layers": 1, "encoder_attention_heads": 2, "encoder_ffn_dim": 16}
        config = transformers.WhisperConfig(
            num_mel_bins=8, max_source_positions=16, vocab_size=60, decoder_layers=1, decoder_attention_heads=2,
            pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=3, suppress_tokens=None,
            begin_suppress_tokens=None, **sizes,
        )  # fmt: skip
        inputs = example_inputs(transformers.WhisperModel(config))
        assert {name: tuple(x.shape) for name, x in inputs.items()} == {
            "input_features": (2, 8, 32),
            "decoder_input_ids": (2, 8),
        }
        wave = transformers.Wav2Vec2Model(
            transformers.Wav2Vec2Config(
                conv_dim=[4],
                conv_stride=[5],
                conv_kernel=[10],
                num_conv_pos_embeddings=4,
                num_conv_pos_embedding_groups=2,
                **TEXT,
            )
        )
        assert set(example_inputs(wave)) == {"input_values"}

    def test_text_and_images(self) -> None:
        vision = {key: value for key, value in TEXT.items() if key != "vocab_size"} | {
            "image_size": 16,
            "patch_size": 8,
        }
        clip = transformers.CLIPModel(
            transformers.CLIPConfig(text_config={**TEXT, "max_position_embeddings": 12}, vision_config=vision)
        )
        shapes = {name: tuple(tensor.shape) for name, tensor in example_inputs(clip).items()}
        assert shapes == {"pixel_values": (2, 3, 16, 16), "input_ids": (2, 10), "attention_mask": (2, 10)}

    def test_anything_else_is_refused(self, bert: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(type(bert), "main_input_name", "point_clouds")
        with pytest.raises(ModelError, match="a model of 'point_clouds'"):
            example_inputs(bert)
