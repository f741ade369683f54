"""Check that every network in fp32 reproduces the accuracy its asset's README states, before anything is compared.

Run: ``python benchmarks/check_baselines.py [--assets DIR] [--models resnet20,vit,...]``. Exit code 1 on any difference.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import torch
from assets import WORKLOADS, Samples, add_assets_option, find, load_network, load_samples

from gossamer.core.errors import UserError


def accuracy(network: torch.nn.Module, samples: Samples, batch: int = 100) -> float:
    """Top-1 of a torch network in percent."""
    right = 0
    with torch.inference_mode():
        for start in range(0, len(samples), batch):
            part = samples.take(slice(start, start + batch))
            outputs = network(**{name: torch.from_numpy(array) for name, array in part.inputs.items()})
            scores = outputs[0] if isinstance(outputs, tuple) else outputs
            right += int((scores.argmax(dim=1).numpy() == part.labels).sum())
    return 100 * right / len(samples)


def agrees(measured: float, stated: float) -> bool:
    """Whether a figure rounds to the stated one, at the digits that the statement has."""
    digits = len(repr(stated).partition(".")[2])
    return abs(measured - stated) <= 0.5 * 10**-digits + 1e-9


def check(name: str, root: Path) -> bool:
    """Measure one network on each part of its data that has a stated figure; print a line for each."""
    network = load_network(name, root)
    fine = True
    for split, stated in find(name).accuracy.items():
        samples = load_samples(name, split, root)
        start = time.perf_counter()
        measured = accuracy(network, samples)
        same = agrees(measured, stated)
        fine &= same
        figures = f"{measured:6.2f} %  stated {stated} %  n={len(samples)}  {'equal' if same else 'DIFFERENT'}"
        print(f"{name:<10} {split:<5} {figures}  ({time.perf_counter() - start:.1f} s)")
    return fine


def main() -> int:
    """Check all networks, or those named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_assets_option(parser)
    parser.add_argument("--models", default=",".join(WORKLOADS), help="names separated by commas (default: all)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    results = [check(name, options.assets) for name in options.models.split(",")]
    return 0 if all(results) else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except UserError as error:
        sys.exit(str(error))
