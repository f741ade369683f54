"""The peer in structured pruning: Torch-Pruning, in an environment of its own.

For coverage it prunes the architectures of the zoo: ``run_peer`` makes the environment (the package alone; torch,
transformers and the rest are this environment's), starts this file in it and reads a line for each architecture.
Nothing is told about a model but which layers are its outputs, as the peer's documentation asks, found by one rule for
all: the weighted layers that the gradient of an output reaches first. Heads, groups and the like it is to find itself.
Importance is the magnitude, the ratio one half.

For quality, ``cut_resnet`` prunes a CIFAR ResNet to given MACs in every setting.
"""

from __future__ import annotations

import contextlib
import copy
import itertools
import json
import os
import queue
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

VERSION = "1.6.1"
RATIO = 0.5
DEFAULT_ENVIRONMENT = Path(tempfile.gettempdir()) / f"gossamer-peer-torch-pruning-{VERSION}"
LIMIT_S = 60.0
"""For one architecture, after which the peer is stopped and goes on with the next."""

IMPORTANCES = ("l1", "l2", "bn_scale", "taylor", "hessian")
SCOPES = ("uniform", "global")
WHERE = ("everywhere", "inside blocks")
"""``inside blocks`` leaves the residual stream whole, which somebody has to tell the peer layer by layer."""

DOCUMENTED = ("l2", "uniform", "everywhere")
"""The setting of the peer's own introduction: ``GroupMagnitudeImportance(p=2)`` and one ratio for all layers."""

STEPS = 95
"""Of one percent each: the peer's documented way to reach a size."""

_READS_WEIGHT = ("Addmm", "Mm", "Linear", "Convolution", "Embedding", "Rnn", "Bmm", "Baddbmm")
_PASSES_WEIGHT = ("TBackward", "Transpose", "Permute", "View", "Reshape", "Unsqueeze", "Squeeze", "Expand")


def prepare_environment(folder: Path) -> Path:
    """Python of an environment with Torch-Pruning beside the packages of this one; made if it is not there."""
    python = folder / "bin" / "python"
    marker = folder / f"torch-pruning-{VERSION}"
    if not marker.exists():
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", "--clear", folder], check=True)
        packages = subprocess.run(
            [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
            check=True, capture_output=True, text=True,
        ).stdout.strip()  # fmt: skip
        ours = sysconfig.get_path("purelib")
        Path(packages, "beside.pth").write_text(f"import site; site.addsitedir({ours!r})\n", encoding="utf-8")
        install = ["install", "--quiet", "--no-deps", f"torch-pruning=={VERSION}"]
        subprocess.run([sys.executable, "-m", "pip", "--python", python, *install], check=True)
        marker.touch()
    return python


def run_peer(
    names: Sequence[str], folder: Path, done: Callable[[dict[str, Any]], None], limit_s: float = LIMIT_S
) -> Mapping[str, dict[str, Any]]:
    """Prune architectures with the peer; ``done`` sees each result as it comes.

    A result has ``model``, ``stage`` (how far it got: build, graph, prune, forward, shape, done), ``failure``, and if
    known ``macs``, ``macs_after``, ``parameters``, ``parameters_after``. A process that dies or hangs is the
    failure of the architecture it was at.
    """
    python = prepare_environment(folder)
    results: dict[str, dict[str, Any]] = {}
    while left := [name for name in names if name not in results]:
        for result in _lines(python, left, limit_s):
            results[result["model"]] = result
            done(result)
        stuck = next((name for name in left if name not in results), None)
        if stuck is not None:
            failure = f"died, or took more than {limit_s:.0f} s"
            results[stuck] = {"model": stuck, "stage": "graph", "failure": failure}
            done(results[stuck])
    return results


def _lines(python: Path, names: Sequence[str], limit_s: float) -> Iterator[dict[str, Any]]:
    """Results of one process until it ends or is silent for too long."""
    command = [python, __file__, ",".join(names)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent), "TRANSFORMERS_VERBOSITY": "error"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment)
    assert process.stdout is not None
    lines: queue.Queue[str | None] = queue.Queue()

    def read() -> None:
        for line in process.stdout or ():
            lines.put(line)
        lines.put(None)

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        while True:
            line = lines.get(timeout=limit_s)
            if line is None:
                return
            if line.startswith("{"):
                yield json.loads(line)
    except queue.Empty:
        return
    finally:
        process.kill()
        process.wait()
        reader.join()
        process.stdout.close()


def output_layers(model: Any, inputs: Mapping[str, Any]) -> list[Any]:
    """The modules whose weights the gradient of an output reaches first."""
    owners = {id(parameter): module for module in model.modules() for parameter in module.parameters(recurse=False)}
    outputs = model(**inputs)
    found: dict[int, Any] = {}
    seen: set[Any] = set()
    left = [one.grad_fn for one in (outputs if isinstance(outputs, tuple) else (outputs,))]
    while left:
        function = left.pop()
        if function is None or function in seen:
            continue
        seen.add(function)
        weights = [w for w in map(_weight, _next(function)) if w is not None and w.dim() > 1]
        if weights and any(word in function.name() for word in _READS_WEIGHT):
            found.update({id(owners[id(weight)]): owners[id(weight)] for weight in weights if id(weight) in owners})
        else:
            left.extend(_next(function))
    return list(found.values())


def _next(function: Any) -> list[Any]:
    return [following for following, _ in function.next_functions if following is not None]


def _weight(function: Any) -> Any:
    """The parameter behind a node of the gradient's graph, where only its layout changes in between."""
    while not hasattr(function, "variable"):
        following = _next(function)
        if len(following) != 1 or not function.name().startswith(_PASSES_WEIGHT):
            return None
        (function,) = following
    return function.variable


def macs_of(model: Any, inputs: Mapping[str, Any]) -> int:
    """Multiply-accumulates of convolutions and matrix products, as torch counts them while the model runs."""
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    counter = FlopCounterMode(display=False)
    # Attention and recurrent layers by their parts: their fused forms are not counted.
    with torch.no_grad(), counter, sdpa_kernel(SDPBackend.MATH), torch.backends.mkldnn.flags(enabled=False):
        torch.backends.mha.set_fastpath_enabled(False)  # encoder layers by their parts, too
        model(**inputs)
    return counter.get_total_flops() // 2


def prune(name: str) -> dict[str, Any]:
    """Prune one architecture to one half of its widths."""
    import torch
    import torch_pruning
    from zoo import ZOO

    result: dict[str, Any] = {"model": name, "stage": "build", "failure": ""}
    try:
        model, inputs = ZOO[name].build()
        macs = macs_of(model, inputs)
        result |= {"macs": macs, "parameters": sum(p.numel() for p in model.parameters())}
        shapes = _shapes(model(**inputs))
        ignored = output_layers(model, inputs)
        result["stage"] = "graph"
        pruner = torch_pruning.pruner.BasePruner(
            model, inputs, importance=torch_pruning.importance.GroupMagnitudeImportance(p=2), pruning_ratio=RATIO,
            ignored_layers=ignored,
        )  # fmt: skip
        result["stage"] = "prune"
        pruner.step()
        result["parameters_after"] = sum(p.numel() for p in model.parameters())
        result["stage"] = "forward"
        with torch.no_grad():
            after = _shapes(model(**inputs))
        result["macs_after"] = macs_of(model, inputs)
        result["stage"] = "shape"
        if after != shapes:
            result["failure"] = f"outputs of {after}, expected {shapes}"
            return result
        result["stage"] = "done"
        if result["parameters_after"] == result["parameters"]:
            result["failure"] = "nothing was pruned"
    except Exception as error:  # noqa: BLE001 - whatever the peer raises is its result
        line = (str(error).strip().splitlines() or [""])[0]
        result["failure"] = f"{type(error).__name__}: {line}"[:200]
    return result


def _shapes(outputs: Any) -> list[tuple[int, ...]]:
    return [tuple(one.shape) for one in (outputs if isinstance(outputs, tuple) else (outputs,))]


def cut_resnet(
    job: Mapping[str, Any], environment: Path, folder: Path, limit_s: float = 20 * LIMIT_S
) -> Iterator[dict[str, Any]]:
    """Prune one of the CIFAR ResNets to the sizes asked for, in every setting.

    Args:
        job: ``model``, its name; ``assets``, the folder; ``macs``, the least that may stay, one for each result;
            ``samples``, an npz with ``x`` and ``y`` for gradients; ``importances``, some of ``IMPORTANCES``.
        environment: as for ``prepare_environment``.
        folder: where the networks go.
        limit_s: longest silence.

    Yields:
        ``setting``, ``least`` (of ``macs``) and ``failure``; without one, ``macs`` (at or above ``least``) and
        ``file``, the pickled network.
    """
    path = folder / "job.json"
    path.write_text(json.dumps({**job, "folder": str(folder)}), encoding="utf-8")
    yield from _lines(prepare_environment(environment), [str(path)], limit_s)


def _cut_in_every_setting(job: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Inside the environment of the peer: what ``cut_resnet`` yields."""
    import numpy as np
    import torch
    from assets import load_network

    network = load_network(job["model"], Path(job["assets"]))
    with np.load(job["samples"]) as samples:
        x, y = torch.from_numpy(samples["x"]), torch.from_numpy(samples["y"])
    for importance in job["importances"]:
        gradients = _gradients(network, x, y, importance)
        for scope, where in itertools.product(SCOPES, WHERE):
            setting = f"{importance}, {scope}, {where}"
            left = sorted(job["macs"], reverse=True)
            try:
                for macs, smaller in _shrink(network, x[:1], importance, gradients, scope == "global", where, left):
                    file = Path(job["folder"], f"{setting.replace(', ', '-').replace(' ', '-')}-{left[0]}.pt")
                    torch.save(smaller, file)
                    yield {"setting": setting, "least": left.pop(0), "macs": macs, "file": str(file), "failure": ""}
                failure = "does not get so small"
            except Exception as error:  # noqa: BLE001 - whatever the peer raises is its result
                failure = f"{type(error).__name__}: {error}"[:200]
            yield from ({"setting": setting, "least": least, "failure": failure} for least in left)


def _gradients(network: Any, x: Any, y: Any, importance: str) -> list[Any]:
    """By parameter, of the cross entropy: for ``taylor`` of all samples, for ``hessian`` the mean square over samples.

    The peer's own sum of squares keeps the last sample only, so it is given what it documents.
    """
    import torch

    if importance not in ("taylor", "hessian"):
        return []
    parameters = list(network.parameters())
    size = 1 if importance == "hessian" else 128
    total = [torch.zeros_like(parameter) for parameter in parameters]
    for part, labels in zip(x.split(size), y.split(size), strict=True):
        loss = torch.nn.functional.cross_entropy(network(part), labels, reduction="sum")
        for into, gradient in zip(total, torch.autograd.grad(loss, parameters), strict=True):
            into.add_(gradient.square() if importance == "hessian" else gradient, alpha=1 / len(x))
    return total


def _shrink(
    network: Any, x: Any, importance: str, gradients: list[Any], everything: bool, where: str, left: Sequence[int]
) -> Iterator[tuple[int, Any]]:
    """MACs and network, the last before it would fall below ``left[0]``, which the caller moves on."""
    import torch_pruning

    kinds = torch_pruning.importance
    scorers = {
        "l1": lambda: kinds.GroupMagnitudeImportance(p=1),
        "l2": lambda: kinds.GroupMagnitudeImportance(p=2),
        "bn_scale": kinds.BNScaleImportance,
        "taylor": kinds.GroupTaylorImportance,
        "hessian": kinds.GroupHessianImportance,
    }
    model, inputs = copy.deepcopy(network), {"x": x}
    ignored = output_layers(model, inputs)
    if where == "inside blocks":
        ignored += [layer for name, layer in model.named_modules() if name == "conv1" or name.endswith(".conv2")]
    for parameter, gradient in zip(model.parameters(), gradients, strict=bool(gradients)):
        parameter.grad = gradient.clone()
    pruner = torch_pruning.pruner.BasePruner(
        model, x, importance=scorers[importance](), global_pruning=everything, pruning_ratio=STEPS / 100,
        iterative_steps=STEPS, ignored_layers=ignored,
    )  # fmt: skip
    before = macs_of(model, inputs), copy.deepcopy(model)
    for _ in range(STEPS):
        pruner.step()
        macs = macs_of(model, inputs)
        while left and macs < left[0]:
            yield before
        if not left:
            return
        before = macs, copy.deepcopy(model)


def main() -> int:
    """Inside the environment of the peer: a line of JSON for each architecture, or for each result of a job's file."""
    import warnings

    import torch

    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    if sys.argv[1].endswith(".json"):
        results = _cut_in_every_setting(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
        while True:
            with contextlib.redirect_stdout(sys.stderr):  # the peer prints
                result = next(results, None)
            if result is None:
                return 0
            print(json.dumps(result), flush=True)
    for name in sys.argv[1].split(","):
        started = time.perf_counter()
        with contextlib.redirect_stdout(sys.stderr):  # the peer prints
            result = prune(name)
        print(json.dumps({**result, "seconds": time.perf_counter() - started}), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
