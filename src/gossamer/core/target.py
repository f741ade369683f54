"""Where a program will run: a runtime, a device and its facts, as data.

A target is written ``onnxruntime:cpu,threads=1,batch=32``. The facts (which precisions have kernels, where quantizers
must stand for these kernels to be used) come from the runtime's own ``target.py``; techniques read them and know no
runtime.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from gossamer.core.errors import OptionError
from gossamer.core.names import require_known


@dataclass(frozen=True)
class Scheme:
    """How real values become integers.

    Attributes:
        dtype: ``uint8`` or ``int8``.
        symmetric: the zero point is 0 (signed codes then leave out -128).
    """

    dtype: Literal["uint8", "int8"]
    symmetric: bool

    @property
    def code_range(self) -> tuple[int, int]:
        """Smallest and largest code, inclusive."""
        if self.dtype == "uint8":
            return 0, 255
        return (-127, 127) if self.symmetric else (-128, 127)


@dataclass(frozen=True)
class OpPlacement:
    """Where one class of operations wants its quantize/dequantize pairs.

    Attributes:
        inputs: a pair on every activation input.
        shared: these pairs stand behind the value, for all its readers, so that a residual sum reads integers too.
        output: a pair on the result, after the activation function fused with it.
        bias: ``int32`` codes with scale (input scale x weight scale), or left in ``float``.
        when: ``always``, or ``inputs_quantized``: only where every activation input already comes from a pair.
    """

    inputs: bool
    output: bool
    bias: Literal["int32", "float"] = "float"
    when: Literal["always", "inputs_quantized"] = "always"
    shared: bool = False


@dataclass(frozen=True)
class QuantizerPlacement:
    """The quantizer rules of a target.

    Attributes:
        activation: scheme of activations, one scale per tensor.
        two_sided: scheme of activations that go below 0, if another one: about as far as above where all readers take
            them in integers, at all where only linear layers do, which lose time to a zero point.
        weight: scheme of weights, one scale per output channel, or per row of an embedding.
        ops: placement by op class; the classes are those of ``gossamer.program.dialect.op_class``.
        fused_activations: ops that the runtime folds into the op before them, so that the pair goes behind them.
        int8_kernels: names of the kernels that compute on integers, as the runtime's profile prints them.
        placement_snr_db: below this signal-to-noise ratio of runtime against simulation the placement was not honoured.
    """

    activation: Scheme
    weight: Scheme
    ops: Mapping[str, OpPlacement]
    fused_activations: frozenset[str]
    int8_kernels: frozenset[str]
    placement_snr_db: float
    two_sided: Scheme | None = None


@dataclass(frozen=True)
class TargetFacts:
    """What is known about a runtime on a device, whatever the model.

    Attributes:
        precisions: element types with fast kernels, plain one first.
        extra: the gossamer extra that installs the runtime; empty if the base install has it.
        quantizers: placement rules, or ``None`` where the target has no int8 kernels.
        placements: other rules by name, each faster for some networks or batch sizes.
        blocking: widths that are multiples of this cost no more than any a little below, for ``channels`` of
            convolutions and features of ``linear`` layers; measured by ``benchmarks/blocking.py``.
        notes: what a user should know, for ``gossamer targets``.
    """

    precisions: tuple[str, ...]
    extra: str = ""
    quantizers: QuantizerPlacement | None = None
    placements: Mapping[str, QuantizerPlacement] = field(default_factory=dict)
    blocking: Mapping[str, int] = field(default_factory=dict)
    notes: str = ""

    @property
    def float_precisions(self) -> tuple[str, ...]:
        """The precisions that floats can be computed in."""
        return tuple(name for name in self.precisions if "float" in name)


@dataclass(frozen=True)
class Target:
    """A runtime on a device with the settings that change speed; prints as its text.

    Attributes:
        runtime: ``onnxruntime``, ``openvino``.
        device: ``cpu``.
        threads: of one call.
        batch: samples in one call.
        precision: what floats are computed in; files and inputs stay float32. Pinned, never the runtime's own choice.
        facts: of the runtime on the device.
    """

    runtime: str
    device: str = "cpu"
    threads: int = 1
    batch: int = 1
    precision: str = "float32"
    facts: TargetFacts = field(default_factory=lambda: TargetFacts(precisions=("float32",)), compare=False, repr=False)

    def __str__(self) -> str:
        text = f"{self.runtime}:{self.device},threads={self.threads},batch={self.batch}"
        return text if self.precision == "float32" else f"{text},precision={self.precision}"

    @property
    def folder_name(self) -> str:
        """Name of this target's folder in an artifact: runtime and device, since one file serves every batch size."""
        return f"{self.runtime}-{self.device}"


OPTIONS = ("threads", "batch", "precision")


def parse_target(text: str, known: Mapping[str, Mapping[str, TargetFacts]]) -> Target:
    """Read ``runtime[:device][,option=value]...``.

    Args:
        text: for example ``onnxruntime:cpu,threads=1,batch=32``.
        known: facts by runtime and device.

    Raises:
        UnknownName: unknown runtime, device or option, with the nearest name.
        OptionError: a value that is not a positive whole number, or a precision that the target does not compute in.
    """
    doing = f"reading the target {text!r}"
    head, *options = [part.strip() for part in text.split(",")]
    runtime, _, device = head.partition(":")
    device = device or "cpu"
    require_known(runtime, known, "runtime", doing, "gossamer targets")
    require_known(device, known[runtime], "device", doing, "gossamer targets")
    facts = known[runtime][device]
    values: dict[str, Any] = {}
    for option in options:
        name, equals, value = option.partition("=")
        require_known(name, OPTIONS, "option", doing, "gossamer targets")
        if name in values:
            raise OptionError(doing, got=f"{name} twice", expected="each option once")
        if name == "precision":
            if value not in facts.float_precisions:
                raise OptionError(doing, got=option, expected=f"precision={' or '.join(facts.float_precisions)}")
            values[name] = value
        elif not equals or not value.isdecimal() or int(value) < 1:
            raise OptionError(doing, got=option, expected=f"{name}=N with N a whole number of at least 1")
        else:
            values[name] = int(value)
    return Target(runtime, device, facts=facts, **values)
