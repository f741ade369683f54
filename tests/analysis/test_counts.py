"""Counts in closed form against PyTorch's own counter, which watches a model run."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from gossamer.analysis.counts import count
from gossamer.core.errors import UnknownName
from gossamer.frontends.torch_module import capture


class Of(nn.Module):
    """A function of tensors as a module, with layers it may use."""

    def __init__(self, function: Any, *layers: nn.Module) -> None:
        super().__init__()
        self.function = function
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Tensor, y: Tensor | None = None) -> Any:
        return self.function(*self.layers, x) if y is None else self.function(*self.layers, x, y)


def chain(*layers: nn.Module) -> Of:
    return Of(nn.Sequential(*layers))


HEADS = torch.randn(2, 4, 5, 8)
MODELS: dict[str, tuple[nn.Module, tuple[Tensor, ...]]] = {
    "convolutions": (
        chain(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 12, (3, 1), groups=4), nn.BatchNorm2d(12)),
        (torch.randn(2, 3, 9, 10),),
    ),
    "depthwise": (chain(nn.Conv2d(6, 12, 5, groups=6, dilation=2)), (torch.randn(2, 6, 12, 12),)),
    "sequences": (chain(nn.Conv1d(3, 8, 3), nn.ConvTranspose1d(8, 6, 4, 2, groups=2)), (torch.randn(2, 3, 11),)),
    "transposed": (chain(nn.ConvTranspose2d(3, 8, 3, 2, 1, 1)), (torch.randn(2, 3, 5, 6),)),
    "linear": (chain(nn.Linear(6, 7), nn.LayerNorm(7), nn.Linear(7, 3, bias=False)), (torch.randn(2, 5, 6),)),
    "products": (Of(lambda x, y: x @ y @ x.transpose(1, 2)), (torch.randn(2, 3, 4), torch.randn(2, 4, 4))),
    "einsum": (Of(lambda x, y: torch.einsum("bhqd,bhkd->bhqk", x, y)), (HEADS, torch.randn(2, 4, 7, 8))),
    "einsum of one": (Of(lambda x, y: torch.einsum("bhij->bjih", x @ y)), (HEADS, torch.randn(2, 4, 8, 3))),
    "ellipsis": (Of(lambda x, y: torch.einsum("...ij,jk->...ik", x, y[0])), (HEADS, torch.randn(2, 8, 3))),
    "attention": (Of(lambda x, y: F.scaled_dot_product_attention(x, y, y)), (HEADS, torch.randn(2, 4, 7, 8))),
    "look-ups": (chain(nn.Embedding(9, 4), nn.Linear(4, 3)), (torch.ones(2, 5).long(),)),
}  # fmt: skip


def watched(model: nn.Module, inputs: tuple[Tensor, ...]) -> int:
    """Multiply-accumulates of a run; attention and recurrent layers by their parts, which are counted."""
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter, sdpa_kernel(SDPBackend.MATH), torch.backends.mkldnn.flags(enabled=False):
        model(*inputs)
    return counter.get_total_flops() // 2


@pytest.mark.parametrize("name", MODELS)
def test_shapes_say_what_a_run_does(name: str) -> None:
    model, inputs = MODELS[name]
    counts = count(capture(model, inputs), {"batch": 2})
    assert counts.total == watched(model.eval(), inputs) > 0
    assert counts.parameters == sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(
    "layer", [nn.LSTM(5, 6, 2, bidirectional=True, batch_first=True), nn.GRU(5, 7), nn.LSTM(4, 8, proj_size=3)]
)
def test_a_recurrent_layer_counts_each_matrix_once_a_step(layer: Any) -> None:
    x = torch.randn(2, 9, layer.input_size)
    counts = count(capture(Of(lambda layer, x: layer(x)[0], layer), x, dynamic=None))
    assert counts.total == watched(layer, (x,)) == 2 * 9 * sum(p.numel() for p in layer.parameters() if p.dim() == 2)


def test_named_dims_have_the_smallest_size_unless_given() -> None:
    program = capture(chain(nn.Linear(4, 3)), torch.randn(2, 6, 4), dynamic={"x": {0: "batch", 1: "seq=2..9"}})
    assert count(program).total == 2 * 12
    assert count(program, {"batch": 5, "seq": 7}).total == 5 * 7 * 12
    assert count(program, {"seq": 7}).macs == {next(iter(count(program).macs)): 7 * 12}


def test_a_tied_weight_is_one_parameter_and_works_twice() -> None:
    first = nn.Linear(4, 4, bias=False)
    counts = count(capture(chain(first, nn.ReLU(), first), torch.randn(2, 4)))
    assert (counts.total, counts.parameters) == (32, 16)


def test_what_depends_on_no_input_costs_nothing_at_run_time() -> None:
    model = Of(lambda made, used, x: used(x) + made(torch.ones(5, 4)).sum(), nn.Linear(4, 8), nn.Linear(4, 3))
    counts = count(capture(model, torch.randn(2, 4)))
    assert (counts.total, counts.parameters) == (12, 40 + 15)


def test_an_unknown_dim_is_refused() -> None:
    program = capture(chain(nn.Linear(4, 3)), torch.randn(2, 4))
    with pytest.raises(UnknownName, match="dim 'rows'") as caught:
        count(program, {"rows": 2})
    assert "named dims: batch" in str(caught.value)
