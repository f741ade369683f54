"""Cuts: what they refuse, and that what comes out is a program like any other."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from micro_graphs import MICRO
from torch import Tensor, nn

from gossamer import flow
from gossamer.analysis.coupling import Coupling, couple
from gossamer.analysis.proof import proven
from gossamer.core.errors import CaptureError, OptionError, UnknownName
from gossamer.frontends.torch_module import capture
from gossamer.program import Interpreter, Program, load_program, save_program
from gossamer.program.dialect import aten
from gossamer.program.edit import Edit
from gossamer.program.sizes import size_value
from gossamer.program.values import SizeValue
from gossamer.program.wellformed import check_graph, check_tables
from gossamer.runtimes import open_executable, resolve_target
from gossamer.testing.models import MODELS, Lambda

NOTHING_FREE = {"group norm", "loop over a cell", "experts", "bilinear"}

WHOLE = {f"model: {name}": model for name, model in MODELS.items() if not model.refused and name not in NOTHING_FREE}
SMALL = {f"graph: {name}": micro for name, micro in MICRO.items() if micro.free and name != "lstm with projections"}


def halved(coupling: Coupling) -> Program:
    return coupling.cut({group.name: range(group.size // 2) for group in coupling.free})


@pytest.mark.parametrize("name", [*WHOLE, *(pytest.param(name, marks=pytest.mark.slow) for name in SMALL)])
def test_a_cut_program_saves_loads_trains_lowers_and_runs(name: str, tmp_path: Path):
    model = {**WHOLE, **SMALL}[name]
    program, inputs = model.program, {key: tensor.numpy().copy() for key, tensor in model.inputs.items()}
    coupling = couple(program)
    cut = halved(coupling)
    assert cut.parameter_count < program.parameter_count
    assert cut.signature == program.signature
    check_graph(cut.graph, cut.signature.inputs, cut.signature.outputs)
    check_tables(cut.tensors, cut.roles, cut.signature)
    seen = shapes_of_a_run(cut, inputs)
    assert all(seen[node.name] == declared(node, inputs, cut) for node in cut.call_nodes if node.name in seen)

    save_program(cut, tmp_path)
    assert load_program(tmp_path).digest == cut.digest
    assert str(cut).count("\n") > 2
    module = cut.module(training=True)
    tensors = [torch.from_numpy(inputs[spec.name]) for spec in cut.signature.inputs]
    sum(out.double().sum() for out in module(*tensors)).backward()

    path = tmp_path / "model.onnx"
    path.write_bytes(flow.lower(cut).model)
    executable = open_executable(path, cut.signature, resolve_target("onnxruntime:cpu"))
    got = executable.run(inputs)
    executable.close()
    for key, expected in Interpreter(cut).run(inputs).items():
        np.testing.assert_allclose(got[key], expected, rtol=1e-4, atol=1e-5)


def shapes_of_a_run(program: Program, inputs: dict[str, np.ndarray]) -> dict[str, tuple[int, ...]]:
    names = [node.name for node in program.call_nodes if hasattr(node.meta["value"], "shape")]
    return {name: value.shape for name, value in Interpreter(program).run(inputs, names).items() if name in names}


def declared(node: torch.fx.Node, inputs: dict[str, np.ndarray], program: Program) -> tuple[int, ...]:
    sizes = {
        size: inputs[spec.name].shape[axis]
        for spec in program.signature.inputs
        for axis, size in enumerate(spec.shape)
        if isinstance(size, str)
    }
    return tuple(size_value(size, sizes) for size in node.meta["value"].shape)


@pytest.fixture(scope="module")
def coupling() -> Coupling:
    return couple(MICRO["batch norm"].program)


def test_cut_keeps_what_was_asked_for(coupling: Coupling):
    cut = coupling.cut({"layers.a": [1, 4, 7]}, note="three")
    before = coupling.program.tensors
    assert torch.equal(cut.tensors["layers.b.weight"], before["layers.b.weight"][:, [1, 4, 7]])
    assert torch.equal(cut.tensors["layers.n.running_var"], before["layers.n.running_var"][[1, 4, 7]])
    assert cut.tensors["layers.b.bias"] is before["layers.b.bias"]
    assert cut.provenance[-1] == "three"
    assert coupling.cut({"layers.a": [0]}).provenance[-1] == "cut layers.a 8 to 1"


def test_tied_tensors_stay_one_tensor():
    """Two names for one tensor: both layers are cut alike, and only where both can be."""
    layers = {name: nn.Linear(6, 6, bias=False) for name in "abc"}
    plain = capture(Lambda(lambda m, x: m["c"](m["b"](m["a"](x)).relu()), **layers), {"x": torch.randn(2, 6)})
    tensors = {**plain.tensors, "layers.c.weight": plain.tensors["layers.b.weight"]}
    tied = Program(plain.name, plain.graph, tensors, plain.roles, plain.signature)
    assert [group.name for group in couple(plain).free] == ["layers.a", "layers.b"]
    assert couple(tied).free == ()  # the output axis of c is that of b, which is the input axis of c
    table = {**plain.tensors, "layers.b.weight": plain.tensors["layers.a.weight"]}
    coupling = couple(Program(plain.name, plain.graph, table, plain.roles, plain.signature))
    assert coupling.free == ()  # the input axis of a is fixed, and with it that of b


@pytest.mark.parametrize(
    ("keep", "message"),
    [
        ({"layers.a": []}, "at least one"),
        ({"layers.a": [[0], [1]]}, "indices of the units to keep"),
        ({"layers.a": [0.5]}, "indices of the units to keep"),
        ({"layers.a": [0, 8]}, "indices from 0 to 7"),
        ({"layers.a": [-1]}, "indices from 0 to 7"),
        ({"layers.a": [3, 1]}, "ascending indices, each once"),
        ({"layers.a": [1, 1]}, "ascending indices, each once"),
        ({"layers.b": [0]}, "frozen group: output"),
        ({}, "nothing to cut"),
        ({"layers.a": range(8)}, "nothing to cut"),
    ],
)
def test_what_cannot_be_cut_is_refused(coupling: Coupling, keep: dict, message: str):
    with pytest.raises(OptionError, match=message):
        coupling.cut(keep)


def test_unknown_groups_are_refused_with_the_nearest(coupling: Coupling):
    with pytest.raises(UnknownName, match=r"layers\.a"):
        coupling.cut({"layer.a": [0]})
    with pytest.raises(UnknownName, match="layers"):
        coupling.freeze({"layers.z": "why"})


def test_freezing_by_name_keeps_the_first_reason(coupling: Coupling):
    frozen = coupling.freeze({"layers.a": "asked for", "layers.b": "asked for"})
    assert frozen.group("layers.a").frozen == "asked for"
    assert frozen.group("layers.b").frozen.startswith("output")
    assert frozen.free == ()
    assert str(frozen.group("layers.a")) == "layers.a: 8 channels, 7 axes, frozen: asked for"
    assert str(coupling.group("layers.a")).endswith("free")


# Hostile models


class TwoRoles(nn.Module):
    """One matrix as a linear layer and as a table to look up in."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(8, 8))

    def forward(self, x: Tensor, ids: Tensor) -> Tensor:
        return x @ self.weight + nn.functional.embedding(ids, self.weight)


def test_a_weight_in_two_roles_is_unified_or_frozen():
    program = capture(TwoRoles(), {"x": torch.randn(2, 8), "ids": torch.tensor([1, 2])})
    assert couple(program).free == ()


def test_weights_that_need_no_gradient_and_half_precision_are_cut_alike():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.ReLU(), nn.Linear(8, 3)).half().requires_grad_(False)
    coupling, proof = proven(capture(net.eval(), torch.randn(2, 6).half()))
    assert not proof.refuted
    cut = coupling.cut({"0": [0, 2, 5]})
    assert {str(tensor.dtype) for tensor in cut.tensors.values()} == {"torch.float16"}
    assert torch.equal(cut.tensors["0.weight"], net[0].weight[[0, 2, 5]])


def test_shapes_that_depend_on_values_never_become_a_program():
    class Chosen(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x[x > 0]

    with pytest.raises(CaptureError):
        capture(Chosen(), torch.randn(2, 6))


def test_a_quantized_program_is_cut_with_its_scales():
    from gossamer.techniques.quantize.int8 import Int8

    micro = MICRO["batch norm"]
    inputs = {"x": np.resize(micro.inputs["x"].numpy(), (8, 3, 6, 6))}
    quantized = Int8().apply(micro.program, inputs, resolve_target("onnxruntime:cpu"))
    coupling = couple(quantized)
    (group,) = coupling.free
    assert any("scale" in member.tensor for member in group.members)
    cut = coupling.cut({group.name: [0, 3, 4]})
    assert Interpreter(cut).run(inputs)["output"].shape == (8, 2, 6, 6)


def folded(m, x: Tensor) -> Tensor:
    """Heads in the batch axis; sizes are read off that axis."""
    y = m["a"](x).view(-1, 4)
    return m["b"](y.reshape(y.shape[0], 2, 2).flatten(1).view(x.shape[0], 8))


def test_a_size_read_off_a_cut_axis_follows_it():
    layers = {"a": nn.Linear(5, 8), "b": nn.Linear(8, 2)}
    coupling, proof = proven(capture(Lambda(folded, **layers), {"x": torch.randn(2, 5)}))
    assert [group.size for group in coupling.free] == [2, 2, 2]
    assert not proof.refuted


def test_a_size_read_off_a_cut_axis_and_computed_with_freezes_it():
    layers = {"a": nn.Linear(5, 8), "b": nn.Linear(8, 2)}
    program = capture(Lambda(folded, **layers), {"x": torch.randn(2, 5)})
    edit = Edit(program)
    view, last = edit.node("reshape"), edit.node("layers_b")
    size = edit.after(view, "rows", aten.sym_size.int, (view, 0), SizeValue("2*batch"))
    edit.replace(last, edit.after(last, "ratio", aten.div.Tensor, (last, size), last.meta["value"]))
    coupling = couple(edit.finish("divided by the number of rows"))
    (frozen,) = (group for group in coupling.groups if "its size is computed with" in group.frozen)
    assert frozen.frozen == "its size is computed with at div ratio in layers.b"
    assert len(coupling.free) == 2
