"""What was proven: claims with their certificates, the file against its program, other processors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gossamer.core.units import format_amount
from gossamer.reporting.html.texts import DASH, badge, percent, ranged, typeset, word


def claim_view(claim: Mapping[str, Any]) -> dict[str, Any]:
    """A clause of the budget, with the certificate of one about the metric."""
    certificate = claim.get("certificate") or {}
    return {
        "clause": claim["clause"],
        "badge": badge(claim["decision"]),
        "found": typeset(claim["found"]),
        "forest": _forest(certificate) if certificate.get("interval") else None,
        "facts": _certificate(certificate) if certificate else [],
        "parts": [_part(name, part) for name, part in (certificate.get("parts") or {}).items()],
    }


def _certificate(certificate: Mapping[str, Any]) -> list[tuple[str, str]]:
    unit, interval = certificate["unit"], certificate["interval"]
    n, available = str(certificate["n"]), certificate.get("available")
    facts = {
        "Test": f"{certificate['test']}, one-sided level {percent(certificate['alpha'])}",
        "Looks at the data": f"{certificate['looks_used']} of {certificate['looks_planned']} planned",
        "Samples": f"{n} of {available}" if available else n,
        f"Estimated {certificate.get('quantity', 'drop')}": format_amount(certificate["estimate"], unit),
        "Interval": " to ".join(format_amount(bound, unit) for bound in interval) if interval else "too few samples",
        "Limit": format_amount(certificate["limit"], unit),
    }
    if certificate["samples_needed"]:
        facts["Would be decided with"] = f"about {certificate['samples_needed']} samples"
    if certificate.get("withheld"):
        facts["No claim is made"] = str(certificate["withheld"])
    facts |= {word(name): f"{figure:.4g}" for name, figure in sorted(certificate["evidence"].items())}
    facts |= {f"Predictions {side}": str(digest) for side, digest in sorted(certificate["prediction_digests"].items())}
    return [(name, typeset(text)) for name, text in facts.items()]


def _part(name: str, part: Mapping[str, Any]) -> dict[str, Any]:
    """One of the groups that a claim about the worst of them is made of."""
    drop = ranged(part["estimate"], part["interval"], part["unit"])
    return {"name": name, "badge": badge(part["decision"]), "n": str(part["n"]), "drop": drop}


def _forest(certificate: Mapping[str, Any]) -> dict[str, float]:
    """Positions in percent of the width: interval, estimate, limit and zero on one scale."""
    low, high = (float(bound) for bound in certificate["interval"])
    estimate, limit = float(certificate["estimate"]), float(certificate["limit"])
    ends = (min(low, limit, 0.0), max(high, limit, 0.0))
    reach = (ends[1] - ends[0]) or 1.0

    def place(figure: float) -> float:
        return round(4 + 92 * (figure - ends[0]) / reach, 2)

    return {
        "low": place(low),
        "width": round(place(high) - place(low), 2),
        "estimate": place(estimate),
        "limit": place(limit),
        "zero": place(0.0),
    }


def parity_view(parity: Mapping[str, Any]) -> dict[str, Any]:
    """The shipped file against the program that was validated."""
    real = [entry for entry in parity["errors"] if entry["kind"] == "real"]
    signal = [entry["sqnr_db"] for entry in real if entry["sqnr_db"] is not None]
    agreement = [
        f"{entry['agreed']} of {entry['decisions']} answers agree "
        f"[{percent(entry['interval'][0])}, {percent(entry['interval'][1])}]"
        for entry in parity["agreement"].values()
        if entry["decisions"]
    ]
    name, least = parity["policy"]["name"], parity["policy"]["sqnr_db"]
    bound = "" if least is None else f", {least:.0f} dB or more"
    found = [
        f"{len(parity['errors'])} comparisons, {len(real)} on real inputs, held to the policy {name}{bound}",
        *([f"worst signal-to-noise ratio on real inputs {min(signal):.0f} dB"] if signal else []),
        *agreement,
        "same bits when run again" if parity["repeatable"] else "not the same bits when run again",
    ]
    return {
        "badge": badge(parity["verdict"]),
        "reason": parity["reason"],
        "found": found,
        "doubts": list(parity["doubts"]),
        "sides": [f"{side}: {text}" for side, text in sorted(parity["fingerprints"].items())],
    }


def processors_view(audit: Mapping[str, Any], metric: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What becomes of the integers on other classes of processors, one row each; simulated ones say so."""
    rows = []
    for entry in audit["profiles"]:
        claim = entry["claim"]
        affected = sum(bool(layer["affected"]) for layer in entry["layers"])
        rows.append(
            {
                "name": str(entry["profile"]),
                "badge": badge(entry["status"]),
                "simulated": bool(entry["simulated"]),
                "layers": f"{affected} of {entry['layer_count']}",
                "divergence": percent(entry["divergence"]),
                "metric": DASH if entry["value"] is None else format_amount(entry["value"], metric["unit"]),
                "claim": typeset(f"{claim['clause']}: {claim['found']}") if claim else "",
            }
        )
    return rows
