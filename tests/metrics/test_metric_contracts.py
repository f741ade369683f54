"""Every metric against its contract."""

from __future__ import annotations

import math

import numpy as np

from gossamer.metrics import METRICS
from gossamer.testing import MetricContract


class TestTop1(MetricContract):
    metric = METRICS["top1"]


class TestTop5(MetricContract):
    metric = METRICS["top5"]


class TestF1(MetricContract):
    metric = METRICS["f1"]
    is_mean = False


class TestMae(MetricContract):
    metric = METRICS["mae"]
    limits = (0.0, math.inf)

    def outputs(self, rng: np.random.Generator, samples: int) -> dict[str, np.ndarray]:
        return {"y": rng.standard_normal((samples, 3)).astype(np.float32)}

    def labels(self, rng: np.random.Generator, samples: int) -> np.ndarray:
        return rng.standard_normal((samples, 3)).astype(np.float32)

    def perfect(self, labels: np.ndarray) -> dict[str, np.ndarray]:
        return {"y": labels}


class TestAgreement(MetricContract):
    """Its labels are the outputs of the original model."""

    metric = METRICS["agreement"]

    def labels(self, rng: np.random.Generator, samples: int) -> np.ndarray:
        return rng.standard_normal((samples, 7)).astype(np.float32)

    def perfect(self, labels: np.ndarray) -> dict[str, np.ndarray]:
        return {"logits": labels}


def test_every_metric_has_a_contract():
    contracts = [value for value in globals().values() if isinstance(value, type) and issubclass(value, MetricContract)]
    assert {one.metric.name for one in contracts if hasattr(one, "metric")} == set(METRICS)
