"""Models that cannot be captured: the class of the problem, the user's line, and the usual fix."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gossamer.core.errors import CaptureError, ModelError, UnsupportedOp
from gossamer.frontends.torch_module import DynamicDims, capture


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


class FourByFour(nn.Module):
    """Cuts the image in patches and puts them together again: only whole patches fit."""

    def __init__(self) -> None:
        super().__init__()
        self.cut = nn.Conv2d(1, 2, 4, 4)
        self.join = nn.ConvTranspose2d(2, 1, 4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.join(self.cut(x))


class Sum(nn.Module):
    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return a + b


@pytest.mark.parametrize(
    ("model", "example", "dynamic", "what", "fix"),
    [
        (FourByFour(), torch.ones(2, 1, 8, 8), {"x": {2: "h"}}, "h must be a multiple of 4", "pad to a multiple of 4"),
        (Sum(), [torch.ones(2, 5)] * 2, {"a": {1: "n"}}, "n=5, and dim 1 of b is fixed", "under the name 'n'"),
        (Sum(), [torch.ones(2, 5)] * 2, {"a": {1: "n"}, "b": {1: "m"}}, "must always be equal", "both dims one name"),
        (BranchOnSize(), torch.ones(4, 4), "batch", "the model only accepts batch from 3 on", "batch=3.."),
        (LiteralBatch(), torch.ones(2, 4), "batch", "the model only accepts batch=2", "dynamic=None"),
    ],
)
def test_what_torch_found_out_about_the_sizes_is_said(
    model: nn.Module, example: Any, dynamic: DynamicDims, what: str, fix: str
) -> None:
    with pytest.raises(CaptureError, match="dimension frozen by arithmetic") as caught:
        capture(model, example, dynamic=dynamic)
    assert what in caught.value.got
    assert fix in caught.value.try_


@pytest.mark.parametrize("make", [BranchOnValues, LiteralBatch])
def test_a_failed_capture_prints_nothing(make: Callable[[], nn.Module], capfd: pytest.CaptureFixture[str]) -> None:
    handler = logging.StreamHandler(sys.stderr)  # torch's own handler holds the stderr of the test that loaded it
    logging.getLogger("torch").addHandler(handler)
    try:
        with pytest.raises(CaptureError):
            capture(make(), torch.ones(2, 4))
        assert capfd.readouterr() == ("", "")
        assert handler.filters == []
        logging.getLogger("torch").warning("still heard")
        assert "still heard" in capfd.readouterr().err
    finally:
        logging.getLogger("torch").removeHandler(handler)


@pytest.fixture
def warn_always() -> Iterator[None]:
    """Torch gives some warnings once a process only."""
    torch.set_warn_always(True)
    yield
    torch.set_warn_always(False)


@pytest.mark.filterwarnings("error")
@pytest.mark.usefixtures("warn_always")
def test_a_capture_warns_of_nothing_that_torch_does_inside() -> None:
    class Reader(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 1)

        def forward(self, x: Tensor, padding: Tensor) -> Tensor:
            return self.layers(x, src_key_padding_mask=padding)

    dims = {0: "batch"}
    padding = torch.zeros(2, 5, dtype=torch.bool)
    capture(Reader(), (torch.ones(2, 5, 8), padding), dynamic={"x": dims, "padding": dims})


def test_the_upper_end_of_a_range_is_tried_where_the_inputs_are_small() -> None:
    class Positions(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(70, 4)

        def forward(self, x: Tensor) -> Tensor:
            return x.sum(-1, keepdim=True) + self.table(torch.arange(x.shape[1]))

    with pytest.raises(CaptureError, match=r"the model itself fails at length=100: IndexError"):
        capture(Positions(), torch.rand(2, 5, 1), dynamic={"x": {1: "length=4..100"}})
    capture(Positions(), torch.rand(2, 5, 1), dynamic={"x": {1: "length=4..70"}})
    program = capture(Positions(), torch.rand(2, 5, 1), dynamic={"x": {1: "length=4..5000000"}})  # 2 * 5e6 > 2 ** 22
    assert program.signature.dims == {"length": (4, 5000000)}
