"""What every technique must do: inherit ``TechniqueContract``, and declare what the technique claims."""

from __future__ import annotations

import atexit
import dataclasses
import functools
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from gossamer.core.digest import Digest, digest_arrays
from gossamer.core.errors import GossamerError, UnknownName, UserError
from gossamer.core.target import Target
from gossamer.program.interpreter import Interpreter
from gossamer.program.program import Program
from gossamer.program.storage import load_program, save_program
from gossamer.runtimes import lower_for, open_executable, resolve_target
from gossamer.techniques.base import Technique, parse_technique_text
from gossamer.testing.gaps import skip_unless_installed
from gossamer.testing.models import MODELS, Lambda, SmallModel
from gossamer.verification.inputs import parity_cases
from gossamer.verification.parity import compare_runnables
from gossamer.verification.policies import resolve_policy


def _images() -> nn.Module:
    """Odd sizes, strides, groups, a residual sum, and a batch norm behind each convolution."""

    def conv(inputs: int, outputs: int, **options: Any) -> nn.Module:
        return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1, **options), nn.BatchNorm2d(outputs), nn.ReLU())

    def function(m: Any, x: Tensor) -> Tensor:
        x = m["stem"](x)
        return m["head"]((x + m["second"](m["first"](x))).mean((2, 3)))

    layers = {"stem": conv(3, 8, stride=2), "first": conv(8, 12), "second": conv(12, 8, groups=4)}
    return _used(Lambda(function, **layers, head=nn.Linear(8, 5)))


def _features() -> nn.Module:
    return _used(
        nn.Sequential(nn.Linear(10, 24), nn.BatchNorm1d(24), nn.ReLU(), nn.Linear(24, 16), nn.ReLU(), nn.Linear(16, 3))
    )


def _used(module: nn.Module) -> nn.Module:
    """Channels of different size and batch norms with statistics, as training leaves them."""
    generator = torch.Generator().manual_seed(0)

    def between(low: float, high: float, like: Tensor) -> Tensor:
        share = torch.rand(len(like), generator=generator).view(-1, *[1] * (like.dim() - 1))
        return low + (high - low) * share

    with torch.no_grad():
        for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
            if tensor.dim() > 1:
                tensor.mul_(between(0.2, 2.2, tensor))
            elif name.endswith(("bias", "mean")):
                tensor.copy_(between(-0.3, 0.3, tensor))
            elif tensor.dim() == 1:
                tensor.copy_(between(0.5, 1.5, tensor))
    return module


def _samples(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


NETS: Mapping[str, SmallModel] = {
    "images": SmallModel(_images, {"x": _samples(64, 3, 9, 11)}),
    "features": SmallModel(_features, {"input": _samples(64, 10)}),
    "tokens": dataclasses.replace(
        MODELS["attention"], inputs={"x": torch.randint(0, 20, (64, 7), generator=torch.Generator().manual_seed(1))}
    ),
    "nothing to change": SmallModel(nn.Sigmoid, {"input": _samples(64, 10)}),
}
"""What techniques are applied to by default."""


@functools.cache
def _saved(net: SmallModel) -> Path:
    folder = Path(tempfile.mkdtemp(prefix="gossamer-net-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    save_program(net.program, folder)
    return folder


def fresh_digest(program: Program) -> Digest:
    """The digest computed anew: a program remembers its own, whatever was done to it since."""
    return dataclasses.replace(program).digest


_CHANGED: dict[tuple[type, str], Program] = {}


class TechniqueContract:
    """Every check that a technique must pass, as far as it declares what there is to check.

    Inherit it in a class whose name starts with ``Test``, set ``technique``, and declare at least one of ``exact``,
    ``trivial``, ``ladder`` and ``closed_counts``: a technique that claims nothing measurable fails.

    Attributes:
        technique: with the options that are checked most.
        variants: more settings, which together with ``technique`` have every option away from its default once.
        exact: the outputs stay what they were, up to float32 rounding.
        trivial: a setting at which the outputs stay what they were.
        ladder: settings in the order of falling error, as the technique's knob goes; the last must be better than the
            first.
        nets: what it is applied to; the inputs are the calibration data.
        fits: names of the nets that the technique changes; it must refuse the others.
        needs_data: it refuses to work without calibration inputs; otherwise it must not look at them.
        target: where the result runs.
        policy: of the comparison of the lowered result with the interpreter.
    """

    technique: ClassVar[Technique]
    variants: ClassVar[Sequence[Technique]] = ()
    exact: ClassVar[bool] = False
    trivial: ClassVar[Technique | None] = None
    ladder: ClassVar[Sequence[Technique]] = ()
    nets: ClassVar[Mapping[str, SmallModel]] = NETS
    fits: ClassVar[Sequence[str]] = ("images", "features", "tokens")
    needs_data: ClassVar[bool] = True
    target: ClassVar[str] = "onnxruntime:cpu,batch=4"
    policy: ClassVar[str] = "fp32"

    def closed_counts(self, before: Program) -> Mapping[str, int]:
        """What the changed program must hold, by formula: some of the keys of ``counts``."""
        return {}

    def counts(self, after: Program) -> dict[str, int]:
        """Trained values as ``parameters``, and elements stored in the lowered file by dtype, as ``int8 stored``."""
        import onnx

        file = onnx.load_from_string(lower_for(self._where(), after).model)
        stored: Counter[str] = Counter()
        for tensor in file.graph.initializer:
            stored[f"{onnx.TensorProto.DataType.Name(tensor.data_type).lower()} stored"] += int(np.prod(tensor.dims))
        return {"parameters": after.parameter_count, **stored}

    def error(self, before: Program, after: Program, inputs: Mapping[str, np.ndarray]) -> float:
        """How far the outputs moved: relative L2 over all float outputs. Override for a knob that shows elsewhere."""
        was, now = Interpreter(before).run(inputs), Interpreter(after).run(inputs)
        floats = [name for name, value in was.items() if value.dtype.kind == "f"]
        moved = sum(float(np.square(now[name].astype(np.float64) - was[name]).sum()) for name in floats)
        return (moved / sum(float(np.square(was[name], dtype=np.float64).sum()) for name in floats)) ** 0.5

    @pytest.fixture(autouse=True)
    def _installed(self) -> None:
        skip_unless_installed(self._where())

    def _where(self) -> Target:
        return resolve_target(self.target)

    def _fresh(self, net: str) -> Program:
        """A net that shares nothing with what other checks got: whoever writes to it spoils nobody's."""
        return load_program(_saved(self.nets[net]))

    def _apply(self, technique: Technique, net: str, program: Program | None = None) -> Program:
        return technique.apply(program or self._fresh(net), self.nets[net].arrays, self._where())

    def _changed(self, net: str) -> Program:
        """What the technique makes of a net; made once for all checks of a class."""
        key = (type(self), net)
        if key not in _CHANGED:
            _CHANGED[key] = self._apply(self.technique, net)
        return _CHANGED[key]

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """One test for each net and setting."""
        if "net" in metafunc.fixturenames:
            metafunc.parametrize("net", self.fits)
        if "unfit" in metafunc.fixturenames:
            metafunc.parametrize("unfit", [net for net in self.nets if net not in self.fits])
        if "setting" in metafunc.fixturenames:
            metafunc.parametrize("setting", list(self._settings()), ids=str)

    def _settings(self) -> Iterator[Technique]:
        declared = [self.technique, *self.variants, *([self.trivial] if self.trivial else []), *self.ladder]
        yield from dict.fromkeys(declared)

    # What it says of itself

    def test_declares_something_to_measure(self) -> None:
        """At least one claim about the result that a number can refute."""
        counted = type(self).closed_counts is not TechniqueContract.closed_counts
        claims = [self.exact, self.trivial is not None, len(self.ladder) > 1, counted]
        assert any(claims), "declare one of: exact, trivial, ladder, closed_counts"
        assert self.fits, "a technique that changes none of the nets cannot be checked: give it one of its own"

    def test_is_documented(self) -> None:
        """The docstring says what it needs, what it costs, and where it comes from."""
        text = type(self.technique).__doc__ or ""
        assert [word for word in ("Needs", "Cost:", "Reference:") if word not in text] == []

    def test_options_cannot_be_written(self) -> None:
        """A technique is a value: the same object in every recipe that holds it."""
        for option in dataclasses.fields(self.technique):
            with pytest.raises(dataclasses.FrozenInstanceError):
                setattr(self.technique, option.name, option.default)
        assert len({self.technique, dataclasses.replace(self.technique)}) == 1

    def test_text_reads_back(self, setting: Technique) -> None:
        """``name{option=value}`` says all options."""
        assert parse_technique_text(str(setting), {setting.name: type(setting)}) == setting

    def test_every_option_is_set_once(self) -> None:
        """An option that no declared setting has away from its default is an option that nothing here checks."""
        untouched = [
            option.name
            for option in dataclasses.fields(self.technique)
            if all(getattr(setting, option.name) == option.default for setting in self._settings())
        ]
        assert untouched == [], "give them other values in ``variants``"

    # What it leaves alone

    def test_leaves_its_input_alone(self, net: str) -> None:
        """Neither the program nor the calibration data are written to."""
        program, inputs = self._fresh(net), self.nets[net].arrays
        before, data = fresh_digest(program), digest_arrays(inputs)
        self.technique.sites(program, self._where())
        self.technique.apply(program, inputs, self._where())
        assert fresh_digest(program) == before
        assert digest_arrays(inputs) == data

    def test_refuses_what_it_does_not_fit(self, unfit: str) -> None:
        """Where nothing can be changed it says so; it never hands back what it was given."""
        with pytest.raises(UserError):
            self._apply(self.technique, unfit)

    def test_data_are_needed_or_not_read(self, net: str) -> None:
        """Without data there is an error, or the same result."""
        if self.needs_data:
            with pytest.raises(UserError):
                self.technique.apply(self._fresh(net), {}, self._where())
        else:
            assert self.technique.apply(self._fresh(net), {}, self._where()).digest == self._changed(net).digest

    # What it changes

    def test_changes_something(self, net: str, setting: Technique) -> None:
        """No setting but the trivial one is a silent no-op, and the program's history names the technique."""
        before = self._fresh(net)
        if setting == self.trivial:
            return
        try:
            after = self._apply(setting, net, before)
        except UserError:
            assert setting != self.technique, f"{net} is one of those that it fits"
            return
        assert fresh_digest(after) != fresh_digest(before)
        kept, new = after.provenance[: len(before.provenance)], after.provenance[len(before.provenance) :]
        assert kept == before.provenance
        assert any(self.technique.name in line for line in new)

    def test_applying_twice_is_no_silent_no_op(self, net: str) -> None:
        """A second time it changes something again, or says that it cannot."""
        once = self._apply(self.technique, net)
        before = once.digest
        try:
            twice = self._apply(self.technique, net, once)
        except GossamerError:
            return
        assert fresh_digest(twice) != before

    def test_same_input_same_bytes(self, net: str, tmp_path: Path) -> None:
        """Twice the same program and the same file, whatever the state of the global random generators."""
        results = []
        for seed in (1, 2):
            torch.manual_seed(seed)
            np.random.seed(seed)  # noqa: NPY002 - the global state that a technique must not depend on
            results.append(self._apply(self.technique, net))
        assert results[0].digest == results[1].digest
        assert lower_for(self._where(), results[0]).model == lower_for(self._where(), results[1]).model

    def test_result_can_be_stored(self, net: str, tmp_path: Path) -> None:
        """Graph and tensors survive a folder."""
        save_program(self._changed(net), tmp_path)
        assert load_program(tmp_path).digest == self._changed(net).digest

    def test_sites_have_names_of_their_own(self, net: str) -> None:
        """Where it can act is told by distinct names, at least one for a net that it fits."""
        sites = self.technique.sites(self._fresh(net), self._where())
        assert sites
        assert len(set(sites)) == len(sites)

    def test_selectors_that_match_nothing_are_refused(self, net: str) -> None:
        """Globs that pick no site are a mistake of whoever wrote them."""
        for selector in self._selectors():
            with pytest.raises(UnknownName):
                self._apply(dataclasses.replace(self.technique, **{selector: ("no.such.site",)}), net)

    def test_selectors_are_followed(self, net: str) -> None:
        """Picking one site makes another program than picking none."""
        site = self.technique.sites(self._fresh(net), self._where())[-1]
        for selector in self._selectors():
            picked = self._apply(dataclasses.replace(self.technique, **{selector: (site,)}), net)
            assert picked.digest != self._changed(net).digest, selector

    def _selectors(self) -> list[str]:
        """Options that hold globs of sites."""
        return [option.name for option in dataclasses.fields(self.technique) if isinstance(option.default, tuple)]

    # What it claims

    def test_exact_settings_keep_the_outputs(self, net: str) -> None:
        """Up to float32 rounding, on the calibration data."""
        settings = list(self._settings()) if self.exact else [self.trivial] if self.trivial else []
        for setting in settings:
            try:
                after = self._apply(setting, net)
            except UserError:
                assert setting != self.technique
                continue
            assert self.error(self._fresh(net), after, self.nets[net].arrays) <= 1e-5

    def test_error_falls_along_the_ladder(self, net: str) -> None:
        """Each step of the knob is at least as near to the original as the one before."""
        if not self.ladder:
            return
        before, inputs = self._fresh(net), self.nets[net].arrays
        errors = [self.error(before, self._apply(setting, net), inputs) for setting in self.ladder]
        assert errors == sorted(errors, reverse=True), errors
        assert errors[-1] < errors[0], "the knob does nothing"

    def test_counts_follow_the_formula(self, net: str) -> None:
        """What is stored is what the closed form says."""
        closed = dict(self.closed_counts(self._fresh(net)))
        found = self.counts(self._changed(net))
        assert {key: found.get(key, 0) for key in closed} == closed

    def test_result_can_be_trained(self, net: str) -> None:
        """Every parameter gets a finite gradient that is not 0, and a small enough step along them lowers a loss."""
        after = self._changed(net)
        inputs = [torch.from_numpy(self.nets[net].arrays[spec.name]) for spec in after.signature.inputs]
        module = after.module(training=True)
        goal = 0.5 * module(*inputs)[0].detach() + 0.1
        before = (module(*inputs)[0] - goal).square().mean()
        before.backward()
        gradients = {name: parameter.grad for name, parameter in module.named_parameters()}
        useless = [
            name for name, grad in gradients.items() if grad is None or not grad.isfinite().all() or not grad.any()
        ]
        assert gradients
        assert useless == [], "no gradient"

        def loss_after(share: float) -> float:
            stepped = after.module(training=True)
            with torch.no_grad():
                for name, parameter in stepped.named_parameters():
                    gradient = gradients[name]
                    assert gradient is not None
                    parameter.sub_(share * gradient * (parameter.norm() / gradient.norm()))
                return (stepped(*inputs)[0] - goal).square().mean().item()

        assert min(map(loss_after, (1e-1, 1e-2, 1e-3))) < before.item()

    def test_lowered_result_agrees_with_the_interpreter(self, net: str, tmp_path: Path) -> None:
        """On the calibration data, at batch 1 and odd ones, at the ends of every range, on zeros and constants."""
        after, target = self._changed(net), self._where()
        path = tmp_path / "model.onnx"
        path.write_bytes(lower_for(target, after).model)
        executable = open_executable(path, after.signature, target)
        cases = parity_cases(after.signature, self.nets[net].arrays)
        parity = compare_runnables(Interpreter(after), executable, cases, resolve_policy(self.policy))
        assert parity.verdict in ("exact", "equivalent"), str(parity)
