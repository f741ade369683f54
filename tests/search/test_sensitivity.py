"""What each layer would cost and gain in int8: alone, the others in float."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from gossamer import flow
from gossamer.core.errors import UnsupportedOp
from gossamer.search.sensitivity import LayerSensitivity


class OneBad(nn.Module):
    """One input is thousands of times larger than the rest, and its weights make up for it."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = nn.Linear(8, 32), nn.Linear(32, 32), nn.Linear(32, 4)
        self.first.weight.data[:, 0] /= 5000

    def forward(self, x: Tensor) -> Tensor:
        return self.third(torch.tanh(self.second(torch.tanh(self.first(x)))))


def inputs(count: int = 200) -> np.ndarray:
    x = np.random.default_rng(0).normal(size=(count, 8)).astype(np.float32)
    x[:, 0] *= 5000
    return x


@pytest.mark.parametrize("target", ["onnxruntime:cpu", "openvino:cpu"])
def test_the_layer_that_does_the_harm_stands_first(target: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("gossamer.search.precision.FLOAT_STEPS", {})  # smoothing would mend it
    torch.manual_seed(0)
    program = flow.capture(OneBad().eval(), torch.randn(2, 8))
    found = flow.scan(program, inputs(), target=target)
    assert [row.layer for row in found.rows] == ["first", "second", "third"]
    assert [row.weights for row in found.rows] == [256, 1024, 128]
    harms = {row.layer: row.harm or 0.0 for row in found.rows}
    assert harms["first"] > 5 * max(harms["second"], harms["third"])
    assert found.whole > 0.5 * harms["first"]
    columns, rows = found.table()
    assert rows[0][0] == "first"
    assert all(len(row) == len(columns) for row in rows)
    assert found.to_json()["layers"][0]["harm"] == harms["first"]
    assert set(found.floats) == ({"bfloat16"} if target.startswith("openvino") else set())


def test_the_price_is_harm_for_the_time_saved():
    def row(harm: float | None, float_us: float | None, int8_us: float | None) -> LayerSensitivity:
        return LayerSensitivity("a", "conv", 9, harm, float_us, int8_us)

    assert row(0.1, 30.0, 10.0).price == pytest.approx(0.1 / 20)
    assert row(0.1, 10.0, 30.0).price == row(0.1, None, 30.0).price == pytest.approx(0.1 / 0.5)  # saves nothing known
    assert row(None, 30.0, 10.0).price == 0  # not tried: never the first to be given back


def test_past_the_time_limit_layers_have_no_harm():
    program = flow.capture(OneBad().eval(), torch.randn(2, 8))
    found = flow.scan(program, inputs(), time="0.001s")
    assert [row.harm for row in found.rows] == [None, None, None]


def test_a_model_without_such_layers_is_refused():
    class Plain(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.tanh(x)

    with pytest.raises(UnsupportedOp, match="int8 does not apply"):
        flow.scan(Plain(), inputs(50))


class Positions(nn.Module):
    """An embedding of fixed positions: its values are known when the model is lowered, and no kernel is left of it."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.positions, self.head = nn.Embedding(20, 16), nn.Embedding(6, 16), nn.Linear(16, 4)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head((self.words(ids) + self.positions(torch.arange(6))).mean(1))


@pytest.mark.parametrize("target", ["onnxruntime:cpu", "openvino:cpu"])
def test_layers_without_a_kernel_are_no_obstacle(target: str):
    ids = np.random.default_rng(0).integers(0, 20, (64, 6))
    program = flow.capture(Positions().eval(), torch.from_numpy(ids[:2]))
    assert [row.layer for row in flow.scan(program, ids, target=target).rows] == ["head"]
