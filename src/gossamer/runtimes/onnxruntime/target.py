"""Facts about ONNX Runtime on a CPU. Found by trying each pattern and reading the runtime's own profile (1.31)."""

from gossamer.core.target import OpPlacement, QuantizerPlacement, Scheme, TargetFacts

_INSIDE = OpPlacement(inputs=True, output=True, when="inputs_quantized")

CPU = TargetFacts(
    precisions=("float32", "int8"),
    quantizers=QuantizerPlacement(
        # Unsigned activations and signed weights are the only pair with fast kernels: signed activations leave
        # convolutions in float, unsigned weights run at float speed.
        activation=Scheme("uint8", symmetric=False),
        weight=Scheme("int8", symmetric=True),
        ops={
            "conv": OpPlacement(inputs=True, output=True, bias="int32"),
            # Gemm with an int32 bias and no pair behind it becomes QGemm with float output.
            "linear": OpPlacement(inputs=True, output=False, bias="int32"),
            # Rows are looked up as codes and scaled afterwards: a quarter of the bytes for a little time.
            "embedding": OpPlacement(inputs=False, output=False),
            "add": _INSIDE,
            "mean": _INSIDE,
            "avg_pool": _INSIDE,
            "max_pool": _INSIDE,
            "concat": _INSIDE,
            "pad": _INSIDE,
            "slice": _INSIDE,
            "reshape": _INSIDE,
            "permute": _INSIDE,
        },
        # Folded into the convolution or add before them as long as the zero point behind them is 0, which an
        # unsigned grid over values of at least 0 has by itself.
        fused_activations=frozenset({"relu", "relu6"}),
        int8_kernels=frozenset(
            {"QLinearConv", "QGemm", "QLinearMatMul", "MatMulIntegerToFloat", "ConvInteger", "MatMulInteger"}
        ),
        placement_snr_db=38.0,
    ),
    # With AVX-512 times rise behind every 16 channels, and convolutions run slower off multiples of 4; half the former
    # suits processors with vectors of half the width.
    blocking={"channels": 8, "linear": 8},
    notes="one dynamic file, specialised to a batch size at load; telemetry off",
)
