"""What a search returns: the member that holds, the original where nothing beats it, how far a budget was missed."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from gossamer import flow
from gossamer.core.deadline import Deadline
from gossamer.core.progress import Silent
from gossamer.program import Program
from gossamer.search.front import Front
from gossamer.search.mixed import fewest_in_float
from gossamer.search.sensitivity import LayerSensitivity
from gossamer.techniques.quantize.int8 import int8_layers

TARGET = "onnxruntime:cpu,batch=8"


class Outlier(nn.Module):
    """Three layers; one activation of the middle one's input is thousands of times larger than the rest.

    The weights make up for it, so float sees nothing of it, and eight bits see nothing else.
    """

    def __init__(self, bad: Sequence[str] = ("fc2",)) -> None:
        super().__init__()
        self.fc1, self.fc2, self.fc3 = nn.Linear(8, 32), nn.Linear(32, 32), nn.Linear(32, 4)
        for name in ("fc1", "fc2", "fc3"):
            layer = getattr(self, name)
            scale = torch.ones(layer.in_features)
            scale[0] = 5000.0 if name in bad else 1.0
            self.register_buffer(f"scale_{name}", scale)
            layer.weight.data.div_(scale)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(2 * self.fc1(x * self.scale_fc1))
        x = torch.tanh(2 * self.fc2(x * self.scale_fc2))
        return self.fc3(x * self.scale_fc3)


X = np.random.default_rng(0).standard_normal((1600, 8)).astype(np.float32)


def labelled(net: nn.Module) -> tuple[Program, np.ndarray]:
    """The network's program, and labels of which it gets all right."""
    program = flow.capture(net, {"x": torch.from_numpy(X[:2])})
    return program, np.asarray(program(X)).argmax(1)


@pytest.fixture(scope="module")
def outlier() -> tuple[Program, np.ndarray]:
    torch.manual_seed(3)
    return labelled(Outlier())


@pytest.fixture
def no_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """No step on the float model first: one of them repairs the network with the outlier."""
    monkeypatch.setattr("gossamer.search.precision.FLOAT_STEPS", {})


def compress(program: Any, labels: Any, **settings: Any) -> Front:
    given: dict[str, Any] = {"target": TARGET, "budget": "drop <= 3pt"}
    return flow.compress(program, X[:300], (X[300:], labels[300:]), **given | settings)


def test_plain_int8_is_accepted(digit_front: Front):
    front = digit_front
    assert (front.outcome, front.improved, front.best.name) == ("met", True, "int8")
    assert [member.name for member in front.members] == ["fp32", "int8"]
    assert front.best.status == "accepted"
    assert front.best.verdict is not None
    assert front.best.verdict.kind == "accepted"
    assert front.best.size_bytes < 0.6 * front.baseline.size_bytes
    assert front.summary == "budget met by int8"
    assert {clause.decision for clause in front.best.clauses} == {"holds"}


def test_the_notes_tell_the_split_and_what_the_data_can_prove(digit_front: Front):
    notes = "\n".join(digit_front.notes)
    assert "512 samples to calibrate, 351 to choose, 546 to prove" in notes
    assert "546 samples at 2.0% disagreement can prove a drop of at most 1.72 pt: enough for 2 pt" in notes
    assert "int8 by relative output distance: minmax " in notes
    assert "quick timing by turns, to choose what is judged: " in notes


def test_the_text_of_a_front(digit_front: Front):
    lines = str(digit_front).splitlines()
    assert lines[0].split() == ["model", "size", "latency", "p50", "speed", "top1", "drop", "verdict"]
    assert lines[1].startswith("fp32")
    assert lines[1].split()[-1] == "baseline"
    assert lines[2].startswith("int8 *")
    assert "1.30x [1.27, 1.33]" in lines[2]
    assert lines[3] == f"onnxruntime:cpu,threads=1,batch=8; budget: top1 drop <= 2pt; {digit_front.summary}"
    report = digit_front.report()
    assert (report["outcome"], report["improved"], report["tried"]) == ("met", True, {})
    assert [len(row) for row in report["rows"]] == [len(report["columns"])] * 2
    whole = digit_front.to_json()
    assert [member["name"] for member in whole["members"]] == ["fp32", "int8"]
    assert whole["members"][1]["verdict"]["kind"] == "accepted"


def test_a_step_on_the_float_model_saves_the_layer_that_int8_ruins(outlier, measuring):
    front = compress(*outlier)
    assert (front.outcome, front.best.name) == ("met", "int8")
    assert [step.name for step in front.best.candidate.recipe.steps] == ["smooth", "int8"]
    assert any("taken: smooth + int8" in note for note in front.notes)


def test_a_sensitive_layer_goes_back_to_float(outlier, measuring, no_steps):
    front = compress(*outlier)
    assert (front.outcome, front.best.name) == ("met", "int8, 1 layer in float")
    assert list(int8_layers(front.best.candidate.program)) == ["fc1", "fc3"]
    assert "skip=fc2" in front.best.candidate.recipe.to_toml()
    (plain,) = front.tried
    assert (plain.name, plain.status) == ("int8", "rejected")
    assert plain.reasons[0].startswith("on the choosing samples, top1 drop <= 3pt: drop +")
    assert plain.metric_value is None  # the proving samples were not opened for it
    assert measuring.compared == ["int8, 1 layer in float"]


def test_two_sensitive_layers_go_back_to_float(measuring, no_steps):
    torch.manual_seed(3)
    front = compress(*labelled(Outlier(("fc2", "fc3"))))
    assert front.best.name == "int8, 2 layers in float"
    assert list(int8_layers(front.best.candidate.program)) == ["fc1"]


def test_the_original_is_kept_where_no_choice_of_layers_holds(measuring, no_steps):
    torch.manual_seed(3)
    front = compress(*labelled(Outlier(("fc1", "fc2", "fc3"))))
    assert (front.outcome, front.improved, front.best.name) == ("met", False, "fp32")
    assert front.summary == "nothing beats the baseline, so the baseline is kept"
    assert "no choice of layers in float was found" in "\n".join(front.notes)
    assert [member.status for member in front.tried] == ["rejected"]


def test_past_the_time_limit_only_what_must_be_is_done(outlier, measuring, no_steps):
    front = compress(*outlier, time="0.001s")
    assert (front.outcome, front.best.name) == ("met", "fp32")
    assert measuring.compared == ["fp32"]  # with itself, for its latency
    assert "the time limit passed; optional work was left out" in front.notes


@pytest.mark.parametrize("speedup", [0.8, 0.95])
def test_nothing_slower_is_ever_returned(digit_program, digits, measuring, speedup: float):
    measuring.default = speedup
    images, labels = digits
    front = flow.compress(digit_program, images[:300], (images[900:], labels[900:]), target=TARGET)
    assert (front.outcome, front.improved, front.best.name) == ("met", False, "fp32")
    (rejected,) = front.tried
    assert rejected.status == "rejected"
    assert "slower" in rejected.reasons[0]
    assert f"{speedup:.3f}x" in rejected.reasons[0]


def test_something_slower_is_returned_only_where_the_original_misses_the_budget(digit_program, digits, measuring):
    measuring.speedups["int8"] = 0.9
    images, labels = digits
    front = flow.compress(
        digit_program, images[:300], (images[900:], labels[900:]), target=TARGET, budget="size <= 40kB"
    )
    assert (front.outcome, front.best.name) == ("met", "int8")
    assert [member.name for member in front.members] == ["int8"]
    assert front.baseline in front.tried


def test_what_is_as_fast_and_smaller_is_a_gain(digit_program, digits, measuring):
    measuring.speedups["int8"] = 1.005
    images, labels = digits
    front = flow.compress(digit_program, images[:300], (images[900:], labels[900:]), target=TARGET)
    assert (front.outcome, front.improved, front.best.name) == ("met", True, "int8")


def test_a_budget_that_cannot_be_met_says_what_came_nearest_and_by_how_much(digit_program, digits, measuring):
    images, labels = digits
    front = flow.compress(
        digit_program,
        images[:300],
        (images[900:], labels[900:]),
        target=TARGET,
        budget="drop <= 5pt; latency p50 <= 1us",
    )
    assert (front.outcome, front.improved, front.best.name) == ("missed", False, "int8")
    assert front.summary.startswith("budget missed; nearest is int8 (latency p50 <= 1us: latency p50 0.769 ms [")
    assert "beyond it by 769 times the limit" in front.summary
    assert front.members == ()
    assert {member.name for member in front.tried} == {"fp32", "int8"}


def test_a_size_that_cannot_be_met(digit_program, digits, measuring):
    images, labels = digits
    front = flow.compress(
        digit_program, images[:300], (images[900:], labels[900:]), target=TARGET, budget="size <= 20kB"
    )
    assert front.outcome == "missed"
    assert "size <= 20kB: size 30" in front.summary
    assert "beyond it by 5" in front.summary


def test_few_samples_leave_the_question_open(digit_program, digits, measuring):
    images, labels = digits
    front = flow.compress(
        digit_program, images[:300], (images[900:930], labels[900:930]), target=TARGET, budget="drop <= 5pt"
    )
    assert (front.outcome, front.best.name, front.best.status) == ("undecided", "int8", "undecided")
    assert "samples would decide it" in front.summary


def test_without_labels_the_answers_of_the_original_are_the_measure(digit_program, digits, measuring):
    front = flow.compress(digit_program, digits[0], metric="agreement", target=TARGET, budget="drop <= 5pt")
    assert (front.outcome, front.best.name) == ("met", "int8")
    assert front.baseline.metric_value == 100.0
    assert front.best.metric_value is not None
    assert 95 < front.best.metric_value <= 100


def test_a_model_without_anything_to_quantize_is_returned_with_the_reason(measuring):
    class Squash(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.tanh(x) * torch.sigmoid(x)

    front = flow.compress(Squash(), X, metric="agreement", target=TARGET)
    assert (front.outcome, front.improved, front.best.name) == ("met", False, "fp32")
    assert front.summary == "nothing beats the baseline, so the baseline is kept"
    assert "int8 does not apply: no convolution or linear layer to quantize" in "\n".join(front.notes)


@pytest.mark.parametrize("dynamic", [None, {"x": {0: "rows"}}, {"x": {0: "batch=2..16"}}], ids=str)
def test_programs_of_a_fixed_renamed_or_bounded_batch(dynamic: Any, hasty):
    torch.manual_seed(3)
    net = Outlier(())
    program = flow.capture(net, {"x": torch.from_numpy(X[:8])}, dynamic=dynamic)
    labels = net(torch.from_numpy(X)).argmax(1).numpy()
    # 1300 samples split in two: neither part is a multiple of 8.
    front = flow.compress(program, X[:300], (X[300:], labels[300:]), target=TARGET, budget="drop <= 3pt")
    int8 = next(member for member in (*front.members, *front.tried) if member.name == "int8")
    assert int8.metric_value is not None
    assert int8.metric_value > 97
    assert all(result.decision == "holds" for result in int8.clauses)


def test_a_transformer_with_a_dynamic_length(reader_program, reader_ids, measuring):
    front = flow.compress(reader_program, {"ids": reader_ids}, metric="agreement", target=TARGET)
    assert (front.outcome, front.best.name) == ("met", "int8")
    kernels = {name: front.best.kernels[name] for name in int8_layers(front.best.candidate.program)}
    assert all(kernel in ("QGemm", "QLinearMatMul", "MatMulIntegerToFloat") for kernel in kernels.values()), kernels


def test_a_layer_that_the_runtime_left_in_float_is_listed(digit_program, digits, measuring, monkeypatch):
    from gossamer.search import judging as module

    real = module.run_kernels
    monkeypatch.setattr(module, "run_kernels", lambda *args: {**real(*args), "down.0": "FusedConv"})
    images, labels = digits
    front = flow.compress(digit_program, images[:300], (images[900:], labels[900:]), target=TARGET)
    assert "int8: down.0 ran in float (FusedConv)" in front.notes
    assert front.best.evidence["placement"] == ["down.0 ran in float (FusedConv)"]


def test_each_stage_is_told(digit_program, digits, measuring):
    class Recorded:
        def __init__(self) -> None:
            self.stages: list[str] = []

        def stage(self, name: str, total: int | None = None) -> None:
            self.stages.append(name)

        def advance(self, note: str = "") -> None:
            assert self.stages

    progress = Recorded()
    images, labels = digits
    flow.compress(digit_program, images[:300], (images[900:], labels[900:]), target=TARGET, progress=progress)
    assert progress.stages == [
        "reading data",
        "capturing the model",
        "baseline",
        "int8",
        "sensitivity of each layer",
        "comparing candidates",
        "int8: verify",
        "int8: measure",
        "int8: prove",
        "int8: other processors",
        "int8: layers",
    ]


def test_two_runs_of_one_seed_make_the_same_program_and_the_same_file(digit_program, digits, digit_front, measuring):
    images, labels = digits
    again = flow.compress(
        digit_program, images[:900], (images[900:], labels[900:]), target=TARGET, budget="drop <= 2pt"
    )
    first, second = digit_front.best.candidate, again.best.candidate
    assert first.program.digest == second.program.digest
    assert first.lowered.model == second.lowered.model
    assert first.recipe == second.recipe


def test_the_real_measurements(digit_program, digits, hasty):
    """Nothing made up here: what is measured, and how the parts of a comparison fit together."""
    images, labels = digits
    front = flow.compress(
        digit_program, images[:300], (images[900:], labels[900:]), target=TARGET, budget="drop <= 3pt"
    )
    member = next(member for member in (*front.members, *front.tried) if member.name.startswith("int8"))
    assert member.comparison is not None
    assert member.comparison.n == 2
    names = [item.name for item in member.measurements]
    assert names[0] == "latency p50"
    assert {"size", "load", "first inference", "peak memory"} <= set(names)
    assert all(item.value > 0 for item in member.measurements)
    size = member.measured("size")
    assert size is not None
    assert size.value == len(member.candidate.lowered.model)
    assert front.outcome == "met"


@pytest.mark.parametrize("needed", range(1, 10))
def test_the_fewest_layers_that_hold_are_found(needed: int):
    """Of nine layers, in the fewest trials: a bisection over the count."""
    tried: list[int] = []

    def candidate(task: Any, skip: list[str]) -> Any:
        tried.append(len(skip))
        return SimpleNamespace(name=str(len(skip)), skip=skip)

    task: Any = SimpleNamespace(progress=Silent(), deadline=Deadline.after(None))
    plan: Any = SimpleNamespace(candidate=candidate)
    ranked = [LayerSensitivity(f"layer{index}", "conv", 9, 0.1, None, None) for index in range(9)]
    found: Any = fewest_in_float(task, plan, ranked, lambda given: len(given.skip) >= needed)
    assert len(tried) <= 4
    if needed == 9:  # nothing would be left in int8
        assert found is None
    else:
        assert found.skip == [f"layer{index}" for index in range(needed)]
