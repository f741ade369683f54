"""Inserting pairs of quantize and dequantize: the grids of activations, weights and biases for one placement."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, fx
from torch.fx.node import map_arg

from gossamer.core.target import QuantizerPlacement, Scheme
from gossamer.numerics.quantizers import MIN_SCALE, affine_grid, best_symmetric_scale, symmetric_grid
from gossamer.numerics.saturation import pairs_fit
from gossamer.program import dialect
from gossamer.program.edit import Edit
from gossamer.program.program import Program, Role
from gossamer.program.values import tensor_value
from gossamer.techniques.quantize.placement import Placement

_BIAS_RANGE = 2**30
"""Largest bias code: leaves half of the 32-bit accumulator to the products."""


_TWO_SIDED = 0.25
"""Of a value that all its readers take in integers, the range is two-sided if the nearer end is at least this share of
the farther: a symmetric grid wastes little then."""


@dataclass(frozen=True)
class Grids:
    """What the grids of a placement are made from.

    Attributes:
        ranges: smallest and largest real value by node.
        weight_steps: ranges tried per weight channel; 1 takes the largest magnitude.
        narrow: layers whose weights use half of the codes.
        safe_pairs: layers whose weights have scales at which no two products exceed 16 bits.
        narrow_activations: layers whose inputs use half of the codes.
        own_biases: each layer gets a bias that no other reads: zeros where it has none.
    """

    ranges: Mapping[fx.Node, tuple[float, float]]
    weight_steps: int
    narrow: Collection[fx.Node] = ()
    narrow_activations: Collection[fx.Node] = ()
    own_biases: bool = False
    safe_pairs: Collection[fx.Node] = ()


def insert_pairs(program: Program, rules: QuantizerPlacement, placement: Placement, grids: Grids, note: str) -> Program:
    """The program with all pairs of a placement."""
    return _Inserter(program, rules, placement, grids).insert(note)


def halved(codes: tuple[int, int]) -> tuple[int, int]:
    """The codes of one bit less: 0..127 of 0..255, -63..63 of -127..127."""
    low, high = codes
    return -(-low // 2), high // 2


def activation_grid(ends: tuple[float, float], scheme: Scheme, codes: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Scale and zero point of the grid that covers a range with the given codes."""
    lowest, highest = (torch.tensor(end, dtype=torch.float32) for end in ends)
    if scheme.symmetric:
        return symmetric_grid(torch.maximum(lowest.abs(), highest.abs()), codes[1])
    return affine_grid(lowest, highest, *codes)


class _Inserter:
    """Inserts the pairs of one placement."""

    def __init__(self, program: Program, rules: QuantizerPlacement, placement: Placement, grids: Grids) -> None:
        self._program = program
        self._rules = rules
        self._placement = placement
        self._given = grids
        self._narrow_values = {self._origin(node) for node in grids.narrow_activations}
        self._edit = Edit(program)
        self._grids: dict[fx.Node, tuple[fx.Node, fx.Node]] = {}
        self._scales: dict[fx.Node, float] = {}

    def insert(self, note: str) -> Program:
        """Insert all pairs and finish the edit."""
        for value, origin in self._placement.behind.items():
            self._pair(value, origin, readers=None)
        for value, readers in self._placement.before.items():
            self._pair(value, value, readers)
        for node in self._placement.layers.values():
            self._quantize_layer(node)
        return self._edit.finish(note)

    def _pair(self, value: fx.Node, origin: fx.Node, readers: list[fx.Node] | None) -> None:
        """Quantize and dequantize ``value`` on the grid of ``origin``, for all readers or for those given."""
        scale, zero_point = self._grid(origin)
        low, high = self._codes(origin)
        copy = self._edit.node(value)
        described = tensor_value(value)
        quantized = self._edit.after(
            copy, f"{value.name}_quantize", dialect.quantize, (copy, scale, zero_point, None, low, high), described
        )
        pair = self._edit.after(
            quantized, f"{value.name}_dequantize", dialect.dequantize, (quantized, scale, zero_point, None), described
        )
        users = (
            [user for user in copy.users if user is not quantized] if readers is None else map(self._edit.node, readers)
        )
        self._edit.replace(copy, pair, list(users))

    def _grid(self, origin: fx.Node) -> tuple[fx.Node, fx.Node]:
        """Scale and zero point of a value's grid, as stored tensors."""
        if origin not in self._grids:
            scale, zero = activation_grid(self._given.ranges[origin], self._scheme(origin), self._codes(origin))
            self._scales[origin] = float(scale)
            self._grids[origin] = (
                self._stored(f"{origin.name}.scale", scale),
                self._stored(f"{origin.name}.zero_point", zero),
            )
        return self._grids[origin]

    def _scheme(self, origin: fx.Node) -> Scheme:
        """The scheme of activations, or that of two-sided ones; see ``QuantizerPlacement``."""
        below, above = -self._given.ranges[origin][0], self._given.ranges[origin][1]
        nearer = _TWO_SIDED * max(below, above, MIN_SCALE) if origin in self._placement.behind else MIN_SCALE
        two_sided = self._rules.two_sided if min(below, above) >= nearer else None
        return two_sided or self._rules.activation

    def _codes(self, origin: fx.Node) -> tuple[int, int]:
        codes = self._scheme(origin).code_range
        return halved(codes) if origin in self._narrow_values else codes

    def _stored(self, name: str, value: Tensor, role: Role = "buffer") -> fx.Node:
        """Store a new tensor; a name that the model itself uses is made another one."""
        while name in self._program.tensors:
            name += "_"
        return self._edit.tensor(name, value, role)

    def _quantize_layer(self, node: fx.Node) -> None:
        rule = self._rules.ops[dialect.op_class(node)]
        arguments = dialect.bound_arguments(node)
        weight: fx.Node = arguments["weight"]
        copy = self._edit.node(node)
        codes = self._rules.weight.code_range
        codes = halved(codes) if node in self._given.narrow else codes
        scales = self._weight_scales(weight, codes[1], safe=node in self._given.safe_pairs)
        new_weight = self._constant_pair(copy, self._edit.node(weight), f"{node.name}.weight", scales, codes)
        if dialect.op_class(node) == "embedding":
            copy.args = (new_weight, *copy.args[1:])
            return
        bias = self._bias(node)
        if bias is not None and rule.bias == "int32":
            input_scale = self._scales[self._origin(node)]
            codes = (-_BIAS_RANGE, _BIAS_RANGE)
            bias = self._constant_pair(copy, bias, f"{node.name}.bias", scales * input_scale, codes)
        copy.args = (copy.args[0], new_weight, bias, *copy.args[3:])

    def _bias(self, node: fx.Node) -> fx.Node | None:
        """The copy of a layer's bias."""
        arguments = dialect.bound_arguments(node)
        bias: fx.Node | None = arguments["bias"]
        own = bias is not None and bias.op == "get_attr" and len(bias.users) == 1
        if own or not self._given.own_biases:
            return None if bias is None else self._edit.node(bias)
        channels = tensor_value(arguments["weight"]).shape[0]
        assert isinstance(channels, int)
        value = torch.zeros(channels) if bias is None else constant_value(self._program, bias).detach().clone()
        return self._stored(f"{node.name}.bias", value, "parameter")

    def _origin(self, node: fx.Node) -> fx.Node:
        """The value whose grid the input of a layer has."""
        source = node.args[0]
        assert isinstance(source, fx.Node)
        return self._placement.behind.get(source, source)

    def _weight_scales(self, weight: fx.Node, high: int, *, safe: bool) -> Tensor:
        """Scales along axis 0: of output channels, or of the rows of an embedding; shape (channels,)."""
        values, steps = constant_value(self._program, weight).float(), self._given.weight_steps
        if safe:
            return best_symmetric_scale(values, 0, high, 2 * steps, ends=(2.0, 0.5), allowed=pairs_fit)
        return best_symmetric_scale(values, axis=0, high=high, steps=steps)

    def _constant_pair(
        self, layer: fx.Node, constant: fx.Node, name: str, scales: Tensor, codes: tuple[int, int]
    ) -> fx.Node:
        """A pair on (the copy of) a stored tensor, right before the layer that reads it; scales are of axis 0."""
        scale = self._stored(f"{name}_scale", scales.float())
        zero = self._stored(f"{name}_zero_point", torch.zeros_like(scales).float())
        value = tensor_value(constant)
        base = name.replace(".", "_")
        quantized = self._edit.before(
            layer, f"{base}_quantize", dialect.quantize, (constant, scale, zero, 0, *codes), value
        )
        return self._edit.before(layer, f"{base}_dequantize", dialect.dequantize, (quantized, scale, zero, 0), value)


@torch.no_grad()
def constant_value(program: Program, node: fx.Node) -> Tensor:
    """The value of a node that is made of stored tensors alone."""
    if node.op == "get_attr":
        return program.tensors[str(node.target)]
    args, kwargs = map_arg((node.args, node.kwargs), lambda used: constant_value(program, used))
    return node.target(*args, **kwargs)  # pyright: ignore[reportCallIssue]
