"""From what the user gave to a task: splits, budgets and data, all checked before any work starts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from gossamer import flow
from gossamer.core.errors import (
    BudgetSyntaxError,
    DataError,
    MissingExtra,
    ModelError,
    OptionError,
    UnknownName,
)
from gossamer.core.progress import Silent
from gossamer.metrics import METRICS
from gossamer.search.setup import MAX_CALIBRATION, make_task, read_budget
from gossamer.search.task import Task

X = np.random.default_rng(0).standard_normal((900, 4)).astype(np.float32)
Y = (X[:, 0] > 0).astype(np.int64)


@pytest.fixture(scope="module")
def program():
    torch.manual_seed(0)
    return flow.capture(nn.Linear(4, 2), torch.ones(2, 4))


def task_of(program: Any, data: Any = (X, Y), eval_data: Any = None, **changes: Any) -> Task:
    settings: dict[str, Any] = {
        "metric": "top1",
        "target": "onnxruntime:cpu",
        "budget": "drop <= 1pt",
        "time": None,
        "seed": 0,
        "example_inputs": None,
        "weights": None,
        "dynamic": "batch",
        "transform": None,
        "progress": Silent(),
        "folder": Path(),
    }
    return make_task(program, data, eval_data, **settings | changes)


def digests(task: Task) -> list[set[str]]:
    return [set(part.sample_digests()) for part in (task.calibrate, task.choose, task.prove)]


def test_one_set_is_split_into_three_that_do_not_meet(program):
    calibrate, choose, prove = digests(task_of(program))
    assert calibrate.isdisjoint(choose | prove)
    assert choose.isdisjoint(prove)
    assert len(calibrate | choose | prove) == 900
    # Shares of 20, 32 and 48 %, each within five standard deviations.
    for part, share in ((calibrate, 0.2), (choose, 0.32), (prove, 0.48)):
        assert abs(len(part) - 900 * share) < 5 * np.sqrt(900 * share * (1 - share))


def test_a_split_does_not_depend_on_the_order_of_the_samples_nor_on_the_seed(program):
    backwards = (X[::-1].copy(), Y[::-1].copy())
    assert digests(task_of(program)) == digests(task_of(program, backwards, seed=7))


def test_evaluation_data_are_split_in_two_and_calibration_data_kept_apart(program):
    task = task_of(program, X[:300], (X[300:], Y[300:]))
    calibrate, choose, prove = digests(task)
    assert len(calibrate) == 300
    assert len(choose | prove) == 600
    assert choose.isdisjoint(prove)
    assert task.calibrate.labels is None


def test_calibration_data_are_drawn_at_random_and_not_more_than_needed(program):
    """Data are often sorted by class: a prefix would hold one class."""
    task = task_of(program, X, (X, Y))
    assert len(task.calibrate) == MAX_CALIBRATION < 900
    rows = {X[index].tobytes(): index for index in range(900)}
    indices = [rows[row.tobytes()] for row in next(iter(task.calibrate.inputs.values()))]
    assert max(indices) > 850
    assert task.calibrate.digest == task_of(program, X, (X, Y)).calibrate.digest
    assert task.calibrate.digest != task_of(program, X, (X, Y), seed=1).calibrate.digest


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"data": X}, DataError, "computing top1 on data in memory\n  got: samples without labels"),
        ({"data": X, "eval_data": X}, DataError, "samples without labels"),
        ({"data": (X[:11], Y[:11])}, DataError, "11 samples .*\n  expected: at least 12"),
        ({"data": X, "eval_data": (X[:7], Y[:7])}, DataError, "7 samples .*\n  expected: at least 8"),
        ({"data": X[:0]}, DataError, "0 samples"),
        ({"data": (X, Y[:-1])}, DataError, "the labels has 899"),
        ({"data": (X[:, :3], Y)}, DataError, "expected: input: f32"),
        ({"data": (X.astype(str), Y)}, DataError, "dtype"),
        ({"data": {"image": X, "y": Y}}, DataError, "inputs named image"),
        ({"data": "nowhere.npz"}, DataError, "no such file"),
        ({"metric": "topp1"}, UnknownName, r"metric 'topp1'[\s\S]*'top1'\?"),
        ({"target": "onnxruntme"}, UnknownName, r"runtime 'onnxruntme'[\s\S]*'onnxruntime'\?"),
        ({"target": "onnxruntime:gpu"}, UnknownName, "device 'gpu'"),
        ({"target": "onnxruntime,batch=0"}, OptionError, "at least 1"),
        ({"budget": "drop < 1pt"}, BudgetSyntaxError, "<="),
        ({"budget": "f1 drop <= 1pt"}, OptionError, r"a limit on f1[\s\S]*try: --metric f1"),
        ({"budget": "f1 >= 90%"}, OptionError, "a limit on f1"),
        ({"budget": "worst class f1 drop <= 1pt"}, OptionError, "a limit on f1"),
        ({"time": "20"}, OptionError, "try: 20m"),
        ({"weights": "weights.pt"}, ModelError, "weights only with file.py:factory"),
    ],
)
def test_bad_input_is_refused(program, changes: dict[str, Any], error: type[Exception], message: str):
    with pytest.raises(error, match=message):
        task_of(program, **changes)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_found_in_the_first_bad_sample(program, value: float):
    broken = X.copy()
    broken[41, 2] = broken[77, 0] = value
    with pytest.raises(DataError, match="NaN or infinite values in 2 samples, first in sample 41"):
        task_of(program, (broken, Y))


def test_the_transform_of_an_image_folder_needs_pillow(program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    import builtins

    real = builtins.__import__

    def without_pillow(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.split(".", maxsplit=1)[0] == "PIL":
            raise ImportError("No module named 'PIL'")
        return real(name, *args, **kwargs)

    (tmp_path / "cats").mkdir()
    (tmp_path / "cats" / "one.png").write_bytes(b"")
    monkeypatch.setattr(builtins, "__import__", without_pillow)
    with pytest.raises(MissingExtra, match=r"gossamer\[images\]"):
        task_of(program, tmp_path, transform=lambda image: image)


def test_no_budget_is_no_limit():
    assert read_budget("  ", METRICS["top1"]).clauses == ()


def test_a_drop_without_a_name_is_about_the_metric_given():
    assert str(read_budget("drop <= 1pt; size <= 2MB", METRICS["f1"])) == "f1 drop <= 1pt; size <= 2MB"


def test_a_metric_without_labels_needs_none(program):
    task = task_of(program, X, metric="agreement", budget="agreement >= 99%")
    assert task.prove.labels is None
