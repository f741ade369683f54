"""In-place operations, views, grad-mode regions and clones of a forward pass become plain values, or are refused."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from gossamer.core.errors import CaptureError, UnsupportedOp
from gossamer.frontends.torch_module import capture
from gossamer.program import dialect

IMAGES = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(1))


class Net(nn.Module):
    def __init__(self, function: Callable[[nn.Module, Tensor], object]) -> None:
        super().__init__()
        self.function = function
        self.weight = nn.Parameter(torch.ones(4))
        self.register_buffer("count", torch.zeros(4))

    def forward(self, x: Tensor) -> object:
        return self.function(self, x)


def in_place_on_a_value(m, x):
    y = x * 2
    y += 1
    y.relu_()
    return y.mul_(3)


def in_place_result_and_old_name(m, x):
    y = x + 1
    z = y.add_(1)
    return y + z, y is z


def in_place_keeps_the_dtype(m, x):
    y = x.half() * 1
    y.add_(x)
    return y


def fill_and_zero(m, x):
    y = x.clone()
    y.zero_()
    z = x.clone()
    z.fill_(2.5)
    return y + z


def copy_into_a_slice(m, x):
    y = torch.zeros(x.shape[0], 3, 6)
    y[..., 1:5] = x
    return y


def copy_into_a_select(m, x):
    y = x.clone()
    y[:, 1] = 0.0
    y[:, -1] += 1
    return y


def write_through_two_views(m, x):
    y = x.clone()
    y[:, 1][..., 2:].mul_(5)
    return y


def write_through_a_reshape(m, x):
    y = x * 1
    y.view(-1)[::5] = -1.0
    return y


def write_through_a_transpose(m, x):
    y = x + 0.5
    y.transpose(1, 2).add_(torch.arange(3.0))
    return y


def write_through_a_permutation(m, x):
    y = x.unsqueeze(1) + 0.5
    y.permute(0, -1, 1, 2).add_(torch.arange(3.0))
    return y


def a_view_sees_a_later_write(m, x):
    y = x.clone()
    view = y[:, 0]
    y.add_(1)
    return view * 1


def a_view_of_a_view_sees_a_later_write(m, x):
    y = x.clone()
    outer = y.view(x.shape[0], 12)
    inner = outer[:, 4:]
    y[:, 2] = 7.0
    return inner + 0


def parts_see_a_later_write(m, x):
    y = x.clone()
    first, second = y.chunk(2, -1)
    y.mul_(2)
    return first + second


def a_clone_does_not_see_a_later_write(m, x):
    y = x + 1
    z = y.clone()
    y.add_(1)
    return z * y


def a_copy_by_reshape_does_not_see_a_later_write(m, x):
    y = x + 1
    z = y.transpose(1, 2).reshape(-1, 12)
    y.add_(1)
    return z, y


def contiguous_is_the_same_tensor_where_it_is(m, x):
    y = x + 1
    z = y.contiguous()
    z.add_(1)
    return y


def contiguous_is_a_copy_where_it_is_not(m, x):
    y = x + 1
    z = y.transpose(1, 2).contiguous()
    z.add_(1)
    return y, z


def a_cast_to_the_same_dtype_is_the_same_tensor(m, x):
    y = x + 1
    y.float().add_(1)
    return y


def a_cast_to_another_dtype_is_a_copy(m, x):
    y = x + 1
    y.double().add_(1)
    return y


def masked_fill_in_place(m, x):
    y = x.clone()
    y.masked_fill_(y > 0, -1.0)
    return y


def no_grad_region(m, x):
    with torch.no_grad():
        scale = (x * m.weight).abs().amax(-1, keepdim=True)
    return x / scale


def write_inside_a_no_grad_region(m, x):
    y = x + 1
    with torch.no_grad():
        y.mul_(2)
    return y


FUNCTIONS = [
    in_place_on_a_value, in_place_keeps_the_dtype, fill_and_zero, copy_into_a_slice, copy_into_a_select,
    write_through_two_views, write_through_a_reshape, write_through_a_transpose, write_through_a_permutation,
    a_view_sees_a_later_write, a_view_of_a_view_sees_a_later_write, parts_see_a_later_write,
    a_clone_does_not_see_a_later_write,
    a_copy_by_reshape_does_not_see_a_later_write, contiguous_is_the_same_tensor_where_it_is,
    contiguous_is_a_copy_where_it_is_not, a_cast_to_the_same_dtype_is_the_same_tensor,
    a_cast_to_another_dtype_is_a_copy, masked_fill_in_place, no_grad_region, write_inside_a_no_grad_region,
]  # fmt: skip


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda function: function.__name__)
def test_the_program_computes_what_the_model_does_and_changes_nothing(function) -> None:
    """``capture`` compares with eager on several sizes and values."""
    program = capture(Net(function), IMAGES)
    for node in program.call_nodes:
        schema = getattr(node.target, "_schema", None)
        assert schema is None or not schema.is_mutable


def test_an_in_place_result_keeps_its_dtype() -> None:
    assert capture(Net(in_place_keeps_the_dtype), IMAGES).signature.outputs[0].dtype == "float16"


def test_a_clone_leaves_no_node() -> None:
    program = capture(Net(lambda m, x: (x.clone().detach() + 1).contiguous()), IMAGES)
    assert [node.target for node in program.call_nodes] == [dialect.aten.add.Tensor]


def test_a_grad_mode_region_leaves_no_node() -> None:
    program = capture(Net(no_grad_region), IMAGES)
    assert [dialect.op_name(node.target) for node in program.call_nodes] == ["mul", "abs", "amax", "div"]


def change_the_input(m, x):
    x.add_(1)
    return x * 2


def change_a_view_of_the_input(m, x):
    x[:, 0] = 0.0
    return x * 2


def change_a_buffer(m, x):
    m.count.add_(1)
    return x * m.count


def assign_a_buffer(m, x):
    m.count = m.count + 1
    return x * m.count


def change_a_part(m, x):
    y = x + 1
    y.chunk(2, -1)[0].add_(1)
    return y


@pytest.mark.parametrize(
    ("function", "problem", "got"),
    [
        (change_the_input, "input mutated", "input x is changed in place"),
        (change_a_view_of_the_input, "input mutated", "input x is changed in place"),
        (change_a_buffer, "state mutated", "buffer count is changed in place"),
        (assign_a_buffer, "state mutated", "buffer count is changed in place"),
        (change_a_part, "in-place change of a view", ""),
    ],
)
def test_effects_on_the_outside_are_refused(function, problem: str, got: str) -> None:
    with pytest.raises(CaptureError) as caught:
        capture(Net(function), IMAGES.clone())
    assert caught.value.problem == problem
    assert got in str(caught.value)
    assert caught.value.location.startswith("test_side_effects_are_removed.py:")
    assert "try: clone it first" in str(caught.value) or "torch.where" in str(caught.value)


def test_autocast_is_refused() -> None:
    def autocast(m, x):
        with torch.autocast("cpu", torch.bfloat16):
            return x @ x.mT

    with pytest.raises(UnsupportedOp, match="leave autocast out of forward"):
        capture(Net(autocast), IMAGES)
