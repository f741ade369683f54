"""Running a process as if this processor were an older one: real kernels of older machines, at full speed.

Libraries choose kernels by the ``cpuid`` instruction. Linux can make it fault (``arch_prctl(ARCH_CPUID_SET)``); a
small library, preloaded, catches the fault and answers with the newer instruction sets left out. The kernels that a
library then chooses are those that it ships for the older processors, executed by this one.

    environment = older_cpu("avx2", folder)
    subprocess.run([sys.executable, "script.py"], env=os.environ | environment)

Needs Linux on x86, a processor (and hypervisor) with cpuid faulting, and gcc; ``why_not`` says what is missing.
"""

from __future__ import annotations

import platform
import shutil
import subprocess
from pathlib import Path
from typing import Literal

from gossamer.core.errors import MissingExtra, OptionError

LEVELS = {"sse": 0, "avx2": 1, "avx512": 2}
"""What is left: nothing above SSE4.2; AVX2; AVX-512 without integer dot products. AMX is hidden at all of them."""

_SOURCE = r"""
#define _GNU_SOURCE
#include <cpuid.h>
#include <signal.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>
#define ARCH_CPUID_SET 0x1012
#define BIT(n) (1u << (n))

static void answer(int signal_number, siginfo_t *info, void *context) {
    greg_t *r = ((ucontext_t *)context)->uc_mcontext.gregs;
    const uint8_t *instruction = (const uint8_t *)r[REG_RIP];
    if (instruction[0] != 0x0f || instruction[1] != 0xa2) { signal(SIGSEGV, SIG_DFL); return; } /* a true fault */
    uint32_t leaf = r[REG_RAX], subleaf = r[REG_RCX], a, b, c, d;
    syscall(SYS_arch_prctl, ARCH_CPUID_SET, 1);
    __cpuid_count(leaf, subleaf, a, b, c, d);
    syscall(SYS_arch_prctl, ARCH_CPUID_SET, 0);
    if (leaf == 1 && LEVEL < 1) c &= ~(BIT(12) | BIT(28) | BIT(29));       /* fma, avx, f16c */
    if (leaf == 7 && subleaf == 0) {
        if (LEVEL < 1) b &= ~BIT(5);                                       /* avx2 */
        if (LEVEL < 2) b &= ~(BIT(16) | BIT(17) | BIT(21) | BIT(26) | BIT(27) | BIT(28) | BIT(30) | BIT(31));
        c &= ~(BIT(1) | BIT(6) | BIT(11) | BIT(12) | BIT(14));             /* vbmi, vbmi2, vnni, bitalg, vpopcntdq */
        d &= ~(BIT(2) | BIT(3) | BIT(8) | BIT(22) | BIT(23) | BIT(24) | BIT(25)); /* ..., fp16, amx */
    }
    if (leaf == 7 && subleaf == 1) { a &= ~(BIT(4) | BIT(5) | BIT(21) | BIT(22) | BIT(23)); d = 0; } /* avx-vnni, ... */
    r[REG_RAX] = a; r[REG_RBX] = b; r[REG_RCX] = c; r[REG_RDX] = d; r[REG_RIP] += 2;
}

__attribute__((constructor)) static void begin(void) {
    struct sigaction action = {.sa_sigaction = answer, .sa_flags = SA_SIGINFO | SA_NODEFER};
    sigaction(SIGSEGV, &action, 0);
    if (syscall(SYS_arch_prctl, ARCH_CPUID_SET, 0)) _exit(97);             /* inherited by every thread and child */
}
"""


def why_not() -> str:
    """What is missing here; empty if nothing is."""
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        return "cpuid can be answered for a process on Linux and x86-64 only"
    if shutil.which("gcc") is None:
        return "gcc is not installed"
    if "cpuid_fault" not in Path("/proc/cpuinfo").read_text(encoding="utf-8"):
        return "this processor, or its hypervisor, has no cpuid faulting"
    return ""


def older_cpu(level: Literal["sse", "avx2", "avx512"], folder: Path) -> dict[str, str]:
    """Environment variables under which a process believes to run on an older processor.

    Args:
        level: what it still has.
        folder: where the library is built; has to live as long as the process.

    Raises:
        OptionError: no such level.
        MissingExtra: it cannot be done here.
    """
    doing = f"hiding instruction sets newer than {level}"
    if level not in LEVELS:
        raise OptionError(doing, got=level, expected=f"one of: {', '.join(LEVELS)}")
    if reason := why_not():
        raise MissingExtra(doing, got=reason)
    library = folder / f"older_cpu_{level}.so"
    command = ["gcc", f"-DLEVEL={LEVELS[level]}", "-O1", "-shared", "-fPIC", "-x", "c", "-", "-o", str(library)]
    subprocess.run(command, input=_SOURCE, text=True, check=True)  # noqa: S603 - our own command
    return {"LD_PRELOAD": str(library)}
