"""The original, lowered for the target: the number to beat, and proof that lowering alone changed nothing."""

from __future__ import annotations

from gossamer.core.errors import ArtifactError, InternalError
from gossamer.search.evaluation import check_parity, diagnose_candidate
from gossamer.search.task import Candidate, Task, lower_candidate
from gossamer.verification.parity import Parity
from gossamer.verification.policies import FP32


def build_baseline(task: Task) -> tuple[Candidate, Parity]:
    """Lower the original in float and compare it with the reference interpreter.

    Raises:
        InternalError: the lowered file does not compute what the program says.
    """
    task.progress.stage("baseline")
    candidate = lower_candidate(task, "fp32", task.program)
    try:
        parity = check_parity(task, candidate, FP32)
    except ArtifactError as error:  # nothing of the user's: the runtime refuses the file that was just written
        raise InternalError(
            f"lowering {task.program.name} in float", got=str(error), expected="a file that the runtime loads"
        ) from error
    if parity.verdict == "rejected":
        diagnosis = diagnose_candidate(task, candidate, parity)
        raise InternalError(
            f"lowering {task.program.name} in float", got=f"{parity}\n{diagnosis}", expected="parity with the program"
        )
    return candidate, parity
