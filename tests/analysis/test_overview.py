"""What can be cut, at a glance: shares, reasons, blocks and the proof beside them."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from gossamer import flow
from gossamer.analysis.counts import count
from gossamer.analysis.coupling import couple
from gossamer.analysis.overview import analyze_program, free_share, weights_of
from gossamer.program import Program


class Chain(nn.Module):
    """Two linear layers whose inner width is the one group that can be cut."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 6)
        self.second = nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(torch.relu(self.first(x)))


@pytest.fixture(scope="module")
def chain() -> Program:
    return flow.capture(Chain(), torch.randn(2, 4))


def test_shares_are_what_is_there_only_through_a_group(chain: Program):
    found = analyze_program(chain)
    assert found.macs == 4 * 6 + 6 * 3
    assert found.parameters == 24 + 6 + 18 + 3
    assert found.shares["first"] == (1.0, pytest.approx((24 + 6 + 18) / 51))
    assert found.shares["second"] == (pytest.approx(18 / 42), pytest.approx((18 + 3) / 51))


def test_the_inner_width_frees_both_weights_and_the_output_none(chain: Program):
    assert weights_of(chain) == ["first.weight", "second.weight"]
    assert free_share(couple(chain)) == 1.0
    frozen = couple(chain).freeze({"first": "for this test"})
    assert free_share(frozen) == 0.0


def test_the_shares_of_a_free_group_are_those_of_cutting_it(digit_program: Program):
    """Half of a group away is half of its share away: each convolution is linear in each of its widths."""
    found = analyze_program(digit_program)
    group = found.coupling.group("blocks1.0.conv1")
    cut = found.coupling.cut({group.name: range(group.size // 2)})
    left = 1 - found.shares[group.name][0] / 2
    assert count(cut).total == pytest.approx(left * found.macs)


def test_it_prints_every_group_with_why_it_is_frozen(digit_program: Program):
    found = analyze_program(digit_program)
    lines = str(found).splitlines()
    assert len(lines) >= 1 + len(found.coupling.groups)
    assert "deviation" not in lines[0]
    (head,) = [line for line in lines if line.startswith("head ")]
    assert "frozen: output" in head
    assert "6 of 7 groups can be cut; 100.0% of the weights" in str(found)
    assert "blocks1.0, blocks1.1, blocks2.0, blocks2.1" in str(found)


def test_a_layer_norm_is_marked(reader_program: Program):
    assert "renormalising" in str(analyze_program(reader_program))


def test_with_proofs_every_free_group_has_its_deviation(digit_program: Program):
    found = analyze_program(digit_program, prove=True)
    assert "deviation" in found.columns
    place = found.columns.index("deviation")
    told = {row[0]: row[place] for row in found.rows()}
    assert all(float(told[group.name]) <= 1e-10 for group in found.coupling.free)
    assert told["head"] == ""
    assert "largest deviation in float64" in str(found)


def test_as_json(digit_program: Program):
    value = json.loads(json.dumps(flow.analyze(digit_program, prove=True).to_json()))
    assert value["digest"] == digit_program.digest
    (stem,) = [group for group in value["groups"] if group["name"] == "stem.0"]
    members = {(member["tensor"], member["axis"], member["role"]) for member in stem["members"]}
    assert ("stem.0.weight", 0, "producer") in members
    assert ("blocks1.0.conv1.weight", 1, "consumer") in members
    assert stem["frozen"] == ""
    assert value["proof"]["refuted"] == {}
    assert value["blocks"][0]["name"] == "blocks1.0"
