"""Why a model could not be captured: class of problem, the user's line, and the usual fix."""

from __future__ import annotations

import re
import traceback
from collections.abc import Sequence

from gossamer.core.errors import CaptureError
from gossamer.frontends.torch_output import plain_line

_FROZEN_FIX = "use x.shape[i] instead of a literal size, give the dim its true range, or fix it with dynamic=None"

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
        _FROZEN_FIX,
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


def explain(
    name: str, failures: Sequence[tuple[str, Exception]], fixed: Sequence[tuple[str, int]] = ()
) -> CaptureError:
    """The report for a model that no rung of the ladder could capture.

    Args:
        name: the model's class.
        failures: what each rung raised, in order.
        fixed: dims of the inputs that were not to vary, each with its size: ``("dim 1 of mask", 16)``.
    """
    text = " ".join(f"{type(error).__name__} {error}" for _, error in failures[:1])
    problem, fix = next(
        ((problem, fix) for pattern, problem, fix in _CLASSES if re.search(pattern, text)),
        ("not capturable by torch.export", "the message above names the construct; write it with tensor operations"),
    )
    found, hints = _read_fixes(failures, fixed)
    return CaptureError(
        f"capturing {name}",
        problem=problem,
        got="; ".join(found),
        location=next((line for line in map(_user_line, (error for _, error in failures)) if line), ""),
        rungs=tuple(
            f"torch.export {rung}: {type(error).__name__}: {plain_line(error, 160)}" for rung, error in failures
        ),
        expected="a forward made of tensor operations, the same for every input value",
        try_="; ".join(hints) or fix,
    )


_FIXES = re.compile(r"^Suggested fixes:\n((?:[ \t]+\S.*(?:\n|$))+)", re.MULTILINE)
_FIX = re.compile(r"(\w+) = (.+)")
_RANGE = re.compile(r"Dim\('\w+'(?:, min=(\d+))?(?:, max=(\d+))?\)")
_MULTIPLE = re.compile(r"(\d+)\*_\w+")


def _read_fixes(
    failures: Sequence[tuple[str, Exception]], fixed: Sequence[tuple[str, int]]
) -> tuple[list[str], list[str]]:
    """What torch found out about the named dims, and what to do about it, from the fixes that it suggests."""
    blocks = [block for _, error in failures for block in _FIXES.findall(str(error))]
    found, hints = [], []
    for name, value in _FIX.findall(blocks[0] if blocks else ""):
        if name.startswith("_"):  # torch's own helper in h = 4*_h
            continue
        what, hint = _read_fix(name, value.strip(), fixed)
        found.append(what)
        hints += [hint] if hint not in hints else []
    return found, hints


def _read_fix(name: str, value: str, fixed: Sequence[tuple[str, int]]) -> tuple[str, str]:
    if value.isdigit():
        others = " and ".join(where for where, size in fixed if size == int(value))
        if others:
            what = f"the model only accepts {name}={value}, and {others} is fixed at this size"
            return (
                what,
                f"if these sizes must be equal, make them all dynamic under the name {name!r}; else use x.shape[i]",
            )
        what = f"the model only accepts {name}={value}"
        return (
            what,
            _FROZEN_FIX,
        )
    if multiple := _MULTIPLE.fullmatch(value):
        what = f"{name} must be a multiple of {multiple[1]}"
        return what, f"pad to a multiple of {multiple[1]} inside forward, or leave the dim out of dynamic"
    if ends := _RANGE.fullmatch(value):
        low, high = ends[1] or "1", ends[2] or ""
        what = f"the model only accepts {name} from {low} {f'to {high}' if high else 'on'}"
        return what, f"give the dim its true range: {name}={low}..{high}"
    if value.isidentifier():
        return f"{name} and {value} must always be equal", f"give both dims one name: {value!r}"
    return f"{name} must be {value}", f"fix {name}: leave it out of dynamic"


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
