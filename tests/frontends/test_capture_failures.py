"""Models that cannot be captured: the class of the problem, the user's line, and the usual fix."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gossamer.core.errors import CaptureError, ModelError, UnsupportedOp
from gossamer.frontends.torch_module import capture


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.register_buffer("seen", torch.zeros(()))


class BranchOnValues(Net):
    def forward(self, x: Tensor) -> Tensor:
        if x.sum() > 0:
            return x * 2
        return x - 1


class SelectByMask(Net):
    def forward(self, x: Tensor) -> Tensor:
        return x[x > 0].sum()


class Nonzero(Net):
    def forward(self, x: Tensor) -> Tensor:
        return torch.nonzero(x).float()


class SliceByValue(Net):
    def forward(self, x: Tensor) -> Tensor:
        return x[:, : int(x.amax().item())]


class LiteralBatch(Net):
    def forward(self, x: Tensor) -> Tensor:
        return x.view(2, 4) + 1


class ScaleByValue(Net):
    def forward(self, x: Tensor) -> Tensor:
        return x * float(x.amax())


class Arithmetic(Net):
    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(2, -1, 2).sum(0)


class BranchOnSize(Net):
    def forward(self, x: Tensor) -> Tensor:
        return x * 2 if x.shape[0] > 2 else x - 1


class ChangesItsInput(Net):
    def forward(self, x: Tensor) -> Tensor:
        x.mul_(2)
        return self.linear(x)


class CountsCalls(Net):
    def forward(self, x: Tensor) -> Tensor:
        self.seen += 1
        return self.linear(x)


class ReturnsAnObject(Net):
    def forward(self, x: Tensor) -> Any:
        return Box(x)


class Box:
    def __init__(self, value: Tensor) -> None:
        self.value = value


class ReturnsANumber(Net):
    def forward(self, x: Tensor) -> Any:
        return {"y": x + 1, "rows": 3}


class ReturnsASize(Net):
    def forward(self, x: Tensor) -> Any:
        return x + 1, x.shape[0]


class ReturnsNothing(Net):
    def forward(self, x: Tensor) -> None:
        self.linear(x)


class DrawsNoise(Net):
    def forward(self, x: Tensor) -> Tensor:
        return x + torch.rand_like(x)


class DropsAlways(Net):
    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.dropout(x, 0.5, training=True)


class KeepsState(Net):
    calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return x * self.calls


class DecidesAtCapture(Net):
    """The example never exceeds 1, so the two branches agree on it; scaled inputs tell them apart."""

    def forward(self, x: Tensor) -> Tensor:
        return x if torch.compiler.is_exporting() else x.clamp(max=1.0)


class DiffersAtCapture(Net):
    def forward(self, x: Tensor) -> Tensor:
        return x + 1 if torch.compiler.is_exporting() else x


class UsesNumpy(Net):
    def forward(self, x: Tensor) -> Tensor:
        return x * 2 if float(x.detach().numpy().sum()) > 0 else x


class CallsCustomOp(Net):
    def forward(self, x: Tensor) -> Tensor:
        return torch.ops.gossamer_tests.without_fake(x)


CASES = [
    (BranchOnValues, "data-dependent branch", "if x.sum() > 0:", "torch.where"),
    (SelectByMask, "data-dependent shape", "return x[x > 0].sum()", "masks of a fixed shape"),
    (Nonzero, "data-dependent shape", "return torch.nonzero(x).float()", "masks of a fixed shape"),
    (SliceByValue, "data-dependent shape", "return x[:, : int(x.amax().item())]", "masks of a fixed shape"),
    (ScaleByValue, "data-dependent shape", "return x * float(x.amax())", "avoid .item()"),
    (LiteralBatch, "dimension frozen by arithmetic", "return x.view(2, 4) + 1", "x.shape[i] instead of a literal"),
    (Arithmetic, "dimension frozen by arithmetic", "return x.reshape(2, -1, 2).sum(0)", "dynamic=None"),
    (BranchOnSize, "dimension frozen by arithmetic", "if x.shape[0] > 2", "give the dim its true range"),
    (ChangesItsInput, "input mutated", "x.mul_(2)", "x = x.clone()"),
    (CountsCalls, "state mutated", "self.seen += 1", "clone"),
    (ReturnsAnObject, "unsupported Python object", "", "return and accept plain tensors"),
    (ReturnsANumber, "unsupported Python object", "", "return tensors only"),
    (ReturnsASize, "unsupported Python object", "", "return tensors only"),
    (ReturnsNothing, "unsupported Python object", "", "return tensors only"),
    (DrawsNoise, "randomness inside forward", "return x + torch.rand_like(x)", "make the random numbers an input"),
    (DropsAlways, "randomness or hidden state inside forward", "", "keep no state between calls"),
    (KeepsState, "randomness or hidden state inside forward", "", "keep no state between calls"),
    (DecidesAtCapture, "a Python decision was frozen at capture", "", "torch.where"),
    (DiffersAtCapture, "the captured graph differs from the model", "", "torch.where"),
    (UsesNumpy, "computation outside of torch", "x.detach().numpy()", "with torch operations"),
    (CallsCustomOp, "custom operation without a shape function", "without_fake(x)", "torch.library.register_fake"),
]


@pytest.fixture(autouse=True)
def custom_op() -> Iterator[None]:
    with torch.library._scoped_library("gossamer_tests", "DEF") as library:
        library.define("without_fake(Tensor x) -> Tensor")
        library.impl("without_fake", lambda x: x * 2, "CPU")
        yield


@pytest.mark.parametrize(("make", "problem", "line", "fix"), CASES, ids=lambda value: getattr(value, "__name__", ""))
def test_the_report_names_problem_line_and_fix(
    make: Callable[[], nn.Module], problem: str, line: str, fix: str
) -> None:
    model = make().train()
    with pytest.raises(CaptureError) as caught:
        capture(model, torch.rand(2, 4, generator=torch.Generator().manual_seed(0)))
    assert caught.value.problem == problem
    assert fix in caught.value.try_
    if line:
        assert caught.value.location.startswith("test_capture_failures.py:")
        assert line in caught.value.location
        assert line in str(caught.value)
    assert model.training


def test_a_model_that_no_way_captures_lists_the_ways() -> None:
    with pytest.raises(CaptureError) as caught:
        capture(BranchOnValues(), torch.rand(2, 4))
    assert [rung.partition(":")[0] for rung in caught.value.rungs] == [
        "torch.export non-strict",
        "torch.export strict",
    ]
    assert str(caught.value).count("tried: ") == 2


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning", "ignore:.*torch.jit.*:FutureWarning")
@pytest.mark.parametrize("script", [torch.jit.script, lambda model: torch.jit.trace(model, torch.rand(2, 4))])
def test_a_scripted_module_is_refused(script: Callable[[nn.Module], nn.Module]) -> None:
    with pytest.raises(CaptureError, match="scripted module") as caught:
        capture(script(nn.Linear(4, 4)), torch.rand(2, 4))
    assert "give the original nn.Module" in caught.value.try_


def test_an_operation_outside_the_dialect_is_named_with_its_module_and_line() -> None:
    class Spectrum(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.fft.rfft(x).abs()

    with pytest.raises(UnsupportedOp) as caught:
        capture(nn.Sequential(nn.Linear(4, 4), Spectrum()), torch.rand(2, 4))
    assert "operation aten.fft_rfft.default in module '1'" in str(caught.value)
    assert "test_capture_failures.py:" in str(caught.value)
    assert "return torch.fft.rfft(x).abs()" in str(caught.value)


def test_a_model_that_fails_by_itself_gets_its_own_error() -> None:
    class Broken(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise RuntimeError("not ready")

    with pytest.raises(ModelError, match="RuntimeError: not ready"):
        capture(Broken(), torch.rand(2, 4))


def test_a_model_that_fails_at_another_size_in_its_range_says_so() -> None:
    class Positions(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(6, 4)

        def forward(self, x: Tensor) -> Tensor:
            return x + self.table(torch.arange(x.shape[1]))

    with pytest.raises(CaptureError, match=r"the model itself fails at length=9: IndexError") as caught:
        capture(Positions(), torch.rand(2, 5, 4), dynamic={"x": {1: "length=1..9"}})
    assert "give the dim its true range" in caught.value.try_
