"""A program's digest, its bytes on disk, its edits and its counts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from gossamer.core.errors import DataError, InternalError, UnknownName
from gossamer.frontends.torch_module import capture
from gossamer.program import Edit, Interpreter, Program, dialect, load_program, save_program
from gossamer.program.values import TensorValue


class Net(nn.Module):
    """Every dtype a tensor may have, a tied weight, a constant, and two outputs."""

    def __init__(self, slope: float = 0.1) -> None:
        super().__init__()
        self.slope = slope
        self.first = nn.Linear(4, 4)
        self.second = nn.Linear(4, 4, bias=False)
        self.second.weight = self.first.weight
        self.register_buffer("float16", torch.tensor([0.5, 1.0, 1.5, 2.0], dtype=torch.float16))
        self.register_buffer("bf16", torch.tensor([0.5, 1.0, 1.5, 2.0], dtype=torch.bfloat16))
        self.register_buffer("whole", torch.tensor([1, 2, 3, 4], dtype=torch.int32))
        self.register_buffer("small", torch.tensor([1, 2, 3, 4], dtype=torch.int8))
        self.register_buffer("flags", torch.tensor([True, False, True, True]))
        self.register_buffer("empty", torch.zeros(0))

    def forward(self, x: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
        x = nn.functional.leaky_relu(self.first(x), self.slope)
        x = self.second(x) * self.float16 + self.bf16 * self.whole + self.small
        x = torch.where(self.flags, x, torch.tensor([1.0, 2.0, 3.0, 4.0]))
        return torch.cat([x, self.empty[None].expand(x.shape[0], 0)], -1), x.bfloat16() + shift


def make(slope: float = 0.1, dynamic="batch", seed: int = 0) -> Program:
    torch.manual_seed(seed)
    return capture(Net(slope), (torch.randn(2, 4), torch.randn(2, 4)), dynamic=dynamic)


@pytest.fixture(scope="module")
def program() -> Program:
    return make()


WEIGHT = "second.weight"  # the name that torch.export keeps of the two that the tied weight has

INPUTS = {
    "x": np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4),
    "shift": np.linspace(0, 5, 12, dtype=np.float32).reshape(3, 4),
}


class TestDigest:
    def test_it_is_stable(self, program: Program) -> None:
        assert make().digest == program.digest

    def test_it_sees_one_weight(self, program: Program) -> None:
        tensors = dict(program.tensors)
        tensors["first.bias"] = tensors["first.bias"].clone()
        tensors["first.bias"].data[2] += 1e-6
        changed = Program(program.name, program.graph, tensors, program.roles, program.signature)
        assert changed.digest != program.digest

    def test_it_sees_an_attribute(self, program: Program) -> None:
        assert make(slope=0.2).digest != program.digest

    def test_it_sees_dims(self, program: Program) -> None:
        assert make(dynamic=None).digest != program.digest
        assert make(dynamic="batch=1..4").digest != program.digest

    def test_it_sees_roles(self, program: Program) -> None:
        roles = {**program.roles, "first.bias": "buffer"}
        assert Program(program.name, program.graph, program.tensors, roles, program.signature).digest != program.digest

    def test_it_does_not_see_name_provenance_and_source_lines(self, program: Program) -> None:
        edit = Edit(program)
        for node in edit.graph.nodes:
            if node.op == "call_function":
                node.meta["source"] = "elsewhere.py:1: x = y"
        same = Program("other", edit.graph, program.tensors, program.roles, program.signature, ("other",))
        assert same.digest == program.digest


class TestDisk:
    def test_a_program_comes_back_the_same(self, program: Program, tmp_path: Path) -> None:
        save_program(program, tmp_path)
        loaded = load_program(tmp_path)
        assert loaded.digest == program.digest
        assert str(loaded) == str(program)
        assert loaded.provenance == program.provenance
        for name, tensor in program.tensors.items():
            assert loaded.tensors[name].dtype == tensor.dtype
            assert torch.equal(loaded.tensors[name], tensor)
        for name, output in Interpreter(program).run(INPUTS).items():
            np.testing.assert_array_equal(Interpreter(loaded).run(INPUTS)[name], output)

    def test_tied_weights_stay_tied(self, program: Program, tmp_path: Path) -> None:
        """Capture gives a tied weight one name; an edit may give it two."""
        edit = Edit(program)
        first = edit.node("first")
        first.args = (first.args[0], edit.tensor("own.weight", program.tensors[WEIGHT], "parameter"), first.args[2])
        tied = edit.finish("two names for one weight")
        save_program(tied, tmp_path)
        loaded = load_program(tmp_path)
        assert loaded.tensors["own.weight"] is loaded.tensors[WEIGHT]
        assert program.parameter_count == tied.parameter_count == loaded.parameter_count == 4 * 4 + 4
        assert loaded.digest == tied.digest
        module = loaded.module()
        assert module.get_parameter("own.weight") is module.get_parameter(WEIGHT)

    def test_equal_programs_give_equal_bytes(self, program: Program, tmp_path: Path) -> None:
        for folder in ("a", "b"):
            (tmp_path / folder).mkdir()
        save_program(program, tmp_path / "a")
        save_program(load_program(tmp_path / "a"), tmp_path / "b")
        for file in ("graph.json", "tensors.safetensors"):
            assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()

    def test_nothing_is_pickled(self, program: Program, tmp_path: Path) -> None:
        save_program(program, tmp_path)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["graph.json", "tensors.safetensors"]
        assert (tmp_path / "graph.json").read_bytes().startswith(b"{")


class TestEdit:
    def test_the_original_is_untouched(self, program: Program) -> None:
        before, text = program.digest, str(program)
        edit = Edit(program)
        (relu,) = (node for node in program.call_nodes if node.target is dialect.aten.leaky_relu.default)
        copy = edit.node(relu)
        tanh = edit.after(copy, "tanh", dialect.aten.tanh.default, (copy.args[0],), copy.meta["value"])
        edit.replace(copy, tanh)
        edit.tensor("first.bias", torch.zeros(4), "parameter")
        changed = edit.finish("leaky relu -> tanh")
        del program.__dict__["digest"]
        assert program.digest == before
        assert str(program) == text
        assert changed.digest != before
        assert changed.provenance == (*program.provenance, "leaky relu -> tanh")
        assert not any(node.target is dialect.aten.leaky_relu.default for node in changed.call_nodes)
        assert changed.tensors[WEIGHT] is program.tensors[WEIGHT]

    def test_an_edit_that_changes_nothing_is_a_bug(self, program: Program) -> None:
        with pytest.raises(InternalError, match="the same digest as before"):
            Edit(program).finish("nothing")

    def test_tensors_that_nobody_reads_any_more_go(self, program: Program) -> None:
        edit = Edit(program)
        (where,) = (node for node in program.call_nodes if node.target is dialect.aten.where.self)
        copy = edit.node(where)
        edit.replace(copy, copy.args[1])
        changed = edit.finish("where -> its second argument")
        assert set(program.tensors) - set(changed.tensors) == {"flags", str(where.args[2].target)}

    def test_an_operation_outside_the_dialect_does_not_become_a_program(self, program: Program) -> None:
        edit = Edit(program)
        last = edit.node(program.call_nodes[-1])
        value = last.meta["value"]
        edit.replace(last, edit.after(last, "sinh", torch.ops.aten.sinh.default, (last,), value))
        with pytest.raises(InternalError, match="expected: an operation of the dialect"):
            edit.finish("sinh")


class TestInterpreter:
    def test_outputs_have_names_and_bfloat16_is_widened(self, program: Program) -> None:
        outputs = Interpreter(program).run(INPUTS)
        assert {name: (array.dtype, array.shape) for name, array in outputs.items()} == {
            "output_0": (np.dtype(np.float32), (3, 4)),
            "output_1": (np.dtype(np.float32), (3, 4)),
        }

    def test_taps_add_inner_values(self, program: Program) -> None:
        outputs = Interpreter(program).run(INPUTS, taps=["first", "x"])
        weight, bias = program.tensors[WEIGHT].detach().numpy(), program.tensors["first.bias"].detach().numpy()
        np.testing.assert_array_equal(outputs["x"], INPUTS["x"])
        np.testing.assert_allclose(outputs["first"], INPUTS["x"] @ weight.T + bias, rtol=1e-5, atol=1e-6)

    def test_a_tap_without_a_node_is_refused_with_the_nearest(self, program: Program) -> None:
        with pytest.raises(UnknownName, match="try: first"):
            Interpreter(program).run(INPUTS, taps=["frst"])

    @pytest.mark.parametrize(
        ("inputs", "message"),
        [
            ({"x": INPUTS["x"]}, r"expected: shift: f32\[batch, 4\]"),
            ({**INPUTS, "x": np.zeros((3, 5), np.float32)}, r"expected: x: f32\[batch, 4\]"),
            ({**INPUTS, "x": np.zeros((2, 4), np.float32)}, "expected: batch=2, as in an earlier input"),
            ({**INPUTS, "x": np.zeros((3, 4), np.complex64)}, r"reading input 'x'"),
            ({**INPUTS, "x": np.zeros((3,), np.float32)}, "expected: 2 dims"),
            ({**INPUTS, "x": np.zeros((0, 4), np.float32)}, r"expected: batch in \[1, \.\.\.\]"),
        ],
    )
    def test_inputs_that_do_not_fit_are_refused(self, program: Program, inputs, message: str) -> None:
        with pytest.raises(DataError, match=message):
            Interpreter(program).run(inputs)

    def test_calling_a_program_runs_it(self, program: Program) -> None:
        outputs = program(INPUTS["x"], shift=INPUTS["shift"])
        np.testing.assert_array_equal(outputs["output_0"], Interpreter(program).run(INPUTS)["output_0"])

    def test_the_fingerprint_names_the_program(self, program: Program) -> None:
        assert program.digest[:16] in Interpreter(program).fingerprint


def test_the_value_of_a_node_prints_as_a_shape() -> None:
    assert str(TensorValue("bfloat16", ("batch", 3))) == "bf16[batch, 3]"
