"""What only a fresh process can tell: load time, first inference, peak memory."""

from __future__ import annotations

import json
import math
import subprocess
from collections.abc import Mapping, Sequence
from typing import Any

from gossamer.core.errors import InternalError, ModelError
from gossamer.core.measurement import Measurement

PROBE_FIELDS = ("load_ms", "first_ms", "peak_rss_bytes", "base_rss_bytes")


def probe_process(
    command: Sequence[str],
    *,
    timeout_s: float = 120.0,
    env: Mapping[str, str] | None = None,
    conditions: Mapping[str, Any] | None = None,
) -> tuple[Measurement, Measurement, Measurement]:
    """Load time, time of the first inference, and peak memory of an executable, from one run of a fresh process.

    Args:
        command: starts a process whose last line on stdout is a JSON object with ``load_ms``, ``first_ms``,
            ``peak_rss_bytes`` (high-water mark) and ``base_rss_bytes`` (the same before the model was loaded).
        timeout_s: after this the process is killed.
        env: its environment; this process's own if ``None``.
        conditions: kept in the Measurements.

    Returns:
        ``load`` in ms (file cache as it is, so warm after the first time), ``first inference`` in ms, ``peak memory``
        in bytes above the base. One observation each.

    Raises:
        ModelError: the process did not start, failed, or took too long; carries the end of its stderr.
        InternalError: it ended well but printed something else.
    """
    doing = f"measuring a fresh process: {' '.join(command)}"
    try:
        done = subprocess.run(list(command), capture_output=True, text=True, timeout=timeout_s, env=env, check=False)  # noqa: S603 - the command is ours
    except subprocess.TimeoutExpired as error:
        raise ModelError(doing, got=f"no answer in {timeout_s:g} s", expected="one line of JSON") from error
    except OSError as error:
        raise ModelError(doing, got=str(error), expected="a program that starts") from error
    if done.returncode:
        tail = "\n       ".join(done.stderr.strip().splitlines()[-8:])
        raise ModelError(doing, got=f"exit status {done.returncode}\n       {tail}", expected="exit status 0")
    figures = _figures(done.stdout, doing)
    facts = dict(conditions or {})
    above_base = max(figures["peak_rss_bytes"] - figures["base_rss_bytes"], 0.0)
    return (
        Measurement("load", figures["load_ms"], "ms", "lower", conditions=facts),
        Measurement("first inference", figures["first_ms"], "ms", "lower", conditions=facts),
        Measurement("peak memory", above_base, "B", "lower", conditions=facts),
    )


def _figures(stdout: str, doing: str) -> dict[str, float]:
    lines = stdout.strip().splitlines()
    try:
        values = json.loads(lines[-1])
        figures = {name: float(values[name]) for name in PROBE_FIELDS}
    except (IndexError, ValueError, TypeError, KeyError) as error:
        got = repr(stdout[-200:])
        raise InternalError(doing, got=got, expected=f"one line of JSON with {', '.join(PROBE_FIELDS)}") from error
    if not all(math.isfinite(figure) and figure >= 0 for figure in figures.values()):
        raise InternalError(doing, got=str(figures), expected="finite figures of at least 0")
    return figures
