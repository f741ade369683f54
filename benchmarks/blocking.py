"""At which multiples of channels a runtime's time rises: the figures behind ``blocking`` in a target's facts.

Run: ``python benchmarks/blocking.py [--targets onnxruntime:cpu,openvino:cpu] [--out FILE] [--tiny]``. Needs no model.

A chain of equal layers of w channels is timed against one of w + 1, by turns, for w between 64 and 128. Widths are told
apart by the largest power of two that divides them. The blocking is the smallest b such that one channel more than an
odd multiple of b costs more than 3 %, with 95 % confidence, and so for 2b, 4b, ... up to 64; 1 if there is none.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from record import conditions
from rich.console import Console
from rich.table import Table
from torch import nn

from gossamer import flow
from gossamer.core.files import write_atomic
from gossamer.core.runnable import Executable
from gossamer.core.target import Target
from gossamer.metrics.student import t_quantile
from gossamer.runtimes import lower_for, open_executable, resolve_target

BLOCKS = (1, 2, 4, 8, 16, 32, 64)
COSTLY = 1.03


@dataclass(frozen=True)
class Scale:
    """How much is timed.

    Attributes:
        widths: w for each block, beyond which one step is taken.
        chunks: independent comparisons of each pair.
        calls: of each side in a chunk.
        depth: layers in a chain.
    """

    widths: int = 3
    chunks: int = 8
    calls: int = 15
    depth: int = 4


TINY = Scale(1, 2, 2, 2)

Layers = Callable[[int], tuple[nn.Module, tuple[int, ...]]]

CLASSES: Mapping[str, Layers] = {
    "conv 3x3": lambda width: (nn.Conv2d(width, width, 3, padding=1), (1, width, 14, 14)),
    "conv 1x1": lambda width: (nn.Conv2d(width, width, 1), (1, width, 28, 28)),
    "depthwise": lambda width: (nn.Conv2d(width, width, 3, padding=1, groups=width), (1, width, 28, 28)),
    "linear": lambda width: (nn.Linear(width, width), (64, width)),
}


def chain(layers: Layers, width: int, depth: int, target: Target, folder: Path) -> tuple[Executable, dict[str, Any]]:
    """A chain of layers of one width, open in the target's runtime, and its input."""
    torch.manual_seed(0)
    made = [layers(width) for _ in range(depth)]
    net = nn.Sequential(*(part for layer, _ in made for part in (layer, nn.ReLU())))
    x = torch.randn(made[0][1])
    program = flow.capture(net.eval(), x, dynamic=None)
    path = folder / f"{width}.onnx"
    path.write_bytes(lower_for(target, program).model)
    return open_executable(path, program.signature, target), {program.signature.inputs[0].name: x.numpy()}


def ratios(small: Callable[[], Any], large: Callable[[], Any], scale: Scale) -> list[float]:
    """Processor time of the second by that of the first, once a chunk; both run by turns."""
    found = []
    for run in (small, large):
        run()
    for _ in range(scale.chunks):
        times: tuple[list[int], list[int]] = ([], [])
        for _ in range(scale.calls):
            for run, into in zip((small, large), times, strict=True):
                start = time.process_time_ns()  # another process that takes the core away does not count
                run()
                into.append(time.process_time_ns() - start)
        found.append(statistics.median(times[1]) / statistics.median(times[0]))
    return found


def step(layers: Layers, block: int, target: Target, scale: Scale) -> dict[str, Any]:
    """What one channel more than an odd multiple of a block costs."""
    widths = [width for width in range(64, 128) if width % block == 0 and (width // block) % 2][: scale.widths]
    found: list[float] = []
    for width in widths or [64]:
        with tempfile.TemporaryDirectory() as folder:
            sides = [chain(layers, each, scale.depth, target, Path(folder)) for each in (width, width + 1)]
            runs = [lambda one=one, x=x: one.run(x) for one, x in sides]
            found += ratios(*runs, scale)
            for one, _ in sides:
                one.close()
    logs = np.log(found)
    half = t_quantile(0.975, len(logs) - 1) * logs.std(ddof=1) / math.sqrt(len(logs))
    middle = float(logs.mean())
    return {"block": block, "ratio": math.exp(middle), "interval": [math.exp(middle - half), math.exp(middle + half)]}


def blocking(steps: list[dict[str, Any]]) -> int:
    """The smallest block from which on every step is costly."""
    found = 1
    for one in reversed(steps):
        if one["interval"][0] <= COSTLY:
            break
        found = one["block"]
    return found


def main(arguments: list[str]) -> int:
    """Run the script."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--targets", default="onnxruntime:cpu,openvino:cpu")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--tiny", action="store_true", help="so few repetitions that the figures say nothing")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    scale = TINY if options.tiny else Scale()
    table = Table("target", "layers", "blocking", *(f"{block} + 1" for block in BLOCKS))
    results = []
    for text in options.targets.split(","):
        target = resolve_target(text)
        for name, layers in CLASSES.items():
            steps = [step(layers, block, target, scale) for block in BLOCKS]
            found = blocking(steps)
            results.append({"target": str(target), "layers": name, "blocking": found, "steps": steps})
            cells = [f"{one['ratio']:.2f} [{one['interval'][0]:.2f}, {one['interval'][1]:.2f}]" for one in steps]
            table.add_row(str(target), name, str(found), *cells)
    Console(width=160).print(table)
    if options.out:
        content = conditions(("onnxruntime", "openvino"), settings=vars(scale)) | {"results": results}
        write_atomic(options.out, (json.dumps(content, indent=1) + "\n").encode())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
