"""The search over pieces, on planted faults of which it is known what each piece shows."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gossamer.core.digest import canonical_json
from gossamer.verification.attribution import Attribution
from gossamer.verification.bisect import (
    MOST_COMPILATIONS,
    Diagnosis,
    Finding,
    LocalError,
    find_faults,
    find_wide_faults,
    in_order,
)


def atoms(count):
    return [(f"n{index}",) for index in range(count)]


class Planted:
    """A probe of a chain of nodes; a piece is wrong if it holds all nodes of a fault.

    Args:
        faults: the nodes of each.
        fused: only wrong as long as no value inside is an output.
        most: compilations.
        alone: pieces that cannot be run by themselves.
        accumulates: what is wrong is the sum of what the parts do.
    """

    def __init__(self, *faults, fused=False, most=MOST_COMPILATIONS, alone=(), accumulates=False):
        self.faults = [tuple(f"n{index}" for index in fault) for fault in faults]
        self.fused, self.most, self.alone, self.accumulates = fused, most, alone, accumulates
        self.compilations = 0

    @property
    def left(self):
        return self.most - self.compilations

    def local(self, pieces):
        self.compilations += 1
        return [None if piece in self.alone else self.error(piece[-1], piece) for piece in pieces]

    def inside(self, piece):
        self.compilations += 1
        if self.fused:
            return [LocalError(name, "real", "", 0.0) for name in piece]
        wrong = {fault[-1] for fault in self.faults if set(fault) <= set(piece)}
        return [LocalError(name, "real", "wrong" if name in wrong else "", 0.0) for name in piece]

    def adds_up(self, piece):
        self.compilations += 1
        return self.accumulates

    def error(self, node, piece):
        wrong = any(set(fault) <= set(piece) for fault in self.faults)
        return LocalError(node, "real", "relative L2 0.1 > 1e-05" if wrong else "", 0.1 * wrong)


def found(probe, count=20, groups=None):
    parts = atoms(count)
    return find_faults(parts, groups or parts, probe)


def test_both_of_two_faults_are_named_in_order():
    probe = Planted((3,), (11,))
    findings = found(probe)
    assert [(finding.kind, finding.node) for finding in findings] == [("node", "n3"), ("node", "n11")]
    assert probe.compilations <= 6


def test_both_of_a_cancelling_pair_are_named():
    # Right after the second of them the whole is right again; on reference inputs each is wrong.
    assert [finding.node for finding in found(Planted((7,), (8,)))] == ["n7", "n8"]


def test_a_clean_model_has_no_findings():
    assert found(Planted()) == []
    assert find_wide_faults(atoms(20), Planted()) == []


def test_a_fault_between_two_nodes_is_a_group():
    for start in range(18):  # wherever it lies against the windows
        (finding,) = found(Planted((start, start + 1)))
        assert (finding.kind, finding.group) == ("group", (f"n{start}", f"n{start + 1}"))
        assert finding.node == f"n{start + 1}"


def test_a_fused_group_is_named_by_its_result():
    groups = [("n0",), ("n1", "n2", "n3"), *atoms(20)[4:]]
    (finding,) = found(Planted((1, 2, 3), fused=True), groups=groups)
    assert (finding.kind, finding.node, finding.group) == ("group", "n3", ("n1", "n2", "n3"))


def test_a_node_inside_a_fused_group_is_named_alone():
    groups = [("n0",), ("n1", "n2", "n3"), *atoms(20)[4:]]
    (finding,) = found(Planted((2,)), groups=groups)
    assert (finding.kind, finding.node, finding.group) == ("node", "n2", ("n2",))


def test_part_of_a_fused_group_is_enough():
    groups = [("n0",), ("n1", "n2", "n3", "n4"), *atoms(20)[5:]]
    (finding,) = found(Planted((2, 3)), groups=groups)
    assert (finding.kind, finding.node, finding.group) == ("group", "n3", ("n2", "n3"))


@given(start=st.integers(0, 60), length=st.integers(5, 30))
def test_a_wide_fault_is_narrowed_to_its_ends(start, length):
    run = range(start, min(start + length, 64))
    probe = Planted((run[0], run[-1]))
    if len(run) <= 4:
        return
    findings = find_wide_faults(atoms(64), probe)
    assert findings[0].group == tuple(f"n{index}" for index in run)
    assert findings[0].node == f"n{run[-1]}"
    assert (
        probe.compilations <= 2 * 6 + 2 * 6 + 1
    )  # windows at both offsets, then both ends halved, then one look inside


def test_what_cannot_run_alone_is_looked_at_with_its_neighbours():
    (finding,) = found(Planted((5,), alone={("n5",)}))
    assert finding.kind == "group"
    assert "n5" in finding.group
    assert len(finding.group) == 2


def test_errors_that_add_up_are_no_group():
    probe = Planted((4, 5), accumulates=True)
    assert found(probe) == []
    assert find_wide_faults(atoms(20), Planted((4, 12), accumulates=True)) == []


def test_when_the_compilations_are_used_up_the_smallest_piece_so_far_is_named():
    few = Planted((9, 10, 11), most=4)
    assert few.compilations <= 4
    (finding,) = found(few)
    assert {"n9", "n10", "n11"} <= set(finding.group)
    assert few.compilations == 4
    assert found(Planted((3,), most=0)) == []


def test_a_node_is_named_once():
    one = Finding("node", "n1", ("n1",), "real", "wrong", 0.1)
    wide = Finding("group", "n1", ("n0", "n1"), "real", "wrong", 0.1)
    other = Finding("node", "n0", ("n0",), "real", "wrong", 0.1)
    assert in_order([wide, one, other], atoms(3)) == [other, one]


FINDING = Finding(
    "group", "relu", ("conv", "relu"), "real 0-7", "relative L2 0.1 > 1e-05", 0.1,
    "relu(conv)", "stem.1", "net.py:3: x", ("a note",),
)  # fmt: skip


def test_a_diagnosis_fits_on_one_screen():
    many = Diagnosis("group", (FINDING,) * 30, observed=False, compilations=12, policy="fp32")
    text = str(many)
    assert len(text.splitlines()) <= 40
    assert text.startswith("the first diverging nodes, right one by one and wrong together")
    for part in ("relu = relu(conv) with conv (module stem.1, net.py:3: x)", "relative L2 0.1 > 1e-05", "a note"):
        assert part in text
    assert "and 22 more" in text
    assert "with inner values exposed the result changes" in text
    assert "12 compilations, policy fp32" in text
    assert many.first is FINDING


@pytest.mark.parametrize(
    ("diagnosis", "says"),
    [
        (Diagnosis("clean"), "no diverging node was found"),
        (Diagnosis("boundary", boundary="input map: a and b are exchanged"), "input map: a and b are exchanged"),
        (Diagnosis("accumulation", attribution=Attribution(4e-4, {"a": 3e-4, "b": 1e-4})), "a 75%, b 25%"),
    ],
)
def test_the_text_says_what_kind_it_is(diagnosis, says):
    assert says in str(diagnosis)
    assert diagnosis.first is None


def test_a_diagnosis_is_plain_json():
    attribution = Attribution(4e-4, {"a": 3e-4})
    diagnosis = Diagnosis("group", (FINDING,), "", attribution, {"relu": 0.1}, True, 3, "fp32", ("x",))
    value = json.loads(canonical_json(diagnosis.to_json()))
    assert value["findings"][0]["group"] == ["conv", "relu"]
    assert value["attribution"]["explained"] == pytest.approx(0.75)
    assert value["growth"] == {"relu": 0.1}
