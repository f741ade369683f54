"""A process that takes this processor for an older one."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from gossamer.core.errors import MissingExtra, OptionError
from gossamer.core.isa import host_profile
from gossamer.testing import older_cpu as module
from gossamer.testing.older_cpu import older_cpu, why_not

FLAGS = r"""
#include <cpuid.h>
#include <stdio.h>
int main(void) {
    unsigned a, b, c, d;
    __cpuid_count(7, 0, a, b, c, d);
    printf("avx2=%u avx512bw=%u vnni=%u amx_int8=%u\n", b >> 5 & 1, b >> 30 & 1, c >> 11 & 1, d >> 25 & 1);
}
"""


@pytest.mark.skipif(bool(why_not()), reason=why_not())
@pytest.mark.skipif(host_profile() != "vnni", reason="this processor is an older one itself")
def test_newer_instructions_are_hidden_and_nothing_else(tmp_path: Path):
    program = tmp_path / "flags"
    subprocess.run(["gcc", "-x", "c", "-", "-o", str(program)], input=FLAGS, text=True, check=True)

    def flags(environment: dict[str, str]) -> str:
        environment = os.environ | environment
        return subprocess.run([str(program)], env=environment, capture_output=True, text=True, check=True).stdout

    assert flags(older_cpu("sse", tmp_path)) == "avx2=0 avx512bw=0 vnni=0 amx_int8=0\n"
    assert flags(older_cpu("avx2", tmp_path)) == "avx2=1 avx512bw=0 vnni=0 amx_int8=0\n"
    assert flags(older_cpu("avx512", tmp_path))[7:] == flags({})[7:].replace("vnni=1 amx_int8=1", "vnni=0 amx_int8=0")


def test_an_unknown_level_is_refused(tmp_path: Path):
    with pytest.raises(OptionError, match="mmx"):
        older_cpu("mmx", tmp_path)  # pyright: ignore[reportArgumentType]


def test_what_is_missing_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module.platform, "machine", lambda: "aarch64")
    with pytest.raises(MissingExtra, match="x86-64 only"):
        older_cpu("avx2", tmp_path)
    monkeypatch.setattr(module.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(module.platform, "system", lambda: "Linux")
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert why_not() == "gcc is not installed"
