"""Hypothesis strategies for what the package is given: tensors, schemes, signatures, budgets, small programs.

Needs hypothesis, which ``gossamer.testing`` itself does not import.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gossamer.core.extras import require_extra

require_extra("hypothesis", "dev", "importing the strategies")

import numpy as np  # noqa: E402 - after the check, whose message says what to install
import torch  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from hypothesis.extra import numpy as hnp  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from gossamer.core.budget import STATISTICS, Budget, Clause  # noqa: E402
from gossamer.core.specs import NUMPY_DTYPES, Signature, TensorSpec  # noqa: E402
from gossamer.core.target import Scheme  # noqa: E402
from gossamer.frontends.torch_module import capture  # noqa: E402
from gossamer.program.program import Program  # noqa: E402

SMALLEST_NORMAL = float(np.finfo(np.float32).tiny)

# Values and tensors


def floats(largest: float = 1e4) -> st.SearchStrategy[float]:
    """float32 values: zeros of both signs, denormals, powers of two, the extremes, and all between."""
    tiny = [0.0, -0.0, SMALLEST_NORMAL, SMALLEST_NORMAL / 8, -SMALLEST_NORMAL / 2**20, 2.0**-149]
    largest = float(np.float32(largest))
    extremes = [largest, -largest, 1.0, -1.0, 0.5, 2.0**-12]
    return st.sampled_from(tiny) | st.sampled_from(extremes) | st.floats(-largest, largest, width=32)


def shapes(min_dims: int = 1, max_dims: int = 4, max_side: int = 7) -> st.SearchStrategy[tuple[int, ...]]:
    """Shapes with sides of 1 and odd sides among them, none empty."""
    return st.lists(st.sampled_from(range(1, max_side + 1)), min_size=min_dims, max_size=max_dims).map(tuple)


@st.composite
def arrays(draw: st.DrawFn, shape: Any = None, largest: float = 1e4) -> np.ndarray:
    """float32 arrays: of any values, all zero, constant, or spread evenly with one far larger than the rest."""
    size = draw(shapes() if shape is None else shape if isinstance(shape, st.SearchStrategy) else st.just(shape))
    kind = draw(st.sampled_from(["any", "any", "zero", "constant", "outlier"]))
    if kind == "any":
        return draw(hnp.arrays(np.float32, size, elements=floats(largest)))
    if kind == "outlier":
        values = np.linspace(-1, 1, max(int(np.prod(size)), 1), dtype=np.float32).reshape(size)
        values.flat[0] = largest
        return values
    return np.full(size, 0.0 if kind == "zero" else draw(floats(largest)), np.float32)


def tensors(shape: Any = None, largest: float = 1e4) -> st.SearchStrategy[Tensor]:
    """``arrays`` as tensors."""
    return arrays(shape, largest).map(torch.from_numpy)


# Grids


def schemes() -> st.SearchStrategy[Scheme]:
    """Every way of turning values into 8-bit codes that a target may ask for."""
    return st.sampled_from(
        [Scheme("uint8", symmetric=False), Scheme("int8", symmetric=False), Scheme("int8", symmetric=True)]
    )


def code_ranges() -> st.SearchStrategy[tuple[int, int]]:
    """Smallest and largest code: of ``schemes``, and of 4 and 7 bits."""
    return schemes().map(lambda scheme: scheme.code_range) | st.sampled_from([(0, 15), (-8, 7), (0, 127), (-63, 63)])


# Signatures


def specs() -> st.SearchStrategy[TensorSpec]:
    """Tensors of every dtype, with sizes, named dims and expressions in them."""
    sizes = st.integers(0, 9) | st.sampled_from(["batch", "length", "2*batch", "length+1"])
    return st.builds(
        TensorSpec,
        name=st.sampled_from(["x", "ids", "mask", "ü"]),
        dtype=st.sampled_from(sorted(NUMPY_DTYPES)),
        shape=st.lists(sizes, max_size=4).map(tuple),
    )


def signatures() -> st.SearchStrategy[Signature]:
    """Up to three inputs and outputs, and dims with closed and open ranges."""
    ends = st.tuples(st.integers(0, 3), st.none() | st.integers(3, 9))
    return st.builds(
        Signature,
        inputs=st.lists(specs(), max_size=3).map(tuple),
        outputs=st.lists(specs(), max_size=3).map(tuple),
        dims=st.dictionaries(st.sampled_from(["batch", "length"]), ends, max_size=2),
    )


# Budgets


def clauses(metrics: Sequence[str]) -> st.SearchStrategy[Clause]:
    """One limit of every kind that can be tested, with any amount and confidence."""
    names = st.sampled_from(list(metrics))
    positive, shares, points = st.floats(1e-300, 1e300), st.floats(1e-12, 1.0), st.floats(0.0, 100.0)
    confidences = st.sampled_from([0.95, 0.99]) | st.floats(0.5, 1.0, exclude_min=True, exclude_max=True)

    def clause(quantity: Any, comparison: str, unit: str, amount: st.SearchStrategy[float], **fields: Any) -> Any:
        given = {"quantity": quantity, "comparison": comparison, "unit": unit, "amount": amount, **fields}
        given.setdefault("confidence", confidences)
        return st.builds(
            Clause, **{name: one if isinstance(one, st.SearchStrategy) else st.just(one) for name, one in given.items()}
        )

    def limit(quantity: str, comparison: str, unit: str, **fields: Any) -> Any:
        """On the level, or on the ratio to the baseline."""
        levels = clause(quantity, comparison, unit, positive, **fields)
        return levels | clause(quantity, comparison, "x", positive, **fields)

    slices = {"scope": "worst slice", "scope_name": st.sampled_from(["", "age"])}
    return st.one_of(
        clause(names, "<=", "pt", points, is_drop=True),
        clause(names, "<=", "pt", points, is_drop=True, scope="worst class"),
        clause(names, "<=", "pt", points, is_drop=True, **slices),
        clause("calibration error", "<=", "pt", points, is_drop=True),
        clause("calibration error", "<=", "share", shares),
        clause(names, ">=", "share", shares),
        clause(names, ">=", "x", positive),
        clause(st.sampled_from(["flips", "negative flips"]), "<=", "share", shares),
        limit("latency", "<=", "ms", statistic=st.sampled_from(STATISTICS)),
        limit("load time", "<=", "ms"),
        limit("throughput", ">=", "/s"),
        limit("peak memory", "<=", "B"),
        limit("size", "<=", "B", confidence=0.95),
    )


def budgets(metrics: Sequence[str]) -> st.SearchStrategy[Budget]:
    """One to five limits on different subjects."""
    parts = st.lists(clauses(metrics), min_size=1, max_size=5, unique_by=lambda clause: clause.subject)
    return parts.map(lambda found: Budget(tuple(found)))


# Programs


@st.composite
def programs(draw: st.DrawFn, depth: int = 4) -> tuple[Program, dict[str, np.ndarray]]:
    """A captured chain of layers, with inputs for it.

    Convolutions with strides, groups and padding, norms, activations and pools on an image of odd size, and a linear
    layer behind. Cost: an export, some 100 ms; keep the number of examples low.
    """
    channels, height, width = draw(st.sampled_from([1, 2, 3, 4])), draw(st.integers(5, 9)), draw(st.integers(5, 9))
    layers: list[nn.Module] = []
    now, size = channels, (height, width)
    for _ in range(draw(st.integers(1, depth))):
        kind = draw(st.sampled_from(["conv", "conv", "norm", "activation", "pool"]))
        if kind == "conv":
            kernel, stride, out = (
                draw(st.sampled_from([1, 3])),
                draw(st.sampled_from([1, 2])),
                draw(st.sampled_from([4, 6])),
            )
            groups = draw(st.sampled_from([1, *(n for n in (2, now) if now % n == 0 and out % n == 0)]))
            layers.append(nn.Conv2d(now, out, kernel, stride, kernel // 2, groups=groups, bias=draw(st.booleans())))
            now, size = out, tuple((side - 1) // stride + 1 for side in size)
        elif kind == "norm":
            layers.append(nn.BatchNorm2d(now))
        elif kind == "activation":
            layers.append(draw(st.sampled_from([nn.ReLU, nn.ReLU6, nn.Hardswish, nn.SiLU, nn.GELU, nn.Tanh]))())
        elif min(size) > 1:
            layers.append(draw(st.sampled_from([nn.MaxPool2d, nn.AvgPool2d]))(2, 2, ceil_mode=False))
            size = tuple(side // 2 for side in size)
    layers += [nn.Flatten(), nn.Linear(now * size[0] * size[1], draw(st.sampled_from([3, 5])))]
    seed = draw(st.integers(0, 2**16))
    torch.manual_seed(seed)
    image = torch.randn(8, channels, height, width)
    net = nn.Sequential(*layers).eval()
    return capture(net, image), {"input": image.numpy()}
