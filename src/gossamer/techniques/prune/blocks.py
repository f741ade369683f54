"""Depth: whole residual blocks go."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, final

import numpy as np

from gossamer.analysis.counts import count
from gossamer.analysis.depth import Block, drop_block, residual_blocks
from gossamer.analysis.statistics import batches, evenly, sizes_on
from gossamer.core.errors import DataError, OptionError, UnsupportedOp
from gossamer.core.names import select
from gossamer.core.target import Target
from gossamer.program import surgery
from gossamer.program.interpreter import execute
from gossamer.program.program import Program
from gossamer.techniques.base import Technique, check_globs
from gossamer.techniques.prune.repair import repair

_JUDGES = 128
"""Samples on which the harm of dropping a block is measured."""


@final
@dataclass(frozen=True)
class DropBlocks(Technique):
    """Leave out the residual blocks whose loss moves the outputs least, and fit what is left to the original's outputs.

    A block is the body of a residual connection: without it the value passes as it is. One after the other goes the
    one that moves the outputs least; for ``macs``, least for the multiply-accumulates that it saves. Then the layers
    behind are fitted as by ``prune``.

    Needs calibration inputs, a few hundred, no labels. Cost: a forward pass over 128 samples for each block and a few
    for each that goes, then two over all. No training.

    Attributes:
        count: blocks to drop; 0 where ``macs`` is given.
        macs: share of multiply-accumulates to keep at most, above 0 and below 1; 0 where ``count`` is given.
        compensate: fit the layers that are left.
        reestimate: give batch norms that stand behind no fitted layer the statistics of the calibration data.
        skip: globs of blocks that stay.

    Reference: Veit et al., Residual Networks Behave Like Ensembles of Relatively Shallow Networks, 2016.
    """

    name: ClassVar[str] = "drop_blocks"
    family: ClassVar[Literal["resize"]] = "resize"

    count: int = 0
    macs: float = 0.0
    compensate: bool = True
    reestimate: bool = True
    skip: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        doing = "checking the options of drop_blocks"
        check_globs("drop_blocks", "skip", self.skip)
        if (self.count == 0) == (self.macs == 0) or self.count < 0 or not 0 <= self.macs < 1:
            got, expected = (
                f"count={self.count}, macs={self.macs}",
                "a count of at least 1, or macs above 0 and below 1",
            )
            raise OptionError(doing, got=got, expected=expected)

    def sites(self, program: Program, target: Target) -> tuple[str, ...]:
        """Residual blocks."""
        return tuple(block.name for block in residual_blocks(program))

    def apply(self, program: Program, inputs: Mapping[str, np.ndarray], target: Target) -> Program:
        """The shallower program; see the class.

        Raises:
            DataError: no samples.
            UnsupportedOp: no residual block, or not as many as are to go.
            UnknownName: a glob of ``skip`` matches no block.
        """
        doing = f"dropping blocks of {program.name}"
        if not inputs or not len(next(iter(inputs.values()))):
            raise DataError(doing, got="no samples", expected="a few hundred")
        ends = self._ends(program, doing)
        search = _Search(program, evenly(inputs, _JUDGES), per_mac=bool(self.macs))
        while not self._is_small_enough(search):
            block = search.cheapest(ends)
            if block is None:
                expected = f"{self.count} blocks that can go" if self.count else f"{self.macs:.1%} at most"
                got = f"{search.share:.1%} of the MACs behind dropping all {len(search.dropped)} that can go"
                raise UnsupportedOp(doing, got=got, expected=expected)
            search.drop(block, self)
        if not (self.compensate or self.reestimate):
            return search.program
        steps = {"compensate": self.compensate, "reestimate": self.reestimate}
        return repair(program, search.program, {}, inputs, readers=(), **steps).program

    def _ends(self, program: Program, doing: str) -> set[str]:
        """Exits of the blocks that may go: names change when others do."""
        blocks = {block.name: block.exit for block in residual_blocks(program)}
        if not blocks:
            raise UnsupportedOp(doing, got="no residual block", expected="a sum of a value and a function of it")
        staying = set(select(self.skip, list(blocks), doing))
        return {end for name, end in blocks.items() if name not in staying}

    def _is_small_enough(self, search: _Search) -> bool:
        return len(search.dropped) >= self.count if self.count else search.share <= self.macs


class _Search:
    """A program that loses block after block.

    Attributes:
        program: what is left.
        dropped: names of the blocks that went.
    """

    def __init__(self, program: Program, inputs: Mapping[str, np.ndarray], *, per_mac: bool) -> None:
        self.program = program
        self.dropped: list[str] = []
        self._sizes = sizes_on(program, inputs)
        self._whole = self._left = count(program, self._sizes).total
        self._per_mac = per_mac
        self._batches = list(batches(program, inputs))
        self._wanted = self._outputs(program)
        self._prices: dict[str, float] = {}

    @property
    def share(self) -> float:
        """Multiply-accumulates left, as a share."""
        return self._left / self._whole

    def cheapest(self, ends: set[str]) -> Block | None:
        """The block that moves the outputs least, of those that end here.

        Prices of earlier rounds are taken for lower bounds: a block is tried again only when it seems to be the best.
        """
        left = {block.exit: block for block in residual_blocks(self.program) if block.exit in ends}
        fresh: set[str] = set()
        while left:
            best = min(left, key=lambda end: (self._prices.get(end, -1.0), end in fresh))
            if best in fresh:
                return left[best]
            self._prices[best] = self._price(left[best])
            fresh.add(best)
        return None

    def drop(self, block: Block, technique: DropBlocks) -> None:
        """Let a block go, and say who wanted it."""
        self.program = surgery.drop_block(self.program, block.entry, block.exit, f"{technique}: {block.name}")
        self.dropped.append(block.name)
        self._left = count(self.program, self._sizes).total

    def _price(self, block: Block) -> float:
        shallower = drop_block(self.program, block)
        moved = zip(self._wanted, self._outputs(shallower), strict=True)
        harm = sum(float(np.square(now - was).sum() / max(np.square(was).sum(), 1e-30)) for was, now in moved)
        saved = self._left - count(shallower, self._sizes).total
        return harm / saved if self._per_mac else harm

    def _outputs(self, program: Program) -> list[np.ndarray]:
        """All float outputs on all samples."""
        found = [execute(program, batch) for batch in self._batches]
        names = range(len(found[0]))
        return [
            np.concatenate([batch[at].double().numpy().reshape(-1) for batch in found])
            for at in names
            if found[0][at].is_floating_point()
        ]
