"""Facts about OpenVINO on a CPU. Found by trying each pattern and reading the graph that it really runs (2026.4)."""

from dataclasses import replace

from gossamer.core.target import OpPlacement, QuantizerPlacement, Scheme, TargetFacts

_INSIDE = OpPlacement(inputs=True, output=True, when="inputs_quantized")

_FLOAT_SUMS = QuantizerPlacement(
    activation=Scheme("uint8", symmetric=False),
    weight=Scheme("int8", symmetric=True),
    two_sided=Scheme("int8", symmetric=True),
    ops={
        # No pair between a convolution and the sum of its residual block; the other term is in integers already.
        "conv": OpPlacement(inputs=True, output=False, shared=True),
        "linear": OpPlacement(inputs=True, output=False),
        "embedding": OpPlacement(inputs=False, output=False),
    },
    fused_activations=frozenset(),
    int8_kernels=frozenset({"Convolution int8", "FullyConnected int8", "MatMul int8", "Gather int8"}),
    placement_snr_db=38.0,
)

_INTEGER_SUMS = replace(
    _FLOAT_SUMS,
    two_sided=None,
    ops={
        **_FLOAT_SUMS.ops,
        # Pairs around sums, in unsigned codes: then each sum is fused into the convolution before it. Less to read and
        # write, which counts for large batches, and more rounding.
        "conv": OpPlacement(inputs=True, output=True),
        **dict.fromkeys(
            ("add", "mean", "avg_pool", "max_pool", "concat", "pad", "slice", "reshape", "permute"), _INSIDE
        ),
    },
    fused_activations=frozenset({"relu", "relu6"}),
)

CPU = TargetFacts(
    precisions=("float32", "bfloat16", "int8"),
    extra="openvino",
    quantizers=_FLOAT_SUMS,
    placements={"integer_sums": _INTEGER_SUMS},
    blocking={"channels": 8, "linear": 8},  # times rise behind every 16 channels with AVX-512, every 8 with AVX2
    notes="one dynamic ONNX file, specialised to a batch size at load; precision pinned; telemetry off",
)
