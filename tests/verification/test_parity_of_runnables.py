import json
from dataclasses import replace

import numpy as np
import pytest

from gossamer.core.digest import canonical_json
from gossamer.core.errors import DataError, UnknownName
from gossamer.core.specs import Signature, TensorSpec
from gossamer.verification.inputs import Case, parity_cases
from gossamer.verification.parity import compare_runnables
from gossamer.verification.policies import BF16, EXACT, FP32, INT8, resolve_policy

RNG = np.random.default_rng(0)
SIGNATURE = Signature(
    (TensorSpec("a", "float32", ("batch", 6)), TensorSpec("b", "float32", ("batch", 6))),
    (TensorSpec("logits", "float32", ("batch", 5)), TensorSpec("token", "int64", ("batch",))),
    {"batch": (1, None)},
)
CASES = parity_cases(SIGNATURE, {"a": RNG.standard_normal((64, 6)), "b": RNG.standard_normal((64, 6)) + 1})
WEIGHT, BIAS = RNG.standard_normal((12, 5)), 0.3 * RNG.standard_normal(5)


class Fake:
    """A small net with two inputs; faults are planted in the function."""

    specs = SIGNATURE
    fingerprint = "fake"

    def __init__(self, function):
        self.function = function

    def run(self, inputs, taps=()):
        logits = self.function(inputs["a"].astype(np.float64), inputs["b"].astype(np.float64))
        return {"logits": logits.astype(np.float32), "token": np.nan_to_num(logits).argmax(-1)}


class Giving:
    """Scores as a function of the input."""

    specs = Signature((TensorSpec("x", "float32", ("n", 1)),), (TensorSpec("y", "float32", ("n", 2)),))
    fingerprint = "giving"

    def __init__(self, function):
        self.function = function

    def run(self, inputs, taps=()):
        return {"y": self.function(inputs["x"])}


def always(scores):
    return Giving(lambda _: scores)


def net(a, b, weight=WEIGHT, bias=BIAS):
    return np.maximum(np.concatenate([a, b], axis=1), 0) @ weight + bias


def noisy(share):
    def run(a, b):
        out = net(a, b)
        noise = np.random.default_rng(out.size).standard_normal(out.shape)
        return out + share * np.sqrt(np.mean(out**2)) * noise

    return run


def with_nan(a, b):
    out = net(a, b)
    out[-1, 2] = np.nan
    return out


def fixed_batch(a, b):
    if len(a) != 8:
        raise RuntimeError("INVALID_ARGUMENT: batch is 8")
    return net(a, b)


def compare(function, policy=FP32, cases=CASES, **options):
    return compare_runnables(Fake(net), Fake(function), cases, policy, **options)


def test_the_same_net_is_exact():
    found = compare(net, EXACT)
    assert (found.verdict, found.reason, found.repeatable) == ("exact", "", True)
    assert found.agreement["logits"].share == 1.0
    assert found.agreement["logits"].interval[0] < 0.92  # 32 samples never read as 100 %
    assert canonical_json(found.to_json())
    assert str(found).startswith("parity exact under policy exact")


def test_rounding_is_equivalent_and_rejected_under_exact():
    found = compare(noisy(1e-7))
    assert found.verdict == "equivalent"
    rejected = compare(noisy(1e-7), EXACT)
    assert rejected.verdict == "rejected"
    assert rejected.failed_case == CASES[0].name
    assert "not bitwise" in rejected.reason


FAULTS = {
    "inputs swapped": lambda a, b: net(b, a),
    "bias dropped": lambda a, b: net(a, b, bias=0),
    "nan": with_nan,
    "wrong shape": lambda a, b: net(a, b)[:, :4],
    "batch fixed": fixed_batch,
    "weight rows shifted": lambda a, b: net(a, b, weight=np.roll(WEIGHT, 1, axis=0)),
    "activation missing": lambda a, b: np.concatenate([a, b], axis=1) @ WEIGHT + BIAS,
    "normalised twice": lambda a, b: net((a - 0.5) / 2, b),
    "zeros": lambda a, b: 0 * net(a, b),
    "scaled": lambda a, b: 1.2 * net(a, b),
}


@pytest.mark.parametrize("policy", [EXACT, FP32, BF16, INT8], ids=lambda policy: policy.name)
@pytest.mark.parametrize("fault", FAULTS)
def test_planted_faults_are_rejected_with_the_place(fault, policy):
    found = compare(FAULTS[fault], policy)
    assert found.verdict == "rejected"
    assert found.failed_case in {case.name for case in CASES}
    assert found.reason.startswith(found.failed_case) or "decisions agree" in found.reason
    assert canonical_json(found.to_json())


def test_the_reason_names_what_happened():
    assert "NaN or infinite" in compare(with_nan).reason
    assert "shape [8, 4] instead of [8, 5]" in compare(FAULTS["wrong shape"]).reason
    fixed = compare(fixed_batch)
    assert fixed.failed_case == "batch=1"
    assert "the candidate raised RuntimeError" in fixed.reason


def test_policies_let_through_the_noise_they_are_for():
    # Gaussian noise of share s has an SQNR of -20 log10(s) dB: 0.01 is 40 dB, 0.05 is 26 dB, 0.2 is 14 dB.
    logits_only = {"decisions": ()}
    no_tokens = [policy_without_decisions(policy) for policy in (FP32, BF16, INT8)]
    verdicts = {
        share: [compare(noisy(share), policy, **logits_only).verdict for policy in no_tokens]
        for share in (1e-6, 0.005, 0.04, 0.2)
    }
    assert verdicts == {
        1e-6: ["equivalent"] * 3,
        0.005: ["rejected", "equivalent", "equivalent"],
        0.04: ["rejected", "rejected", "equivalent"],
        0.2: ["rejected"] * 3,
    }


def policy_without_decisions(policy):
    return replace(policy, agreement=0.0)


def test_a_changed_decision_rejects_and_a_tie_does_not():
    wanted = np.array([[0.0, 1.0], [0.5, 0.5 + 1e-5], [3.0, 1.0]], np.float32)
    got = np.array([[0.0, 1.0], [0.5 + 1e-5, 0.5], [3.0, 1.0]], np.float32)
    case = Case("real 0-2", "real", {"x": np.zeros((3, 1), np.float32)})
    tie = compare_runnables(always(wanted), always(got), [case], FP32)
    assert (tie.verdict, tie.agreement["y"].ties, tie.agreement["y"].decisions) == ("equivalent", 1, 2)
    loose = replace(BF16, sqnr_db=0.0, scaled_max=None)
    flipped = got[:, ::-1].copy()
    found = compare_runnables(always(wanted), always(flipped), [case], loose)
    assert "0/2 decisions agree" in found.reason or "SQNR" in found.reason
    assert found.verdict == "rejected"
    loose_enough = replace(loose, sqnr_db=-60.0)
    assert "0/2 decisions agree" in compare_runnables(always(wanted), always(flipped), [case], loose_enough).reason
    ignored = compare_runnables(always(wanted), always(flipped), [case], loose_enough, decisions=())
    assert ignored.verdict == "equivalent"


@pytest.mark.parametrize(("changed", "int8", "bf16"), [(2, "equivalent", "rejected"), (8, "rejected", "rejected")])
def test_where_nodes_are_compared_too_only_a_proven_loss_of_agreement_rejects(changed, int8, bf16):
    wanted = np.tile(np.array([[0.0, 1.0]], np.float32), (100, 1))
    got = wanted.copy()
    got[:changed] = got[:changed, ::-1]
    case = Case("real 0-99", "real", {"x": np.zeros((100, 1), np.float32)})
    without_bounds = (replace(policy, sqnr_db=-60.0, scaled_max=None) for policy in (INT8, BF16))
    found = [compare_runnables(always(wanted), always(got), [case], policy).verdict for policy in without_bounds]
    assert found == [int8, bf16]


def test_integer_outputs_are_decisions():
    class Off(Fake):
        def run(self, inputs, taps=()):
            outputs = super().run(inputs)
            outputs["token"] = (outputs["token"] + (np.arange(len(outputs["token"])) == 0)) % 5
            return outputs

    found = compare_runnables(Fake(net), Off(net), CASES, FP32)
    assert (found.verdict, found.failed_output) == ("rejected", "token")
    assert "28/32 decisions agree" in found.reason


def test_a_nearly_zero_reference_is_judged_on_the_scale_of_real_cases():
    def no_bias(a, b):
        return net(a, b, bias=0)

    def tiny_offset(a, b):
        return no_bias(a, b) + 1e-6

    def compare_no_bias(function, policy):
        return compare_runnables(Fake(no_bias), Fake(function), CASES, policy, decisions=())

    lenient = [policy_without_decisions(policy) for policy in (FP32, INT8)]
    assert [compare_no_bias(tiny_offset, policy).verdict for policy in lenient] == ["equivalent", "equivalent"]

    def only_zeros(a, b):
        return no_bias(a, b) + (3.0 if not a.any() else 0.0)

    found = compare_no_bias(only_zeros, lenient[1])
    assert (found.verdict, found.failed_case) == ("rejected", "zeros")


def test_faint_inputs_are_judged_on_the_scale_of_real_ones():
    def offset(size):
        return lambda a, b: net(a, b, bias=0) + (size if np.ptp(a) and abs(a).max() < 0.1 else 0.0)

    def verdict(size):
        reference = Fake(lambda a, b: net(a, b, bias=0))
        return compare_runnables(reference, Fake(offset(size)), CASES, policy_without_decisions(FP32), decisions=())

    scale = max(error.scale for error in compare(net).errors if error.kind == "real")
    assert verdict(0.5e-4 * scale).verdict == "equivalent"  # far more than 1e-5 of the faint outputs themselves
    found = verdict(3e-4 * scale)
    assert (found.verdict, found.failed_case) == ("rejected", "faint")
    assert "of the scale of real cases" in found.reason


def test_amplified_inputs_may_amplify_rounding_but_not_become_nonsense():
    def at_large(change):
        return lambda a, b: change(net(a, b)) if abs(a).max() > 1000 else net(a, b)

    logits_only = {"decisions": ()}
    assert compare(at_large(lambda y: y * 1.2), **logits_only).verdict == "equivalent"
    for change in (lambda y: -y, lambda y: y * np.inf, lambda y: np.full_like(y, np.nan)):
        with np.errstate(invalid="ignore"):
            found = compare(at_large(change), **logits_only)
        assert (found.verdict, found.failed_case) == ("rejected", "amplified")
    assert compare(at_large(lambda y: y * 1.2), EXACT).verdict == "rejected"


def test_matching_infinities_are_no_difference_on_real_cases():
    def masked(a, b):
        out = net(a, b)
        out[:, 0] = -np.inf
        return out

    assert compare_runnables(Fake(masked), Fake(masked), CASES, FP32).verdict == "exact"
    assert "NaN or infinite" in compare_runnables(Fake(masked), Fake(net), CASES, FP32).reason


def test_hidden_randomness_and_state_are_found():
    class Drifting(Fake):
        def __init__(self, step):
            super().__init__(net)
            self.step, self.calls = step, 0

        def run(self, inputs, taps=()):
            outputs = super().run(inputs)
            self.calls += 1
            outputs["logits"] += np.float32(self.step * (self.calls > len(CASES)))
            return outputs

    small = compare_runnables(Fake(net), Drifting(1e-6), CASES, FP32)
    assert (small.verdict, small.repeatable) == ("equivalent", False)
    assert "when run again" in small.doubts[0]
    assert "the candidate gives another logits" in compare_runnables(Fake(net), Drifting(0.5), CASES, INT8).reason
    assert "the reference gives another" in compare_runnables(Drifting(0.5), Fake(net), CASES, INT8).reason


def test_missing_outputs_and_other_dtypes_are_rejected():
    class Other(Fake):
        def __init__(self, change):
            super().__init__(net)
            self.change = change

        def run(self, inputs, taps=()):
            return self.change(super().run(inputs))

    gone = compare_runnables(Fake(net), Other(lambda out: {"logits": out["logits"]}), CASES, FP32)
    assert "output token: missing; the candidate has logits" in gone.reason
    cast = compare_runnables(
        Fake(net), Other(lambda out: {**out, "token": out["token"].astype(np.float32)}), CASES, FP32
    )
    assert "dtype float32 instead of int64" in cast.reason


def test_depth_loosens_fp32_only():
    assert FP32.loosened(200).relative_l2 == pytest.approx(2e-5)
    assert FP32.loosened(50) == FP32
    assert INT8.loosened(200) == INT8
    assert compare(noisy(1.2e-5)).verdict == "rejected"
    loose = compare(noisy(1.2e-5), weighted_ops=450, decisions=())
    assert loose.verdict == "equivalent"
    assert "worst SQNR" in str(loose)


def test_a_gate_needs_real_cases_and_a_known_policy():
    with pytest.raises(DataError, match="none real"):
        compare(net, cases=[case for case in CASES if case.kind == "shape"])
    assert resolve_policy("int8") is INT8
    with pytest.raises(UnknownName, match="try: 'int8'"):
        resolve_policy("int4")


def test_json_has_no_infinities():
    value = json.loads(canonical_json(compare(net).to_json()))
    assert value["errors"][0]["sqnr_db"] is None
    assert value["fingerprints"] == {"reference": "fake", "candidate": "fake"}


def test_a_network_that_amplifies_rounding_is_judged_beside_it():
    coarse = INT8.beside_rounding(sqnr_db=16.0, agreement=0.9)
    assert coarse.sqnr_db == pytest.approx(16 - 10 * np.log10(2))
    assert (coarse.agreement, coarse.steps, coarse.step_share) == (0.9, INT8.steps, INT8.step_share)
    assert INT8.beside_rounding(sqnr_db=40.0, agreement=1.0) == INT8
    assert INT8.beside_rounding(sqnr_db=3.0, agreement=1.0).sqnr_db == INT8.stress_sqnr_db, "nonsense is nonsense"


def test_a_size_at_which_a_sample_has_hardly_any_output_is_judged_on_the_scale_of_real_ones():
    x = np.array([[1.0, -2.0], [0.05, -0.05]], np.float32)
    cases = [Case("real", "real", {"x": x}), Case("one", "shape", {"x": x[1:]})]
    small = Giving(lambda x: x + np.float32(0.03))
    large = Giving(lambda x: x + np.float32(0.03 if len(x) > 1 else 0.9))
    reference = Giving(lambda x: x)
    assert compare_runnables(reference, small, cases, INT8, decisions=()).verdict == "equivalent"
    assert compare_runnables(reference, large, cases, INT8, decisions=()).failed_case == "one"
