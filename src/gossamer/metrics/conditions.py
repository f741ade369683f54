"""The conditions of a measurement: machine and versions, contention, noise.

Everything reads what the system offers and leaves out what it does not: a missing /proc is no error.
"""

from __future__ import annotations

import math
import os
import platform
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import numpy as np

from gossamer.core.digest import digest_json

LIBRARIES = ("gossamer", "numpy", "onnxruntime", "openvino", "torch")
_ROOT = Path("/")

MATRIX_EXTENSIONS = (
    "avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8", "amx_bf16", "asimddp", "i8mm", "bf16",
)  # fmt: skip
"""Processor flags that decide which kernels a runtime has for integers and bfloat16."""


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
    }
    return {name: value for name, value in facts.items() if value not in (None, "", {})}


@dataclass(frozen=True)
class Contention:
    """How busy the machine is: one snapshot. ``None`` where the system does not say.

    Attributes:
        load: load average over one minute.
        pressure: share of the last ten seconds in which some task waited for a core (pressure-stall information).
        steal_ticks: clock ticks taken by the hypervisor since boot.
        involuntary_switches: times this process was interrupted since it began.
    """

    load: float | None
    pressure: float | None
    steal_ticks: int | None
    involuntary_switches: int

    def since(self, before: Contention) -> Contention:
        """Load and pressure as they are now, counters as the difference to an earlier snapshot."""
        both = self.steal_ticks is not None and before.steal_ticks is not None
        return Contention(
            self.load,
            self.pressure,
            (self.steal_ticks or 0) - (before.steal_ticks or 0) if both else None,
            self.involuntary_switches - before.involuntary_switches,
        )

    def to_json(self) -> dict[str, float | None]:
        """Plain JSON value."""
        return asdict(self)


def contention(root: Path = _ROOT) -> Contention:
    """Snapshot of load average, pressure, steal time and involuntary context switches."""
    try:
        load = os.getloadavg()[0]
    except (OSError, AttributeError):
        load = None
    pressure = None
    for word in (_text(root / "proc/pressure/cpu") or "").split():
        if word.startswith("avg10="):
            pressure = _number(word.removeprefix("avg10="), scale=0.01)
            break
    ticks = (_text(root / "proc/stat") or "").split("\n", 1)[0].split()
    steal = int(ticks[8]) if len(ticks) > 8 and ticks[8].isdigit() else None
    return Contention(load, pressure, steal, involuntary_switches())


def involuntary_switches() -> int:
    """Times the system took the core away from this process since it began; 0 where it does not say (Windows)."""
    if sys.platform == "win32":
        return 0
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw


@dataclass(frozen=True)
class Noise:
    """How steady the machine is: p90 / p50 of the time of a fixed piece of work."""

    ratio: float
    word: Literal["quiet", "noisy", "unusable"]
    median_ms: float
    repetitions: int

    def to_json(self) -> dict[str, Any]:
        """Plain JSON value."""
        return asdict(self)


def noise_probe(
    *,
    repetitions: int = 200,
    clock: Callable[[], int] = time.perf_counter_ns,
    work: Callable[[], object] | None = None,
) -> Noise:
    """Judge the machine by repeating a fixed 256 x 256 x 256 float32 product: about 0.1 s on a quiet core.

    Quiet if p90 / p50 < 1.10, noisy below 1.5, unusable from there.

    Args:
        repetitions: timed ones; a tenth more are run before.
        clock: monotonic nanoseconds.
        work: what is repeated, instead of the product.
    """
    repeat = work or _fixed_product()
    for _ in range(repetitions // 10):
        repeat()
    times = []
    for _ in range(repetitions):
        start = clock()
        repeat()
        times.append(max(clock() - start, 1) / 1e6)
    median, late = (float(value) for value in np.quantile(times, (0.5, 0.9)))
    ratio = late / median
    word = "quiet" if ratio < 1.10 else "noisy" if ratio < 1.5 else "unusable"
    return Noise(ratio, word, median, repetitions)


def _fixed_product() -> Callable[[], object]:
    matrix = np.random.default_rng(0).standard_normal((256, 256), dtype=np.float32)
    out = np.empty_like(matrix)
    return lambda: np.matmul(matrix, matrix, out=out)


def _cpu_info(root: Path) -> Mapping[str, str]:
    """Fields of the first processor in /proc/cpuinfo."""
    first = (_text(root / "proc/cpuinfo") or "").split("\n\n", 1)[0]
    pairs = (line.partition(":") for line in first.splitlines())
    return {key.strip(): value.strip() for key, colon, value in pairs if colon}


def _caches(root: Path) -> dict[str, str]:
    """Size by level and type of the caches of the first core: ``{"L1 Data": "32K"}``."""
    caches = {}
    for index in sorted((root / "sys/devices/system/cpu/cpu0/cache").glob("index*")):
        level, kind, size = (_text(index / name) for name in ("level", "type", "size"))
        if level and size:
            caches[f"L{level} {kind or ''}".strip()] = size
    return caches


def _versions(libraries: Sequence[str]) -> dict[str, str]:
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
