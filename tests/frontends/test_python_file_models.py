"""``file.py:factory`` and ``--weights``: what is loaded, and what is refused without being run."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from gossamer.core.errors import ModelError
from gossamer.frontends.python_file import load_module, load_weights

SOURCE = """
from torch import nn

class Net(nn.Sequential):
    def __init__(self, width=4):
        super().__init__(nn.Linear(3, width), nn.ReLU(), nn.Linear(width, 2))

def factory():
    return Net(5)

def wide(width):
    return Net(width)

def broken():
    return {}["weights"]

def pair():
    return Net(), None

instance = Net()
number = 3
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "model.py"
    path.write_text(SOURCE)
    return path


@pytest.mark.parametrize(("name", "width"), [("factory", 5), ("Net", 4), ("instance", 4)])
def test_a_function_a_class_and_a_module_are_models(file: Path, name: str, width: int) -> None:
    assert load_module(f"{file}:{name}")[0].out_features == width


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("number", "got: a int\n  expected: a function that returns an nn.Module"),
        ("wide", "a factory that needs arguments: width"),
        ("broken", r"KeyError: 'weights' at model\.py:15: return \{\}\[\"weights\"\]"),
        ("pair", "the factory returned a tuple"),
        ("factry", "try: factory"),
    ],
)
def test_what_yields_no_module_is_refused(file: Path, name: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        load_module(f"{file}:{name}")


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no file"):
        load_module(f"{tmp_path}/none.py:factory")


def net(width: int = 4) -> nn.Module:
    return nn.Sequential(nn.Linear(3, width), nn.BatchNorm1d(width), nn.Linear(width, 2))


def save(path: Path, state) -> Path:
    if path.suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save(state, path)
    return path


@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".pth"])
@pytest.mark.parametrize("wrap", ["", "state_dict", "model", "module."])
def test_weights_are_read(tmp_path: Path, suffix: str, wrap: str) -> None:
    source, target = net(), net()
    state = source.state_dict()
    if wrap == "module.":
        state = {f"module.{name}": tensor for name, tensor in state.items()}
    elif wrap and suffix != ".safetensors":
        state = {wrap: state, "epoch": 3}
    load_weights(target, save(tmp_path / f"weights{suffix}", state))
    for name, tensor in source.state_dict().items():
        assert torch.equal(target.state_dict()[name], tensor)


def without(name: str):
    return lambda state: {key: tensor for key, tensor in state.items() if key != name}


def reshaped(state):
    return {**state, "2.weight": torch.zeros(2, 7)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without("0.bias"), r"'0\.bias' is missing in the file \(1 missing, 0 unexpected, 0 of another shape\)"),
        (lambda s: {**s, "z": torch.ones(1)}, r"'z' is in the file and not in the model \(0 missing, 1 unexpected"),
        (reshaped, r"'2\.weight' has shape \[2, 7\] in the file and \[2, 4\] in the model"),
        (lambda s: reshaped(without("1.weight")(s)), r"'1\.weight' is missing in the file \(1 missing, 0 .*, 1 of"),
        (lambda s: {**s, "epoch": 3}, "'epoch' is a int; the file holds 0.weight"),
        (lambda s: [1, 2], "got: a list"),
        (lambda s: {}, r"'0\.weight' is missing"),
    ],
)
def test_weights_that_do_not_fit_are_refused_with_the_first_difference(tmp_path: Path, change, message: str) -> None:
    target = net()
    before = {name: tensor.clone() for name, tensor in target.state_dict().items()}
    with pytest.raises(ModelError, match=message):
        load_weights(target, save(tmp_path / "weights.pt", change(net().state_dict())))
    assert all(torch.equal(tensor, before[name]) for name, tensor in target.state_dict().items())


class Planted:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize("wrap", [lambda planted: planted, lambda planted: {"state_dict": {}, "extra": planted}])
def test_code_in_a_weights_file_is_refused_and_not_run(tmp_path: Path, wrap) -> None:
    marker = tmp_path / "ran"
    path = save(tmp_path / "weights.pt", wrap(Planted(marker)))
    with pytest.raises(ModelError, match="a file that holds code is never run"):
        load_weights(net(), path)
    assert not marker.exists()


def test_a_whole_pickled_module_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"torch\.save\(model\.state_dict\(\), path\)") as caught:
        load_weights(net(), save(tmp_path / "weights.pt", net()))
    assert "\x1b" not in str(caught.value)  # torch colours its message


@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".pth"])
@pytest.mark.parametrize("content", [b"", b"nonsense", b"PK\x03\x04" + b"\0" * 60, b"\xff" * 64])
def test_damaged_weights_are_refused(tmp_path: Path, suffix: str, content: bytes) -> None:
    path = tmp_path / f"weights{suffix}"
    path.write_bytes(content)
    with pytest.raises(ModelError, match="loading the weights"):
        load_weights(net(), path)


@pytest.mark.parametrize(
    ("name", "message"),
    [("none.pt", "no such file"), ("weights.ckpt", "one of .safetensors"), ("w", "a nameless file")],
)
def test_weights_that_are_not_there_or_of_another_form_are_refused(tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        load_weights(net(), tmp_path / name)
