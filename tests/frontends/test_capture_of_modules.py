"""What can be captured, and what the signature says about it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from gossamer.core.errors import DataError, ModelError, UnknownName
from gossamer.frontends.torch_module import capture
from gossamer.program import Interpreter


class Plain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x)


class Several(nn.Module):
    """Two inputs, an option, a keyword-only input, and a nested result."""

    def forward(self, a: Tensor, b: Tensor, scale: float = 2.0, *, extra: Tensor | None = None):
        result = {"sum": a + b, "parts": (a * scale, [b])}
        if extra is not None:
            result["extra"] = a - extra
        return result


class Sequence(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(10, 4)
        self.out = nn.Linear(4, 10, bias=False)
        self.out.weight = self.embed.weight

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        x = self.embed(tokens) * mask.unsqueeze(-1)
        return self.out(x.cumsum(1) / torch.arange(1, tokens.shape[1] + 1)[:, None])


def specs(program) -> tuple[list[str], list[str]]:
    return [str(spec) for spec in program.signature.inputs], [str(spec) for spec in program.signature.outputs]


def test_a_module_of_one_input() -> None:
    model = Plain().train()
    program = capture(model, torch.randn(2, 4))
    assert specs(program) == (["x: f32[batch, 4]"], ["output: f32[batch, 3]"])
    assert program.signature.dims == {"batch": (1, None)}
    assert program.name == "Plain"
    assert program.provenance == ("captured with torch.export (non-strict)",)
    assert model.training
    assert set(program.tensors) == {"linear.weight", "linear.bias"}
    assert set(program.roles.values()) == {"parameter"}
    assert program.tensors["linear.weight"].data_ptr() == model.linear.weight.data_ptr()  # shared, not copied
    (call,) = program.call_nodes
    assert call.meta["module"] == "linear"
    assert call.meta["source"].startswith("test_capture_of_modules.py:")
    assert call.meta["source"].endswith("return self.linear(x)")


def test_each_submodule_keeps_its_mode() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Dropout()).train()
    model[1].eval()
    capture(model, torch.randn(2, 4))
    assert [module.training for module in model.modules()] == [True, True, False]


def test_numpy_inputs_and_a_name_of_ones_own() -> None:
    program = capture(Plain(), np.zeros((2, 4), np.float32), name="mine")
    assert program.name == "mine"


def test_several_inputs_and_nested_results_get_names() -> None:
    inputs, outputs = specs(capture(Several(), (torch.randn(2, 3), torch.randn(2, 3))))
    assert inputs == ["a: f32[batch, 3]", "b: f32[batch, 3]"]
    assert [text.partition(":")[0] for text in outputs] == ["sum", "parts_0", "parts_1_0"]


def test_inputs_by_keyword() -> None:
    program = capture(Several(), {"b": torch.randn(2, 3), "a": torch.randn(2, 3), "extra": torch.ones(2, 3)})
    assert {spec.name for spec in program.signature.inputs} == {"a", "b", "extra"}
    assert [spec.name for spec in program.signature.outputs] == ["sum", "parts_0", "parts_1_0", "extra_output"]
    arrays = {name: np.full((5, 3), value, np.float32) for name, value in (("a", 1), ("b", 10), ("extra", 100))}
    outputs = Interpreter(program).run(arrays)
    assert [outputs[name][0, 0] for name in ("sum", "parts_0", "parts_1_0", "extra_output")] == [11, 2, 10, -99]


def test_inputs_that_forward_collects_are_inputs_of_their_own() -> None:
    class Net(nn.Module):
        def forward(self, a: Tensor, **others: Tensor) -> Tensor:
            return a + others["b"] * len(others)

    model = Net()
    program = capture(model, {"b": torch.randn(2, 3), "a": torch.randn(2, 3), "unused": torch.randn(2, 1)})
    assert {str(spec) for spec in program.signature.inputs} >= {"a: f32[batch, 3]", "b: f32[batch, 3]"}
    arrays = {"a": np.ones((5, 3), np.float32), "b": np.full((5, 3), 10, np.float32), "unused": np.ones((5, 1))}
    assert Interpreter(program).run(arrays)["output"].tolist() == [[21.0] * 3] * 5
    assert "forward" not in vars(model)  # as it was


def test_a_forward_of_the_instance_stays() -> None:
    model = Plain()
    model.forward = own = lambda **inputs: model.linear(inputs["x"]) + 1
    program = capture(model, {"x": torch.randn(2, 4)})
    assert [str(spec) for spec in program.signature.inputs] == ["x: f32[batch, 4]"]
    assert model.forward is own


def test_a_named_tuple_as_result() -> None:
    class Result(NamedTuple):
        mean: Tensor
        top: Tensor

    class Net(nn.Module):
        def forward(self, x: Tensor) -> Result:
            return Result(x.mean(1), x.amax(1))

    assert [spec.name for spec in capture(Net(), torch.randn(2, 3)).signature.outputs] == ["mean", "top"]


def test_an_input_returned_and_a_result_twice() -> None:
    class Net(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            y = x + 1
            return x, y, y

    program = capture(Net(), torch.randn(2, 3))
    outputs = Interpreter(program).run({"x": np.ones((1, 3), np.float32)})
    assert [outputs[f"output_{i}"][0, 0] for i in range(3)] == [1, 2, 2]


def test_none_among_results_is_left_out() -> None:
    class Net(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, None]:
            return x + 1, None

    assert [spec.name for spec in capture(Net(), torch.randn(2, 3)).signature.outputs] == ["output_0"]


def test_a_parameter_as_result() -> None:
    class Net(Plain):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return self.linear(x), self.linear.bias

    assert specs(capture(Net(), torch.randn(2, 4)))[1] == ["output_0: f32[batch, 3]", "output_1: f32[3]"]


def test_batch_and_length_vary_in_their_ranges_and_shared_weights_are_one() -> None:
    dims = {0: "batch=1..8", 1: "length=2..12"}
    inputs = {"tokens": torch.randint(0, 10, (2, 5)), "mask": torch.ones(2, 5)}
    program = capture(Sequence(), inputs, dynamic={"tokens": dims, "mask": dims})
    assert program.signature.dims == {"batch": (1, 8), "length": (2, 12)}
    assert specs(program)[1] == ["output: f32[batch, length, 10]"]
    assert program.parameter_count == 40
    assert len(program.tensors) == 1
    run = Interpreter(program).run
    assert run({"tokens": np.zeros((8, 12), np.int64), "mask": np.ones((8, 12), np.float32)})["output"].shape[1] == 12
    with pytest.raises(DataError, match=r"expected: length in \[2, 12\]"):
        run({"tokens": np.zeros((8, 13), np.int64), "mask": np.ones((8, 13), np.float32)})
    with pytest.raises(DataError, match="length=4"):
        run({"tokens": np.zeros((8, 5), np.int64), "mask": np.ones((8, 4), np.float32)})


def test_an_example_of_batch_one_still_gives_a_free_batch() -> None:
    program = capture(Plain(), torch.randn(1, 4))
    assert program.signature.inputs[0].shape == ("batch", 4)
    assert Interpreter(program).run({"x": np.zeros((7, 4), np.float32)})["output"].shape == (7, 3)


def test_no_dim_varies_where_none_is_asked_for() -> None:
    program = capture(Plain(), torch.randn(1, 4), dynamic=None)
    assert program.signature.inputs[0].shape == (1, 4)
    assert program.signature.dims == {}


def test_inputs_of_different_first_sizes_stay_fixed() -> None:
    program = capture(Several(), (torch.randn(2, 3), torch.randn(1, 3)))
    assert [spec.shape for spec in program.signature.inputs] == [(2, 3), (1, 3)]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_float_dtypes(dtype: torch.dtype) -> None:
    program = capture(Plain().to(dtype), torch.randn(2, 4, dtype=dtype))
    assert program.signature.inputs[0].dtype == str(dtype).removeprefix("torch.")


def test_normalised_weights_and_buffers_that_are_not_saved() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.utils.parametrizations.weight_norm(nn.Conv1d(3, 4, 2))
            self.register_buffer("positions", torch.arange(3.0), persistent=False)

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(x) + self.positions

    program = capture(Net(), torch.randn(2, 3, 4))
    assert program.roles["positions"] == "buffer"
    assert sum(role == "parameter" for role in program.roles.values()) == 3


@pytest.mark.parametrize(
    ("example", "dynamic", "error", "message"),
    [
        ({}, "batch", DataError, "got: no input"),
        ((), "batch", DataError, "got: no input"),
        ("text", "batch", DataError, "x is a str"),
        ([torch.ones(2, 4)] * 2, "batch", DataError, "expected: at most 1: x"),
        (torch.ones(2, 4, dtype=torch.complex64), "batch", DataError, r"x of dtype torch\.complex64"),
        (torch.ones(2, 5), "batch", ModelError, r"check the inputs: x: torch\.float32\[2, 5\]"),
        ({"y": torch.ones(2, 4)}, "batch", ModelError, "unexpected keyword argument 'y'"),
        (torch.ones(2, 4), {"z": {0: "batch"}}, UnknownName, "expected: one of: x"),
        (torch.ones(2, 4), {"x": {2: "batch"}}, DataError, "axis 2 of x"),
        (torch.ones(2, 4), {"x": {0: "batch=9..2"}}, DataError, "expected: a name, or name=low..high"),
        (torch.ones(2, 4), "1batch", DataError, "expected: a name, or name=low..high"),
        (torch.ones(2, 4), "bacth", UnknownName, "got: 'bacth'[\\s\\S]*try: 'batch'"),
        (
            torch.ones(2, 4),
            "n=3..8",
            DataError,
            r"got: example inputs with n=2 \(dim 0 of x\)\n  expected: n in \[3, 8\]",
        ),
        (torch.ones(9, 4), {"x": {0: "n=3..8"}}, DataError, r"n=9 \(dim 0 of x\)\n  expected: n in \[3, 8\]"),
    ],
)
def test_example_inputs_that_do_not_fit_are_refused(example, dynamic, error, message: str) -> None:
    with pytest.raises(error, match=message):
        capture(Plain(), example, dynamic=dynamic)


def test_an_encoder_with_a_padding_mask_whose_padded_rows_are_returned() -> None:
    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
            self.encoder = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)

        def forward(self, x: Tensor, mask: Tensor) -> Tensor:
            return self.encoder(x, src_key_padding_mask=mask)

    mask = torch.zeros(2, 6, dtype=torch.bool)
    mask[:, 4:] = True
    program = capture(Encoder(), (torch.randn(2, 6, 16), mask))
    assert [spec.name for spec in program.signature.inputs] == ["x", "mask"]
    assert torch.backends.mha.get_fastpath_enabled()
