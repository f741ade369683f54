"""A test that reads like the product: one chain from a model to a compared run.

Tester(model, images).capture().apply("int8").lower("onnxruntime:cpu").run().same_as_eager("int8")
"""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from gossamer.core.errors import UserError
from gossamer.core.runnable import Executable, Runnable
from gossamer.core.specs import Signature
from gossamer.frontends.agreement import to_arrays
from gossamer.frontends.torch_module import DynamicDims, capture
from gossamer.lowering import Lowered
from gossamer.program import dialect
from gossamer.program.interpreter import Interpreter
from gossamer.program.program import Program
from gossamer.program.storage import load_program, save_program
from gossamer.runtimes import lower_for, open_executable, resolve_target
from gossamer.techniques import resolve_technique
from gossamer.verification.inputs import Case, parity_cases
from gossamer.verification.parity import Parity, compare_runnables
from gossamer.verification.policies import resolve_policy

STEPS = ("capture", "apply", "save", "lower", "run")
"""The steps in their order; each is taken at most once, and ``apply`` and ``save`` may be left out."""

DEFAULT_TARGET = "onnxruntime:cpu"


class Tester:
    """Takes a model down the street, step by step; what each step made stays to be looked at.

    Args:
        model: the eager model.
        inputs: a tensor, a tuple of them, or a mapping by argument name; samples on the first axis.
        dynamic: which dims vary, as for ``capture``.

    Attributes:
        program: the program as the last step left it.
        captured: the program before ``apply``.
        lowered: the file's bytes with the name map.
        path: the file.
        executable: the opened file.
        outputs: of the run, by name.
        parity: of the last comparison.
    """

    __test__ = False  # the name starts as pytest's test classes do

    program: Program
    captured: Program
    lowered: Lowered
    path: Path
    executable: Executable
    outputs: dict[str, np.ndarray]
    parity: Parity

    def __init__(self, model: nn.Module, inputs: Any, *, dynamic: DynamicDims = "batch") -> None:
        self._model = model.eval()
        self._given = inputs
        self._dynamic = dynamic
        self._taken: list[str] = []
        self._target = ""
        self._folder = Path(tempfile.mkdtemp(prefix="gossamer-tester-"))
        weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)

    # Steps

    def capture(self) -> Tester:
        """Capture the model."""
        with self._step("capture"):
            self.program = self.captured = capture(self._model, self._given, dynamic=self._dynamic)
        return self

    def apply(
        self, *techniques: str, target: str = DEFAULT_TARGET, data: Mapping[str, np.ndarray] | None = None
    ) -> Tester:
        """Apply techniques, given as text, in this order; ``data`` to calibrate on are the inputs by default."""
        with self._step("apply", needs="capture"):
            self._target = target
            for text in techniques:
                self.program = resolve_technique(text).apply(self.program, data or self.inputs, resolve_target(target))
        return self

    def save(self) -> Tester:
        """Save the program, and go on with what is read back."""
        with self._step("save", needs="capture"):
            save_program(self.program, self._folder)
            self.program = load_program(self._folder)
        return self

    def lower(self, target: str = "") -> Tester:
        """Write the file that the target's runtime opens; by default for the target of ``apply``."""
        with self._step("lower", needs="capture"):
            if self._target and target and target != self._target:
                raise UserError("lowering", got=target, expected=f"{self._target}, which techniques were applied for")
            self._target = target or self._target or DEFAULT_TARGET
            self.lowered = lower_for(resolve_target(self._target), self.program)
            self.path = self._folder / "model.onnx"
            self.path.write_bytes(self.lowered.model)
        return self

    def run(self, **options: Any) -> Tester:
        """Open the file and run it on the inputs; ``dims`` fixes sizes."""
        with self._step("run", needs="lower"):
            target = resolve_target(self._target)
            self.executable = open_executable(self.path, self.program.signature, target, **options)
            self.outputs = self.executable.run(self.inputs)
        return self

    # Looking, after any step

    @property
    def inputs(self) -> dict[str, np.ndarray]:
        """The inputs as arrays by name."""
        names = [spec.name for spec in self.captured.signature.inputs]
        given = self._given
        values = given if isinstance(given, Mapping) else dict(zip(names, _as_sequence(given), strict=True))
        return dict(zip(names, to_arrays([torch.as_tensor(values[name]) for name in names]), strict=True))

    def has_counts(self, **expected: int) -> Tester:
        """The program holds exactly so many of these operations: ``has_counts(conv2d=3, quantize=0)``."""
        self._require("capture", "has_counts")
        found = Counter(dialect.op_name(node.target) for node in self.program.call_nodes)
        assert {name: found[name] for name in expected} == expected
        return self

    def same_as_eager(self, policy: str = "fp32") -> Tester:
        """The runtime gives what the model gives on the inputs, within the policy."""
        self._require("run", "same_as_eager")
        eager = _Eager(self._model, self.captured.signature)
        self._compare(eager, [Case("inputs", "real", self.inputs)], policy)
        return self

    def same_as_interpreter(self, policy: str = "fp32") -> Tester:
        """The runtime gives what the program means: on the inputs, and at other sizes and values."""
        self._require("run", "same_as_interpreter")
        cases = parity_cases(self.program.signature, self.inputs)
        self._compare(Interpreter(self.program), cases, policy)
        return self

    def _compare(self, reference: Runnable, cases: Sequence[Case], policy: str) -> None:
        self.parity = compare_runnables(reference, self.executable, cases, resolve_policy(policy))
        assert self.parity.verdict in ("exact", "equivalent"), f"after {self}: {self.parity}"

    def __str__(self) -> str:
        return " > ".join(self._taken) or "nothing"

    @contextmanager
    def _step(self, name: str, needs: str = "") -> Iterator[None]:
        """Check the order, and let whatever the step raises say which step it was."""
        later = [step for step in self._taken if STEPS.index(step) >= STEPS.index(name)]
        if later:
            raise UserError(f"taking the step {name!r}", got=f"it after {self}", expected=f"once: {' > '.join(STEPS)}")
        if needs:
            self._require(needs, name)
        self._taken.append(name)
        try:
            yield
        except Exception as error:
            error.add_note(f"in the step {name!r} of {self}")
            raise

    def _require(self, step: str, name: str) -> None:
        if step not in self._taken:
            raise UserError(f"taking the step {name!r}", got=f"it after {self}", expected=f"{step!r} before it")


class _Eager:
    """A model as a Runnable."""

    def __init__(self, model: nn.Module, specs: Signature) -> None:
        self._model = model
        self.specs = specs
        self.fingerprint = f"eager torch={torch.__version__}"

    @torch.no_grad()
    def run(self, inputs: Mapping[str, np.ndarray], taps: Sequence[str] = ()) -> dict[str, np.ndarray]:
        """Outputs under the names of the program."""
        assert not taps
        result = self._model(**{name: torch.from_numpy(array.copy()) for name, array in inputs.items()})
        return dict(zip([spec.name for spec in self.specs.outputs], to_arrays(result), strict=True))


def _as_sequence(given: Any) -> Sequence[Any]:
    return given if isinstance(given, tuple | list) else [given]
