"""Proof of a cut: the masked program and the sliced program compute the same.

Both run in float64 with random parameters, where the order of summation is far below the bound, on two sizes of what
may vary. Groups of equal signature share a proof; then all groups are cut at once. A group that fails is frozen, with
the first node that differs: the rule behind it is wrong.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx

from gossamer.analysis.axes import Axes, Axis, Dim, Fixed, Product, describe
from gossamer.analysis.coupling import Coupling, Group, couple
from gossamer.analysis.masked import masked_operations, size_at
from gossamer.analysis.trials import random_inputs, random_program, trial_sizes
from gossamer.core.digest import digest_bytes
from gossamer.program import dialect
from gossamer.program.interpreter import steps
from gossamer.program.program import Program, outputs_of

BOUND = 1e-10
"""Largest difference of any output in float64, by the output's largest value."""

ALL = "all groups at once"


@dataclass(frozen=True)
class Evidence:
    """What became of one cut.

    Attributes:
        group: name of the group, or ``ALL``.
        kept: units left.
        size: units before.
        deviation: largest difference of any output in float64, by the output's largest value.
        deviation_fp32: the same in float32, which decides nothing.
        renormalising: equal to the program with masked norms.
        shared_with: the group of the same signature that was run in its place; empty if it was run itself.
        refuted: what differs first, empty if nothing does.
    """

    group: str
    kept: int
    size: int
    deviation: float
    deviation_fp32: float
    renormalising: bool = False
    shared_with: str = ""
    refuted: str = ""


@dataclass(frozen=True)
class Proof:
    """The proofs of all free groups of a program.

    Attributes:
        program: digest of it.
        seed: of parameters, inputs and cuts.
        entries: one for each group that was free.
        together: all groups cut at once; ``None`` if none is left.
        refuted: why groups may not be cut after all.
        reproducers: a script for each of these.
    """

    program: str
    seed: int
    entries: tuple[Evidence, ...]
    together: Evidence | None
    refuted: Mapping[str, str] = field(default_factory=dict)
    reproducers: Mapping[str, str] = field(default_factory=dict)

    @property
    def deviation(self) -> float:
        """The largest deviation among what was proven."""
        found = [entry.deviation for entry in (*self.entries, self.together) if entry and not entry.refuted]
        return max(found, default=0.0)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON value; a deviation without bound is null."""
        return {
            "program": self.program,
            "seed": self.seed,
            "bound": BOUND,
            "entries": [_finite(asdict(entry)) for entry in self.entries],
            "together": _finite(asdict(self.together)) if self.together else None,
            "refuted": dict(self.refuted),
            "reproducers": dict(self.reproducers),
        }


def proven(program: Program, *, seed: int = 0) -> tuple[Coupling, Proof]:
    """The groups of a program, those that fail their proof frozen, and the proof."""
    coupling = couple(program)
    proof = prove(coupling, seed=seed)
    return coupling.freeze(proof.refuted), proof


def prove(coupling: Coupling, *, seed: int = 0) -> Proof:
    """Prove that cutting each free group, and all at once, equals masking it.

    Args:
        coupling: the groups; those that are frozen are left alone.
        seed: of parameters, inputs and cuts.

    Cost: some four float64 passes of two or three samples for each group of a signature of its own.
    """
    trial = _Trial(coupling, seed)
    entries: dict[str, Evidence] = {}
    by_signature: dict[str, Evidence] = {}
    for group in coupling.free:
        signature = _signature(trial.double, group)
        if signature not in by_signature:
            by_signature[signature] = trial.evidence(group.name, [group])
        known = by_signature[signature]
        shared = "" if known.group == group.name else known.group
        kept = len(trial.keep[group.name])
        entries[group.name] = Evidence(
            group.name, kept, group.size, known.deviation, known.deviation_fp32, group.renormalising, shared,
            known.refuted
        )  # fmt: skip
    refuted = {name: f"proof failed: {entry.refuted}" for name, entry in entries.items() if entry.refuted}
    left = [group for group in coupling.free if group.name not in refuted]
    together = trial.evidence(ALL, left) if left else None
    while together is not None and together.refuted:
        culprit = trial.culprit(left)
        refuted[culprit.name] = f"proof failed together with others: {together.refuted}"
        left.remove(culprit)
        together = trial.evidence(ALL, left) if left else None
    reproducers = {name: trial.reproducer(name) for name in refuted}
    return Proof(str(coupling.program.digest), seed, tuple(entries.values()), together, refuted, reproducers)


class _Trial:
    """The program in float64 and float32, inputs for it, and a random cut of each group."""

    def __init__(self, coupling: Coupling, seed: int) -> None:
        self.seed = seed
        self.program = coupling.program
        made = {}
        for dtype in (torch.float64, torch.float32):
            generator = torch.Generator().manual_seed(seed)
            made[dtype] = couple(random_program(coupling.program, dtype, generator), coupling.trace.rules)
        self.double, self.single = made[torch.float64], made[torch.float32]
        generator = torch.Generator().manual_seed(seed + 1)
        signature = coupling.program.signature
        trials = (0, 1) if signature.dims else (0,)
        self.sizes = [trial_sizes(signature, trial) for trial in trials]
        self.inputs = [random_inputs(self.double.program, sizes, generator) for sizes in self.sizes]
        choice = random.Random(seed)  # noqa: S311 - a choice of channels, not a secret
        self.floats = {name: one.float() if one.is_floating_point() else one for name, one in self.inputs[0].items()}
        self.keep = {group.name: _random_cut(group.size, choice) for group in coupling.free}

    def evidence(self, name: str, groups: Sequence[Group]) -> Evidence:
        """Cut these groups and compare."""
        keep = {group.name: self.keep[group.name] for group in groups}
        refuted, deviation, single = "", 0.0, 0.0
        try:
            sliced = self.double.cut(keep)
            refuted = _wrongly_sliced(self.double, sliced, keep)
            for inputs, sizes in zip(self.inputs, self.sizes, strict=True):
                largest, first = _Comparison(self.double, sliced, keep, sizes).run(inputs)
                deviation = max(deviation, largest)
                refuted = refuted or first or ("" if largest <= BOUND else "outputs differ, or none is finite")
            single, _ = _Comparison(self.single, self.single.cut(keep), keep, self.sizes[0]).run(
                self.floats, careful=True
            )
        except (RuntimeError, ValueError, IndexError, TypeError) as error:
            refuted, deviation = refuted or f"the sliced program fails: {_first_line(error)}", math.inf
        kept, size = sum(len(one) for one in keep.values()), sum(group.size for group in groups)
        renormalising = any(group.renormalising for group in groups)
        return Evidence(name, kept, size, deviation, single, renormalising, "", refuted)

    def culprit(self, groups: Sequence[Group]) -> Group:
        """The last group of the shortest prefix that fails."""
        low, high = 0, len(groups)
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if self.evidence(ALL, groups[:middle]).refuted else (middle, high)
        return groups[high - 1]

    def reproducer(self, name: str) -> str:
        """A script that shows the failure again."""
        return (
            f"# program {self.program.digest}\n"
            "from pathlib import Path\n"
            "from gossamer.analysis.coupling import couple\n"
            "from gossamer.analysis.proof import prove\n"
            "from gossamer.program import load_program\n"
            'program = load_program(Path("program"))  # the folder it was saved in\n'
            "coupling = couple(program)\n"
            f"sliced = coupling.cut({{{name!r}: {self.keep[name]}}})\n"
            f"print(prove(coupling, seed={self.seed}).refuted[{name!r}])\n"
        )


class _Comparison:
    """The masked and the sliced program, node by node."""

    def __init__(
        self, coupling: Coupling, sliced: Program, keep: Mapping[str, Sequence[int]], sizes: Mapping[str, int]
    ) -> None:
        self.coupling = coupling
        self.sliced = sliced
        self.sizes = sizes
        self.keep = coupling.keep_by_leaf(keep)
        self.masked = masked_operations(coupling.trace, self.keep, sizes)
        before = {node.name for node in coupling.program.graph.nodes}
        self._rescaled = {
            node.args[0].name: node.name
            for node in sliced.call_nodes
            if node.name not in before and isinstance(node.args[0], fx.Node)
        }  # of what the surgery puts behind a node, the last stands for it: a mean by the old count

    def run(self, inputs: Mapping[str, Tensor], *, careful: bool = False) -> tuple[float, str]:
        """Largest difference of any output by its largest value, and the first node of all that differs, if one does.

        Inner values are compared as well, so that nothing hides behind a layer that lets little through. A value is
        measured by its own size; if that finds a difference, all is run again and measured by what it is made of too.
        """
        outputs = {node.name for node in outputs_of(self.coupling.program.graph)}
        names = {node.name: node.name for node in self.sliced.graph.nodes} | self._rescaled
        sliced = steps(self.sliced, inputs)
        found: dict[str, Any] = {}
        scales: dict[fx.Node, float] = {}
        deviation, first = 0.0, ""
        for node, value in steps(self.coupling.program, inputs, self.masked):
            if node.name not in names:
                continue
            while names[node.name] not in found:
                other, result = next(sliced)
                found[other.name] = result
            result = found.pop(names[node.name])
            if not isinstance(value, Tensor) or node.op != "call_function":
                continue
            expected = self._gathered(node, value)
            if careful:
                scales[node] = _largest(expected)
            difference = _difference(
                expected, result, max((scales.get(used, 0.0) for used in node.all_input_nodes), default=0.0)
            )
            if node.name in outputs:
                nothing = expected.is_floating_point() and expected.numel() and not torch.isfinite(expected).any()
                deviation = math.inf if nothing else max(deviation, difference)
            if not first and not difference <= BOUND:
                first = _described(node)
        return self.run(inputs, careful=True) if first and not careful else (deviation, first)

    def _gathered(self, node: fx.Node, value: Tensor) -> Tensor:
        for dim, axis in enumerate(self.coupling.trace.axes_of(node)):
            if self.coupling.trace.axes.touched(axis, self.keep):
                kept = self.coupling.trace.axes.kept(axis, self.keep, partial(size_at, self.sizes))
                value = value.index_select(dim, torch.from_numpy(kept))
        return value


def _random_cut(size: int, choice: random.Random) -> list[int]:
    count = min(max(1, round(size * choice.uniform(0.4, 0.8))), size - 1)
    return sorted(choice.sample(range(size), count))


def _difference(expected: Tensor, found: Tensor, scale: float = 0.0) -> float:
    """Largest difference by the largest value, or by a larger scale; infinite where shapes or what is finite differ."""
    if expected.shape != found.shape:
        return math.inf
    if torch.equal(expected, found):
        return 0.0
    finite = torch.isfinite(expected)
    if not expected.is_floating_point() or not torch.equal(finite, torch.isfinite(found)):
        return math.inf
    largest = _largest(expected[finite] - found[finite])
    return largest / max(scale, _largest(expected)) if largest else 0.0


def _largest(value: Tensor) -> float:
    finite = value[torch.isfinite(value)]
    return float(finite.abs().max()) if finite.is_floating_point() and finite.numel() else 0.0


def _described(node: fx.Node) -> str:
    module = node.meta.get("module", "")
    return f"{dialect.op_name(node.target)} {node.name}{f' in {module}' if module else ''} differs first"


def _wrongly_sliced(coupling: Coupling, sliced: Program, keep: Mapping[str, Sequence[int]]) -> str:
    """The first tensor that is not bit for bit what is left of the original; found by the members alone."""
    gone: dict[tuple[str, int], Tensor] = {}
    for name, indices in keep.items():
        kept = torch.zeros(coupling.group(name).size + 1, dtype=torch.bool)
        kept[list(indices)] = True
        kept[-1] = True  # positions of other groups
        for member in coupling.group(name).members:
            stays = kept[torch.from_numpy(member.index)]
            place = member.tensor, member.axis
            gone[place] = gone.get(place, torch.ones(len(stays), dtype=torch.bool)) & stays
    for name, tensor in sliced.tensors.items():
        expected = coupling.program.tensors[name]
        for dim in range(expected.dim()):
            if (name, dim) in gone:
                expected = expected.index_select(dim, gone[name, dim].nonzero().flatten())
        if not torch.equal(expected, tensor):
            return f"tensor {name} is not what is left of the original"
    return ""


def _signature(coupling: Coupling, group: Group) -> str:
    """What a group looks like to the rules: groups that differ in names and values alone share it."""
    holding = coupling.holding(group.name)
    nodes = dict.fromkeys([*holding, *(user for node in holding for user in node.users)])
    order = {node: place for place, node in enumerate(coupling.program.graph.nodes)}
    leaf = coupling.leaves[group.name]
    lines = [str(group.size)]
    for node in sorted(nodes, key=order.__getitem__):
        if node.op == "output":
            continue
        described = [
            _pattern(coupling.trace.axes, coupling.trace.values.get(one, ()), leaf)
            for one in (node, *node.all_input_nodes)
        ]
        literals = [str(argument) for argument in torch.fx.node.map_arg(node.args, lambda _: "node")]  # type: ignore[union-attr]
        lines.append(
            f"{node.op} {dialect.op_name(node.target) if node.op == 'call_function' else ''} {literals} {described}"
        )
    return digest_bytes("\n".join(lines).encode())


def _pattern(axes: Axes, value: Any, leaf: Dim) -> str:
    parts = value if isinstance(value, list) else [value]
    return "; ".join(", ".join(describe(_anonymous(axes.resolve(axis), leaf)) for axis in part) for part in parts)


def _anonymous(axis: Axis, leaf: Dim) -> Axis:
    """The description with the leaf as number 1 and all others as 0."""
    if isinstance(axis, Dim):
        return Dim(int(axis == leaf), axis.size)
    if isinstance(axis, Fixed):
        return axis
    inner = axis.factors if isinstance(axis, Product) else axis.parts
    return type(axis)(tuple(_anonymous(one, leaf) for one in inner))


def _finite(entry: dict[str, Any]) -> dict[str, Any]:
    return {name: None if isinstance(value, float) and math.isinf(value) else value for name, value in entry.items()}


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:160]
