"""Whether OpenVINO multiplies matrices in bfloat16 rightly on this machine. Torch-free.

On some processors with AVX512-BF16 and without AMX it was reported not to: results of another size and direction, while
float32 is right (github.com/openvinotoolkit/openvino/issues/38256, seen with 2026.4.0).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gossamer.runtimes.openvino.runtime import ov

_SHAPES = ((1, 1024, 1024), (16, 256, 512), (64, 1000, 96))
"""Rows, inner size and columns of the products; one of them no multiple of any block."""

_LEAST_COSINE = 0.999
"""Of a product of bfloat16 numbers summed up in float32, which is off by less than 2^-8 of its size."""


@dataclass(frozen=True)
class Bf16Probe:
    """What bfloat16 products came to.

    Attributes:
        cosine: the worst cosine between the runtime's product and the exact one.
        size: the norm of that product as a share of the exact one's.
    """

    cosine: float
    size: float

    @property
    def right(self) -> bool:
        """Whether bfloat16 can be used here."""
        return self.cosine >= _LEAST_COSINE and abs(self.size - 1) < 0.01

    def __str__(self) -> str:
        if self.right:
            return "right"
        return f"WRONG: cosine {self.cosine:.3f}, {self.size:.2f} times the size; do not use precision=bfloat16 here"


def probe_bf16(seed: int = 0) -> Bf16Probe:
    """Multiply random matrices that bfloat16 holds exactly, with weights in float32 and in bfloat16. Cost: 0.1 s."""
    rng = np.random.default_rng(seed)
    found = []
    for rows, inner, columns in _SHAPES:
        a, b = (_representable(rng.normal(size=shape)) for shape in ((rows, inner), (inner, columns)))
        exact = a.astype(np.float64) @ b
        for stored in (False, True):
            product = _product(a, b, stored=stored)
            cosine = float((product * exact).sum() / (np.linalg.norm(product) * np.linalg.norm(exact) + 1e-30))
            found.append(Bf16Probe(cosine, float(np.linalg.norm(product) / np.linalg.norm(exact))))
    return min(found, key=lambda probe: (probe.right, probe.cosine))


def _representable(values: np.ndarray) -> np.ndarray:
    """Values cut to the 8 leading bits that bfloat16 keeps."""
    bits = values.astype(np.float32).view(np.uint32) & np.uint32(0xFFFF0000)
    return bits.view(np.float32)


def _product(a: np.ndarray, b: np.ndarray, *, stored: bool) -> np.ndarray:
    """Product in bfloat16, asked for by the hint, or ``stored`` as bfloat16 in the model."""
    ops = ov.opset13
    x = ops.parameter(a.shape, np.float32)
    left, right = x, ops.constant(b)
    if stored:
        left, right = (ops.convert(value, "bf16") for value in (left, right))
    model = ov.Model([ops.convert(ops.matmul(left, right, False, False), "f32")], [x])
    compiled = ov.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "bf16", "INFERENCE_NUM_THREADS": 1})
    return compiled(a)[0].astype(np.float64)
