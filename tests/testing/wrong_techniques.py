"""Techniques that are wrong in one way each, with the checks of the contract that must reject them.

Run by ``test_contracts_reject.py``; nothing here is collected by name.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from gossamer.core.errors import UnsupportedOp
from gossamer.core.names import select
from gossamer.core.target import Target
from gossamer.program import Edit, Program
from gossamer.program.dialect import aten
from gossamer.techniques.base import Technique
from gossamer.testing import TechniqueContract
from gossamer.testing.technique import NETS


@dataclass(frozen=True)
class Coarse(Technique):
    """Round the weights of linear layers to multiples of a step: a technique with nothing wrong.

    Needs no data. Cost: none. Reference: primary school.
    """

    name: ClassVar[str] = "coarse"
    family: ClassVar[str] = "precision"

    step: float = 0.1
    skip: tuple[str, ...] = ()

    def sites(self, program: Program, target: Target) -> tuple[str, ...]:
        linear = (node for node in program.call_nodes if node.target is aten.linear.default)
        return tuple(node.args[1].target for node in linear if node.args[1].op == "get_attr")

    def chosen(self, program: Program, target: Target) -> list[str]:
        sites = self.sites(program, target)
        skipped = select(self.skip, sites, "choosing layers to leave alone")
        chosen = [site for site in sites if site not in skipped]
        if not chosen:
            raise UnsupportedOp("rounding weights", got="no linear layer")
        return chosen

    def apply(self, program: Program, inputs: Mapping[str, np.ndarray], target: Target) -> Program:
        edit = Edit(program)
        for name in self.chosen(program, target):
            edit.tensor(name, self.rounded(program.tensors[name], inputs), program.roles[name])
        return edit.finish(str(self))

    def rounded(self, weight: torch.Tensor, inputs: Mapping[str, np.ndarray]) -> torch.Tensor:
        return torch.round(weight.detach() / self.step) * self.step


class Wrong(TechniqueContract):
    """One net, one ladder, no data."""

    variants = (Coarse(step=0.05, skip=("0.*",)),)
    ladder = (Coarse(step=0.5), Coarse(step=0.1), Coarse(step=0.01))
    nets: ClassVar = {name: NETS[name] for name in ("features", "nothing to change")}
    fits = ("features",)
    needs_data = False
    rejected_by: ClassVar[set[str]] = set()

    def __init_subclass__(cls) -> None:
        """The settings are those of the class's own technique."""
        kind = type(cls.technique)
        if "variants" not in vars(cls):
            cls.variants = tuple(kind(**vars(one)) for one in Wrong.variants)
        if "ladder" not in vars(cls):
            cls.ladder = tuple(kind(**vars(one)) for one in Wrong.ladder)

    def closed_counts(self, before: Program) -> Mapping[str, int]:
        return {"parameters": before.parameter_count}


class TestRight(Wrong):
    technique = Coarse()


class WritesToWeights(Coarse):
    __doc__ = Coarse.__doc__

    def rounded(self, weight, inputs):
        weight.detach().mul_(0.9)
        return super().rounded(weight, inputs)


class TestWritesToWeights(Wrong):
    technique = WritesToWeights()
    rejected_by: ClassVar = {"test_leaves_its_input_alone"}


class WritesToData(Coarse):
    __doc__ = Coarse.__doc__

    def rounded(self, weight, inputs):
        for array in inputs.values():
            np.subtract(array, array.mean(), out=array)
        return super().rounded(weight, inputs)


class TestWritesToData(Wrong):
    technique = WritesToData()
    rejected_by: ClassVar = {"test_leaves_its_input_alone"}


class DoesNothing(Coarse):
    __doc__ = Coarse.__doc__

    def apply(self, program, inputs, target):
        self.chosen(program, target)
        return program


class TestDoesNothing(Wrong):
    technique = DoesNothing()
    rejected_by: ClassVar = {
        "test_changes_something",
        "test_applying_twice_is_no_silent_no_op",
        "test_selectors_are_followed",
        "test_error_falls_along_the_ladder",
    }


class HandsBackWhatItDoesNotFit(Coarse):
    __doc__ = Coarse.__doc__

    def apply(self, program, inputs, target):
        return super().apply(program, inputs, target) if self.sites(program, target) else program


class TestHandsBackWhatItDoesNotFit(Wrong):
    technique = HandsBackWhatItDoesNotFit()
    rejected_by: ClassVar = {"test_refuses_what_it_does_not_fit"}


class IgnoresItsSelector(Coarse):
    __doc__ = Coarse.__doc__

    def chosen(self, program, target):
        return list(dataclasses.replace(self, skip=()).sites(program, target)) or super().chosen(program, target)


class TestIgnoresItsSelector(Wrong):
    technique = IgnoresItsSelector()
    rejected_by: ClassVar = {"test_selectors_that_match_nothing_are_refused", "test_selectors_are_followed"}


class Random(Coarse):
    __doc__ = Coarse.__doc__

    def rounded(self, weight, inputs):
        return super().rounded(weight + 0.5 * self.step * torch.rand_like(weight), inputs)


class TestRandom(Wrong):
    technique = Random()
    rejected_by: ClassVar = {"test_same_input_same_bytes", "test_data_are_needed_or_not_read"}


class ReadsData(Coarse):
    __doc__ = Coarse.__doc__

    def rounded(self, weight, inputs):
        share = 1 + 0.1 * sum(float(np.abs(array).mean()) for array in inputs.values())
        return share * super().rounded(weight, inputs)


class TestReadsData(Wrong):
    technique = ReadsData()
    rejected_by: ClassVar = {"test_data_are_needed_or_not_read"}


class TestClaimsToNeedData(Wrong):
    technique = Coarse()
    needs_data = True
    rejected_by: ClassVar = {"test_data_are_needed_or_not_read"}


class LosesAnOptionInItsText(Coarse):
    __doc__ = Coarse.__doc__

    def __str__(self) -> str:
        return str(dataclasses.replace(self, skip=())) if self.skip else super().__str__()


class TestLosesAnOptionInItsText(Wrong):
    technique = LosesAnOptionInItsText()
    rejected_by: ClassVar = {"test_text_reads_back"}


class TestHasAnOptionThatNothingSets(Wrong):
    technique = Coarse()
    variants = ()
    rejected_by: ClassVar = {"test_every_option_is_set_once"}


class SaysNothing(Coarse):
    """Round the weights."""


class TestSaysNothing(Wrong):
    technique = SaysNothing()
    rejected_by: ClassVar = {"test_is_documented"}


class TestClaimsNothing(TechniqueContract):
    technique = Coarse()
    variants = (Coarse(step=0.05, skip=("0.*",)),)
    nets = Wrong.nets
    fits = ("features",)
    needs_data = False
    rejected_by: ClassVar = {"test_declares_something_to_measure"}


class TestFitsNothing(Wrong):
    technique = Coarse()
    fits = ()
    rejected_by: ClassVar = {"test_declares_something_to_measure", "test_refuses_what_it_does_not_fit"}


class TestClaimsToBeExact(Wrong):
    technique = Coarse()
    exact = True
    rejected_by: ClassVar = {"test_exact_settings_keep_the_outputs"}


class TestHasNoTrivialSetting(Wrong):
    technique = Coarse()
    trivial = Coarse(step=0.3)
    rejected_by: ClassVar = {"test_exact_settings_keep_the_outputs"}


class TestHasItsKnobTheWrongWayRound(Wrong):
    technique = Coarse()
    ladder = (Coarse(step=0.01), Coarse(step=0.1))
    rejected_by: ClassVar = {"test_error_falls_along_the_ladder"}


class KeepsTwoCopies(Coarse):
    __doc__ = Coarse.__doc__

    def apply(self, program, inputs, target):
        changed = super().apply(program, inputs, target)
        edit = Edit(changed)
        linear = next(edit.node(node) for node in changed.call_nodes if node.target is aten.linear.default)
        more = edit.tensor("more", torch.zeros(linear.meta["value"].shape[-1]), "parameter")
        edit.replace(linear, edit.after(linear, "plus", aten.add.Tensor, (linear, more), linear.meta["value"]))
        return edit.finish(str(self))


class TestKeepsTwoCopies(Wrong):
    technique = KeepsTwoCopies()
    rejected_by: ClassVar = {"test_counts_follow_the_formula"}


class StopsGradients(Coarse):
    __doc__ = Coarse.__doc__

    def apply(self, program, inputs, target):
        edit = Edit(program)
        for name in self.chosen(program, target):
            (weight,) = (node for node in edit.graph.nodes if node.target == name)
            ten = edit.tensor(f"{name}.steps", torch.tensor(1 / self.step), "constant")
            value = weight.meta["value"]
            linear = next(iter(weight.users))
            many = edit.before(linear, "many", aten.mul.Tensor, (weight, ten), value)
            whole = edit.before(linear, "whole", aten.round.default, (many,), value)
            linear.args = (
                linear.args[0],
                edit.before(linear, "few", aten.div.Tensor, (whole, ten), value),
                *linear.args[2:],
            )
        return edit.finish(str(self))


class TestStopsGradients(Wrong):
    technique = StopsGradients()
    rejected_by: ClassVar = {"test_result_can_be_trained"}


class UsesWhatTheTargetHasNot(Coarse):
    __doc__ = Coarse.__doc__

    def apply(self, program, inputs, target):
        changed = super().apply(program, inputs, target)
        edit = Edit(changed)
        linear = next(edit.node(node) for node in changed.call_nodes if node.target is aten.linear.default)
        value = linear.meta["value"]
        half = dataclasses.replace(value, dtype="bfloat16")
        narrow = edit.after(linear, "narrow", aten.to.dtype, (linear, torch.bfloat16), half)
        rest = edit.after(narrow, "tanh_of_it", aten.tanh.default, (narrow,), half)
        edit.replace(
            linear,
            edit.after(rest, "wide", aten.to.dtype, (rest, torch.float32), value),
            [*set(linear.users) - {narrow}],
        )
        return edit.finish(str(self))


class TestUsesWhatTheTargetHasNot(Wrong):
    technique = UsesWhatTheTargetHasNot()
    rejected_by: ClassVar = {"test_lowered_result_agrees_with_the_interpreter"}


class NamesAllSitesAlike(Coarse):
    __doc__ = Coarse.__doc__

    def sites(self, program, target):
        return tuple("linear" for _ in super().sites(program, target))

    def chosen(self, program, target):
        return [site for site in Coarse.sites(self, program, target) if not self.skip] or super().chosen(
            program, target
        )


class TestNamesAllSitesAlike(Wrong):
    technique = NamesAllSitesAlike()
    variants = (NamesAllSitesAlike(step=0.2),)
    rejected_by: ClassVar = {
        "test_sites_have_names_of_their_own",
        "test_every_option_is_set_once",
        "test_selectors_are_followed",
    }


class LosesTensors(Coarse):
    __doc__ = Coarse.__doc__

    def apply(self, program, inputs, target):
        changed = super().apply(program, inputs, target)
        return dataclasses.replace(changed, provenance=())


class TestForgetsTheHistory(Wrong):
    technique = LosesTensors()
    rejected_by: ClassVar = {"test_changes_something"}
