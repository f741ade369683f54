"""Targets: text to value and back, and errors with the nearest name."""

from __future__ import annotations

import pytest

from gossamer.core.errors import OptionError, UnknownName
from gossamer.core.target import Scheme, Target, TargetFacts, parse_target

FACTS = TargetFacts(precisions=("float32", "bfloat16", "int8"))
KNOWN = {"onnxruntime": {"cpu": FACTS, "cuda": TargetFacts(precisions=("float16",))}, "openvino": {"cpu": FACTS}}


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("onnxruntime", Target("onnxruntime")),
        ("onnxruntime:cuda", Target("onnxruntime", "cuda")),
        ("openvino:cpu,batch=32", Target("openvino", batch=32)),
        (" openvino:cpu , threads=2, batch=4", Target("openvino", "cpu", 2, 4)),
        ("openvino,precision=bfloat16", Target("openvino", precision="bfloat16")),
        ("openvino,precision=float32", Target("openvino")),
    ],
)
def test_text_reads_as_target_and_prints_back(text: str, target: Target) -> None:
    assert parse_target(text, KNOWN) == target
    assert parse_target(str(target), KNOWN) == target


def test_a_target_carries_the_facts_of_its_device_and_is_hashable() -> None:
    target = parse_target("onnxruntime:cuda", KNOWN)
    assert target.facts.precisions == ("float16",)
    assert {target: 1}[Target("onnxruntime", "cuda")] == 1


def test_text_and_folder_name() -> None:
    target = parse_target("openvino,batch=8", KNOWN)
    assert str(target) == "openvino:cpu,threads=1,batch=8"
    assert target.folder_name == "openvino-cpu"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("onxruntime", "got: runtime 'onxruntime'\n  expected: one of: onnxruntime, openvino\n  try: 'onnxruntime'?"),
        ("", "got: runtime ''\n  expected: one of: onnxruntime, openvino\n  try: gossamer targets"),
        ("onnxruntime:cpuu", "got: device 'cpuu'\n  expected: one of: cpu, cuda\n  try: 'cpu'?"),
        (
            "openvino:cpu,thread=2",
            "got: option 'thread'\n  expected: one of: batch, precision, threads\n  try: 'threads'?",
        ),
        ("openvino,", "got: option ''"),
    ],
)
def test_unknown_names_offer_the_nearest(text: str, message: str) -> None:
    with pytest.raises(UnknownName) as caught:
        parse_target(text, KNOWN)
    assert str(caught.value).startswith(f"reading the target {text!r}\n")
    assert message in str(caught.value)


@pytest.mark.parametrize("value", ["int8", "bf16", ""])
def test_floats_are_computed_in_what_the_target_computes_floats_in(value: str) -> None:
    with pytest.raises(OptionError, match="precision=float32 or bfloat16"):
        parse_target(f"openvino,precision={value}", KNOWN)


@pytest.mark.parametrize("option", ["threads", "threads=", "threads=0", "threads=-1", "threads=1.5", "threads=²"])
def test_option_values_are_whole_numbers_of_at_least_one(option: str) -> None:
    with pytest.raises(OptionError, match="threads=N with N a whole number of at least 1"):
        parse_target(f"openvino,{option}", KNOWN)


def test_an_option_given_twice_is_refused() -> None:
    with pytest.raises(OptionError, match="threads twice"):
        parse_target("openvino,threads=1,threads=2", KNOWN)


@pytest.mark.parametrize(
    ("scheme", "codes"),
    [
        (Scheme("uint8", symmetric=False), (0, 255)),
        (Scheme("int8", symmetric=False), (-128, 127)),
        (Scheme("int8", symmetric=True), (-127, 127)),
    ],
)
def test_code_ranges(scheme: Scheme, codes: tuple[int, int]) -> None:
    assert scheme.code_range == codes
