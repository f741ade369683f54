"""The user's own metric, written ``file.py:function``."""

from __future__ import annotations

from pathlib import Path

from gossamer.core.errors import DataError, GossamerError, OptionError
from gossamer.core.pyfile import describe_exception, load_object
from gossamer.metrics.base import Labels, Metric, Outputs


def custom_metric(text: str) -> Metric:
    """A metric from ``file.py:function``, where ``function(outputs, labels)`` takes arrays by name and the labels.

    It returns an array (samples,) of scores, whose mean is the metric and whose budget gets a paired test, or one
    float, whose budget gets a bootstrap. Attributes of the function are honoured: ``better`` ("higher", the default, or
    "lower"), ``unit`` ("", or "%": scores are then shares and a float is in percent), ``needs_labels`` (true).

    Raises:
        OptionError: there is no such function, or an attribute has another value.
    """
    function = load_object(text, error=OptionError)
    doing = f"reading the metric {text!r}"
    if not callable(function):
        raise OptionError(doing, got=type(function).__name__, expected="a function (outputs, labels) -> float or array")
    better, unit = getattr(function, "better", "higher"), getattr(function, "unit", "")
    if better not in ("higher", "lower"):
        raise OptionError(doing, got=f"better = {better!r}", expected="'higher' or 'lower'")
    if unit not in ("%", ""):
        raise OptionError(doing, got=f"unit = {unit!r}", expected="'%' or ''")
    path = Path(text.rpartition(":")[0]).resolve()

    def score(outputs: Outputs, labels: Labels) -> object:
        try:
            return function(outputs, labels)
        except GossamerError:
            raise
        except Exception as exception:
            raise DataError(
                f"computing the metric {text}",
                got=describe_exception(exception, path),
                expected=f"a function that takes a dict with the outputs {', '.join(outputs)}, and the labels",
            ) from exception

    return Metric(text, unit, better, needs_labels=bool(getattr(function, "needs_labels", True)), score=score)
