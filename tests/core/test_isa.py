"""Which class of processors this machine is, and what a listed hazard says on it."""

from __future__ import annotations

from pathlib import Path

import pytest

from gossamer.core.isa import PROFILES, hazard_here, hazards_of, host_profile

ICE_LAKE = "fpu sse4_2 avx avx2 fma avx512f avx512dq avx512bw avx512vl avx512_vnni"


def machine(folder: Path, flags: str, key: str = "flags\t\t") -> Path:
    (folder / "proc").mkdir()
    (folder / "proc/cpuinfo").write_text(f"processor\t: 0\nmodel name\t: any\n{key}: {flags}\n\nprocessor\t: 1\n")
    return folder


@pytest.mark.parametrize(
    ("flags", "profile"),
    [
        ("fpu sse4_2", "sse"),
        ("sse4_2 avx avx2", "sse"),  # without FMA no runtime takes its AVX2 kernels
        ("sse4_2 avx avx2 fma", "avx2"),
        ("avx2 fma avx512f avx512bw avx512vl", "avx512"),
        ("avx2 fma avx512f", "avx2"),  # Xeon Phi has no byte instructions in AVX-512
        (ICE_LAKE, "vnni"),
        ("avx2 fma avx_vnni", "vnni"),
        ("avx2 fma amx_int8", "vnni"),
    ],
)
def test_x86(flags: str, profile: str, tmp_path: Path):
    assert host_profile(machine(tmp_path, flags), "x86_64") == profile


@pytest.mark.parametrize(("flags", "profile"), [("fp asimd", "neon"), ("fp asimd asimddp i8mm", "dotprod")])
def test_arm(flags: str, profile: str, tmp_path: Path):
    assert host_profile(machine(tmp_path, flags, "Features\t"), "aarch64") == profile


def test_a_system_that_does_not_say(tmp_path: Path):
    assert host_profile(tmp_path, "x86_64") == ""
    assert host_profile(machine(tmp_path, "anything"), "riscv64") == ""


def test_this_machine_is_one_of_the_classes():
    assert host_profile() in {*PROFILES, ""}


def test_a_hazard_is_told_where_it_is_one():
    hazards = hazards_of({"hazards": ["avx2", "avx512"]})
    assert "without integer dot products" in hazard_here(hazards, "avx2")
    assert hazard_here(hazards, "vnni") == ""
    assert hazard_here(hazards, "") == ""
    assert hazards_of({}) == ()
