"""Facts about OpenVINO on a CPU. Found by trying each pattern and reading the graph that it really runs (2026.4)."""

from gossamer.core.target import OpPlacement, QuantizerPlacement, Scheme, TargetFacts

CPU = TargetFacts(
    precisions=("float32", "bfloat16", "int8"),
    extra="openvino",
    quantizers=QuantizerPlacement(
        activation=Scheme("uint8", symmetric=False),
        weight=Scheme("int8", symmetric=True),
        ops={
            "conv": OpPlacement(inputs=True, output=False),
            "linear": OpPlacement(inputs=True, output=False),
            "embedding": OpPlacement(inputs=False, output=False, weight="tensor"),
        },
        fused_activations=frozenset(),
        int8_kernels=frozenset({"Convolution int8", "FullyConnected int8", "MatMul int8", "Gather int8"}),
        placement_snr_db=38.0,
    ),
    notes="one dynamic ONNX file, specialised to a batch size at load; precision pinned; telemetry off",
)
