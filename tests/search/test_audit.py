"""The audit for other processors: a network planted to saturate, found, repaired, and run on real kernels."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gossamer import flow
from gossamer.core.errors import DataError, OptionError, UnknownName, UnsupportedOp
from gossamer.core.isa import hazards_of
from gossamer.core.target import Target
from gossamer.datasets.samples import Samples
from gossamer.metrics import resolve_metric
from gossamer.program import Program
from gossamer.program.interpreter import Interpreter
from gossamer.runtimes import resolve_target
from gossamer.search.audit import Audit, Question, audit, repair
from gossamer.search.emulation import Emulation, kernel_layers
from gossamer.techniques.quantize.int8 import Calibration, Int8
from gossamer.testing.older_cpu import older_cpu, why_not
from gossamer.testing.saturating import averaging_network

X86 = ("avx2", "avx512", "vnni")
TOP1 = Question(resolve_metric("top1"))


@pytest.fixture(scope="module")
def samples(digits: tuple[np.ndarray, np.ndarray]) -> Samples:
    return Samples({"x": digits[0][900:]}, digits[1][900:], "digits")


@pytest.fixture(scope="module")
def planted(digits: tuple[np.ndarray, np.ndarray], target: Target) -> Calibration:
    images, labels = digits
    net = averaging_network(images[:900], labels[:900])
    program = flow.capture(net, torch.from_numpy(images[:2]))
    return Int8().calibrate(program, {"x": digits[0][:256]}, target)


@pytest.fixture(scope="module")
def found(planted: Calibration, samples: Samples, target: Target) -> Audit:
    return audit(Int8().quantize(planted), samples, target, X86, TOP1)


def statuses(entry: Audit) -> dict[str, str]:
    return {profile.profile: profile.status for profile in entry.profiles}


def test_a_planted_hazard_is_found_where_it_is(found: Audit):
    assert statuses(found) == {"avx2": "hazard", "avx512": "hazard", "vnni": "proven safe"}
    assert found.hazards == ("avx2", "avx512")
    older, _, newer = found.profiles
    worst = max(older.layers, key=lambda layer: layer.relative_error)
    assert worst.site == "mean"
    assert worst.at_risk == 1.0
    assert worst.relative_error > 0.1
    assert older.value is not None
    assert older.exact_value is not None
    assert older.value < older.exact_value - 10
    assert older.claim is not None
    assert older.claim.decision == "fails"
    assert newer.layers == ()
    assert found.samples == 512


def test_repair_restores_the_exact_result(planted: Calibration, found: Audit, samples: Samples, target: Target):
    fixed = repair(Int8(), planted, found, samples, target, TOP1)
    assert fixed.audit.hazards == ()
    assert "mean" in fixed.technique.safe_pairs
    assert fixed.cost is not None
    assert fixed.cost.decision != "fails"
    safe = repair(Int8(), planted, found, samples, target)  # without a question nothing may saturate
    emulation = Emulation(safe.program, kernel_layers(safe.program, target.runtime, "avx2"))
    inputs = {"x": samples.inputs["x"][:512]}
    assert np.array_equal(
        *(next(iter(one.run(inputs).values())) for one in (emulation.runnable, Interpreter(safe.program)))
    )


def test_all_weights_narrow_is_proven_without_a_run(planted: Calibration, samples: Samples, target: Target):
    entry = audit(Int8(narrow=("*",)).quantize(planted), samples, target, X86)
    assert set(statuses(entry).values()) == {"proven safe"}
    assert entry.samples == 0
    assert "proven safe" in str(entry)


def test_narrow_inputs_are_proven_too(planted: Calibration, samples: Samples, target: Target):
    entry = audit(Int8(narrow_activations=("*",)).quantize(planted), samples, target, ("avx2",))
    assert statuses(entry) == {"avx2": "proven safe"}


def test_a_repair_that_costs_too_much_is_passed_over(
    planted: Calibration, found: Audit, samples: Samples, target: Target
):
    """No drop at all is allowed, which nothing can prove: all rungs are tried, and one without a hazard comes back."""
    strict = Question(resolve_metric("top1"), "drop <= 0pt")
    fixed = repair(Int8(), planted, found, samples, target, strict)
    assert fixed.audit.hazards == ()
    assert fixed.audit.samples == 0  # proven safe: an audit could not hold the claim


def test_harmless_saturation_is_audited(digit_program: Program, digits, samples: Samples, target: Target):
    """A trained network on its data: with a question little saturation is no hazard, without one any is."""
    program = Int8().apply(digit_program, {"x": digits[0][:256]}, target)
    asked = audit(program, samples, target, ("avx2",), Question(resolve_metric("top1"), "drop <= 5pt"))
    plain = audit(program, samples, target, ("avx2",))
    assert statuses(asked) == {"avx2": "audited"}
    assert statuses(plain) == {"avx2": "hazard" if plain.profiles[0].saturating else "audited"}
    assert plain.profiles[0].layers == asked.profiles[0].layers


def test_a_metric_without_labels_compares_with_exact_outputs(planted: Calibration, samples: Samples, target: Target):
    entry = audit(
        Int8().quantize(planted),
        replace(samples, labels=None),
        target,
        ("avx2",),
        Question(resolve_metric("agreement")),
    )
    assert statuses(entry) == {"avx2": "hazard"}
    assert entry.profiles[0].exact_value == 100


def test_transformers_are_audited(reader_program: Program, reader_ids: np.ndarray, target: Target):
    program = Int8().apply(reader_program, {"ids": reader_ids}, target)
    entry = audit(program, Samples({"ids": reader_ids}, None, "ids"), target, ("avx2",))
    assert entry.profiles[0].layer_count == 5
    assert 0 < entry.profiles[0].divergence < 0.1


def test_openvino_is_known_as_well(planted: Calibration, samples: Samples):
    entry = audit(Int8().quantize(planted), samples, resolve_target("openvino:cpu"), ("sse", "avx2"), TOP1)
    assert statuses(entry) == {"sse": "hazard", "avx2": "hazard"}


def test_what_was_not_tried_on_a_kernel_is_simulated(planted: Calibration, samples: Samples, target: Target):
    entry = audit(Int8().quantize(planted), samples, target, ("avx2", "dotprod"))
    assert [profile["simulated"] for profile in entry.to_json()["profiles"]] == [False, True]
    assert "simulated" in str(entry)


def test_the_evidence_is_json_and_the_table_names_the_layer(found: Audit):
    assert hazards_of(json.loads(json.dumps(found.to_json()))) == ("avx2", "avx512")
    text = str(found)
    assert "hazard" in text
    assert "mean" in text
    assert "pt" in text


def test_a_float_program_is_refused(digit_program: Program, samples: Samples, target: Target):
    with pytest.raises(UnsupportedOp, match="no layer on integers"):
        audit(digit_program, samples, target)


def test_unknown_processors_are_refused(planted: Calibration, samples: Samples, target: Target):
    with pytest.raises(UnknownName, match="avx3"):
        audit(Int8().quantize(planted), samples, target, ("avx3",))


def test_labels_are_required(planted: Calibration, samples: Samples, target: Target):
    with pytest.raises(DataError, match="without labels"):
        audit(Int8().quantize(planted), replace(samples, labels=None), target, ("avx2",), TOP1)


def test_safe_scales_are_proven_without_a_run(
    digit_program: Program, reader_program, digits, reader_ids, target: Target
):
    technique = Int8(safe_pairs=("*",))
    for program, inputs in ((digit_program, {"x": digits[0][:256]}), (reader_program, {"ids": reader_ids})):
        quantized = technique.apply(program, inputs, target)
        for runtime in ("onnxruntime", "openvino"):
            entry = audit(quantized, Samples(inputs, None, "any"), resolve_target(runtime), X86)
            assert set(statuses(entry).values()) == {"proven safe"}


def test_halved_weights_are_audited_but_not_repaired(digit_program: Program, digits, samples: Samples):
    """Signed inputs of convolutions on OpenVINO: oneDNN halves their weights on older processors."""
    target = resolve_target("openvino:cpu")
    calibration = Int8(safe_pairs=("*",)).calibrate(digit_program, {"x": digits[0][:256]}, target)
    entry = audit(Int8(safe_pairs=("*",)).quantize(calibration), samples, target, ("avx2",))
    halved = [layer for layer in entry.profiles[0].layers if layer.arithmetic == "half_weight"]
    assert [layer.site for layer in halved] == ["stem.0"]  # the images have negative values
    assert [layer.at_risk for layer in halved] == [0.0]
    assert 0 < halved[0].relative_error < 0.05
    assert statuses(entry) == {"avx2": "hazard"}
    with pytest.raises(UnsupportedOp, match="halved weights"):
        repair(Int8(safe_pairs=("*",)), calibration, entry, samples, target)


@pytest.mark.parametrize("claim", ["top1 >= 90%", "drop <= 1pt; top1 >= 90%", ""])
def test_a_claim_is_one_drop(planted: Calibration, samples: Samples, target: Target, claim: str):
    with pytest.raises(OptionError, match="one limit on a drop"):
        audit(Int8().quantize(planted), samples, target, ("avx2",), replace(TOP1, claim=claim))


def test_without_a_hazard_there_is_nothing_to_repair(planted: Calibration, samples: Samples, target: Target):
    safe = audit(Int8(narrow=("*",)).quantize(planted), samples, target)
    with pytest.raises(OptionError, match="without a hazard"):
        repair(Int8(), planted, safe, samples, target)


RUN = """
import sys
import numpy as np
from gossamer.core.specs import Signature
from gossamer.runtimes import open_deployed
import json, pathlib
folder, target = sys.argv[1:]
signature = Signature.from_json(json.loads(pathlib.Path(folder, "signature.json").read_text()))
file = open_deployed(pathlib.Path(folder, "model.onnx"), signature, target)
np.savez(f"{folder}/outputs.npz", **file.run(dict(np.load(f"{folder}/inputs.npz"))))
"""


def run_as(profile: str, program: Program, target: Target, inputs: Mapping[str, np.ndarray], folder: Path) -> Any:
    """Output of the deployed file in a process that takes this processor for an older one."""
    folder.mkdir()
    (folder / "model.onnx").write_bytes(flow.lower(program, target=str(target)).model)
    (folder / "signature.json").write_text(json.dumps(program.signature.to_json()))
    np.savez(folder / "inputs.npz", **inputs)
    environment = os.environ | ({} if profile == "vnni" else older_cpu(profile, folder))  # pyright: ignore[reportArgumentType]
    command = [sys.executable, "-c", RUN, str(folder), str(target)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    return next(iter(np.load(folder / "outputs.npz").values()))


@pytest.mark.slow
@pytest.mark.skipif(bool(why_not()), reason=why_not())
@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_the_deployed_file_really_answers_so(
    runtime: str, digits, samples: Samples, planted: Calibration, tmp_path: Path
):
    """Emulated outputs are those of real kernels, as close as the interpreter's are to the newest ones."""
    target = resolve_target(f"{runtime}:cpu,batch=8")
    calibration = Int8().calibrate(planted.program, {"x": digits[0][:256]}, target)
    inputs = {"x": samples.inputs["x"][:128]}
    program = Int8().quantize(calibration)
    exact = next(iter(Interpreter(program).run(inputs).values()))
    emulation = Emulation(program, kernel_layers(program, runtime, "avx2"))
    emulated = next(iter(emulation.runnable.run(inputs).values()))
    here, older = (run_as(profile, program, target, inputs, tmp_path / profile) for profile in ("vnni", "avx2"))
    size = np.linalg.norm(exact)
    rounding = 10 ** (-38 / 20) * size  # the bound that the targets set: a few requantized values round otherwise
    assert np.linalg.norm(here - exact) < rounding
    assert np.linalg.norm(older - emulated) < rounding
    assert np.linalg.norm(older - here) > 0.5 * size
    safe = Int8(safe_pairs=("*",)).quantize(calibration)
    answers = [run_as(profile, safe, target, inputs, tmp_path / f"safe_{profile}") for profile in ("vnni", "avx2")]
    assert np.linalg.norm(answers[1] - answers[0]) < rounding
