"""Which kernels ONNX Runtime really ran, from its own profile. Torch-free.

The runtime rewrites the graph at load, and says what became of a node by its name alone. Found by trying (1.31):

    conv                        quantized, float with a fused activation, one-dimensional, transposed
    conv_token_2                quantized, after the move to channels-last
    fused fc                    float Gemm with its activation
    fc/MatMulAddFusion          MatMul and Add in one Gemm; also "fused fc/MatMulAddFusion"
    fc/GemmTransposeFusion/     Gemm that took a transpose in
    relu_nchwc                  float Conv in the blocked layout: named after the tensor that comes out last of all that
                                was fused, so not after the Conv, unless it stands alone

An integer kernel was never seen to lose its node's name. Float convolutions do, and are found by elimination.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from gossamer.core.errors import ArtifactError, UnknownName
from gossamer.core.specs import Signature
from gossamer.core.target import Target
from gossamer.runtimes.onnxruntime.runtime import OnnxRuntimeExecutable

FLOAT_KERNELS = frozenset(
    {
        "Conv", "FusedConv", "NhwcFusedConv", "ConvTranspose", "Gemm", "FusedGemm", "MatMul", "FusedMatMul", "Gather",
        "MatMulNBits",  # int8 weights, but computes in float, and slower than MatMul
    }
)  # fmt: skip
"""Kernels in which a weighted node computes in float."""

_KERNEL_EVENT = "_kernel_time"
_BLOCKED = "_nchwc"
_SUFFIX = re.compile(r"(_token_\d+|_nchwc|/MatMulAddFusion|/GemmTransposeFusion/)$")


@dataclass(frozen=True)
class SiteKernel:
    """How one weighted node of a program ran.

    Attributes:
        outcome: ``int8``, ``float``, or ``not found`` where the profile does not tell.
        kernel: the operation executed, such as ``QLinearConv``; empty if not found.
    """

    outcome: Literal["int8", "float", "not found"]
    kernel: str = ""


def profile_kernels(
    path: Path,
    specs: Signature,
    target: Target,
    inputs: Mapping[str, np.ndarray],
    *,
    dims: Mapping[str, int] | None = None,
) -> dict[str, str]:
    """Run a model file once under the runtime's profiler: node name -> kernel executed. Leaves no file behind.

    Cost: one load, one inference.
    """
    return executed_kernels(_profile(path, specs, target, inputs, dims, calls=1))


def profile_times(  # noqa: PLR0913 - the profile of one run
    path: Path,
    specs: Signature,
    target: Target,
    inputs: Mapping[str, np.ndarray],
    name_map: Mapping[str, Sequence[str]],
    sites: Sequence[str],
    *,
    dims: Mapping[str, int] | None = None,
    calls: int = 20,
) -> dict[str, float]:
    """Microseconds that the kernel of each weighted node takes in one call, the median over ``calls``; to rank by.

    Kernels that lost their node's name are taken in the order of execution, which is that of the program. Nodes whose
    kernel cannot be told are absent. Conversions between integers and floats are kernels of their own, not counted.
    """
    events = _profile(path, specs, target, inputs, dims, calls)
    times: dict[str, list[float]] = {}
    kernels: dict[str, str] = {}
    for name, kernel, microseconds in events:
        times.setdefault(name, []).append(microseconds)
        kernels.setdefault(name, kernel)
    origins, unclaimed = _claims(kernels, name_map, sites, kernels.values())
    unclaimed = [name for name in unclaimed if kernels[name] in FLOAT_KERNELS]
    missing = [site for site in sites if not origins[site]]
    if len(unclaimed) == len(missing):
        origins.update({site: [name] for site, name in zip(missing, unclaimed, strict=True)})
    median = {name: float(np.median(values)) for name, values in times.items()}
    return {site: sum(median[name] for name in names) for site, names in origins.items() if names}


_Event = tuple[str, str, float]
"""Node name, operation, microseconds of one execution."""


def _profile(
    path: Path,
    specs: Signature,
    target: Target,
    inputs: Mapping[str, np.ndarray],
    dims: Mapping[str, int] | None,
    calls: int,
) -> list[_Event]:
    with tempfile.TemporaryDirectory(prefix="gossamer-profile-") as folder:
        executable = OnnxRuntimeExecutable(path, specs, target, dims=dims, profile_prefix=Path(folder) / "profile")
        try:
            for _ in range(calls):
                executable.run(inputs)
            return read_profile(executable.end_profile())
        finally:
            executable.close()


def executed_kernels(events: Sequence[_Event]) -> dict[str, str]:
    """Node name -> operation type as executed, in the order of execution.

    Names are the runtime's, with what its rewrites put around them. Nodes folded away or fused into another do not
    occur. Where the runtime gave several nodes one name (its own reorders and transposes), the first one counts.
    """
    kernels: dict[str, str] = {}
    for name, kernel, _ in events:
        kernels.setdefault(name, kernel)
    return kernels


def read_profile(profile: Path) -> list[_Event]:
    """Executions of nodes from the runtime's profile file.

    Raises:
        ArtifactError: the file is not a profile, or holds no executed node.
    """
    doing = f"reading the profile {profile}"
    events: list[_Event] = []
    try:
        for event in json.loads(profile.read_bytes()):
            name = event.get("name", "")
            if event.get("cat") == "Node" and name.endswith(_KERNEL_EVENT):
                events.append((name.removesuffix(_KERNEL_EVENT), event["args"]["op_name"], float(event["dur"])))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        got = f"{type(error).__name__}: {error}"
        raise ArtifactError(doing, got=got, expected="a profile of ONNX Runtime") from error
    if not events:
        raise ArtifactError(doing, got="no executed nodes", expected="kernel times", try_="run the model before")
    return events


def int8_sites(
    kernels: Mapping[str, str],
    name_map: Mapping[str, Sequence[str]],
    sites: Sequence[str],
    int8_kernels: Collection[str],
) -> dict[str, SiteKernel]:
    """For each weighted node of a program: whether it ran an int8 kernel, ran in float, or was not found.

    A kernel belongs to the node whose name is left when the runtime's additions are taken off. Sites without a kernel
    are settled by elimination: if the weighted kernels that belong to no node are at least as many as these sites,
    and all of them are float, then so were the sites.

    Args:
        kernels: node name -> operation, from ``executed_kernels``.
        name_map: program node -> names of its ONNX nodes.
        sites: the weighted nodes of the program.
        int8_kernels: of the target: ``facts.quantizers.int8_kernels``.

    Raises:
        UnknownName: a site that the name map does not have.
    """
    claimed, rest = _claims(kernels, name_map, sites, FLOAT_KERNELS | set(int8_kernels))
    found = {site: [kernels[name] for name in names] for site, names in claimed.items()}
    unclaimed = {kernels[name] for name in rest}
    missing = [site for site in sites if not found[site]]
    if len(rest) >= len(missing) and not unclaimed & set(int8_kernels):
        for site in missing:
            found[site] = [", ".join(sorted(unclaimed))]
    return {site: _verdict(found[site], int8_kernels) for site in sites}


def _claims(
    kernels: Mapping[str, str], name_map: Mapping[str, Sequence[str]], sites: Sequence[str], wanted: Collection[str]
) -> tuple[dict[str, list[str]], list[str]]:
    """Names of the ``wanted`` kernels that belong to each site, and of those that belong to no node of the program."""
    for site in sites:
        if site not in name_map:
            raise UnknownName("reading a profile", got=f"site {site!r}", expected="nodes that were lowered")
    site_of = {name: site for site in sites for name in name_map[site]}
    others = {name for names in name_map.values() for name in names} - site_of.keys()
    found: dict[str, list[str]] = {site: [] for site in sites}
    unclaimed: list[str] = []
    for name, kernel in kernels.items():
        origin = _origin(name, site_of.keys() | others)
        if kernel not in wanted:
            continue
        if origin in site_of:
            found[site_of[origin]].append(name)
        elif origin not in others or name.endswith(_BLOCKED):
            unclaimed.append(name)
    return found, unclaimed


def _origin(name: str, known: Collection[str]) -> str:
    """The name without what rewrites put around it; ``known`` names stay as they are."""
    while name not in known:
        shorter = _SUFFIX.sub("", name.removeprefix("fused "))
        if shorter == name:
            break
        name = shorter
    return name


def _verdict(kernels: Sequence[str], int8_kernels: Collection[str]) -> SiteKernel:
    if not kernels:
        return SiteKernel("not found")
    integer = [kernel for kernel in kernels if kernel in int8_kernels]
    return SiteKernel("int8", integer[0]) if integer else SiteKernel("float", kernels[0])
