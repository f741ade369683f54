"""Does a quantized Program give the same answers on other processors, and if not, which repair makes it?

x86 processors without integer dot products add pairs of 8-bit products in 16 bits, with saturation: the same file
answers otherwise there. The audit says so before anyone has such a machine at hand. First a bound from the weights
alone, which proves layers safe without a run; for the others the program is run as such processors compute it
(``gossamer.numerics.saturation``), on real samples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np

from gossamer.core.errors import OptionError, UnsupportedOp
from gossamer.core.names import literal_glob
from gossamer.core.table import format_table
from gossamer.core.target import Target
from gossamer.datasets.samples import Samples
from gossamer.metrics.base import Metric
from gossamer.program.interpreter import Interpreter
from gossamer.program.program import Program
from gossamer.search.claims import ClauseResult, Predictions, decide_metric_clause, drop_text
from gossamer.search.emulation import Emulation, KernelLayer, Tally, kernel_layers
from gossamer.search.evaluation import divergence
from gossamer.search.setup import read_budget
from gossamer.search.task import predict
from gossamer.techniques.quantize.int8 import Calibration, Int8

Status = Literal["proven safe", "audited", "hazard"]
"""``proven safe``: no input can make a difference; ``audited``: something could, and the samples show no harm;
``hazard``: harm was seen, or could not be excluded."""

SAMPLES = 512
"""So many samples can prove a drop below one point where nearly no decision changes."""

X86 = ("avx2", "avx512", "vnni")
"""Classes of processors that are audited unless others are named."""

_ROWS = 5
_MOST = 0.99
"""Share of the squared errors of all layers that the smaller repair takes on."""


@dataclass(frozen=True)
class Question:
    """What is asked of the metric on every class of processors; without it any saturation at all is a hazard.

    Attributes:
        metric: of the task; samples need its labels.
        claim: how much of it saturation may cost, as a clause of a budget.
    """

    metric: Metric
    claim: str = "drop <= 1pt"


@dataclass(frozen=True)
class LayerRisk:
    """A layer that the bound does not prove safe.

    Attributes:
        site: its name.
        arithmetic: how products are summed.
        at_risk: share of its pairs of weights for which some input saturates.
        saturated: share of pairs of products that saturated on the samples.
        affected: share of its outputs that are not exact.
        relative_error: norm of the error of its outputs over that of the exact outputs.
    """

    site: str
    arithmetic: str
    at_risk: float
    saturated: float
    affected: float
    relative_error: float


@dataclass(frozen=True)
class ProfileAudit:
    """One class of processors.

    Attributes:
        profile: its name, see ``gossamer.core.isa.PROFILES``.
        status: what was found.
        confirmed: the runtime whose kernels the emulator equals bit for bit; empty: everything here is simulated.
        layers: those not proven safe, in the order of the network.
        layer_count: all layers that compute on integers.
        divergence: relative distance of the outputs to the exact ones.
        value: the metric, in its unit; ``None`` where none was asked for.
        exact_value: the metric with exact sums.
        claim: the certificate about the drop between these two.
    """

    profile: str
    status: Status
    confirmed: str
    layers: tuple[LayerRisk, ...]
    layer_count: int
    divergence: float = 0.0
    value: float | None = None
    exact_value: float | None = None
    claim: ClauseResult | None = None

    @property
    def saturating(self) -> tuple[str, ...]:
        """Sites whose sums were not exact on the samples."""
        return tuple(layer.site for layer in self.layers if layer.affected)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON value."""
        layers = [asdict(layer) for layer in self.layers]
        claim = self.claim.to_json() if self.claim else None
        return {**vars(self), "layers": layers, "claim": claim, "simulated": not self.confirmed}


@dataclass(frozen=True)
class Audit:
    """What becomes of a quantized program on each class of processors; prints as a table.

    Attributes:
        target: its text.
        program: digest.
        samples: that it was run on; 0 where the bound proved everything.
        data_digest: of these samples.
        profiles: one entry for each class.
    """

    target: str
    program: str
    samples: int
    data_digest: str
    profiles: tuple[ProfileAudit, ...]

    @property
    def hazards(self) -> tuple[str, ...]:
        """Classes of processors on which the program does harm, or might."""
        return tuple(entry.profile for entry in self.profiles if entry.status == "hazard")

    def to_json(self) -> dict[str, Any]:
        """Plain JSON value; ``gossamer.core.isa.hazards_of`` reads it."""
        profiles = [entry.to_json() for entry in self.profiles]
        return {**vars(self), "profiles": profiles, "hazards": list(self.hazards)}

    def __str__(self) -> str:
        rows = [_row(entry) for entry in self.profiles]
        header = ("processors", "status", "layers at risk", "saturated", "outputs off by", "metric", "drop", "")
        lines = [f"{self.target} on other processors, {self.samples} samples", format_table(header, rows)]
        worst = next((entry for entry in self.profiles if entry.saturating), None)
        if worst is not None:
            lines += ["", f"most affected on {worst.profile}", _layer_table(worst.layers)]
        return "\n".join(lines)


def _row(entry: ProfileAudit) -> tuple[str, ...]:
    most = max((layer.saturated for layer in entry.layers), default=0.0)
    certificate = entry.claim.certificate if entry.claim else None
    return (
        entry.profile,
        entry.status,
        f"{len(entry.layers)} of {entry.layer_count}" if entry.layers else "",
        f"up to {most:.1e}" if most else "",
        f"{entry.divergence:.1%}" if entry.divergence else "",
        "" if entry.value is None else f"{entry.value:.2f}",
        drop_text(certificate) if certificate else "",
        "" if entry.confirmed else "simulated",
    )


def _layer_table(layers: Sequence[LayerRisk]) -> str:
    ranked = sorted(layers, key=lambda layer: -layer.relative_error)[:_ROWS]
    rows = [(r.site, f"{r.saturated:.1e}", f"{r.affected:.1%}", f"{r.relative_error:.1%}") for r in ranked]
    return format_table(("layer", "saturated", "outputs", "error"), rows)


def audit(
    program: Program,
    samples: Samples,
    target: Target,
    profiles: Sequence[str] = X86,
    question: Question | None = None,
    count: int = SAMPLES,
) -> Audit:
    """Find out what a quantized program yields on other processors.

    Args:
        program: quantized.
        samples: real ones; a draw of at most ``count`` is used, and none where the bound proves all layers safe.
        target: where it runs.
        profiles: classes of processors, see ``gossamer.core.isa.PROFILES``.
        question: what the metric must hold.
        count: samples at most.

    Raises:
        UnsupportedOp: the program has no layer that computes on integers.
        UnknownName: it is not known how the runtime multiplies on one of these classes.
        DataError: the metric needs labels, and the samples have none.

    Cost: bounds in milliseconds; then two to five passes of the interpreter for each different arithmetic.
    """
    return _audit(program, _draw(samples, program, count), target, profiles, question)


def _audit(
    program: Program,
    samples: Samples,
    target: Target,
    profiles: Sequence[str],
    question: Question | None,
    exact: Mapping[str, np.ndarray] | None = None,
) -> Audit:
    """The audit on all of these samples; ``exact`` are the interpreter's outputs on them, if they are known."""
    layers = {profile: kernel_layers(program, target.runtime, profile) for profile in profiles}
    if not any(layers.values()):
        raise UnsupportedOp(
            f"auditing {program.name} for other processors", got="no layer on integers", expected="a quantized program"
        )
    deviates = any(layer.deviates for found in layers.values() for layer in found)
    if deviates and exact is None:
        exact = predict(Interpreter(program), samples)
    done: dict[tuple[object, ...], ProfileAudit] = {}
    entries = []
    for profile in profiles:
        kinds = tuple((layer.site, layer.kernel) for layer in layers[profile])
        if kinds not in done:
            done[kinds] = _audit_profile(program, samples, layers[profile], exact or {}, question)
        entries.append(replace(done[kinds], profile=profile))
    return Audit(str(target), program.digest, len(samples) if deviates else 0, samples.digest, tuple(entries))


def _draw(samples: Samples, program: Program, count: int) -> Samples:
    return samples.matched_to(program.signature).shuffled(0).take(slice(0, count))


def _audit_profile(
    program: Program,
    samples: Samples,
    layers: Sequence[KernelLayer],
    exact: Mapping[str, np.ndarray],
    question: Question | None,
) -> ProfileAudit:
    emulation = Emulation(program, layers)
    confirmed = {layer.kernel.confirmed for layer in layers}
    source = confirmed.pop() if len(confirmed) == 1 else ""
    if not emulation.tallies:
        return ProfileAudit("", "proven safe", source, (), len(layers))
    outputs = predict(emulation.runnable, samples)
    risks = tuple(_risk(layer, emulation.tallies[layer.site]) for layer in layers if layer.site in emulation.tallies)
    harmful = any(risk.affected for risk in risks)
    entry = ProfileAudit("", "hazard" if harmful else "audited", source, risks, len(layers), divergence(exact, outputs))
    return entry if question is None else _ask(entry, question, samples, exact, outputs)


def _risk(layer: KernelLayer, tally: Tally) -> LayerRisk:
    return LayerRisk(
        layer.site,
        layer.kernel.arithmetic,
        layer.at_risk / layer.pairs,
        tally.saturated / max(1, tally.pairs),
        tally.affected / max(1, tally.outputs),
        (tally.error / max(tally.size, 1e-30)) ** 0.5,
    )


def _ask(
    entry: ProfileAudit,
    question: Question,
    samples: Samples,
    exact: Mapping[str, np.ndarray],
    outputs: Mapping[str, np.ndarray],
) -> ProfileAudit:
    """The entry with the metric; it is a hazard unless the claim is proven."""
    claim = _claim(question, samples, exact, outputs)
    labels = _labels(question, samples, exact)
    return replace(
        entry,
        status="audited" if claim.decision == "holds" else "hazard",
        value=question.metric.value(outputs, labels),
        exact_value=question.metric.value(exact, labels),
        claim=claim,
    )


def _labels(question: Question, samples: Samples, exact: Mapping[str, np.ndarray]) -> Any:
    return samples.require_labels(question.metric.name) if question.metric.needs_labels else exact


def _claim(
    question: Question, samples: Samples, before: Mapping[str, np.ndarray], after: Mapping[str, np.ndarray]
) -> ClauseResult:
    clauses = read_budget(question.claim, question.metric).clauses
    if len(clauses) != 1 or not clauses[0].is_drop:
        raise OptionError(
            "auditing for other processors", got=f"the claim {question.claim!r}", expected="one limit on a drop"
        )
    predictions = Predictions(before, after, _labels(question, samples, before), samples.labels, samples.digest)
    return decide_metric_clause(clauses[0], question.metric, predictions, seed=0)


@dataclass(frozen=True)
class Repair:
    """A quantization that is a hazard on as few classes of processors as was found: ``audit`` says on which, if any.

    Attributes:
        technique: with ``safe_pairs`` set.
        program: it applied.
        audit: of this program.
        cost: what the repair itself costs in the metric, where there was a question; no kernel is slower for it.
    """

    technique: Int8
    program: Program
    audit: Audit
    cost: ClauseResult | None = None


def repair(
    technique: Int8,
    calibration: Calibration,
    found: Audit,
    samples: Samples,
    target: Target,
    question: Question | None = None,
    count: int = SAMPLES,
) -> Repair:
    """Quantize again so that sums saturate on none of the processors audited, as cheaply as possible.

    Weights of the layers at risk get scales at which no two products exceed 16 bits: proven safe, and no kernel is
    slower. Where this costs more of the metric than the question allows, only the few layers that make nearly all of
    the error get them. Seven-bit weights are as safe and lose more; seven-bit inputs can take several times as long in
    ONNX Runtime (``benchmarks/results/cross_cpu.json``).

    Args:
        technique: that the program was quantized with.
        calibration: from ``technique.calibrate``.
        found: audit of that program, with at least one hazard.
        samples: for the audits.
        target: where it runs.
        question: as for ``audit``.
        count: samples at most.

    Raises:
        OptionError: there is no hazard to repair.
        UnsupportedOp: the hazard comes of kernels that halve weights, which no weights mend.
    """
    bad = [entry for entry in found.profiles if entry.status == "hazard"]
    if not bad:
        raise OptionError("repairing for other processors", got="an audit without a hazard", expected="a hazard")
    profiles = [entry.profile for entry in found.profiles]
    risky = _globs(layer.site for entry in bad for layer in entry.layers if layer.at_risk)
    if not risky:
        raise UnsupportedOp(
            "repairing for other processors",
            got="a hazard that comes of halved weights, not of saturation",
            expected="pairs of products that saturate",
            try_="unsigned codes: another placement of the target",
        )
    choices = risky, _globs(_worst(bad))
    rungs = [replace(technique, safe_pairs=tuple(dict.fromkeys((*technique.safe_pairs, *sites)))) for sites in choices]
    drawn = _draw(samples, calibration.program, count)
    before = predict(Interpreter(technique.quantize(calibration)), drawn) if question else {}
    best: Repair | None = None
    for rung in dict.fromkeys(rungs):
        program = rung.quantize(calibration)
        exact = predict(Interpreter(program), drawn) if question else None
        cost = _claim(question, drawn, before, exact) if question and exact else None
        candidate = Repair(rung, program, _audit(program, drawn, target, profiles, question, exact), cost)
        if not candidate.audit.hazards and (cost is None or cost.decision != "fails"):
            return candidate
        if best is None or _rank(candidate) < _rank(best):
            best = candidate
    assert best is not None
    return best


def _worst(entries: Sequence[ProfileAudit]) -> list[str]:
    """The fewest sites whose squared errors make up nearly all of the sum."""
    sites: list[str] = []
    for entry in entries:
        ranked = sorted(entry.layers, key=lambda layer: -layer.relative_error)
        errors = np.cumsum([layer.relative_error**2 for layer in ranked])
        few = int(np.searchsorted(errors, _MOST * errors[-1])) + 1
        sites += [layer.site for layer in ranked[:few] if layer.at_risk]
    return sites


def _rank(candidate: Repair) -> tuple[int, float]:
    """Fewest hazards first, then the least loss."""
    return len(candidate.audit.hazards), candidate.cost.short_by if candidate.cost else 0.0


def _globs(sites: Any) -> tuple[str, ...]:
    return tuple(dict.fromkeys(literal_glob(site) for site in sites))
