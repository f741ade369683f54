"""Why a model could not be captured: class of problem, the user's line, and the usual fix."""

from __future__ import annotations

import re
import traceback
from collections.abc import Sequence

from gossamer.core.errors import CaptureError

_CLASSES: tuple[tuple[str, str, str], ...] = (
    (
        r"data-dependent|GuardOnDataDependent|Could not guard on|bool\(\) on a|is_nonzero",
        "data-dependent branch",
        "replace the Python branch by torch.where(condition, a, b), or move it out of forward",
    ),
    (
        r"\.item\(\)|_local_scalar_dense|unbacked|nonzero|data dependent (output|shape)|DynamicOutputShape",
        "data-dependent shape",
        "avoid .item(), nonzero and boolean indexing: use masks of a fixed shape",
    ),
    (
        r"[Cc]onstraint|specializ|marked .* as dynamic|not always true|0/1",
        "dimension frozen by arithmetic",
        "use x.shape[i] instead of a literal size, give the dim its true range, or fix it with dynamic=None",
    ),
    (
        r"Cache|past_key_values|register_pytree|Unsupported (input|output) type|pytree",
        "unsupported Python object",
        "return and accept plain tensors; for Hugging Face models set config.use_cache = False",
    ),
    (
        r"scripted|ScriptModule|RecursiveScript",
        "scripted module",
        "give the original nn.Module, not torch.jit.script's result",
    ),
    (
        r"fake impl|register_fake|Meta|meta (kernel|function)|no fake|UnsupportedOperatorException",
        "custom operation without a shape function",
        "register one with torch.library.register_fake",
    ),
    (r"numpy|ndarray|\.numpy\(\)|data_ptr", "computation outside of torch", "write this part with torch operations"),
)


def explain(name: str, failures: Sequence[tuple[str, Exception]]) -> CaptureError:
    """The report for a model that no rung of the ladder could capture.

    Args:
        name: the model's class.
        failures: what each rung raised, in order.
    """
    text = " ".join(f"{type(error).__name__} {error}" for _, error in failures[:1])
    problem, fix = next(
        ((problem, fix) for pattern, problem, fix in _CLASSES if re.search(pattern, text)),
        ("not capturable by torch.export", "the message above names the construct; write it with tensor operations"),
    )
    return CaptureError(
        f"capturing {name}",
        problem=problem,
        location=next((line for line in map(_user_line, (error for _, error in failures)) if line), ""),
        rungs=tuple(f"torch.export {rung}: {type(error).__name__}: {_first_line(error)}" for rung, error in failures),
        expected="a forward made of tensor operations, the same for every input value",
        try_=fix,
    )


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:160] if lines else ""


_QUOTED_FRAME = re.compile(r'File "([^"]+)", line (\d+), in (\w+)\s*\n\s*([^\n]+)')


def _user_line(error: BaseException) -> str:
    """The deepest frame outside of the libraries, from the message's own quotation or else from the traceback."""
    frames = [
        (frame.filename, frame.lineno or 0, frame.line or "")
        for frame in traceback.extract_tb(error.__traceback__)
        if not _is_library(frame.filename)
    ]
    quoted = [
        (path, int(line), code) for path, line, _, code in _QUOTED_FRAME.findall(str(error)) if not _is_library(path)
    ]
    for path, line, code in (*reversed(quoted), *reversed(frames)):
        return f"{path.rsplit('/', 1)[-1]}:{line}: {code.strip()}"
    return ""


def _is_library(path: str) -> bool:
    return any(part in path for part in ("/torch/", "/gossamer/", "<frozen", "<string>", "<eval_with_key>"))
