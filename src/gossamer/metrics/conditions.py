"""The conditions of a measurement: machine and versions, contention, noise.

Everything reads what the system offers and leaves out what it does not: a missing /proc is no error.
"""

from __future__ import annotations

import math
import os
import platform
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from gossamer.core.digest import digest_json
from gossamer.metrics.counters import involuntary_switches

LIBRARIES = ("gossamer", "numpy", "onnxruntime", "openvino", "torch")
_ROOT = Path("/")
_STEAL = 0.02
"""Share of all cores' time from which on what the hypervisor took casts doubt."""

MATRIX_EXTENSIONS = (
    "avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8", "amx_bf16", "asimddp", "i8mm", "bf16",
)  # fmt: skip
"""Processor flags that decide which kernels a runtime has for integers and bfloat16."""

ALLOCATOR_SETTINGS = ("LD_PRELOAD", "GLIBC_TUNABLES", "MALLOC_ARENA_MAX", "MALLOC_CONF")
"""Variables of the environment that change how memory is given out."""


def machine_fingerprint(*, libraries: Sequence[str] = LIBRARIES, root: Path = _ROOT) -> dict[str, Any]:
    """What a measurement on this machine depends on, as a JSON value without the unknown entries.

    Figures may be merged only under equal fingerprints.

    Args:
        libraries: distributions whose versions are recorded where installed.
        root: where /proc and /sys are found; for tests.
    """
    info = _cpu_info(root)
    flags = info.get("flags") or info.get("Features")
    affinity = getattr(os, "sched_getaffinity", None)
    facts: dict[str, Any] = {
        "cpu": info.get("model name") or platform.processor() or platform.machine(),
        "machine": platform.machine(),
        "instruction_sets": " ".join(flag for flag in MATRIX_EXTENSIONS if flag in (flags or "").split()),
        "cpu_flags_digest": digest_json(sorted(flags.split())) if flags else None,
        "cores": os.cpu_count(),
        "cores_allowed": len(affinity(0)) if affinity else None,
        "caches": _caches(root),
        "governor": _text(root / "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        "cpu_limit": _text(root / "sys/fs/cgroup/cpu.max"),
        "memory_limit": _text(root / "sys/fs/cgroup/memory.max"),
        "system": platform.system(),
        "kernel": platform.release(),
        "libc": " ".join(platform.libc_ver()).strip(),
        "python": platform.python_version(),
        "libraries": _versions(libraries),
        "allocator": {name: os.environ[name] for name in ALLOCATOR_SETTINGS if name in os.environ},
    }
    return {name: value for name, value in facts.items() if value not in (None, "", {})}


@dataclass(frozen=True)
class Contention:
    """How busy the machine is: one snapshot. ``None`` where the system does not say.

    Attributes:
        load: load average over one minute.
        pressure: share of the last ten seconds in which some task waited for a core (pressure-stall information).
        memory_pressure: the same for memory.
        steal_ticks: clock ticks taken by the hypervisor since boot, all cores together.
        ticks: clock ticks since boot, all cores together.
        throttles: times that a core was slowed down by its temperature, or this container by its limit, since boot.
        frequency_mhz: mean over the cores, now.
        involuntary_switches: times this process was interrupted since it began.
    """

    load: float | None = None
    pressure: float | None = None
    memory_pressure: float | None = None
    steal_ticks: int | None = None
    ticks: int | None = None
    throttles: int | None = None
    frequency_mhz: float | None = None
    involuntary_switches: int = 0

    def since(self, before: Contention) -> Contention:
        """Load, pressure and frequency as they are now, counters as the difference to an earlier snapshot."""
        counters = {
            name: None if None in (now := getattr(self, name), then := getattr(before, name)) else now - then
            for name in ("steal_ticks", "ticks", "throttles", "involuntary_switches")
        }
        return replace(self, **counters)

    def to_json(self) -> dict[str, float | None]:
        """Plain JSON value."""
        return asdict(self)


def contention(root: Path = _ROOT) -> Contention:
    """Snapshot of what the system says about its load."""
    try:
        load = os.getloadavg()[0]
    except (OSError, AttributeError):
        load = None
    ticks = [int(word) for word in (_text(root / "proc/stat") or "").split("\n", 1)[0].split()[1:] if word.isdigit()]
    return Contention(
        load,
        _pressure(root / "proc/pressure/cpu"),
        _pressure(root / "proc/pressure/memory"),
        ticks[7] if len(ticks) > 7 else None,
        sum(ticks[:8]) if ticks else None,  # what follows, the time of guests, is part of these
        _throttles(root),
        _frequency_mhz(root),
        involuntary_switches(),
    )


def contention_record(snapshots: Sequence[Contention]) -> dict[str, Any]:
    """Snapshots of a run as JSON: the first, the last, and in between the worst of the states and all of the counts."""
    before, after = snapshots[0], snapshots[-1]
    during = after.since(before).to_json()
    for name, worst in (("load", max), ("pressure", max), ("memory_pressure", max), ("frequency_mhz", min)):
        seen = [value for snapshot in snapshots if (value := getattr(snapshot, name)) is not None]
        during[name] = worst(seen) if seen else None
    return {"before": before.to_json(), "during": during, "after": after.to_json()}


def contention_doubts(snapshots: Sequence[Contention]) -> list[str]:
    """What in the record of a run speaks against quoting it: cores that were slowed down or taken away."""
    run = snapshots[-1].since(snapshots[0])
    doubts = []
    if run.throttles:
        doubts.append(f"the cores were throttled {run.throttles} times")
    if run.steal_ticks and run.ticks and run.steal_ticks > _STEAL * run.ticks:
        doubts.append(f"the hypervisor took {run.steal_ticks / run.ticks:.0%} of the time")
    return doubts


NoiseWord = Literal["quiet", "noisy", "unusable"]


@dataclass(frozen=True)
class Noise:
    """How steady the machine is: p90 / p50 of the times of two fixed pieces of work, one of the core, one of memory.

    Attributes:
        ratio: the larger one.
        word: quiet below 1.10, noisy below 1.5, unusable from there.
        product_ratio: of a 256 x 256 x 256 float32 product.
        copy_ratio: of a copy of 32 MB.
        product_ms: median of the product.
        copy_ms: median of the copy.
        repetitions: of each.
    """

    ratio: float
    word: NoiseWord
    product_ratio: float
    copy_ratio: float
    product_ms: float
    copy_ms: float
    repetitions: int

    def __str__(self) -> str:
        return f"{self.word}: p90/p50 {self.product_ratio:.2f} computing, {self.copy_ratio:.2f} copying"

    def to_json(self) -> dict[str, Any]:
        """Plain JSON value."""
        return asdict(self)


def noise_probe(
    *,
    repetitions: int = 200,
    clock: Callable[[], int] = time.perf_counter_ns,
    work: tuple[Callable[[], object], Callable[[], object]] | None = None,
) -> Noise:
    """Judge the machine by repeating a fixed product and a fixed copy: about a second on a quiet core.

    Args:
        repetitions: timed ones of each; a tenth more are run before.
        clock: monotonic nanoseconds.
        work: what is repeated, instead of the product and the copy.
    """
    product, copy = work or (_fixed_product(), _fixed_copy())
    product_ms, product_ratio = _steadiness(product, repetitions, clock)
    copy_ms, copy_ratio = _steadiness(copy, repetitions, clock)
    ratio = max(product_ratio, copy_ratio)
    word: NoiseWord = "quiet" if ratio < 1.10 else "noisy" if ratio < 1.5 else "unusable"
    return Noise(ratio, word, product_ratio, copy_ratio, product_ms, copy_ms, repetitions)


def _steadiness(work: Callable[[], object], repetitions: int, clock: Callable[[], int]) -> tuple[float, float]:
    """Median in ms, and p90 / p50."""
    for _ in range(repetitions // 10):
        work()
    times = []
    for _ in range(repetitions):
        start = clock()
        work()
        times.append(max(clock() - start, 1) / 1e6)
    median, late = (float(value) for value in np.quantile(times, (0.5, 0.9)))
    return median, late / median


def _fixed_product() -> Callable[[], object]:
    matrix = np.random.default_rng(0).standard_normal((256, 256), dtype=np.float32)
    out = np.empty_like(matrix)
    return lambda: np.matmul(matrix, matrix, out=out)


def _fixed_copy() -> Callable[[], object]:
    source = np.ones(32_000_000, np.uint8)
    out = np.empty_like(source)
    return lambda: np.copyto(out, source)


def _cpu_info(root: Path) -> Mapping[str, str]:
    """Fields of the first processor in /proc/cpuinfo."""
    first = (_text(root / "proc/cpuinfo") or "").split("\n\n", 1)[0]
    pairs = (line.partition(":") for line in first.splitlines())
    return {key.strip(): value.strip() for key, colon, value in pairs if colon}


def _pressure(path: Path) -> float | None:
    """The share of the last ten seconds that the ``some`` line states."""
    for word in (_text(path) or "").split():
        if word.startswith("avg10="):
            return _number(word.removeprefix("avg10="), scale=0.01)
    return None


def _throttles(root: Path) -> int | None:
    cores = (root / "sys/devices/system/cpu").glob("cpu[0-9]*/thermal_throttle/core_throttle_count")
    texts = [_text(path) or "" for path in cores]
    texts += re.findall(r"^nr_throttled (\d+)", _text(root / "sys/fs/cgroup/cpu.stat") or "", re.MULTILINE)
    counts = [int(text) for text in texts if text.isdigit()]
    return sum(counts) if counts else None


def _frequency_mhz(root: Path) -> float | None:
    files = (root / "sys/devices/system/cpu").glob("cpu[0-9]*/cpufreq/scaling_cur_freq")
    scaled = [_number(_text(path) or "", scale=1e-3) for path in files]
    stated = re.findall(r"^cpu MHz\s*: (.+)$", _text(root / "proc/cpuinfo") or "", re.MULTILINE)
    known = [value for value in scaled or map(_number, stated) if value]
    return sum(known) / len(known) if known else None


def _caches(root: Path) -> dict[str, str]:
    """Size by level and type of the caches of the first core: ``{"L1 Data": "32K"}``."""
    caches = {}
    for index in sorted((root / "sys/devices/system/cpu/cpu0/cache").glob("index*")):
        level, kind, size = (_text(index / name) for name in ("level", "type", "size"))
        if level and size:
            caches[f"L{level} {kind or ''}".strip()] = size
    return caches


def _versions(libraries: Sequence[str]) -> dict[str, str]:
    from importlib import metadata

    versions = {}
    for name in libraries:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return None


def _number(text: str, scale: float = 1.0) -> float | None:
    try:
        value = float(text) * scale
    except ValueError:
        return None
    return value if math.isfinite(value) else None
