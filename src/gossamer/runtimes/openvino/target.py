"""Facts about OpenVINO on a CPU. Found by trying each pattern and reading the graph that it really runs (2026.4)."""

from gossamer.core.target import OpPlacement, QuantizerPlacement, Scheme, TargetFacts

CPU = TargetFacts(
    precisions=("float32", "bfloat16", "int8"),
    extra="openvino",
    quantizers=QuantizerPlacement(
        activation=Scheme("uint8", symmetric=False),
        weight=Scheme("int8", symmetric=True),
        ops={
            # The sum of a residual block is fused into the convolution before it: no pair between the two, and the
            # other term in integers already. On ResNet-56 1.07x of a placement with float residuals, 1.2x of pairs
            # around the sum.
            "conv": OpPlacement(inputs=True, output=False, shared=True),
            "linear": OpPlacement(inputs=True, output=False),
            "embedding": OpPlacement(inputs=False, output=False, weight="tensor"),
        },
        fused_activations=frozenset(),
        int8_kernels=frozenset({"Convolution int8", "FullyConnected int8", "MatMul int8", "Gather int8"}),
        placement_snr_db=38.0,
    ),
    notes="one dynamic ONNX file, specialised to a batch size at load; precision pinned; telemetry off",
)
