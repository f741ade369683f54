"""Metrics by name, and the measurement of latency, size and processes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from gossamer.core.errors import OptionError
from gossamer.core.names import require_known
from gossamer.metrics.agreement import AGREEMENT
from gossamer.metrics.base import Metric
from gossamer.metrics.custom import custom_metric
from gossamer.metrics.f1 import F1
from gossamer.metrics.mae import MAE
from gossamer.metrics.top1 import TOP1
from gossamer.metrics.top5 import TOP5

METRICS: Mapping[str, Metric] = {metric.name: metric for metric in (TOP1, TOP5, F1, MAE, AGREEMENT)}
"""Built-in metrics by name."""


def resolve_metric(text: str) -> Metric:
    """The metric written ``name``, ``name@output``, ``file.py:function`` or ``file.py:function@output``.

    Raises:
        UnknownName: no such metric; offers the nearest.
        OptionError: nothing behind the ``@``, or a custom metric that does not load.
    """
    doing = f"reading the metric {text!r}"
    if not isinstance(text, str):
        expected = f"text: {', '.join(METRICS)}, or file.py:function"
        raise OptionError(doing, got=type(text).__name__, expected=expected, try_="put the function into a file")
    head, at, output = (part.strip() for part in text.partition("@"))
    if at and not output:
        raise OptionError(doing, got="nothing behind @", expected=f"{head}@output")
    if ":" in head:
        metric = custom_metric(head)
    else:
        require_known(head, METRICS, "metric", doing)
        metric = METRICS[head]
    return replace(metric, name=text, output=output) if at else metric
