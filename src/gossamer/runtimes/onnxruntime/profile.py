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
    with tempfile.TemporaryDirectory(prefix="gossamer-profile-") as folder:
        executable = OnnxRuntimeExecutable(path, specs, target, dims=dims, profile_prefix=Path(folder) / "profile")
        try:
            executable.run(inputs)
            return executed_kernels(executable.end_profile())
        finally:
            executable.close()


def executed_kernels(profile: Path) -> dict[str, str]:
    """Node name -> operation type as executed, in the order of execution, from the runtime's profile file.

    Names are the runtime's, with what its rewrites put around them. Nodes folded away or fused into another do not
    occur. Where the runtime gave several nodes one name (its own reorders and transposes), the first one counts.

    Raises:
        ArtifactError: the file is not a profile, or holds no executed node.
    """
    doing = f"reading the profile {profile}"
    kernels: dict[str, str] = {}
    try:
        for event in json.loads(profile.read_bytes()):
            name = event.get("name", "")
            if event.get("cat") == "Node" and name.endswith(_KERNEL_EVENT):
                kernels.setdefault(name.removesuffix(_KERNEL_EVENT), event["args"]["op_name"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        got = f"{type(error).__name__}: {error}"
        raise ArtifactError(doing, got=got, expected="a profile of ONNX Runtime") from error
    if not kernels:
        raise ArtifactError(doing, got="no executed nodes", expected="kernel times", try_="run the model before")
    return kernels


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
    for site in sites:
        if site not in name_map:
            raise UnknownName("reading a profile", got=f"site {site!r}", expected="nodes that were lowered")
    site_of = {name: site for site in sites for name in name_map[site]}
    others = {name for names in name_map.values() for name in names} - site_of.keys()
    weighted = FLOAT_KERNELS | set(int8_kernels)
    found: dict[str, list[str]] = {site: [] for site in sites}
    unclaimed: list[str] = []
    for name, kernel in kernels.items():
        origin = _origin(name, site_of.keys() | others)
        if kernel not in weighted:
            continue
        if origin in site_of:
            found[site_of[origin]].append(kernel)
        elif origin not in others or name.endswith(_BLOCKED):
            unclaimed.append(kernel)
    missing = [site for site in sites if not found[site]]
    if len(unclaimed) >= len(missing) and not set(unclaimed) & set(int8_kernels):
        for site in missing:
            found[site] = [", ".join(sorted(set(unclaimed)))]
    return {site: _verdict(found[site], int8_kernels) for site in sites}


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
