"""An artifact asked what it would answer on other processors, and a warning where it is loaded on one of them."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import pytest

from gossamer import flow
from gossamer.core import isa


def test_an_artifact_is_audited_with_its_own_metric(digit_artifact: Path, digits):
    images, labels = digits
    found = flow.audit(digit_artifact, (images[900:1000], labels[900:1000]))
    assert [entry.profile for entry in found.profiles] == ["avx2", "avx512", "vnni"]
    assert found.profiles[2].status == "proven safe"
    with flow.load(digit_artifact) as artifact:
        stored = artifact.evidence["other_processors"]
    assert [entry["profile"] for entry in stored["profiles"]] == ["avx2", "avx512", "vnni"]
    assert stored["program"] == found.program


def test_without_labels_it_is_compared_with_itself(digit_artifact: Path, digits):
    found = flow.audit(digit_artifact, digits[0][900:950])
    claims = [entry.claim for entry in found.profiles if entry.claim is not None]
    assert all("agreement" in claim.clause for claim in claims)


def test_loading_on_a_processor_listed_as_a_hazard_warns(digit_artifact: Path, monkeypatch: pytest.MonkeyPatch):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        flow.load(digit_artifact).close()
    monkeypatch.setattr(isa, "hazards_of", lambda evidence: ("avx2",) if evidence else ())
    monkeypatch.setattr(isa, "host_profile", lambda: "avx2")
    with pytest.warns(UserWarning, match="sums of 8-bit products saturate in this file"):
        flow.load(digit_artifact).close()


def test_the_evidence_is_plain_json(digit_artifact: Path):
    evidence = json.loads((digit_artifact / "evidence" / "evidence.json").read_text())
    assert evidence["other_processors"]["hazards"] == [
        entry["profile"] for entry in evidence["other_processors"]["profiles"] if entry["status"] == "hazard"
    ]
