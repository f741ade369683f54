"""Quantized programs beside their files, in networks that amplify rounding; decision 11."""

from __future__ import annotations

from collections.abc import Sequence

from gossamer.core.runnable import Runnable
from gossamer.operators.quantization import quantize_unrounded
from gossamer.program import dialect
from gossamer.program.interpreter import Interpreter
from gossamer.program.program import Program
from gossamer.verification.inputs import Case
from gossamer.verification.parity import Parity, compare_runnables
from gossamer.verification.policies import Policy


def compare_with_program(
    program: Program, candidate: Runnable, cases: Sequence[Case], policy: Policy, weighted_ops: int = 0
) -> Parity:
    """``compare_runnables`` of a file and its program; again under ``beside_rounding`` where that asks for less.

    Args:
        program: the source, run in the interpreter.
        candidate: the file.
        cases: from ``parity_cases``.
        policy: the bounds.
        weighted_ops: convolutions and matrix products in the program.
    """
    reference = Interpreter(program)
    parity = compare_runnables(reference, candidate, cases, policy, weighted_ops)
    if parity.verdict == "rejected" and (coarser := beside_rounding(program, cases, policy)) != policy:
        parity = compare_runnables(reference, candidate, cases, coarser, weighted_ops)
    return parity


def beside_rounding(program: Program, cases: Sequence[Case], policy: Policy) -> Policy:
    """The policy as it is for a program of this sensitivity to rounding; the same for one without quantizers.

    Cost: two runs of the real cases in the interpreter.
    """
    unrounded = {node: quantize_unrounded for node in program.graph.nodes if node.target is dialect.quantize}
    real = [case for case in cases if case.kind == "real"]
    if not unrounded or not real:
        return policy
    moved = compare_runnables(Interpreter(program, unrounded), Interpreter(program), real, policy)
    worst = moved.worst()
    shares = [one.share for one in moved.agreement.values() if one.share is not None]
    return policy if worst is None else policy.beside_rounding(worst.sqnr_db, min(shares, default=1.0))
