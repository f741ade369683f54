"""What the runtimes of this package do not do. The support table in the documents is written from these lists."""

from __future__ import annotations

from collections.abc import Mapping

from gossamer.core.errors import ArtifactError, DataError, UnsupportedOp
from gossamer.testing.gaps import Disagreement, Gap

# fmt: off
WRITER = (
    Gap("never", "linear", UnsupportedOp, "Gemm needs rows; unsqueeze first", notes="vector"),
    Gap("never", "upsample_bilinear2d", UnsupportedOp, "the output size would depend on float32 rounding",
        notes="varying size by 2.3"),
    Gap("notyet", "lstm", UnsupportedOp, "ONNX has no projections", notes="projections"),
    Gap("notimpl", "scaled_dot_product_attention", UnsupportedOp, "merge the leading axes first", notes="rank 5"),
    Gap("notimpl", "linalg_vector_norm", UnsupportedOp, "needs Pow and a root", notes="order 3"),
    Gap("notimpl", "avg_pool2d", UnsupportedOp, "needs a multiplication behind the pool", notes="own divisor"),
    Gap("notimpl", "pixel_shuffle", UnsupportedOp, "unsqueeze first", notes="without batch"),
)
"""What is not written to ONNX, whatever runs the file."""

ONNXRUNTIME = (
    *WRITER,
    Gap("notyet", "*", (ArtifactError, DataError), "few kernels for bfloat16, and NumPy has none to give it",
        dtypes="bfloat16"),
    Gap("notyet", "conv1d conv2d conv3d conv_transpose1d conv_transpose2d avg_pool1d avg_pool2d mean elu gelu erf "
        "hardswish hardsigmoid leaky_relu prelu softplus mish tan upsample_nearest2d upsample_bilinear2d "
        "upsample_bicubic2d quantize dequantize", ArtifactError, "no kernel for float64", dtypes="float64"),
    Gap("notyet", "lstm gru", DataError, "no kernel for float64", dtypes="float64"),
    Gap("notimpl", "scaled_dot_product_attention group_norm", Disagreement,
        "attributes or steps in float32", dtypes="float64"),
    Gap("notimpl", "quantize dequantize", ArtifactError, "scales are written as float32", dtypes="float16"),
    Gap("notyet", "pixel_shuffle pixel_unshuffle", ArtifactError, "no kernel for these",
        dtypes="int64 int32 int16 bool"),
    Gap("notyet", "where.self", ArtifactError, "no Where for these", dtypes="bool int16"),
    Gap("notyet", "sign", ArtifactError, "ONNX has none for bool", dtypes="bool"),
    Gap("notimpl", "any all", ArtifactError, "PyTorch gives uint8 here, the file bool", dtypes="uint8"),
    Gap("notyet", "relu", ArtifactError, "no Relu for these", dtypes="int64 int16 uint8"),
    Gap("notimpl", "isinf", ArtifactError, "the form has a Relu", dtypes="int64 int16 uint8", notes="*int*"),
    Gap("notyet", "matmul", ArtifactError, "no MatMul for these", dtypes="int16 int8 uint8"),
    Gap("notyet", "einsum", ArtifactError, "no Einsum for these", dtypes="int16 int8 uint8"),
    Gap("notyet", "pow.Tensor_Tensor", ArtifactError, "no Pow for these", dtypes="int16 int8 uint8"),
    Gap("notyet", "tril triu", ArtifactError, "no Trilu for these", dtypes="int16 int8 uint8"),
    Gap("notyet", "neg", ArtifactError, "ONNX has none for uint8", dtypes="uint8"),
    Gap("notyet", "max_pool2d", ArtifactError, "no MaxPool for these", dtypes="int64 int32 int16"),
    Gap("notyet", "avg_pool1d avg_pool2d", ArtifactError, "no AveragePool for whole numbers", dtypes="int64"),
    Gap("notyet", "argmax argmin maximum minimum pad hardtanh amax amin", ArtifactError, "no kernel for int16",
        dtypes="int16"),
    Gap("notyet", "upsample_bilinear2d", Disagreement, "rounds in another way", dtypes="uint8"),
    Gap("notyet", "upsample_bicubic2d", DataError, "no kernel for uint8", dtypes="uint8"),
)

OPENVINO = (
    *WRITER,
    Gap("never", "*", DataError, "NumPy has no bfloat16 to give it", dtypes="bfloat16"),
    Gap("notyet", "conv1d conv2d conv3d conv_transpose1d conv_transpose2d linear matmul lstm gru einsum dropout "
        "scaled_dot_product_attention softmax log_softmax batch_norm layer_norm group_norm rms_norm gelu silu sigmoid "
        "tanh hardswish hardsigmoid leaky_relu elu softplus mish exp erf sin cos log sqrt rsqrt reciprocal tan add sub "
        "mul div.Tensor pow mean sum prod var linalg_vector_norm cumsum avg_pool1d avg_pool2d upsample_bilinear2d "
        "upsample_bicubic2d arange", Disagreement, "float64 is computed in float32", dtypes="float64"),
    Gap("notyet", "quantize dequantize", ArtifactError, "float64 has no quantizers", dtypes="float64"),
    Gap("notimpl", "quantize dequantize", Disagreement, "scales are written as float32", dtypes="float16"),
    Gap("notyet", "quantize dequantize", Disagreement, "zero points by channel are off by one step",
        notes="int8 by channel"),
    Gap("notyet", "quantize dequantize", ArtifactError, "scales by channel only on the first two axes",
        notes="int8 by channel, negative axis"),
    Gap("notyet", "isinf", Disagreement, "false for every value", notes="float*"),
    Gap("notyet", "isinf", Disagreement, "false for every value", notes="int*"),
    Gap("notyet", "to", Disagreement, "the step to bfloat16 and back is left out", notes="through bfloat16"),
    Gap("notyet", "remainder.Tensor", Disagreement,
        "the rest of a float division is taken after rounding the quotient", notes="float"),
    Gap("notyet", "div.Tensor_mode", Disagreement,
        "the rest of a float division is taken after rounding the quotient", notes="floor, float"),
    Gap("notyet", "argmax argmin", Disagreement, "int64 is computed in int32", notes="large whole numbers"),
    Gap("notyet", "max_pool2d", Disagreement, "keeps a last window that lies in the padding",
        notes="ceil mode, *"),
    Gap("notyet", "avg_pool2d", Disagreement, "counts the padding differently at the end",
        notes="ceil mode, padding counted"),
    Gap("notyet", "upsample_bilinear2d upsample_bicubic2d", Disagreement, "rounds the size from the factor in float32",
        notes="factor 2.3 of 50"),
    Gap("notyet", "pad", ArtifactError, "no circular padding", notes="circular"),
    Gap("notyet", "conv2d", ArtifactError, "no circular padding", notes="padding mode circular"),
    Gap("notyet", "gather", ArtifactError, "indices must be as large as the data in the other axes",
        notes="smaller in another axis"),
    Gap("notyet", "sign", ArtifactError, "none for bool", dtypes="bool"),
    Gap("notyet", "amax amin", ArtifactError, "none for int16", dtypes="int16"),
    Gap("notyet", "neg", ArtifactError, "none for uint8", dtypes="uint8"),
    Gap("notimpl", "any all", Disagreement, "PyTorch gives uint8 here, the file bool", dtypes="uint8"),
    Gap("notyet", "sub", Disagreement, "stops at 0 where PyTorch wraps around", dtypes="uint8"),
    Gap("notyet", "avg_pool1d avg_pool2d", Disagreement, "rounds whole numbers in another way", dtypes="int64"),
    Gap("notyet", "upsample_bilinear2d upsample_bicubic2d", Disagreement, "rounds in another way", dtypes="uint8"),
)

# fmt: on
RUNTIME_GAPS: Mapping[str, tuple[Gap, ...]] = {"onnxruntime:cpu": ONNXRUNTIME, "openvino:cpu": OPENVINO}
"""Gaps by target."""
