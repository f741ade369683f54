"""What every runtime must do: inherit ``RuntimeContract``, name the target, and declare what it does not do."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from gossamer.core.digest import digest_arrays
from gossamer.core.errors import ArtifactError, GossamerError, InternalError, UserError
from gossamer.core.runnable import Executable
from gossamer.core.target import Target
from gossamer.frontends.torch_module import capture
from gossamer.program import dialect
from gossamer.program.interpreter import Interpreter
from gossamer.program.program import Program
from gossamer.runtimes import lower_for, open_executable, resolve_target
from gossamer.techniques.quantize.int8 import Int8
from gossamer.testing import op_cases_layers, op_cases_tensors
from gossamer.testing.gaps import Gap, expecting, gap_of, skip_unless_installed
from gossamer.testing.models import MODELS, SmallModel
from gossamer.testing.op_matrix import Case, cases_in_other_dtypes, compare, joined, require_close
from gossamer.verification.inputs import parity_cases
from gossamer.verification.parity import compare_runnables
from gossamer.verification.policies import resolve_policy

CASES: Sequence[Case] = (*op_cases_layers.CASES, *op_cases_tensors.CASES)
"""Every operation of the dialect, each in the forms that capture makes of it."""

LARGEST_BATCH = 16


class Probe(nn.Module):
    """Two inputs of different dtype, three outputs of different dtype and shape."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.embed, self.head = nn.Conv2d(3, 8, 3, 2, 1), nn.Embedding(20, 8), nn.Linear(8, 5)

    def forward(self, image: Tensor, ids: Tensor) -> dict[str, Tensor]:
        """Scores (batch, 5), their best, and which are positive."""
        scores = self.head(torch.relu(self.conv(image)).mean((2, 3)) + self.embed(ids).mean(1))
        return {"scores": scores, "best": scores.argmax(1), "positive": scores > 0}


@functools.cache
def probe_program() -> Program:
    """The captured ``Probe``; its batch goes from 1 to ``LARGEST_BATCH``, its ids from 1 to 12."""
    batch = f"batch=1..{LARGEST_BATCH}"
    torch.manual_seed(0)
    return capture(Probe(), probe_tensors(2), dynamic={"image": {0: batch}, "ids": {0: batch, 1: "length=1..12"}})


def probe_tensors(batch: int, length: int = 4, seed: int = 0) -> dict[str, Tensor]:
    """Inputs for ``probe_program``."""
    generator = torch.Generator().manual_seed(seed)
    image = torch.randn(batch, 3, 9, 7, generator=generator)
    return {"image": image, "ids": torch.randint(0, 20, (batch, length), generator=generator)}


def probe_inputs(batch: int, length: int = 4, seed: int = 0) -> dict[str, np.ndarray]:
    """Inputs for ``probe_program`` as arrays."""
    return {name: tensor.numpy() for name, tensor in probe_tensors(batch, length, seed).items()}


@functools.cache
def _quantized(target: Target, placement: str) -> tuple[Program, dict[str, np.ndarray]]:
    """A small network in int8, placed by the rules of a target, and what it was calibrated on."""
    small = MODELS["residual"]
    inputs = {name: np.repeat(array, 4, 0) for name, array in small.arrays.items()}
    return Int8(placement=placement).apply(small.program, inputs, target), inputs


@functools.cache
def _busy_program() -> Program:
    """Two convolutions that take milliseconds."""
    net = nn.Sequential(nn.Conv2d(3, 32, 3), nn.ReLU(), nn.Conv2d(32, 32, 3))
    return capture(net, torch.randn(2, 3, 32, 32))


class RuntimeContract:
    """Every check that a runtime of a target must pass.

    Inherit it in a class whose name starts with ``Test``, and set ``target``. A runtime that is not in the table of
    ``gossamer.runtimes`` also overrides ``resolve``, ``lower`` and ``open``.

    Attributes:
        target: text of the target; with ``precision``, set ``policy`` too.
        gaps: what does not work; each must fail as it says, and everything else must work.
        policy: of the models.
        cases: of the operation matrix.
        models: of the model matrix.
        file_name: of the model file.
    """

    target: ClassVar[str]
    gaps: ClassVar[Sequence[Gap]] = ()
    policy: ClassVar[str] = "fp32"
    cases: ClassVar[Sequence[Case]] = CASES
    models: ClassVar[Mapping[str, SmallModel]] = MODELS
    file_name: ClassVar[str] = "model.onnx"

    def resolve(self) -> Target:
        """The target with its facts."""
        return resolve_target(self.target)

    def lower(self, program: Program) -> bytes:
        """The file that the runtime opens."""
        return lower_for(self.resolve(), program).model

    def open(self, path: Path, program: Program, threads: int = 1, dims: Mapping[str, int] | None = None) -> Executable:
        """The opened file of a program."""
        return open_executable(path, program.signature, replace(self.resolve(), threads=threads), dims=dims)

    def deploy(self, program: Program, folder: Path, **options: Any) -> Executable:
        """A program lowered into a folder, and opened there."""
        path = folder / self.file_name
        path.write_bytes(self.lower(program))
        return self.open(path, program, **options)

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """One test for each case, operation and model."""
        if "case" in metafunc.fixturenames:
            metafunc.parametrize("case", joined(self.cases, self.gaps), ids=str)
        if "operation" in metafunc.fixturenames:
            metafunc.parametrize("operation", sorted({case.covers for case in self.cases}))
        if "model" in metafunc.fixturenames:
            metafunc.parametrize("model", list(self.models))

    @pytest.fixture(autouse=True)
    def _installed(self) -> None:
        skip_unless_installed(self.resolve())

    @pytest.fixture
    def probe(self, tmp_path: Path) -> Executable:
        """The probe, opened with one thread and dims that vary."""
        return self.deploy(probe_program(), tmp_path)

    # Operations and models

    def test_operation_agrees_with_the_interpreter(self, case: Case, tmp_path: Path) -> None:
        """Each form of each operation, at several sizes; a declared gap fails as declared."""
        with expecting(case.gap(self.gaps)):
            compare(case, lambda program: self.deploy(program, tmp_path))

    @pytest.mark.slow
    def test_operation_in_other_dtypes(self, operation: str, tmp_path: Path) -> None:
        """One form of each operation in every dtype that PyTorch has it in."""
        variants = cases_in_other_dtypes([case for case in self.cases if case.covers == operation])
        for case in joined(variants, self.gaps):
            with expecting(case.gap(self.gaps)):
                compare(case, lambda program: self.deploy(program, tmp_path))

    @pytest.mark.slow
    def test_model_has_a_verdict(self, model: str, tmp_path: Path) -> None:
        """Small models of every kind: parity on real samples and edge shapes, or a refusal that says why."""
        small = self.models[model]
        if small.refused is not None:
            with pytest.raises(small.refused):
                _ = small.program
            return
        program = small.program
        with expecting(gap_of(self.gaps, "model", model)):
            self._require_parity(program, small.arrays, tmp_path, self.policy)

    def test_quantized_program_agrees(self, tmp_path: Path) -> None:
        """An int8 program placed by the target's own rules, each kind of them, computes what the interpreter says."""
        target = self.resolve()
        if target.facts.quantizers is None:
            pytest.skip("the target has no int8 kernels")
        for name, rules in {"": target.facts.quantizers, **target.facts.placements}.items():
            program, inputs = _quantized(target, name)
            self._require_parity(program, inputs, tmp_path, "int8", rules.placement_snr_db)

    def _require_parity(
        self, program: Program, inputs: Mapping[str, np.ndarray], folder: Path, policy: str, snr_db: float = 0.0
    ) -> None:
        executable = self.deploy(program, folder)
        cases = parity_cases(program.signature, inputs, count=8)
        parity = compare_runnables(Interpreter(program), executable, cases, resolve_policy(policy))
        assert parity.verdict in ("exact", "equivalent"), str(parity)
        worst = parity.worst()
        assert worst is None or worst.sqnr_db >= snr_db, f"{worst.sqnr_db:.1f} dB: the placement was not honoured"

    @pytest.mark.slow
    def test_every_gap_covers_something(self) -> None:
        """A gap that is about no operation, form, dtype or model would be a wrong line in the support table."""
        cells = [(case.covers, part.note, part.dtype) for case in self.cases for part in case.parts]
        cells += [(case.covers, case.parts[0].note, case.parts[0].dtype) for case in cases_in_other_dtypes(self.cases)]
        cells += [("model", name, "float32") for name in self.models]
        assert [str(gap) for gap in self.gaps if not any(gap.covers(*cell) for cell in cells)] == []

    # Files

    def test_equal_programs_give_equal_bytes(self) -> None:
        """Lowering depends on the program alone."""
        assert self.lower(probe_program()) == self.lower(probe_program())

    @pytest.mark.parametrize("damage", ["empty", "half", "text", "noise", "missing"])
    def test_damaged_file_is_refused(self, damage: str, tmp_path: Path) -> None:
        """Whatever is wrong with a file is an ArtifactError."""
        path, whole = tmp_path / self.file_name, self.lower(probe_program())
        content = {
            "empty": b"", "half": whole[: len(whole) // 2], "text": b"not a model",
            "noise": np.random.default_rng(0).bytes(len(whole)), "missing": None,
        }[damage]  # fmt: skip
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(ArtifactError):
            self.open(path, probe_program())

    def test_leaves_no_files_behind(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Nothing in the working, home and temporary folders, and nothing beside the model."""
        folders = [tmp_path / name for name in ("work", "home", "temporary", "model")]
        for folder in folders:
            folder.mkdir()
        monkeypatch.chdir(folders[0])
        monkeypatch.setenv("HOME", str(folders[1]))
        monkeypatch.setenv("TMPDIR", str(folders[2]))
        monkeypatch.setattr(tempfile, "tempdir", None)
        executable = self.deploy(probe_program(), folders[3])
        executable.run(probe_inputs(2))
        executable.close()
        assert [path for folder in folders for path in folder.iterdir()] == [folders[3] / self.file_name]

    # Sessions

    def test_is_an_executable(self, probe: Executable) -> None:
        """It has the protocol's methods, and the signature that it was opened with."""
        assert isinstance(probe, Executable)
        assert probe.specs == probe_program().signature

    @pytest.mark.parametrize(("batch", "length"), [(1, 4), (2, 1), (3, 12), (LARGEST_BATCH, 4)])
    def test_sizes_may_vary(self, probe: Executable, batch: int, length: int) -> None:
        """Batch 1, 2, odd and largest give what the interpreter gives, in one session."""
        for inputs in (probe_inputs(batch, length), probe_inputs(2), probe_inputs(batch, length, seed=1)):
            self._require_results(probe.run(inputs), inputs)

    def _require_results(self, got: Mapping[str, np.ndarray], inputs: Mapping[str, np.ndarray]) -> None:
        """Names in order, dtypes, shapes and values of the interpreter."""
        expected = Interpreter(probe_program()).run(inputs)
        assert list(got) == list(expected)
        for name, value in expected.items():
            require_close(name, got[name], value, 1e-5)

    def test_dims_can_be_fixed_at_load(self, tmp_path: Path) -> None:
        """A session with a fixed batch gives the same results, and takes this batch only."""
        fixed = self.deploy(probe_program(), tmp_path, dims={"batch": 2})
        self._require_results(fixed.run(probe_inputs(2, 5)), probe_inputs(2, 5))
        with pytest.raises(UserError):
            fixed.run(probe_inputs(3))

    def test_runs_twice_the_same(self, probe: Executable, tmp_path: Path) -> None:
        """The same bits again, in the same session and in another one."""
        inputs = probe_inputs(3)
        first = digest_arrays(probe.run(inputs))
        probe.run(probe_inputs(2, seed=1))
        assert digest_arrays(probe.run(inputs)) == first
        assert digest_arrays(self.deploy(probe_program(), tmp_path).run(inputs)) == first

    def test_results_belong_to_the_caller(self, probe: Executable) -> None:
        """The next run does not overwrite them, and writing to them does not change the next run."""
        inputs = probe_inputs(3)
        first = probe.run(inputs)
        before = digest_arrays(first)
        probe.run(probe_inputs(3, seed=1))
        assert digest_arrays(first) == before
        for name, value in first.items():
            first[name] = np.zeros_like(value)
            if value.flags.writeable:
                value[...] = 0
        assert digest_arrays(probe.run(inputs)) == before

    @pytest.mark.parametrize("kind", ["plain", "read-only", "strided"])
    def test_inputs_are_only_read(self, probe: Executable, kind: str) -> None:
        """They are left as they are; read-only and non-contiguous arrays are taken too."""
        inputs = probe_inputs(3)
        if kind == "strided":
            inputs = {name: np.repeat(array, 2, -1)[..., ::2] for name, array in inputs.items()}
        if kind == "read-only":
            for array in inputs.values():
                array.flags.writeable = False
        before = digest_arrays(inputs)
        self._require_results(probe.run(inputs), probe_inputs(3))
        assert digest_arrays(inputs) == before

    @pytest.mark.parametrize("wrong", ["missing", "unknown", "rank", "size", "dtype"])
    def test_wrong_inputs_are_refused(self, probe: Executable, wrong: str) -> None:
        """With an error that says so, and the session goes on working."""
        inputs = probe_inputs(2)
        image = inputs["image"]
        changed: dict[str, dict[str, np.ndarray]] = {
            "missing": {"image": image}, "unknown": inputs | {"mask": image}, "rank": inputs | {"image": image[0]},
            "size": inputs | {"image": image[:, :2]}, "dtype": inputs | {"ids": inputs["ids"].astype(np.float32)},
        }  # fmt: skip
        with pytest.raises(UserError):
            probe.run(changed[wrong])
        self._require_results(probe.run(inputs), inputs)

    def test_taps(self, probe: Executable) -> None:
        """No taps, no additional outputs; a tap that names nothing is an error."""
        assert list(probe.run(probe_inputs(2), taps=())) == ["scores", "best", "positive"]
        with pytest.raises(GossamerError):
            probe.run(probe_inputs(2), taps=("no such node",))

    def test_fingerprint_says_what_results_depend_on(self, probe: Executable, tmp_path: Path) -> None:
        """The same for the same settings, another one for another number of threads or fixed sizes."""
        first = probe.fingerprint
        probe.run(probe_inputs(2))
        others = [
            self.deploy(probe_program(), tmp_path, **options)
            for options in ({}, {"threads": 2}, {"dims": {"batch": 2}})
        ]
        same, *different = [other.fingerprint for other in others]
        assert probe.fingerprint == first == same
        assert len({first, *different}) == 3
        assert first.startswith(self.resolve().runtime)
        assert "\n" not in first

    @pytest.mark.parametrize("threads", [1, 2])
    def test_uses_no_more_threads_than_allowed(self, threads: int, tmp_path: Path) -> None:
        """Threads that computed for more than a fifth of the time of the busiest, by the kernel's count."""
        if not Path("/proc/self/task").is_dir():
            pytest.skip("only Linux tells the time of a thread")
        executable = self.deploy(_busy_program(), tmp_path, threads=threads)
        inputs = {"input": np.ones((4, 3, 32, 32), np.float32)}
        executable.run(inputs)
        before = _thread_times()
        for _ in range(10):
            executable.run(inputs)
        spent = [time - before.get(thread, 0) for thread, time in _thread_times().items()]
        assert sum(time > max(spent) / 5 for time in spent) <= threads

    def test_closing(self, probe: Executable) -> None:
        """Closing twice is fine; running after it is our own mistake, and an error."""
        probe.run(probe_inputs(2))
        probe.close()
        probe.close()
        with pytest.raises(InternalError):
            probe.run(probe_inputs(2))

    # Facts

    def test_facts_fit_the_dialect(self) -> None:
        """Precisions and placement rules use the words that techniques read."""
        facts = self.resolve().facts
        assert facts.precisions[0] == "float32"
        assert set(facts.precisions) <= {"float32", "bfloat16", "float16", "int8"}
        assert (facts.quantizers is not None) == ("int8" in facts.precisions)
        for rules in [facts.quantizers, *facts.placements.values()] if facts.quantizers else []:
            assert set(rules.ops) <= set(dialect.CLASSES.values())
            assert rules.int8_kernels


def _thread_times() -> dict[str, int]:
    """Nanoseconds on a processor of each thread of this process."""
    times = {}
    for thread in Path("/proc/self/task").iterdir():
        try:
            times[thread.name] = int((thread / "schedstat").read_text().split()[0])
        except OSError:  # it has ended meanwhile
            continue
    return times
