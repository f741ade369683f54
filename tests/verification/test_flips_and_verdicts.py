import numpy as np
import pytest

from gossamer.core.digest import canonical_json
from gossamer.core.errors import DataError
from gossamer.verification.certificates import Claim, certify_scores
from gossamer.verification.flips import Flips, count_flips
from gossamer.verification.parity import Parity
from gossamer.verification.policies import FP32
from gossamer.verification.verdict import decide

HOLDS, UNDECIDED, FAILS = (
    certify_scores(np.ones(n), np.r_[np.zeros(lost), np.ones(n - lost)], Claim("top1 drop <= 1pt", 1.0))
    for n, lost in ((1000, 0), (100, 0), (1000, 50))
)


def parity(verdict):
    return Parity(verdict, "worse" if verdict == "rejected" else "", "", "", FP32, (), {}, repeatable=True)


def test_the_four_way_table_counts_every_sample_once():
    rng = np.random.default_rng(0)
    predicted = rng.integers(0, 4, (2, 500))
    labels = rng.integers(0, 4, 500)
    before, after = predicted == labels
    found = count_flips(before, after, *predicted)
    assert found.n == 500
    assert found.both_right + found.lost == before.sum()
    assert found.both_right + found.won == after.sum()
    assert found.churn == np.mean(predicted[0] != predicted[1])
    assert found.churn > found.negative_flips + found.positive_flips  # wrong answers that became other wrong answers
    swapped = count_flips(after, before)
    assert (swapped.lost, swapped.won, swapped.churn) == (found.won, found.lost, None)
    assert Flips(**found.to_json()) == found
    assert "churn" in str(found)


def test_flips_refuse_what_is_not_paired():
    with pytest.raises(DataError, match="the same samples"):
        count_flips(np.ones(3), np.ones(4))
    with pytest.raises(DataError, match="wrong"):
        count_flips(np.full(3, 0.5), np.ones(3))
    with pytest.raises(DataError, match="3 samples on axis 0"):
        count_flips(np.ones(3), np.ones(3), np.ones(4), np.ones(4))


@pytest.mark.parametrize(
    ("parity_verdict", "certificates", "kind"),
    [
        ("exact", [], "exact"),
        ("equivalent", [], "equivalent"),
        ("exact", [HOLDS], "accepted"),
        ("equivalent", [HOLDS, HOLDS], "accepted"),
        ("equivalent", [HOLDS, UNDECIDED], "undecided"),
        ("equivalent", [UNDECIDED, FAILS], "rejected"),
        ("rejected", [HOLDS], "rejected"),
        ("rejected", [], "rejected"),
        (None, [HOLDS], "undecided"),
        (None, [FAILS], "rejected"),
    ],
)
def test_only_proof_is_accepted(parity_verdict, certificates, kind):
    flips = Flips(1, 0, 0, 0)
    verdict = decide(parity(parity_verdict) if parity_verdict else None, certificates, flips)
    assert verdict.kind == kind
    assert verdict.passed == (kind in ("exact", "equivalent", "accepted"))
    assert verdict.reasons
    assert str(verdict).splitlines()[0] == kind
    assert len(str(verdict).splitlines()) <= 5
    assert canonical_json(verdict.to_json())


def test_the_certificates_used_above_are_what_they_are_named():
    assert [c.decision for c in (HOLDS, UNDECIDED, FAILS)] == ["holds", "undecided", "fails"]
