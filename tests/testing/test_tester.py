"""The chained tester: whole streets, what it keeps, and what it says when a step is missing or fails."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from gossamer.core.errors import UnknownName, UserError
from gossamer.demo.digits import DigitNet
from gossamer.testing import Tester
from gossamer.testing.models import MODELS


@pytest.fixture(scope="module")
def images(digits) -> torch.Tensor:
    return torch.from_numpy(digits[0][:64])


@pytest.fixture
def captured(digit_net: DigitNet, images: torch.Tensor) -> Tester:
    return Tester(digit_net, images).capture()


def test_a_float_network_is_the_same_everywhere(captured: Tester):
    captured.save().lower().run().same_as_eager().same_as_interpreter()
    assert captured.parity.verdict == "equivalent"
    assert captured.program.digest == captured.captured.digest


def test_a_quantized_network_keeps_its_answers(captured: Tester, images: torch.Tensor):
    street = captured.has_counts(quantize=0).apply("int8").save().lower("onnxruntime:cpu").run()
    street.same_as_interpreter("int8").same_as_eager("int8")
    assert street.captured.digest != street.program.digest
    assert street.lowered.quantizers
    assert street.outputs["output"].shape == (64, 10)
    assert str(street) == "capture > apply > save > lower > run"


def test_several_inputs_by_name_and_fixed_sizes():
    model = MODELS["several inputs"]
    torch.manual_seed(0)
    street = Tester(model.make(), dict(model.inputs)).capture().has_counts(conv2d=1, embedding=1, cat=1)
    street.lower("onnxruntime:cpu,threads=2").run(dims={"batch": 8}).same_as_eager()
    assert "batch=8" in street.executable.fingerprint


def test_steps_are_taken_once_and_in_order(captured: Tester):
    with pytest.raises(UserError, match=r"the step 'run'[\s\S]*got: it after capture[\s\S]*'lower' before it"):
        captured.run()
    with pytest.raises(UserError, match=r"the step 'same_as_eager'[\s\S]*'run' before it"):
        captured.same_as_eager()
    captured.lower()
    for late in (captured.capture, captured.apply, captured.save, captured.lower):
        with pytest.raises(UserError, match=r"after capture > lower[\s\S]*once: capture > apply > save > lower > run"):
            late()
    with pytest.raises(UserError, match=r"got: it after nothing[\s\S]*'capture' before it"):
        Tester(nn.ReLU(), torch.ones(2, 3)).lower()


def test_a_failure_says_in_which_step(captured: Tester):
    with pytest.raises(UnknownName, match="'int8'") as caught:
        captured.apply("int9")
    assert caught.value.__notes__ == ["in the step 'apply' of capture > apply"]
    other = (
        captured.__class__(nn.Linear(4, 2), torch.ones(2, 4)).capture().apply("int8", target="onnxruntime:cpu,batch=2")
    )
    with pytest.raises(UserError, match="batch=2, which techniques were applied for"):
        other.lower("onnxruntime:cpu")


def test_a_difference_is_told_with_the_way_that_led_to_it(captured: Tester):
    captured.lower().run()
    true = captured.executable.run
    captured.executable.run = lambda inputs, taps=(): {name: -value for name, value in true(inputs).items()}
    with pytest.raises(AssertionError, match=r"after capture > lower > run: parity rejected under policy fp32"):
        captured.same_as_eager()
    with pytest.raises(AssertionError, match="conv2d"):
        captured.has_counts(conv2d=1)


def test_data_to_calibrate_on_may_be_others(captured: Tester, images: torch.Tensor):
    narrow = {"images": np.zeros((4, 1, 8, 8), np.float32)}
    (name,) = captured.inputs
    wide = Tester(captured._model, images).capture().apply("int8{observer=minmax}")
    other = captured.apply("int8{observer=minmax}", data={name: narrow["images"]})
    assert wide.program.digest != other.program.digest
