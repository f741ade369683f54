"""``read_model``: one door for every form of a model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from gossamer.core.errors import ArtifactError, ModelError
from gossamer.frontends import read_model
from gossamer.program import Program, save_program

X = torch.randn(2, 3)


@pytest.fixture(scope="module")
def module() -> nn.Module:
    torch.manual_seed(0)
    return nn.Linear(3, 2)


@pytest.fixture(scope="module")
def program(module: nn.Module) -> Program:
    return read_model(module, example=X)


def test_a_module(module: nn.Module, program: Program) -> None:
    assert program.name == "Linear"
    assert read_model(module, example={"input": X}, dynamic=None).signature.inputs[0].shape == (2, 3)


def test_a_program_is_returned_as_it_is(program: Program) -> None:
    assert read_model(program) is program
    assert read_model(program, example=X) is program


def test_a_saved_program(program: Program, tmp_path: Path) -> None:
    save_program(program, tmp_path)
    assert read_model(tmp_path).digest == program.digest
    (tmp_path / "graph.json").write_text("{}")
    with pytest.raises(ArtifactError):
        read_model(str(tmp_path))


def test_an_exported_program(module: nn.Module, program: Program, tmp_path: Path) -> None:
    torch.export.save(torch.export.export(module, (X,)), tmp_path / "linear.pt2")
    read = read_model(str(tmp_path / "linear.pt2"))
    assert (read.name, read.signature.inputs[0].shape) == ("linear", (2, 3))
    inputs = {"input": X.numpy()}
    np.testing.assert_array_equal(read(inputs), program(inputs))


def test_a_factory_with_weights(module: nn.Module, program: Program, tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text("from torch import nn\ndef small():\n    return nn.Linear(3, 2)\n")
    save_file(module.state_dict(), tmp_path / "small.safetensors")
    read = read_model(f"{tmp_path}/net.py:small", weights=tmp_path / "small.safetensors", example=X)
    assert read.name == "small"
    assert read.digest == program.digest
    assert read_model(f"{tmp_path}/net.py:small", example=X).digest != program.digest


def test_a_hugging_face_folder(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTConfig(
        hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, image_size=8, patch_size=4
    )
    transformers.ViTForImageClassification(config).save_pretrained(tmp_path)
    assert [str(spec) for spec in read_model(tmp_path).signature.inputs] == ["pixel_values: f32[batch, 3, 8, 8]"]


FORMS = "expected: an nn.Module, a Program, file.py:factory, a .pt2 file, or a folder"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("none", "no such file or folder"),
        ("none.pt2", "no such file or folder"),
        ("net.onnx", "ONNX files are not read yet in this version"),
        ("net.keras", "Keras files are not read yet in this version"),
        ("empty", "a folder without config.json and graph.json"),
        ("net.py", r"try: .*net\.py:NAME_OF_THE_FACTORY"),
        ("net.pt", r"try: the factory .* model\.py:factory --weights"),
        ("net.safetensors", "weights without a model"),
        ("notes.txt", "a .txt file"),
        ("plain", "a nameless file"),
    ],
)
def test_other_paths_are_refused_with_the_forms_there_are(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "empty").mkdir()
    for file in ("net.onnx", "net.keras", "net.py", "net.pt", "net.safetensors", "notes.txt", "plain"):
        (tmp_path / file).write_bytes(b"x")
    with pytest.raises(ModelError, match=message) as caught:
        read_model(tmp_path / name)
    assert FORMS in str(caught.value)


def test_a_state_dict_is_refused_without_its_tensors(module: nn.Module) -> None:
    with pytest.raises(ModelError, match=r"try: the module with them: model\.load_state_dict") as caught:
        read_model(module.state_dict())  # pyright: ignore[reportArgumentType] - that is the mistake
    assert "tensor" not in str(caught.value)


def test_weights_beside_a_file_without_a_factory_name_the_factory(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text("")
    with pytest.raises(ModelError, match=r"try: .*net\.py:NAME_OF_THE_FACTORY"):
        read_model(tmp_path / "net.py", weights="small.pt", example=X)


@pytest.mark.parametrize("source", [3, None, torch.zeros(2), lambda x: x])
def test_other_objects_are_refused_with_the_forms_there_are(source) -> None:
    with pytest.raises(ModelError, match=f"got: a (int|NoneType|Tensor|function)\n  {FORMS}"):
        read_model(source)


def test_a_module_needs_example_inputs(module: nn.Module, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no example inputs"):
        read_model(module)
    (tmp_path / "net.py").write_text("from torch import nn\nnet = nn.Linear(3, 2)\n")
    with pytest.raises(ModelError, match="no example inputs"):
        read_model(f"{tmp_path}/net.py:net")


def test_weights_that_nobody_would_read_are_an_error(module: nn.Module, program: Program, tmp_path: Path) -> None:
    for source in (module, program, tmp_path, "net.pt2"):
        with pytest.raises(ModelError, match=r"expected: weights only with file\.py:factory"):
            read_model(source, weights="weights.pt", example=X)
