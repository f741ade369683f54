"""Pieces of a program built the way a candidate was built, run on reference values, and compared under a policy."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
from torch import fx

from gossamer.core.errors import GossamerError
from gossamer.core.runnable import Executable, Runnable
from gossamer.core.specs import Signature
from gossamer.core.target import Target
from gossamer.lowering import Lowered
from gossamer.program import dialect
from gossamer.program.interpreter import Interpreter
from gossamer.program.program import Program, outputs_of
from gossamer.program.segment import Piece, atoms, cut, fused_groups, pieces_of, resume
from gossamer.program.values import TensorValue
from gossamer.runtimes import lower_for, open_executable
from gossamer.verification.attribution import Attribution, attribute, noise
from gossamer.verification.bisect import MOST_COMPILATIONS, LocalError, Names
from gossamer.verification.inputs import Case
from gossamer.verification.parity import beyond, tensor_error
from gossamer.verification.policies import FP32, Policy
from gossamer.verification.steps import NO_STEPS, count_steps

Build = Callable[[Program], Runnable]
"""Makes a candidate of a program: lowers and opens it, say."""

Values = Mapping[str, Mapping[str, np.ndarray]]
"""By case, then by name of the value."""

MOST_BYTES = 2**29
"""Values of the reference held at once; no further case is run when they take more."""

TOGETHER = 256
"""Pieces that are built side by side in one model."""

WRONG_SHARE = 1e-3
"""Share of whole numbers that may differ in a piece: those next to a rounding that went the other way."""


class Builder:
    """Lowers programs for a target into a folder, and opens them.

    Args:
        target: where they run.
        folder: for the files, one a program.
        lower: Program to file; by default the target's.
        open_: file to session; by default the target's.
    """

    def __init__(
        self,
        target: Target,
        folder: Path,
        lower: Callable[[Target, Program], Lowered] = lower_for,
        open_: Callable[[Path, Signature, Target], Executable] = open_executable,
    ) -> None:
        self._target, self._folder, self._lower, self._open = target, folder, lower, open_
        self._count = 0

    def lower(self, program: Program) -> Lowered:
        """The file of a program, with its name map."""
        return self._lower(self._target, program)

    def __call__(self, program: Program) -> Executable:
        """Lower a program and open it."""
        self._count += 1
        path = self._folder / f"piece-{self._count}.onnx"
        path.write_bytes(self.lower(program).model)
        return self._open(path, program.signature, self._target)


class PieceProbe:
    """The ``Probe`` of ``verification.bisect`` for programs.

    Args:
        program: the reference, run by the interpreter.
        build: makes a candidate of a program.
        policy: the bounds.
        source: what the candidate's pieces are cut out of; another program than the reference where two are compared
            whose values have the same names.

    Attributes:
        compilations: candidates built so far.
        cases: those that pieces run on; see ``observe``.
        values: every value of the reference on them.
        unsteady: values that were others when run again.
    """

    def __init__(self, program: Program, build: Build, policy: Policy, source: Program | None = None) -> None:
        self.program, self.source, self.build, self.policy = program, source or program, build, policy
        self.atoms, self.groups = atoms(program), fused_groups(program)
        self.compilations = 0
        self.cases: list[Case] = []
        self.values: dict[str, dict[str, np.ndarray]] = {}
        self.unsteady: set[str] = set()
        self._scales: dict[str, float] = {}
        self._by_name = {node.name: node for node in program.graph.nodes if node.op != "output"}
        self._grids = {name: node for name, node in self._by_name.items() if node.target is dialect.dequantize}
        self._codes = {_codes_of(node): name for name, node in self._grids.items()}
        ends = zip(outputs_of(program.graph), outputs_of(self.source.graph), strict=True)
        self._ends = {node.name: end.name for node, end in ends}  # an output may be quantized in one program only

    @property
    def left(self) -> int:
        """Compilations that may still be made."""
        return MOST_COMPILATIONS - self.compilations

    def observe(self, cases: Sequence[Case]) -> None:
        """Run the reference on these cases from now on, keeping every value; on fewer if that takes too much memory."""
        self.cases = []
        names = [name for name, node in self._by_name.items() if node.op != "get_attr" and self._is_tensor(name)]
        held = 0
        for case in cases:
            if held > MOST_BYTES:
                break
            self.cases.append(case)
            self.values[case.name] = values = Interpreter(self.program).run(case.inputs, names)
            held += sum(array.nbytes for array in values.values())
            for name in names if case.kind == "real" else ():
                finite = values[name][np.isfinite(values[name])]
                largest = float(np.abs(finite, dtype=np.float64).max(initial=0.0))
                self._scales[name] = max(self._scales.get(name, 0.0), largest)

    @contextmanager
    def opened(self, program: Program) -> Iterator[Runnable]:
        """A candidate of a program, closed afterwards; counts as a compilation."""
        self.compilations += 1
        runnable = self.build(program)
        try:
            yield runnable
        finally:
            if isinstance(runnable, Executable):
                runnable.close()

    @property
    def is_quantized(self) -> bool:
        """Whether any activation of the reference lies on a grid."""
        return bool(self._grids)

    def local(self, pieces: Sequence[Names]) -> list[LocalError | None]:
        """The error of each piece on reference inputs; ``None`` for one that cannot be run by itself."""
        found: list[LocalError | None] = []
        for start in range(0, len(pieces), TOGETHER):
            found += self._together(pieces_of(self.program, pieces[start : start + TOGETHER]))
        return found

    def inside(self, piece: Names) -> list[LocalError]:
        """The errors of all values of a piece, with each of them an output of the piece."""
        (whole,) = pieces_of(self.program, [piece])
        inner = tuple(name for name in whole.nodes if self._is_tensor(name) and name not in self._codes)
        exposed = Piece(whole.nodes, whole.inputs, inner)
        try:
            outputs = self.run([exposed])
        except (GossamerError, Raised):
            return []
        return [self._error(exposed, name, outputs) for name in inner]

    def adds_up(self, piece: Names) -> bool:
        """Whether the error of a piece is no more than what its atoms do by themselves, on the first case."""
        try:
            return self.sources(piece, [atom for atom in self.atoms if set(atom) <= set(piece)]).accumulates
        except (GossamerError, Raised):
            return False

    def sources(
        self, whole: Sequence[str], parts: Sequence[Names], got: Mapping[str, np.ndarray] | None = None
    ) -> Attribution:
        """How much of the error of a piece each of its parts causes alone, on the first case.

        Args:
            whole: the piece.
            parts: pieces of it.
            got: its outputs; by default it is built.
        """
        piece, *pieces = pieces_of(self.program, [whole, *parts])
        pieces = [part for part in pieces if part.outputs]
        name = self.cases[0].name
        made, got = self.run(pieces)[name], self.run([piece])[name] if got is None else got
        segment = cut(self.program, [piece])
        values = {**self.values[name], **segment.inputs_from(self.values[name])}
        replaced = {}
        for part in pieces:
            label = part.nodes[0] if len(part.nodes) == 1 else f"{part.nodes[0]}..{part.nodes[-1]}"
            replaced[label] = resume(segment.program, values, {name: made[name] for name in part.outputs})
        return attribute(resume(segment.program, values, {}), got, replaced)

    def run(self, pieces: Sequence[Piece]) -> Values:
        """Outputs of pieces side by side on reference inputs; the first case once more, to see what does not repeat."""
        renamed = [
            replace(piece, outputs=tuple(self._ends.get(name, name) for name in piece.outputs)) for piece in pieces
        ]
        segment = cut(self.source, renamed)
        results: dict[str, dict[str, np.ndarray]] = {}
        with self.opened(segment.program) as runnable:
            for case in [*self.cases, self.cases[0]]:
                outputs = run_candidate(runnable, segment.inputs_from(self.values[case.name]), case)
                outputs |= {name: outputs[end] for name, end in self._ends.items() if end in outputs}
                before = results.setdefault(case.name, outputs)
                self.unsteady |= {name for name in before if before[name].tobytes() != outputs[name].tobytes()}
        return results

    def _together(self, pieces: Sequence[Piece]) -> list[LocalError | None]:
        """Pieces in one model; in two halves if that cannot be made or run."""
        wanted = [piece for piece in pieces if piece.outputs]
        if not wanted or self.left <= 0:
            return [None] * len(pieces)
        try:
            outputs = self.run(wanted)
        except (GossamerError, Raised) as error:
            if len(pieces) > 1:
                middle = len(pieces) // 2
                return [*self._together(pieces[:middle]), *self._together(pieces[middle:])]
            raised = isinstance(error, Raised)
            return [LocalError(pieces[0].outputs[-1], self.cases[0].name, str(error), math.inf) if raised else None]
        return [self._worst(piece, outputs) if piece.outputs else None for piece in pieces]

    def _worst(self, piece: Piece, outputs: Values) -> LocalError:
        """The first output that the policy does not accept, else that of the largest error."""
        errors = [self._error(piece, name, outputs) for name in piece.outputs]
        return next((error for error in errors if error.reason), max(errors, key=lambda error: error.relative_l2))

    def _error(self, piece: Piece, name: str, outputs: Values) -> LocalError:
        """The first case in which an output of a piece is beyond its bounds, else the worst one.

        A value on a grid that is quantized once in the piece is compared step by step. What is computed from integers
        without quantizing again has the accuracy of floats, whatever the policy of the whole.
        """
        for case in self.cases:
            wanted, got = self.values[case.name][name], outputs[case.name][name]
            if got.shape != wanted.shape:
                shapes = f"{case.name}: shape {list(got.shape)} instead of {list(wanted.shape)}"
                return LocalError(name, case.name, shapes, math.inf)
        grid = self._grids.get(name)
        own = {_codes_of(grid)} if grid is not None else set()
        once = self.policy.steps is not None and not (set(piece.nodes) & set(self._codes)) - own
        if grid is not None and once:
            return self._step_error(grid, outputs)
        policy = FP32 if once else self.policy
        errors = [self._value_error(case, name, outputs, policy) for case in self.cases]
        return next((error for error in errors if error.reason), max(errors, key=lambda error: error.relative_l2))

    def _value_error(self, case: Case, name: str, outputs: Values, policy: Policy) -> LocalError:
        wanted, got = self.values[case.name][name], outputs[case.name][name]
        error = tensor_error(case, name, wanted, got)
        if wanted.dtype.kind == "f":
            reason = beyond(error, policy, self._scales.get(name, 0.0), wanted.dtype)
        else:
            wrong = int(np.sum(wanted != got))
            reason = f"{wrong} of {wanted.size} values differ" if wrong > WRONG_SHARE * wanted.size else ""
        return LocalError(name, case.name, reason, error.relative_l2)

    def _step_error(self, dequantize: fx.Node, outputs: Values) -> LocalError:
        """All cases together, since a few codes of one say little about their share; the case is the worst one."""
        name, arguments = dequantize.name, dialect.bound_arguments(dequantize)
        scale = self.program.tensors[str(arguments["scale"].target)].numpy()
        pairs = {case.name: (self.values[case.name][name], outputs[case.name][name]) for case in self.cases}
        counted = {case: count_steps(*pair, scale, arguments["axis"]) for case, pair in pairs.items()}
        worst = max(counted, key=lambda case: (counted[case].largest, counted[case].share))
        reason = sum(counted.values(), NO_STEPS).beyond(self.policy)
        return LocalError(name, worst, reason, noise({name: pairs[worst][0]}, {name: pairs[worst][1]}) ** 0.5)

    def _is_tensor(self, name: str) -> bool:
        return isinstance(self._by_name[name].meta["value"], TensorValue)


class Raised(Exception):
    """A candidate raised while running; the message says where and what."""


def run_candidate(runnable: Runnable, inputs: Mapping[str, np.ndarray], case: Case) -> dict[str, np.ndarray]:
    """Outputs by name.

    Raises:
        Raised: whatever the candidate raised.
    """
    try:
        return runnable.run(inputs)
    except Exception as error:
        first = str(error).partition("\n")[0]
        raise Raised(f"{case.name}: it raised {type(error).__name__}: {first}") from error


def _codes_of(dequantize: fx.Node) -> str:
    codes = dequantize.args[0]
    return codes.name if isinstance(codes, fx.Node) else ""
