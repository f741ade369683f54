"""An artifact checked on this machine: its files, its golden outputs, and the original beside it if that is given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gossamer.artifacts import Artifact
from gossamer.core.errors import ArtifactError, ModelError, OptionError
from gossamer.core.extras import require_extra
from gossamer.core.runnable import Executable
from gossamer.core.specs import Signature
from gossamer.runtimes import resolve_target
from gossamer.verification.inputs import Case
from gossamer.verification.parity import Parity, compare_runnables
from gossamer.verification.policies import BF16, FP32, INT8, Policy
from gossamer.verification.verdict import Verdict, decide

if TYPE_CHECKING:
    from gossamer.search.audit import Audit
    from gossamer.search.claims import ClauseResult

_OPTIONS = frozenset({"weights", "dynamic", "example_inputs", "transform", "metric", "budget"})


def recheck(artifact: Artifact, against: Any, data: Any, options: Mapping[str, Any]) -> Verdict:
    """Re-hash every file and replay the golden inputs; with the original and data, prove the drop again.

    Raises:
        ArtifactError: a file changed, or the artifact holds no golden data.
        OptionError: an option that does not exist, or one of ``against`` and ``data`` without the other.
    """
    unknown = set(options) - _OPTIONS
    if unknown or (against is None) != (data is None) or (options and against is None):
        got = "only one of the original and its data" if not options else f"{', '.join(sorted(unknown or options))}"
        expected = f"--against and --data together; with them one of: {', '.join(sorted(_OPTIONS))}"
        raise OptionError("verifying an artifact", got=got, expected=expected)
    artifact.verify_integrity()
    parity = _replay(artifact)
    if parity.verdict == "rejected":
        verdict = decide(parity)
        return replace(verdict, reasons=(*verdict.reasons, *_first_diverging_node(artifact, parity)))
    if against is None:
        return decide(parity)
    return _against_original(artifact, parity, against, data, options)


def _replay(artifact: Artifact) -> Parity:
    """The deployed file on the golden inputs, against the outputs that the reference interpreter gave when packing."""
    golden = artifact.golden
    if golden is None:
        raise ArtifactError(f"verifying {artifact.folder}", got="no golden data", expected="evidence/golden.npz")
    recorded = _Recorded(artifact, golden.outputs)
    executable = artifact.open()
    try:
        case = Case("golden", "real", golden.inputs)
        return compare_runnables(recorded, executable, [case], _policy(artifact), decisions=())
    finally:
        executable.close()


def _policy(artifact: Artifact) -> Policy:
    """The bounds for its precision; those of a network that amplifies rounding are in its evidence."""
    (entry,) = artifact.manifest.targets.values()
    if entry.precision in ("float32", "bfloat16"):
        return {"float32": FP32, "bfloat16": BF16}[entry.precision]
    parity = (artifact.evidence.get("verdict") or {}).get("parity") or {}
    return replace(INT8, sqnr_db=parity.get("policy", {}).get("sqnr_db", INT8.sqnr_db))


def _first_diverging_node(artifact: Artifact, parity: Parity) -> tuple[str, ...]:
    """Where the file leaves its program on this machine; nothing where torch, which runs programs, is not installed."""
    if find_spec("torch") is None:
        return ()
    from gossamer.program.storage import load_program
    from gossamer.search.diagnosis import diagnose_lowered

    golden = artifact.golden
    assert golden is not None
    (entry,) = artifact.manifest.targets.values()
    cases = [Case("golden", "real", golden.inputs)]
    program, target = load_program(artifact.folder / "program"), resolve_target(entry.target)
    return (
        str(diagnose_lowered(program, target, cases, _policy(artifact), model=artifact.deploy_file(), parity=parity)),
    )


def audit_artifact(artifact: Artifact, data: Any, claim: str, transform: Any = None) -> Audit:
    """What an artifact would answer on other classes of x86 processors.

    Args:
        artifact: with int8 layers.
        data: samples; with labels, where the metric of the artifact needs them.
        claim: how much of the metric saturation may cost.
        transform: for an image folder.
    """
    require_extra("torch", "compress", "auditing an artifact for other processors")
    from gossamer.datasets.sources import read_samples
    from gossamer.metrics import resolve_metric
    from gossamer.program.storage import load_program
    from gossamer.search.audit import Question, audit

    (entry,) = artifact.manifest.targets.values()
    program = load_program(artifact.folder / "program")
    samples = read_samples(data, transform=transform).matched_to(program.signature)
    metric = resolve_metric(artifact.evidence.get("task", {}).get("metric") or "agreement")
    if metric.needs_labels and samples.labels is None:
        metric = resolve_metric("agreement")
    return audit(program, samples, resolve_target(entry.target), question=Question(metric, claim))


class _Recorded:
    """A Runnable that gives recorded outputs."""

    def __init__(self, artifact: Artifact, outputs: Mapping[str, np.ndarray]) -> None:
        self._artifact = artifact
        self._outputs = dict(outputs)

    @property
    def specs(self) -> Any:
        """The artifact's signature."""
        return self._artifact.signature

    @property
    def fingerprint(self) -> str:
        """Where the outputs come from."""
        return f"golden outputs of {self._artifact.digest[:16]}"

    def run(self, inputs: Mapping[str, np.ndarray], taps: Any = ()) -> dict[str, np.ndarray]:
        """The recorded outputs."""
        return self._outputs


def _against_original(
    artifact: Artifact, parity: Parity, against: Any, data: Any, options: Mapping[str, Any]
) -> Verdict:
    """The metric of original and artifact on the same samples, with the budget that the artifact was made for."""
    require_extra("torch", "compress", "verifying against the original model")
    from gossamer.datasets.sources import read_samples
    from gossamer.frontends import read_model
    from gossamer.metrics import resolve_metric
    from gossamer.program.interpreter import Interpreter
    from gossamer.search.claims import METRIC_KINDS, Predictions, decide_metric_clause, flips_of
    from gossamer.search.setup import example_from, read_budget
    from gossamer.search.task import predict

    task = artifact.evidence.get("task", {})
    metric = resolve_metric(options.get("metric") or task.get("metric") or "agreement")
    budget = read_budget(options.get("budget") or task.get("budget") or "", metric)
    samples = read_samples(data, transform=options.get("transform"))
    example = options.get("example_inputs")
    program = read_model(
        against,
        weights=options.get("weights"),
        example=example if example is not None else example_from(samples),
        dynamic=options.get("dynamic", "batch"),
    )
    _require_same_interface(artifact, program.signature, against)
    samples = samples.matched_to(program.signature)
    executable: Executable = artifact.open()
    try:
        before, after = predict(Interpreter(program), samples), predict(executable, samples)
    finally:
        executable.close()
    labels = samples.require_labels(metric.name) if metric.needs_labels else before
    predictions = Predictions(before, after, labels, samples.labels, samples.digest)
    clauses = [clause for clause in budget.clauses if clause.kind in METRIC_KINDS]
    results = [decide_metric_clause(clause, metric, predictions, seed=0) for clause in clauses]
    flips = flips_of(metric, predictions)
    verdict = decide(parity, [result.certificate for result in results if result.certificate is not None], flips)
    verdict = _with_clauses(verdict, results, metric.name)
    original = task.get("original_program")
    return verdict if original in (None, program.digest) else _of_another_original(verdict)


def _with_clauses(verdict: Verdict, results: Sequence[ClauseResult], metric: str) -> Verdict:
    """The verdict with the clauses that have no certificate (flips); without any clause nothing was proven."""
    if verdict.kind == "rejected":
        return verdict
    if not results:
        reason = f"the budget limits nothing about {metric}, so nothing about it was tested"
        return replace(verdict, kind="undecided", reasons=(reason, *verdict.reasons))
    open_ = [result for result in results if result.certificate is None and result.decision != "holds"]
    if not open_:
        return verdict if verdict.kind == "undecided" else replace(verdict, kind="accepted")
    kind = "rejected" if any(result.decision == "fails" for result in open_) else "undecided"
    return replace(verdict, kind=kind, reasons=(*(f"{r.clause}: {r.found}" for r in open_), *verdict.reasons))


def _of_another_original(verdict: Verdict) -> Verdict:
    """Nothing about the true original was proven, so the verdict is undecided unless it is worse."""
    reason = (
        "this is not the original that the artifact was made from; try: its --weights, and the --dynamic of its capture"
    )
    if verdict.kind == "rejected":
        return replace(verdict, reasons=(*verdict.reasons, reason))
    return replace(verdict, kind="undecided", reasons=(reason, *verdict.reasons))


def _require_same_interface(artifact: Artifact, original: Signature, against: Any) -> None:
    """Raise unless the original takes and returns what the artifact does; sizes may differ where they are free."""
    pairs = ((artifact.signature.inputs, original.inputs), (artifact.signature.outputs, original.outputs))
    for packed, given in pairs:
        if [(spec.name, spec.dtype, len(spec.shape)) for spec in packed] != [
            (spec.name, spec.dtype, len(spec.shape)) for spec in given
        ]:
            raise ModelError(
                f"comparing {artifact.folder} with {against if isinstance(against, str | Path) else 'the original'}",
                got=", ".join(map(str, given)),
                expected=", ".join(map(str, packed)),
                try_="the model that the artifact was made from",
            )
