"""Program files that are damaged or made to harm: each gives ``ArtifactError`` and nothing else."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from gossamer.core.errors import ArtifactError
from gossamer.frontends.torch_module import capture
from gossamer.program import load_program, save_program


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        first, second = self.linear(x.clamp(-torch.inf, 3)).reshape(-1, 2, 2).split(1, 1)
        return (first * second).to(torch.float64).mean((1, 2))


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("program")
    save_program(capture(Net(), torch.randn(2, 4)), folder)
    return folder


@pytest.fixture(scope="module")
def content(saved: Path) -> dict[str, Any]:
    return json.loads((saved / "graph.json").read_text())


@pytest.fixture
def load(saved: Path, tmp_path: Path):
    def load(changed: Any) -> Any:
        shutil.copy(saved / "tensors.safetensors", tmp_path)
        (tmp_path / "graph.json").write_text(changed if isinstance(changed, str) else json.dumps(changed))
        return load_program(tmp_path)

    return load


def nodes(content: dict[str, Any]) -> list[dict[str, Any]]:
    return content["graph"]["nodes"]


def call(content: dict[str, Any]) -> dict[str, Any]:
    return next(node for node in nodes(content) if node.get("op") == "aten.linear.default")


def unknown_operation(c: dict[str, Any]) -> None:
    call(c)["op"] = "os.system"


def private_operation(c: dict[str, Any]) -> None:
    call(c)["op"] = "aten.from_file.default"


def forward_reference(c: dict[str, Any]) -> None:
    call(c)["args"][0] = {"node": nodes(c)[-1]["name"]}


def self_reference(c: dict[str, Any]) -> None:
    call(c)["args"][0] = {"node": call(c)["name"]}


def name_that_is_no_identifier(c: dict[str, Any]) -> None:
    nodes(c)[-1]["name"] = "x = __import__('os')"


def input_that_is_no_identifier(c: dict[str, Any]) -> None:
    nodes(c)[0]["input"] = "x=__import__('os').system('true')"
    c["signature"]["inputs"][0]["name"] = nodes(c)[0]["input"]


def keyword_as_name(c: dict[str, Any]) -> None:
    nodes(c)[-1]["name"] = "lambda"


def one_name_twice(c: dict[str, Any]) -> None:
    nodes(c).append(copy.deepcopy(nodes(c)[-1]))


def an_input_too_many(c: dict[str, Any]) -> None:
    nodes(c).insert(0, {"name": "y", "input": "y", "value": {"dtype": "float32", "shape": [1]}})


def an_input_too_few(c: dict[str, Any]) -> None:
    c["signature"]["inputs"] = []


def an_output_too_many(c: dict[str, Any]) -> None:
    c["graph"]["outputs"] *= 2


def a_number_as_output(c: dict[str, Any]) -> None:
    c["graph"]["outputs"] = [3]


def no_output(c: dict[str, Any]) -> None:
    c["graph"]["outputs"] = []
    c["signature"]["outputs"] = []


def unknown_dtype(c: dict[str, Any]) -> None:
    nodes(c)[-2]["value"]["dtype"] = "float128"


def unknown_dtype_of_an_input(c: dict[str, Any]) -> None:
    c["signature"]["inputs"][0]["dtype"] = "object"


def unknown_dtype_as_argument(c: dict[str, Any]) -> None:
    to = next(node for node in nodes(c) if node.get("op") == "aten.to.dtype")
    to["args"][1] = {"dtype": "Tensor"}


def unknown_kind_of_argument(c: dict[str, Any]) -> None:
    call(c)["args"][0] = {"eval": "1"}


def two_kinds_in_one_argument(c: dict[str, Any]) -> None:
    call(c)["args"][0] = {"node": "x", "tensor": "linear.weight"}


def unknown_tensor(c: dict[str, Any]) -> None:
    call(c)["args"][1] = {"tensor": "linear.other"}


def alias_of_an_unknown_tensor(c: dict[str, Any]) -> None:
    c["aliases"] = {"linear.weight": "elsewhere"}


def tensor_named_like_a_path(c: dict[str, Any]) -> None:
    c["aliases"] = {"../../weight": "linear.weight", "__class__": "linear.weight"}


def role_missing(c: dict[str, Any]) -> None:
    c["roles"].pop("linear.weight")


def role_unknown(c: dict[str, Any]) -> None:
    c["roles"]["linear.weight"] = "code"


def too_many_arguments(c: dict[str, Any]) -> None:
    call(c)["args"] += [1, 2, 3]


def wrong_kind_of_argument(c: dict[str, Any]) -> None:
    call(c)["args"][1] = "weight"


def unknown_keyword(c: dict[str, Any]) -> None:
    call(c)["kwargs"] = {"layout": 3}


def huge_axis(c: dict[str, Any]) -> None:
    mean = next(node for node in nodes(c) if node.get("op") == "aten.mean.dim")
    mean["args"][1] = [10**40]


def huge_size(c: dict[str, Any]) -> None:
    nodes(c)[0]["value"]["shape"] = [10**400]


def shape_that_is_no_list(c: dict[str, Any]) -> None:
    nodes(c)[0]["value"]["shape"] = 4


def negative_size(c: dict[str, Any]) -> None:
    c["signature"]["inputs"][0]["shape"] = [-4]


def range_upside_down(c: dict[str, Any]) -> None:
    c["signature"]["dims"]["batch"] = [9, 2]


def another_version(c: dict[str, Any]) -> None:
    c["version"] = 2


def another_format(c: dict[str, Any]) -> None:
    c["format"] = "onnx"


HOSTILE = [
    unknown_operation, private_operation, forward_reference, self_reference, name_that_is_no_identifier,
    input_that_is_no_identifier, keyword_as_name, one_name_twice, an_input_too_many, an_input_too_few,
    an_output_too_many, a_number_as_output, no_output, unknown_dtype, unknown_dtype_of_an_input,
    unknown_dtype_as_argument, unknown_kind_of_argument, two_kinds_in_one_argument, unknown_tensor,
    alias_of_an_unknown_tensor, tensor_named_like_a_path, role_missing, role_unknown, too_many_arguments,
    wrong_kind_of_argument, unknown_keyword, huge_axis, huge_size, shape_that_is_no_list, negative_size,
    range_upside_down, another_version, another_format,
]  # fmt: skip


@pytest.mark.parametrize("damage", HOSTILE, ids=lambda damage: damage.__name__)
def test_a_hostile_graph_is_refused(content: dict[str, Any], load, damage) -> None:
    changed = copy.deepcopy(content)
    damage(changed)
    assert changed != content
    with pytest.raises(ArtifactError, match=r"got: .+\n  expected: "):
        load(changed)


def test_what_these_tests_damage_is_whole(content: dict[str, Any], load) -> None:
    assert load(content).call_nodes


@pytest.mark.parametrize(
    "text", ["", "{", "null", "[]", "3", '"graph"', "{}", '{"format": NaN}', "[" * 100_000, "\x00\x01"]
)
def test_a_graph_file_that_is_no_graph_is_refused(load, text: str) -> None:
    with pytest.raises(ArtifactError, match="reading the program in"):
        load(text)


def test_a_graph_file_that_is_no_text_is_refused(saved: Path, tmp_path: Path) -> None:
    shutil.copytree(saved, tmp_path, dirs_exist_ok=True)
    (tmp_path / "graph.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ArtifactError):
        load_program(tmp_path)


@pytest.mark.parametrize("keep", [0, 4, 8, 20, 100, -1])
def test_a_truncated_tensor_file_is_refused(saved: Path, tmp_path: Path, keep: int) -> None:
    shutil.copytree(saved, tmp_path, dirs_exist_ok=True)
    file = tmp_path / "tensors.safetensors"
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(ArtifactError, match=r"expected: graph\.json and tensors\.safetensors"):
        load_program(tmp_path)


@pytest.mark.parametrize("file", ["graph.json", "tensors.safetensors"])
def test_a_missing_file_is_refused(saved: Path, tmp_path: Path, file: str) -> None:
    shutil.copytree(saved, tmp_path, dirs_exist_ok=True)
    (tmp_path / file).unlink()
    with pytest.raises(ArtifactError, match=file.replace(".", r"\.")):
        load_program(tmp_path)


JUNK = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=4), st.just([]), st.just({}),
    st.sampled_from(["x", "linear", "float32", "batch", 10**30, [1], {"node": "x"}, {"tensor": "linear.bias"}]),
)  # fmt: skip


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, item in items for place in places(item, (*path, key)))]


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_whatever_is_changed_a_program_or_an_artifact_error_comes_out(content, load, data: st.DataObject) -> None:
    changed = copy.deepcopy(content)
    for _ in range(data.draw(st.integers(1, 3))):
        *path, last = data.draw(st.sampled_from([place for place in places(changed) if place]))
        owner = changed
        for key in path:
            owner = owner[key]
        action = data.draw(st.sampled_from(["replace", "delete", "double"]))
        if action == "replace":
            owner[last] = data.draw(JUNK)
        elif action == "delete" or isinstance(owner, dict):
            del owner[last]
        else:
            owner.insert(last, copy.deepcopy(owner[last]))
        if not changed:
            break
    try:
        program = load(changed)
    except ArtifactError:
        return
    assert program.digest
    assert str(program)
