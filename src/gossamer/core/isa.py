"""Classes of processors by how they multiply 8-bit integers, and which of them this machine is.

The same int8 file can answer differently on two of them; ``gossamer.search.audit`` finds out where, and writes the
classes in which it does into the evidence as hazards.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

PROFILES: Mapping[str, str] = {
    "sse": "x86 without AVX2",
    "avx2": "x86 with AVX2, without integer dot products",
    "avx512": "x86 with AVX-512, without integer dot products",
    "vnni": "x86 with integer dot products: AVX-VNNI, AVX512-VNNI or AMX",
    "neon": "64-bit Arm without integer dot products",
    "dotprod": "64-bit Arm with integer dot products",
}
"""What each class is, by name."""

_ROOT = Path("/")
_X86 = frozenset({"x86_64", "amd64", "i386", "i686"})
_ARM = frozenset({"aarch64", "arm64"})


def host_profile(root: Path = _ROOT, machine: str | None = None) -> str:
    """The class of this machine's processor; empty where the system does not say.

    Args:
        root: where /proc is found; for tests.
        machine: the architecture, instead of this machine's.
    """
    machine = (platform.machine() if machine is None else machine).lower()
    flags = _flags(root)
    if machine in _X86 and flags:
        if flags & {"avx512_vnni", "avx_vnni", "amx_int8"}:
            return "vnni"
        # Runtimes choose their AVX-512 kernels by these two, and AVX2 kernels only where FMA is there as well.
        if {"avx512f", "avx512bw"} <= flags:
            return "avx512"
        return "avx2" if {"avx2", "fma"} <= flags else "sse"
    if machine in _ARM and (flags or platform.system() == "Darwin"):
        return "dotprod" if not flags or "asimddp" in flags else "neon"  # every Apple processor has them
    return ""


def hazard_here(hazards: Sequence[str], profile: str | None = None) -> str:
    """One sentence for whoever loads a file on a processor of a class that is listed as a hazard; else empty.

    Args:
        hazards: names of classes, as ``Audit.hazards`` lists them.
        profile: the class of the processor, instead of this machine's.
    """
    profile = host_profile() if profile is None else profile
    if profile not in hazards:
        return ""
    return (
        f"on this processor ({PROFILES.get(profile, profile)}) sums of 8-bit products saturate in this file: "
        "it answers otherwise than where it was validated; quantize it again with int8{safe_pairs=*}"
    )


def hazards_of(evidence: Mapping[str, Any]) -> tuple[str, ...]:
    """The classes listed as hazards in the JSON form of an audit; none where there was no audit."""
    return tuple(str(name) for name in evidence.get("hazards", ()))


def _flags(root: Path) -> frozenset[str]:
    """Flags of the first processor in /proc/cpuinfo: ``flags`` on x86, ``Features`` on Arm."""
    try:
        text = (root / "proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return frozenset()
    for line in text.splitlines():
        key, colon, value = line.partition(":")
        if colon and key.strip() in ("flags", "Features"):
            return frozenset(value.split())
    return frozenset()
