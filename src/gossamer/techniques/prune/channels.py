"""Structured pruning of everything that has a width."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal, final

import numpy as np
from torch import Tensor

from gossamer.analysis.coupling import Coupling, Group, couple
from gossamer.analysis.masked import masked_operations
from gossamer.analysis.proof import Proof, proven
from gossamer.analysis.statistics import sizes_on
from gossamer.analysis.widths import Widths
from gossamer.core.errors import DataError, OptionError, UnsupportedOp
from gossamer.core.names import require_known, select
from gossamer.core.target import Target
from gossamer.numerics import allocation, saliency
from gossamer.numerics.allocation import Cost, Path
from gossamer.program.program import Program
from gossamer.techniques.base import Technique, check_globs
from gossamer.techniques.prune.repair import Repair, repair
from gossamer.techniques.prune.scores import COMPARABLE, LOSSES, SCORES, score_groups

ALLOCATIONS = ("uniform", "global", "power_law", "energy", "knapsack")
"""Ways to divide a budget among groups."""

_KINDS = frozenset({"channels", "hidden", "embedding", "groups", "heads", "kv_heads", "heads_per_kv"})
_HEAD_DIM = frozenset({"head_dim", "value_dim"})
_BLOCKED = frozenset({"channels", "hidden", "embedding"})
"""Kinds whose widths are rounded; heads and groups go one by one."""

_NO_DATA = frozenset({"random", "l1", "l2", "bn_scale"})


@final
@dataclass(frozen=True)
class Prune(Technique):
    """Remove the channels, heads and hidden units that matter least, and fit what is left to the original's outputs.

    Every group of dimensions that must change together is found and each cut proven: masked and sliced program agree
    in float64; groups whose proof fails stay whole. Units are ranked by ``score``, so that a smaller budget keeps a
    subset; ``allocation`` says how much goes where. Then, layer by layer in the order of execution, least squares fit
    the weights that read what was cut to the outputs of the original program, on four of five samples; a fit that does
    not help on the fifth is not taken.

    Needs calibration inputs, a few hundred, no labels: ``taylor`` and ``fisher`` take the gradient of a random
    projection of the outputs, or with ``loss=predictions`` of the cross entropy against the model's own predictions.
    Cost: a forward and backward pass for the score, two forward passes for the fits, O(inputs^3) for each layer: a
    minute for a ResNet-56 and 512 images. No training.

    Attributes:
        score: random, l1, l2, bn_scale, taylor, fisher, hrank, spectral or removal_cost. Groups for which it is not
            defined stay whole.
        macs: share of multiply-accumulates to keep, above 0 and below 1; 0 where another budget is given.
        params: the same of trained values.
        keep: the same of the units of every group, whatever that saves.
        allocation: for ``macs`` and ``params``: "uniform" shares; "global" ranks all units together; "power_law"
            n^p weights of n; "energy" the same share of scores; "knapsack" the least score lost for the cost saved.
        p: exponent of the power law.
        compensate: fit the weights that are left.
        reestimate: give batch norms that stand behind no fitted layer the statistics of the calibration data.
        only: globs of groups to cut; all if empty.
        skip: globs of groups to leave whole.
        head_dim: cut the dimensions inside attention heads too.
        round_to: widths become multiples of this; 0 takes the target's blocking, at most a quarter of a group.
        loss: of ``taylor`` and ``fisher``: "outputs" or "predictions".
        seed: of random scores and projections.

    Reference: Molchanov et al., Importance Estimation for Neural Network Pruning, 2019; He et al., Channel Pruning for
    Accelerating Very Deep Neural Networks, 2017.
    """

    name: ClassVar[str] = "prune"
    family: ClassVar[Literal["resize"]] = "resize"

    score: str = "fisher"
    macs: float = 0.0
    params: float = 0.0
    keep: float = 0.0
    allocation: str = "knapsack"
    p: float = 0.1
    compensate: bool = True
    reestimate: bool = True
    only: tuple[str, ...] = ()
    skip: tuple[str, ...] = ()
    head_dim: bool = False
    round_to: int = 0
    loss: str = "outputs"
    seed: int = 0

    def __post_init__(self) -> None:
        doing = "checking the options of prune"
        for option, known in (("score", SCORES), ("allocation", ALLOCATIONS), ("loss", LOSSES)):
            require_known(getattr(self, option), known, option, doing)
        check_globs("prune", "only", self.only)
        check_globs("prune", "skip", self.skip)
        budgets = {name: getattr(self, name) for name in ("macs", "params", "keep") if getattr(self, name) != 0}
        if len(budgets) != 1 or not all(0 < share <= 1 for share in budgets.values()):
            got = ", ".join(f"{name}={share}" for name, share in budgets.items()) or "no budget"
            raise OptionError(doing, got=got, expected="one of macs, params and keep, a share above 0 and below 1")
        if self.round_to < 0:
            raise OptionError(doing, got=f"round_to={self.round_to}", expected="0 or more")
        if not 0 <= self.p <= 1:
            raise OptionError(doing, got=f"p={self.p}", expected="0 to 1")
        self._require_read("p", read=self.allocation == "power_law", by="allocation=power_law")
        self._require_read("allocation", read=not self.keep, by="macs and params")
        self._require_read("loss", read=self.score in ("taylor", "fisher"), by="score=taylor and score=fisher")

    def _require_read(self, option: str, *, read: bool, by: str) -> None:
        default = next(field.default for field in fields(self) if field.name == option)
        if not read and getattr(self, option) != default:
            got = f"{option}={getattr(self, option)}, which nothing reads"
            raise OptionError("checking the options of prune", got=got, expected=f"{option} only with {by}")

    def sites(self, program: Program, target: Target) -> tuple[str, ...]:
        """Groups that can be cut."""
        return tuple(group.name for group in self._cuttable(couple(program)))

    def apply(self, program: Program, inputs: Mapping[str, np.ndarray], target: Target) -> Program:
        """The pruned program; see the class.

        Raises:
            DataError: no samples where some are needed.
            UnsupportedOp: nothing that can be cut, or the score is defined for none of it.
            OptionError: the budget asks for no cut, or for more than can be cut.
            UnknownName: a glob of ``only`` or ``skip`` matches no group.
        """
        return self.prune(program, inputs, target).program

    def prune(self, program: Program, inputs: Mapping[str, np.ndarray], target: Target) -> Pruning:
        """The pruned program with all that led to it; raises as ``apply``."""
        doing = f"pruning {program.name}"
        if not (inputs and len(next(iter(inputs.values())))) and self._needs_data:
            raise DataError(doing, got="no samples", expected="a few hundred")
        coupling, proof = proven(program)
        names = self._selected(coupling, doing)
        scores = score_groups(self.score, coupling, names, inputs, loss=self.loss, seed=self.seed)
        if not scores:
            got = f"{len(names)} groups for which the score {self.score} is not defined"
            raise UnsupportedOp(doing, got=got, expected="at least one", try_="fisher, which is defined for most")
        widths = Widths(coupling, sizes_on(program, inputs))
        counts = self._counts(coupling, scores, widths, target)
        keep = {name: saliency.keep_indices(scores[name], count) for name, count in counts.items()}
        keep = {name: kept for name, kept in keep.items() if len(kept) < coupling.group(name).size}
        if not keep:
            raise OptionError(doing, got=f"nothing to cut at {self}", expected="a budget that some widths exceed")
        whole, left = widths.macs({}), widths.macs(counts)
        cut = coupling.cut(keep, f"{self}: {len(keep)} of {len(names)} groups, {left / whole:.1%} of the MACs")
        repaired = None
        if self.compensate or self.reestimate:
            by_leaf = coupling.keep_by_leaf(keep)
            readers = {node.name for node in masked_operations(coupling.trace, by_leaf, sizes_on(program, inputs))}
            steps = {"compensate": self.compensate, "reestimate": self.reestimate}
            repaired = repair(program, cut, coupling.survivors(by_leaf), inputs, readers=readers, **steps)
        return Pruning(repaired.program if repaired else cut, coupling, proof, scores, keep, (whole, left), repaired)

    @property
    def _needs_data(self) -> bool:
        return self.compensate or self.reestimate or self.score not in _NO_DATA

    def _cuttable(self, coupling: Coupling) -> list[Group]:
        kinds = _KINDS | _HEAD_DIM if self.head_dim else _KINDS
        return [group for group in coupling.free if group.kind in kinds]

    def _selected(self, coupling: Coupling, doing: str) -> list[str]:
        names = [group.name for group in self._cuttable(coupling)]
        if not names:
            frozen = [f"{group.name}: {group.frozen}" for group in coupling.groups if group.frozen][:3]
            raise UnsupportedOp(doing, got="no group that can be cut", expected="one", try_="; ".join(frozen))
        chosen = set(select(self.only, names, doing)) if self.only else set(names)
        left = [name for name in names if name in chosen - set(select(self.skip, names, doing))]
        if not left:
            raise UnsupportedOp(doing, got="every group excluded", expected="at least one left")
        return left

    def _counts(
        self, coupling: Coupling, scores: Mapping[str, Tensor], widths: Widths, target: Target
    ) -> dict[str, int]:
        """Units to keep by group."""
        groups = {name: coupling.group(name) for name in scores}
        multiples = {name: self._multiple(group, target) for name, group in groups.items()}
        if self.keep:
            sizes = {name: (group.size, multiples[name]) for name, group in groups.items()}
            return {name: allocation.align(max(1, round(self.keep * n)), step, n) for name, (n, step) in sizes.items()}
        cost = widths.macs if self.macs else widths.parameters
        path = self._path(groups, coupling.program, scores, cost, multiples)
        return allocation.allocate(path, cost, self.macs or self.params, multiples)

    def _multiple(self, group: Group, target: Target) -> int:
        """What the width of a group is rounded to: narrow groups keep four widths to choose from."""
        if self.round_to or group.kind not in _BLOCKED:
            return self.round_to if group.kind in _BLOCKED else 1
        block = target.facts.blocking.get("channels" if group.kind == "channels" else "linear", 1)
        return max(1, min(block, group.size // 4))

    def _path(
        self,
        groups: Mapping[str, Group],
        program: Program,
        scores: Mapping[str, Tensor],
        cost: Cost,
        multiples: Mapping[str, int],
    ) -> Path:
        sizes = {name: group.size for name, group in groups.items()}
        if self.score not in COMPARABLE:
            scores = {name: saliency.relative(each) for name, each in scores.items()}
        match self.allocation:
            case "uniform":
                return allocation.uniform(sizes)
            case "global":
                return allocation.global_rank(scores)
            case "energy":
                return allocation.energy(scores)
            case "power_law":
                weights = {name: _weights(program, group) for name, group in groups.items()}
                return allocation.power_law(sizes, weights, self.p)
            case _:
                return allocation.knapsack(scores, cost, multiples)


def _weights(program: Program, group: Group) -> int:
    """Values that the producers of a group hold."""
    names = {member.tensor for member in group.members if member.role == "producer"}
    return max(1, sum(program.tensors[name].numel() for name in names))


@dataclass(frozen=True, eq=False)
class Pruning:
    """A pruned program and how it came about.

    Attributes:
        program: it.
        coupling: the groups of the program before.
        proof: of their cuts.
        scores: of the units of each group that was looked at.
        keep: units kept, ascending, by group that was cut.
        macs: multiply-accumulates before and after, for one sample or the smallest batch.
        repair: what was fitted; ``None`` if nothing was to be.
    """

    program: Program
    coupling: Coupling
    proof: Proof
    scores: Mapping[str, Tensor]
    keep: Mapping[str, list[int]]
    macs: tuple[int, int]
    repair: Repair | None

    def to_json(self) -> dict[str, Any]:
        """Plain JSON value: widths, scores and reasons by group, counts, fits, proof."""
        groups = [
            {
                "name": group.name,
                "kind": group.kind,
                "size": group.size,
                "kept": len(self.keep.get(group.name, range(group.size))),
                "scores": self.scores[group.name].tolist() if group.name in self.scores else [],
                "frozen": group.frozen,
                "renormalising": group.renormalising,
            }
            for group in self.coupling.groups
        ]
        return {
            "groups": groups,
            "unknown": list(self.coupling.unknown),
            "macs_before": self.macs[0],
            "macs_after": self.macs[1],
            "repair": self.repair.to_json() if self.repair else None,
            "proof": self.proof.to_json(),
        }
