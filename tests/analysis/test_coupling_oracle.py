"""Groups of random graphs against brute force: perturb one unit of a producer and see what moves.

The brute force knows no rules. It runs the program with every operation that sums over channels held at its first
result, so that a change spreads through nothing but element-wise and moving operations, and looks at where it arrives.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from torch import Tensor, fx, nn

from gossamer.analysis.coupling import Coupling, Group, couple
from gossamer.analysis.proof import prove
from gossamer.frontends.torch_module import capture
from gossamer.program import Program
from gossamer.program.dialect import aten, op_class
from gossamer.program.interpreter import execute

CHANNELS = [4, 6, 8]
SUMMING = ("conv", "linear")


class Net(nn.Module):
    """Steps on a list of feature maps (batch, channels, 4, 4); each takes maps from it and puts one or two back."""

    def __init__(self, steps: list[tuple[str, list[int], Any]], layers: dict[str, nn.Module]) -> None:
        super().__init__()
        self.steps = steps
        self.layers = nn.ModuleDict(layers)

    def forward(self, x: Tensor) -> Tensor:
        maps = [x]
        for place, (kind, used, option) in enumerate(self.steps):
            one = maps[used[0]]
            if str(place) in self.layers:
                maps.append(self.layers[str(place)](one))
            elif kind == "add":
                maps.append(one + maps[used[1]])
            elif kind == "cat":
                maps.append(torch.cat([one, maps[used[1]]], 1))
            elif kind == "split":
                maps += one.split([option, one.shape[1] - option], 1)
            elif kind == "shuffle":
                wide = one.view(-1, option, one.shape[1] // option, 4, 4)
                maps.append(wide.transpose(1, 2).reshape(-1, one.shape[1], 4, 4))
            elif kind == "gate":
                maps.append(one * torch.sigmoid(self.layers[f"{place}_gate"](one.mean((2, 3), keepdim=True))))
        return self.layers["head"](maps[-1].flatten(1)) + self.layers["other"](maps[len(maps) // 2].mean((2, 3)))


def made_layer(draw: st.DrawFn, kind: str, now: int) -> tuple[nn.Module, int]:
    if kind == "conv":
        out, kernel = draw(st.sampled_from(CHANNELS)), draw(st.sampled_from([1, 3]))
        groups = draw(st.sampled_from([1, 1, *(n for n in (2, now) if now % n == 0 and out % n == 0)]))
        return nn.Conv2d(now, out, kernel, padding=kernel // 2, groups=groups, bias=draw(st.booleans())), out
    if kind == "depthwise":
        return nn.Conv2d(now, now, 3, padding=1, groups=now), now
    plain = {"norm": lambda: nn.BatchNorm2d(now), "silu": nn.SiLU, "pool": lambda: nn.MaxPool2d(3, 1, 1)}
    return plain[kind](), now


@st.composite
def nets(draw: st.DrawFn) -> Program:
    widths, steps, layers = [3], [], {}
    wanted = ["conv", *draw(st.lists(st.sampled_from(
        ["conv", "conv", "depthwise", "norm", "silu", "pool", "add", "add", "cat", "split", "shuffle", "gate"]
    ), min_size=3, max_size=8))]  # fmt: skip
    for kind in wanted:
        place = len(steps)
        first = draw(st.integers(1, len(widths) - 1)) if len(widths) > 1 else 0
        now = widths[first]
        if kind in ("conv", "depthwise", "norm", "silu", "pool"):
            layers[str(place)], out = made_layer(draw, kind, now)
            steps.append((kind, [first], None))
            widths.append(out)
        elif kind in ("add", "cat"):
            others = [i for i in range(1, len(widths)) if kind == "cat" or widths[i] == now]
            second = draw(st.sampled_from(others))
            steps.append((kind, [first, second], None))
            widths.append(now if kind == "add" else now + widths[second])
        elif kind == "split" and now > 2:
            at = draw(st.integers(1, now - 1))
            steps.append((kind, [first], at))
            widths += [at, now - at]
        elif kind == "shuffle" and now % 2 == 0:
            steps.append((kind, [first], 2))
            widths.append(now)
        elif kind == "gate":
            layers[f"{place}_gate"] = nn.Conv2d(now, now, 1)
            steps.append((kind, [first], None))
            widths.append(now)
    torch.manual_seed(draw(st.integers(0, 2**16)))
    layers |= {"head": nn.Linear(widths[-1] * 16, 3), "other": nn.Linear(widths[len(widths) // 2], 3)}
    return capture(Net(steps, layers).eval(), torch.randn(2, 3, 4, 4))


random_nets = settings(
    max_examples=8, deadline=None, suppress_health_check=list(HealthCheck), phases=[Phase.generate], derandomize=True
)


def doubled(program: Program) -> Program:
    tensors = {
        name: tensor.double() if tensor.is_floating_point() else tensor for name, tensor in program.tensors.items()
    }
    return Program(program.name, program.graph, tensors, program.roles, program.signature)


def summing(program: Program) -> list[fx.Node]:
    return [node for node in program.call_nodes if op_class(node) in SUMMING]


def arrivals(program: Program, x: Tensor, perturbed: dict[fx.Node, Tensor]) -> dict[fx.Node, set[int]]:
    """Channels of the input of each summing operation that move if the results of some are perturbed."""
    inputs: dict[fx.Node, Tensor] = {}
    results: dict[fx.Node, Tensor] = {}

    def remember(node: fx.Node, value: Tensor) -> None:
        results[node] = value

    execute(program, {"x": x}, remember)
    moved: dict[fx.Node, set[int]] = {}

    def held(node: fx.Node) -> Any:
        def compute(value: Tensor, *_: Any) -> Tensor:
            inputs[node] = value
            return results[node] + perturbed.get(node, torch.zeros(()))

        return compute

    execute(program, {"x": x}, instead={node: held(node) for node in summing(program)})
    for node, value in inputs.items():
        source = node.args[0]
        assert isinstance(source, fx.Node)
        difference = (value - results[source]).abs().amax([dim for dim in range(value.dim()) if dim != 1])
        moved[node] = set(torch.nonzero(difference > 1e-9).flatten().tolist())
    return moved


def at(coupling: Coupling, node: fx.Node, group: Group, unit: int) -> set[int]:
    """Positions along the channel axis of a value that are this unit of a group, by the descriptions."""
    axis = coupling.trace.axes_of(node)[1]
    return set(np.flatnonzero(coupling.trace.axes.index(axis, coupling.leaves[group.name]) == unit).tolist())


@random_nets
@given(nets(), st.data())
def test_what_moves_is_what_the_group_holds(program: Program, data: st.DataObject):
    program = doubled(program)
    coupling = couple(program)
    x = torch.randn(2, 3, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for group in coupling.free:
        unit = data.draw(st.integers(0, group.size - 1))
        everywhere = {}
        for node in summing(program):
            places = sorted(at(coupling, node, group, unit))
            if places:
                change = torch.zeros(node.meta["value"].shape[1], dtype=torch.float64)
                change[places] = 10.0
                everywhere[node] = change.reshape(-1, *[1] * (len(node.meta["value"].shape) - 2))
        moved = arrivals(program, x, everywhere)
        for node in summing(program):
            source = node.args[0]
            assert isinstance(source, fx.Node)
            assert moved[node] == at(coupling, source, group, unit), (group.name, unit, node.name)


@random_nets
@given(nets())
def test_every_cut_of_a_random_net_is_proven(program: Program):
    coupling = couple(program)
    assert coupling.unknown == ()
    assert not prove(coupling).refuted
    frozen = [group for group in coupling.groups if group.frozen and group.size > 1]
    assert all("input" in group.frozen or "output" in group.frozen for group in frozen)


@random_nets
@given(nets(), st.data())
def test_cutting_twice_is_cutting_the_union(program: Program, data: st.DataObject):
    coupling = couple(program)
    first, second, both = {}, {}, {}
    for group in coupling.free:
        kept = sorted(data.draw(st.sets(st.integers(0, group.size - 1), min_size=1)))
        again = sorted(data.draw(st.sets(st.integers(0, len(kept) - 1), min_size=1)))
        first[group.name], second[group.name] = kept, again
        both[group.name] = [kept[index] for index in again]
    once = coupling.cut(both) if any(len(both[g.name]) < g.size for g in coupling.free) else program
    twice = program
    for step in (first, second):
        now = couple(twice)
        sizes = {group.name: group.size for group in now.groups}
        loss = {name: kept for name, kept in step.items() if len(kept) < sizes.get(name, 1)}
        twice = now.cut(loss) if loss else twice
    assert {name: tensor.shape for name, tensor in once.tensors.items()} == {
        name: tensor.shape for name, tensor in twice.tensors.items()
    }
    assert all(torch.equal(tensor, twice.tensors[name]) for name, tensor in once.tensors.items())
    assert str(once) == str(twice)


@random_nets
@given(nets(), st.randoms(use_true_random=False))
def test_permuting_the_units_of_a_group_changes_nothing(program: Program, random: Any):
    program = doubled(program)
    coupling = couple(program)
    x = {"x": torch.randn(2, 3, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))}
    expected = execute(program, x)
    for group in coupling.free:
        order = list(range(group.size))
        random.shuffle(order)
        tensors = dict(program.tensors)
        for tensor, axis in {(member.tensor, member.axis) for member in group.members}:
            (index, *_) = (m.index for m in group.members if (m.tensor, m.axis) == (tensor, axis))
            source = np.arange(len(index))
            for unit, other in enumerate(order):
                source[index == unit] = np.flatnonzero(index == other)
            tensors[tensor] = tensors[tensor].index_select(axis, torch.from_numpy(source))
        permuted = Program(program.name, program.graph, tensors, program.roles, program.signature)
        for before, after in zip(expected, execute(permuted, x), strict=True):
            torch.testing.assert_close(after, before, rtol=1e-9, atol=1e-12)


def test_the_brute_force_sees_a_missing_link():
    """The oracle can fail: with a rule that forgets an addition it does."""
    from gossamer.analysis.rules import RULES

    net = Net(
        [("conv", [0], None), ("conv", [0], None), ("add", [1, 2], None)],
        {"0": nn.Conv2d(3, 4, 1), "1": nn.Conv2d(3, 4, 1), "head": nn.Linear(64, 3), "other": nn.Linear(4, 3)},
    )
    program = doubled(capture(net.eval(), torch.randn(2, 3, 4, 4)))
    rules = {**RULES, aten.add.Tensor: lambda t, call: call.axes("self")}
    coupling = couple(program, rules)
    second = coupling.group("layers.1")
    change = torch.zeros(4, 1, 1, dtype=torch.float64)
    change[2] = 10.0
    node = next(node for node in summing(program) if node.name == "layers_1")
    head = next(node for node in summing(program) if node.name == "layers_head")
    source = head.args[0]
    assert isinstance(source, fx.Node)
    moved = arrivals(program, torch.randn(2, 3, 4, 4, dtype=torch.float64), {node: change})
    assert moved[head]
    assert moved[head] != at(coupling, source, second, 2)


@pytest.mark.slow
@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(nets())
def test_many_random_nets_are_proven(program: Program):
    assert not prove(couple(program)).refuted
