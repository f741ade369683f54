"""Closed-form counts at other widths equal those of the program that is cut to them."""

from __future__ import annotations

import random

import pytest

from gossamer.analysis.counts import count
from gossamer.analysis.coupling import couple
from gossamer.analysis.widths import Widths
from gossamer.core.errors import UserError
from gossamer.testing.models import MODELS

FREE = {name: model for name, model in MODELS.items() if model.refused is None}


@pytest.mark.parametrize("name", FREE)
def test_closed_forms_are_those_of_the_cut(name: str):
    try:
        program = FREE[name].program
    except UserError:
        pytest.skip("not captured")
    coupling = couple(program)
    widths = Widths(coupling)
    assert (widths.macs({}), widths.parameters({})) == (count(program).total, program.parameter_count)
    choice = random.Random(name)
    for _ in range(2):
        counts = {group.name: choice.randint(1, group.size) for group in coupling.free}
        keep = {group: range(kept) for group, kept in counts.items() if kept < coupling.group(group).size}
        if keep:
            cut = coupling.cut(keep)
            assert (widths.macs(counts), widths.parameters(counts)) == (count(cut).total, cut.parameter_count)


def test_named_dims_have_the_sizes_asked_for():
    program = FREE["conv 1d, any length"].program
    sizes = {"batch": 3, "length": 40}
    assert Widths(couple(program), sizes).macs({}) == count(program, sizes).total
