"""What a first use of ``compress`` stumbled over: metrics of one's own in budgets, masks, fixed batches, doubles."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from gossamer.core.errors import BudgetSyntaxError, OptionError
from gossamer.core.target import Target
from gossamer.datasets.samples import Samples
from gossamer.frontends import read_model
from gossamer.metrics import resolve_metric
from gossamer.runtimes import resolve_target
from gossamer.search.packing import _golden
from gossamer.search.setup import example_from, read_budget
from gossamer.techniques.quantize.int8 import Int8

TARGET: Target = resolve_target("onnxruntime:cpu")


@pytest.fixture
def own_metric(tmp_path: Path) -> str:
    file = tmp_path / "met.py"
    file.write_text("def loss(outputs, labels):\n    return 1.0\nloss.better = 'lower'\n")
    return f"{file}:loss"


def test_a_metric_of_ones_own_is_called_by_its_function_in_a_budget(own_metric: str) -> None:
    metric = resolve_metric(own_metric)
    assert str(read_budget("drop <= 0.02; loss <= 1.5", metric)) == "loss drop <= 0.02; loss <= 1.5"
    assert str(read_budget("loss <= 1.05x baseline", metric)) == "loss <= 1.05x baseline"


@pytest.mark.parametrize("text", ["mae drop <= 1pt", "mae >= 0.9", "mae <= 90%", "mae drop <= 5ms"])
def test_a_figure_has_no_share_and_no_other_direction(text: str) -> None:
    with pytest.raises(BudgetSyntaxError):
        read_budget(text, resolve_metric("mae"))


def test_a_function_instead_of_its_text_is_refused() -> None:
    with pytest.raises(OptionError, match=r"file\.py:function"):
        resolve_metric(lambda outputs, labels: 1.0)  # type: ignore[arg-type]


class Masked(nn.Module):
    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return x.masked_fill(~mask, float("-inf")).softmax(-1)


def test_golden_masks_are_booleans_that_mask_nothing_as_a_whole() -> None:
    example = {"x": np.zeros((2, 3), np.float32), "mask": np.ones((2, 3), bool)}
    golden = _golden(read_model(Masked(), example=example), seed=0)
    assert golden.inputs["mask"].dtype == bool
    assert golden.inputs["mask"].any(axis=1).all()
    assert all(np.isfinite(array).all() for array in golden.outputs.values())


@pytest.mark.parametrize("dynamic", [None, {"input": {0: "n=1..5"}}])
def test_calibration_honours_the_batch_that_the_program_takes(dynamic: object) -> None:
    data = np.random.default_rng(0).standard_normal((33, 4)).astype(np.float32)
    model = nn.Sequential(nn.Linear(4, 3))
    programs = [read_model(model, example=data[:2], dynamic=dims) for dims in (dynamic, "batch")]
    ranges = [Int8(observer="minmax").calibrate(program, {"input": data}, TARGET).ranges for program in programs]
    fixed, free = (np.array(sorted(found.values())) for found in ranges)
    np.testing.assert_allclose(fixed, free, rtol=1e-5)


def test_examples_are_as_many_as_asked_and_in_single_precision() -> None:
    example = example_from(Samples({"x": np.zeros((1, 4))}, None, "here"), 3)
    assert (example.shape, example.dtype) == ((3, 4), np.float32)
