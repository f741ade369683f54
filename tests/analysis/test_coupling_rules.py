"""Every row of the rule table on a graph of its own, with the groups written down by hand, and each cut proven."""

from __future__ import annotations

import pytest
from micro_graphs import MICRO

from gossamer.analysis.coupling import Group, couple
from gossamer.analysis.proof import prove
from gossamer.analysis.rules import RULES
from gossamer.program import dialect


def answer(group: Group) -> str:
    return f"{group.size} {group.kind}" + (" renormalising" if group.renormalising else "")


@pytest.mark.parametrize("name", MICRO)
def test_groups_are_those_written_down(name: str):
    micro = MICRO[name]
    coupling = couple(micro.program)
    assert {group.name: answer(group) for group in coupling.free} == dict(micro.free)
    for frozen, reason in micro.frozen.items():
        assert reason in coupling.group(frozen).frozen
    assert coupling.unknown == ()


@pytest.mark.parametrize("name", MICRO)
def test_every_cut_is_proven(name: str):
    coupling = couple(MICRO[name].program)
    proof = prove(coupling)
    assert proof.refuted == {}
    assert [entry.group for entry in proof.entries] == [group.name for group in coupling.free]
    assert proof.deviation <= 1e-10


def test_every_operation_of_the_dialect_has_a_rule():
    """Sizes are followed by the walk itself."""
    sizes = {dialect.aten.sym_size.int, *dialect.SIZE_ARITHMETIC}
    assert set(RULES) == set(dialect.TARGETS.values()) - sizes


@pytest.mark.parametrize(
    ("name", "group", "tensors"),
    [
        ("batch norm", "layers.a", {
            "layers.a.weight/0 producer", "layers.a.bias/0 follower", "layers.n.weight/0 follower",
            "layers.n.bias/0 follower", "layers.n.running_mean/0 follower", "layers.n.running_var/0 follower",
            "layers.b.weight/1 consumer"}),
        ("product with a stored matrix", "linear", {"layers.s.weight/1 producer", "layers.t.weight/0 consumer"}),
        ("embedding and head are one tensor", "layers.t.embed", {
            "layers.t.head.weight/1 producer", "layers.t.head.weight/1 consumer"}),
        ("attention, packed by chunk", "layers.qkv:value_dim", {
            "layers.qkv.weight/0 producer", "layers.qkv.bias/0 follower", "layers.out.weight/1 consumer"}),
        ("grouped conv", "layers.a:groups", {
            "layers.a.weight/0 producer", "layers.a.bias/0 follower", "layers.d.weight/0 producer",
            "layers.d.bias/0 follower", "layers.e.weight/1 consumer"}),
    ],
)  # fmt: skip
def test_members_and_their_roles(name: str, group: str, tensors: set[str]):
    members = couple(MICRO[name].program).group(group).members
    assert {f"{member.tensor}/{member.axis} {member.role}" for member in members} == tensors


def test_members_say_where_a_unit_lies():
    coupling = couple(MICRO["attention, packed by chunk"].program)
    by_tensor = {member.tensor: member for member in coupling.group("layers.qkv:heads").members}
    assert by_tensor["layers.qkv.weight"].index.tolist() == [0] * 4 + [1] * 4 + [0] * 4 + [1] * 4 + [0] * 4 + [1] * 4
    value = coupling.group("layers.qkv:value_dim").members[0].index.tolist()
    assert value == [-1] * 16 + [0, 1, 2, 3] * 2


def test_flattened_channels_are_runs():
    members = couple(MICRO["flatten before linear"].program).group("layers.a").members
    (consumer,) = (member for member in members if member.role == "consumer")
    assert consumer.index.tolist() == [channel for channel in range(8) for _ in range(36)]


def test_an_operation_without_a_rule_freezes_what_it_touches_and_is_listed():
    program = MICRO["unary chain"].program
    rules = {target: rule for target, rule in RULES.items() if target is not dialect.aten.sigmoid.default}
    coupling = couple(program, rules)
    assert coupling.free == ()
    assert coupling.group("layers.a").frozen.startswith("no rule for it at sigmoid")
    assert coupling.unknown == ("sigmoid sigmoid in ''",)
