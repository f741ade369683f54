"""Where quantize/dequantize pairs go, by the target's rules.

Two kinds of pairs. A pair *behind* a value stands between its producer and all its readers: the producer computes in
integers and hands integers on. A pair *before* readers leaves the value in float for everybody else: a linear layer of
a transformer reads integers and writes float.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

from torch import fx

from gossamer.core.errors import UnsupportedOp
from gossamer.core.names import require_known, select
from gossamer.core.target import OpPlacement, QuantizerPlacement, Target
from gossamer.program import dialect
from gossamer.program.dialect import aten
from gossamer.program.program import Program
from gossamer.program.values import TensorValue

COMPUTING = frozenset({"conv", "linear"})
"""Classes of layers that multiply by a weight; an embedding only looks its weight up."""

WEIGHTED = COMPUTING | {"embedding"}

_SAME_GRID = frozenset({"pad", "slice", "reshape", "permute", "max_pool"})
"""Classes whose outputs are inputs (or zeros): the pair behind them has the grid of the pair before them."""


@dataclass
class Placement:
    """Which values get pairs.

    Attributes:
        layers: weighted nodes that will compute in integers, by site name.
        behind: values with a pair between producer and all readers; the value is the one whose grid it has.
        before: values with a pair for these readers only.
        left: sites that stay in float, with the reason.
    """

    layers: dict[str, fx.Node] = field(default_factory=dict)
    behind: dict[fx.Node, fx.Node] = field(default_factory=dict)
    before: dict[fx.Node, list[fx.Node]] = field(default_factory=dict)
    left: dict[str, str] = field(default_factory=dict)


def rules_of(target: Target, placement: str = "") -> QuantizerPlacement:
    """The quantizer rules of a target, which must have some: its first ones, or others that it has, by name.

    Raises:
        UnsupportedOp: the target has no int8 kernels.
        UnknownName: no such placement.
    """
    if target.facts.quantizers is None:
        raise UnsupportedOp(
            f"quantizing for {target}", got="a target without int8 kernels", expected="a target with them"
        )
    if not placement:
        return target.facts.quantizers
    require_known(placement, target.facts.placements, "placement", f"quantizing for {target}")
    return target.facts.placements[placement]


def weighted_sites(program: Program) -> dict[str, fx.Node]:
    """Convolutions, linear layers and embeddings by module path, or by node name where several share a path."""
    nodes = [node for node in program.call_nodes if dialect.op_class(node) in WEIGHTED]
    paths = [node.meta.get("module", "") for node in nodes]
    return {
        path if path and paths.count(path) == 1 else node.name: node for node, path in zip(nodes, paths, strict=True)
    }


def place(program: Program, rules: QuantizerPlacement, skip: Collection[str] = ()) -> Placement:
    """Decide where pairs go.

    Args:
        program: with batch norms folded.
        rules: the target's.
        skip: globs of sites that stay in float.

    Raises:
        UnknownName: a glob of ``skip`` matches no site.
    """
    sites = weighted_sites(program)
    skipped = set(select(list(skip), list(sites), "excluding layers from int8"))
    placement = Placement()
    for name, node in sites.items():
        reason = "excluded" if name in skipped else _unfit(node, rules)
        if reason:
            placement.left[name] = reason
        else:
            placement.layers[name] = node
    chosen = set(placement.layers.values())
    islands = {_fused_end(sites[name], rules) for name in skipped}
    for node in program.call_nodes:
        rule = rules.ops.get(dialect.op_class(node))
        if node in chosen and rule is not None:
            _place_always(placement, rules, node, rule)
        elif rule is not None and rule.when == "inputs_quantized" and _inputs_quantized(placement, node, islands):
            end = _fused_end(node, rules)
            same_grid = dialect.op_class(node) in _SAME_GRID and end is node
            placement.behind[end] = placement.behind[_activation_inputs(node)[0]] if same_grid else end
        elif rule is not None and dialect.op_class(node) in _SAME_GRID and node.args[0] in islands:
            islands.add(node)
    return placement


def _unfit(node: fx.Node, rules: QuantizerPlacement) -> str:
    """Why a weighted node cannot be quantized; empty if it can."""
    if dialect.op_class(node) not in rules.ops:
        return f"the target has no int8 {dialect.op_class(node)}"
    weight = dialect.bound_arguments(node)["weight"]
    if weight.target is dialect.dequantize:
        return "it is quantized already"
    if not is_constant(weight):
        return "its weight is computed from the input"
    value = (weight if dialect.op_class(node) == "embedding" else node.args[0]).meta["value"]  # pyright: ignore[reportAttributeAccessIssue, reportOptionalMemberAccess]
    if not isinstance(value, TensorValue) or value.dtype != "float32" or len(value.shape) < 2:
        return "it does not compute on a float32 batch"
    return ""


def is_constant(node: fx.Node) -> bool:
    """Whether a value is made of stored tensors alone."""
    if node.op == "get_attr":
        return True
    return node.op == "call_function" and bool(node.all_input_nodes) and all(map(is_constant, node.all_input_nodes))


def _place_always(placement: Placement, rules: QuantizerPlacement, node: fx.Node, rule: OpPlacement) -> None:
    source = node.args[0]
    assert isinstance(source, fx.Node)
    if rule.inputs and rule.shared:
        placement.before.pop(source, None)
        placement.behind.setdefault(source, source)
    elif rule.inputs and source not in placement.behind:
        placement.before.setdefault(source, []).append(node)
    if rule.output:
        end = _fused_end(node, rules)
        placement.behind[end] = end
        if end in placement.before:  # readers found earlier now read the pair behind it
            del placement.before[end]


def _fused_end(node: fx.Node, rules: QuantizerPlacement) -> fx.Node:
    """The activation function that the runtime folds into ``node``, or ``node`` itself."""
    if len(node.users) == 1:
        (user,) = node.users
        if activation_name(user) in rules.fused_activations:
            return user
    return node


def activation_name(node: fx.Node) -> str:
    """``relu``, or ``relu6`` for a clip to [0, 6]; empty for everything else."""
    if node.target is aten.relu.default:
        return "relu"
    if node.target in (aten.hardtanh.default, aten.clamp.default) and tuple(node.args[1:]) in ((0, 6), (0.0, 6.0)):
        return "relu6"
    return ""


def _activation_inputs(node: fx.Node) -> list[fx.Node]:
    return [used for used in node.all_input_nodes if isinstance(used.meta["value"], TensorValue)]


def _inputs_quantized(placement: Placement, node: fx.Node, islands: Collection[fx.Node]) -> bool:
    """Whether every tensor that ``node`` reads comes from a pair; a stored tensor does not.

    Beside one that does, what a layer excluded from int8 yields (``islands``), or what has a pair for another reader
    already, gets a pair before ``node``: one layer in float shall not take all sums behind it along.
    """
    inputs = _activation_inputs(node)
    plain = node.target is not aten.pad.default or _is_zero_pad(node)
    scaled = dialect.op_class(node) == "add" and len(inputs) < 2
    quantized = [used for used in inputs if used in placement.behind]
    rest = [used for used in inputs if used not in placement.behind]
    if not quantized or not plain or scaled or not all(used in islands or used in placement.before for used in rest):
        return False
    for used in rest:
        placement.before.setdefault(used, []).append(node)
    return True


def _is_zero_pad(node: fx.Node) -> bool:
    arguments = dialect.bound_arguments(node)
    return arguments["mode"] == "constant" and not arguments["value"]
