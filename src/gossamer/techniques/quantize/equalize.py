"""Cross-layer equalisation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, final

import numpy as np
import torch

from gossamer.core.errors import OptionError, UnsupportedOp
from gossamer.core.target import Target
from gossamer.program.fold import fold_batch_norms
from gossamer.program.program import Program
from gossamer.techniques.base import Technique
from gossamer.techniques.quantize.scaling import ChannelScaling, Group, require_groups, scaling_groups

_SETTLED = 1e-3
"""A sweep that changes no range by more than this share is the last one."""


@final
@dataclass(frozen=True)
class Equalize(Technique):
    """Equalise the weight ranges of channels across layers, so that none is coarse for another's sake.

    Channel i that a layer yields is divided by s_i = sqrt(r_i / q_i), and what the next layers read of it multiplied:
    both then have the range sqrt(r_i q_i), where r_i is the largest weight that makes it and q_i the largest that reads
    it. Exact in float. Between layers with nothing but ReLU, pooling and moves of values in between; a residual sum,
    ReLU6 or another reader blocks. Batch norms are folded first.

    Needs no data. Cost: milliseconds. No gradients.

    Attributes:
        sweeps: passes over all layers at most; each layer stands in two groups, so that one pass does not settle all.

    Reference: Nagel et al., Data-Free Quantization Through Weight Equalization and Bias Correction, 2019, section 4.1.
    """

    name: ClassVar[str] = "equalize"
    family: ClassVar[Literal["rewrite"]] = "rewrite"

    sweeps: int = 20

    def __post_init__(self) -> None:
        if self.sweeps < 1:
            raise OptionError("checking the options of equalize", got=f"sweeps={self.sweeps}", expected="at least 1")

    def sites(self, program: Program, target: Target) -> tuple[str, ...]:
        """Layers whose output channels can be scaled."""
        groups, _ = scaling_groups(fold_batch_norms(program), layers_only=True)
        return tuple(group.name for group in groups)

    def apply(self, program: Program, inputs: Mapping[str, np.ndarray], target: Target) -> Program:
        """The equalised program; see the class.

        Raises:
            UnsupportedOp: no two layers to equalise, or their ranges are equal already.
        """
        folded = fold_batch_norms(program)
        groups, blocked = scaling_groups(folded, layers_only=True)
        doing = f"equalising {program.name}"
        require_groups(doing, groups, blocked)
        scaling = ChannelScaling(folded)
        for sweep in range(self.sweeps):
            moved = max(_equalize(scaling, group) for group in groups)
            if moved < _SETTLED:
                if not sweep:
                    raise UnsupportedOp(doing, got="ranges that are equal already", expected="different ones")
                break
        return scaling.finish(str(self))


def _equalize(scaling: ChannelScaling, group: Group) -> float:
    """Equalise one group; the largest share by which a range changed. Channels without weights stay as they are."""
    made, read = scaling.produced_range(group), scaling.read_range(group)
    used = (made > 0) & (read > 0)
    scales = torch.where(used, torch.sqrt(made / torch.where(used, read, 1.0)), 1.0)
    scaling.apply(group, scales)
    return float((scales - 1).abs().max())
