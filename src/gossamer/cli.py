"""The command line.

Exit codes: 0 done; 1 our own bug; 2 bad input; 3 the budget is missed; 4 the data cannot decide; 130 interrupted.
With ``--json`` standard output holds one JSON value and nothing else; progress and errors go to standard error.
"""

from __future__ import annotations

import json
import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from gossamer import flow
from gossamer.artifacts import require_replaceable
from gossamer.core.errors import GossamerError, InternalError, OptionError
from gossamer.reporting.progress import TerminalProgress
from gossamer.reporting.terminal import print_facts, print_front, print_rows

if TYPE_CHECKING:
    from gossamer.analysis.overview import Analysis
    from gossamer.search.front import Front

EXIT_BUG, EXIT_INPUT, EXIT_MISSED, EXIT_UNDECIDED, EXIT_INTERRUPTED = 1, 2, 3, 4, 130
_INTERRUPTED = "interrupted; nothing was written"
_OUTCOME_EXIT = {"met": 0, "missed": EXIT_MISSED, "undecided": EXIT_UNDECIDED}

app = typer.Typer(
    help="Make a trained model small and fast for the device you name, prove it on your metric, and run it there.",
    epilog="Exit codes: 0 done, 1 our bug, 2 bad input, 3 budget missed, 4 undecided, 130 interrupted.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON value on standard output, nothing else.")]
Model = Annotated[str, typer.Argument(help="file.py:factory, a .pt2 file, a Hugging Face folder, or a saved program.")]
Weights = Annotated[
    Path | None, typer.Option(help="Weights for file.py:factory, as .safetensors, or .pt (tensors only).")
]
Data = Annotated[str, typer.Option(help="Calibration data: .npz, a folder of images by class, or file.py:loader.")]
Dynamic = Annotated[
    list[str] | None,
    typer.Option(
        help="A dim that may vary: INPUT:AXIS=NAME or INPUT:AXIS=NAME=LOW..HIGH; repeatable. 'none' fixes all."
    ),
]


def main() -> None:
    """Run the command line; every error that is not a bug is one clear message and an exit code."""
    errors = Console(stderr=True, highlight=False, soft_wrap=True)
    try:
        code = app(standalone_mode=False)  # returns the code of a typer.Exit, and 130 for an interrupt
        if code == EXIT_INTERRUPTED:
            errors.print(_INTERRUPTED, style="yellow")
        sys.exit(code if isinstance(code, int) else 0)
    except (KeyboardInterrupt, typer.Abort):
        errors.print(_INTERRUPTED, style="yellow")
        sys.exit(EXIT_INTERRUPTED)
    except InternalError as error:
        errors.print(f"This is a bug in gossamer, please report it:\n{error}", style="red", markup=False)
        sys.exit(EXIT_BUG)
    except GossamerError as error:
        errors.print(f"{type(error).__name__}: {error}", style="red", markup=False)
        sys.exit(EXIT_INPUT)
    except Exception as error:
        if type(error).__module__.startswith(("click", "typer")) and hasattr(error, "show"):
            error.show()  # pyright: ignore[reportAttributeAccessIssue]
            sys.exit(getattr(error, "exit_code", EXIT_INPUT))
        raise


@app.command()
def compress(  # noqa: PLR0913 - one parameter an option
    model: Model,
    data: Data,
    out: Annotated[Path, typer.Option(help="Folder for the artifact; must not exist.")],
    metric: Annotated[str, typer.Option(help="top1, top5, f1, mae, agreement, or file.py:function.")] = "top1",
    target: Annotated[
        str, typer.Option(help="Runtime and device: onnxruntime:cpu,threads=1,batch=32.")
    ] = flow.DEFAULT_TARGET,
    budget: Annotated[str, typer.Option(help="Limits: 'drop <= 1pt; latency p50 <= 5ms; size <= 2MB'.")] = "",
    eval_: Annotated[
        str | None, typer.Option("--eval", help="Labelled data to choose and prove on; else --data is split.")
    ] = None,
    weights: Weights = None,
    transform: Annotated[
        str | None, typer.Option(help="For image folders: file.py:function from image to array.")
    ] = None,
    dynamic: Dynamic = None,
    time: Annotated[str | None, typer.Option(help="Limit for optional work: 20m.")] = None,
    seed: Annotated[int, typer.Option(help="Of everything random.")] = 0,
    force: Annotated[bool, typer.Option("--force", help="Replace the folder at --out.")] = False,
    with_samples: Annotated[
        bool, typer.Option("--with-samples", help="Keep small pictures of lost samples for the report.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Find the smallest and fastest form of a model that holds the budget, and pack it."""
    require_replaceable(out, force=force)
    with _progress() as progress:
        front = flow.compress(
            model,
            data,
            eval_,
            metric=metric,
            target=target,
            budget=budget,
            time=time,
            seed=seed,
            weights=weights,
            transform=transform,
            dynamic=_dynamic(dynamic),
            progress=progress,
        )
    _pack_best(front, out, force=force, with_samples=with_samples, as_json=as_json)


def _pack_best(front: Front, out: Path, *, force: bool, as_json: bool, with_samples: bool = False) -> None:
    """Write the best member unless the budget is missed, show all of them, and end with the exit code."""
    report = {**front.best.evidence["search"], "artifact": None}
    front.best.evidence["command"] = shlex.join(["gossamer", *sys.argv[1:]])
    if front.outcome != "missed":
        with front.best.save(out, force=force, with_samples=with_samples) as artifact:
            report["artifact"] = {"path": str(out), "digest": artifact.digest, "size_bytes": artifact.size_bytes}
    if as_json:
        _print_json(report)
    else:
        console = _console()
        print_front(console, report)
        why = ": the budget is missed" if front.budget else ""
        written = f"wrote {out}" if front.outcome != "missed" else f"nothing was written{why}"
        console.print(written, markup=False)
    raise typer.Exit(_OUTCOME_EXIT[front.outcome])


@app.command()
def inspect(
    path: Annotated[str, typer.Argument(help="An artifact folder, or a model in any form that compress takes.")],
    weights: Weights = None,
    data: Annotated[str | None, typer.Option(help="Data to trace a module with.")] = None,
    dynamic: Dynamic = None,
    groups: Annotated[
        bool, typer.Option("--groups", help="What can be cut: groups, their shares, what is frozen and why.")
    ] = False,
    prove: Annotated[bool, typer.Option("--prove", help="With --groups: prove that each cut is exact.")] = False,
    as_json: Json = False,
) -> None:
    """Show an artifact: before and after, what was tried, and why. Or the program of a model, or its groups."""
    if prove and not groups:
        raise OptionError(f"inspecting {path}", got="--prove alone", expected="--groups --prove")
    if (Path(path) / "manifest.json").exists():
        if weights or data or dynamic:
            raise OptionError(
                f"inspecting the artifact {path}",
                got="--weights, --data or --dynamic",
                expected="none of them: they are for models",
            )
        if groups:
            _show_groups(flow.analyze(path, prove=prove), as_json=as_json)
            return
        with flow.load(path) as artifact:
            facts, evidence = str(artifact), artifact.evidence
            summary = {"name": artifact.name, "digest": artifact.digest, "size_bytes": artifact.size_bytes}
            summary |= {"signature": artifact.signature.to_json(), "recipe": artifact.recipe}
        search = evidence.get("task", {}).get("search")
        if as_json:
            _print_json({**summary, "search": search, "evidence": evidence})
            return
        console = _console()
        console.print(facts, markup=False)
        if search:
            print_front(console, search)
        return
    program = flow.capture(path, flow.example_of(data), weights=weights, dynamic=_dynamic(dynamic))
    if groups:
        _show_groups(flow.analyze(program, prove=prove), as_json=as_json)
    elif as_json:
        _print_json(
            {
                "name": program.name,
                "digest": program.digest,
                "signature": program.signature.to_json(),
                "text": str(program),
            }
        )
    else:
        _console().print(str(program), markup=False)


def _show_groups(found: Analysis, *, as_json: bool) -> None:
    if as_json:
        _print_json(found.to_json())
        return
    console = _console()
    print_rows(console, found.columns, found.rows(), title=found.coupling.program.name)
    for line in found.facts:
        console.print(line, markup=False)


@app.command()
def verify(
    artifact: Annotated[Path, typer.Argument(help="An artifact folder.")],
    against: Annotated[str | None, typer.Option(help="The original model, as for compress.")] = None,
    data: Annotated[str | None, typer.Option(help="Samples for the comparison with the original.")] = None,
    weights: Weights = None,
    transform: Annotated[str | None, typer.Option(help="For image folders: file.py:function.")] = None,
    dynamic: Dynamic = None,
    as_json: Json = False,
) -> None:
    """Check an artifact here: every file, the golden outputs, and the original beside it if given."""
    given = {"weights": weights, "transform": transform, "dynamic": dynamic}
    options: dict[str, Any] = {name: value for name, value in given.items() if value}
    if dynamic:
        options["dynamic"] = _dynamic(dynamic)
    verdict = flow.verify(artifact, against, data, **options)
    if as_json:
        _print_json(verdict.to_json())
    else:
        _console().print(str(verdict), markup=False)
    raise typer.Exit(0 if verdict.passed else EXIT_UNDECIDED if verdict.kind == "undecided" else EXIT_MISSED)


@app.command()
def audit(
    artifact: Annotated[Path, typer.Argument(help="An artifact folder with int8 layers.")],
    data: Data,
    claim: Annotated[str, typer.Option(help="How much of the metric saturation may cost.")] = "drop <= 1pt",
    transform: Annotated[str | None, typer.Option(help="For image folders: file.py:function.")] = None,
    as_json: Json = False,
) -> None:
    """Find out what an int8 artifact would answer on processors without integer dot products."""
    found = flow.audit(artifact, data, claim=claim, transform=transform)
    if as_json:
        _print_json(found.to_json())
    else:
        _console().print(str(found), markup=False)
        if found.hazards:
            _console().print(
                "try: the artifact's recipe with int8{safe_pairs=*}, or with the layers above", markup=False
            )
    raise typer.Exit(EXIT_MISSED if found.hazards else 0)


@app.command()
def bench(  # noqa: PLR0913 - one parameter an option
    artifact: Annotated[Path, typer.Argument(help="An artifact folder.")],
    against: Annotated[
        Path | None, typer.Option(help="Another artifact, measured interleaved as the reference.")
    ] = None,
    target: Annotated[
        str | None, typer.Option(help="Other threads or batch: onnxruntime:cpu,threads=1,batch=32.")
    ] = None,
    scenario: Annotated[
        str, typer.Option(help="stream: back to back; batch: throughput; paced: fixed rate; server: random arrivals.")
    ] = "stream",
    rate: Annotated[float | None, typer.Option(help="Calls per second, for paced and server.")] = None,
    bound: Annotated[str | None, typer.Option(help="Longest response that is in time: 10ms.")] = None,
    seconds: Annotated[float | None, typer.Option(help="Of arrivals, for paced and server: 10 by default.")] = None,
    earlier: Annotated[
        Path | None, typer.Option(help="What bench --json printed before on this machine, shown beside.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Measure an artifact on this machine, alone or beside another one."""
    with _progress() as progress:
        result = flow.measure(
            artifact,
            against,
            target=target,
            scenario=scenario,
            rate=rate,
            bound=bound,
            seconds=seconds,
            earlier=earlier,
            progress=progress,
        )
    if as_json:
        _print_json(result.to_json())
        return
    console = _console()
    for item in result.measurements:
        console.print(f"  {replace(item, doubts=())}", markup=False)
    for doubt in dict.fromkeys(doubt for item in result.measurements for doubt in item.doubts):
        console.print(f"  unstable: {doubt}", markup=False, style="yellow")
    if result.comparison is not None:
        console.print(f"{artifact} beside {against}: {result.comparison}", markup=False)
    for line in result.earlier:
        console.print(f"  {line}", markup=False)


@app.command()
def report(
    artifact: Annotated[Path, typer.Argument(help="An artifact folder.")],
    out: Annotated[Path, typer.Option(help="The file to write; an older report is replaced.")] = Path("report.html"),
    open_: Annotated[
        bool | None, typer.Option("--open/--no-open", help="Show it in the browser; by default if run in a terminal.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a file at --out that is no report.")] = False,
    as_json: Json = False,
) -> None:
    """Write the HTML report of an artifact: one file that opens offline."""
    written = flow.report(artifact, out, force=force)
    if as_json:
        _print_json({"report": str(written), "size_bytes": written.stat().st_size})
    else:
        _console().print(f"wrote {written}", markup=False)
    if open_ or (open_ is None and not as_json and sys.stdout.isatty()):
        import webbrowser

        webbrowser.open(written.absolute().as_uri())


@app.command()
def scan(  # noqa: PLR0913 - one parameter an option
    model: Model,
    data: Data,
    target: Annotated[str, typer.Option(help="Runtime and device: openvino:cpu,batch=32.")] = flow.DEFAULT_TARGET,
    weights: Weights = None,
    transform: Annotated[str | None, typer.Option(help="For image folders: file.py:function.")] = None,
    dynamic: Dynamic = None,
    time: Annotated[str | None, typer.Option(help="Limit: 5m.")] = None,
    seed: Annotated[int, typer.Option(help="Of everything random.")] = 0,
    as_json: Json = False,
) -> None:
    """Show for each layer of a model what int8 would cost and gain, most harm for the time saved first."""
    options = {"weights": weights, "transform": transform, "dynamic": _dynamic(dynamic)}
    with _progress() as progress:
        found = flow.scan(model, data, target=target, time=time, seed=seed, progress=progress, **options)
    if as_json:
        _print_json(found.to_json())
        return
    console = _console()
    print_rows(console, *found.table(), title=f"{found.target}, {found.plan}")
    console.print(f"harm of all layers in int8 together: {found.whole:.3%} of the output", markup=False)
    for name, harm in found.floats.items():
        console.print(f"harm of all floats in {name}: {harm:.3%} of the output", markup=False)
    console.print("times are the runtime's own counters inside the whole model: to rank, not to quote", markup=False)


@app.command()
def apply(  # noqa: PLR0913 - one parameter an option
    model: Model,
    recipe: Annotated[str, typer.Option(help="A recipe file, or steps: 'prune{score=taylor,macs=0.5} | int8'.")],
    data: Data,
    out: Annotated[Path, typer.Option(help="Folder for the artifact; must not exist.")],
    eval_: Annotated[
        str | None, typer.Option("--eval", help="Data for the metric, others than --data; without it there is none.")
    ] = None,
    metric: Annotated[
        str, typer.Option(help="On --eval: top1, top5, f1, mae, agreement, or file.py:function.")
    ] = "top1",
    budget: Annotated[str, typer.Option(help="Limits: 'drop <= 1pt; latency p50 <= 5ms; size <= 2MB'.")] = "",
    fine_tune: Annotated[
        int, typer.Option("--fine-tune", min=0, help="Steps of training behind the last cut; --data needs labels.")
    ] = 0,
    weights: Weights = None,
    transform: Annotated[str | None, typer.Option(help="For image folders: file.py:function.")] = None,
    dynamic: Dynamic = None,
    target: Annotated[str, typer.Option(help="Instead of the recipe's own.")] = "",
    force: Annotated[bool, typer.Option("--force", help="Replace the folder at --out.")] = False,
    as_json: Json = False,
) -> None:
    """Replay a recipe without a search, measure the result beside the original, and pack it."""
    require_replaceable(out, force=force)
    asked = {"eval_data": eval_, "metric": metric, "budget": budget, "fine_tune": fine_tune, "transform": transform}
    capturing = {"weights": weights, "dynamic": _dynamic(dynamic)}
    with _progress() as progress:
        front = flow.try_recipe(model, recipe, data, target=target, capturing=capturing, progress=progress, **asked)
    _pack_best(front, out, force=force, as_json=as_json)


@app.command()
def targets(as_json: Json = False) -> None:
    """List the targets: runtimes, devices, precisions."""
    rows = flow.targets()
    _print_json(rows) if as_json else print_rows(_console(), list(rows[0]), [list(row.values()) for row in rows])


@app.command()
def techniques(as_json: Json = False) -> None:
    """List the techniques and their options."""
    rows = flow.techniques()
    _print_json(rows) if as_json else print_rows(_console(), list(rows[0]), [list(row.values()) for row in rows])


@app.command()
def doctor(as_json: Json = False) -> None:
    """Look at this machine: cores, instruction sets, noise, installed runtimes."""
    facts = flow.doctor()
    if as_json:
        _print_json(facts)
        return
    for title, group in facts.items():
        print_facts(_console(), group, title)


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for the artifact; must not exist.")] = Path("demo-out"),
    force: Annotated[bool, typer.Option("--force", help="Replace the folder at --out.")] = False,
    as_json: Json = False,
) -> None:
    """The whole street on real handwritten digits, in about two minutes: train, compress, verify, measure, run."""
    require_replaceable(out, force=force)
    from gossamer.demo import run_demo

    with _progress() as progress:
        report = run_demo(out, force=force, progress=progress)
    if as_json:
        _print_json(report)
        return
    console = _console()
    print_front(console, report)
    console.print(f"wrote {out}; run it with: gossamer.load({str(out)!r})(images)", markup=False)
    if report["page"]:
        console.print(f"the same as a page: {report['page']}", markup=False)


def _progress() -> TerminalProgress:
    return TerminalProgress(Console(stderr=True))


def _console() -> Console:
    """Standard output: as wide as the terminal, wide enough for the tables elsewhere."""
    console = Console(highlight=False, soft_wrap=True)
    return console if console.is_terminal else Console(highlight=False, soft_wrap=True, width=140)


def _print_json(value: Any) -> None:
    sys.stdout.write(json.dumps(value, indent=1, default=str) + "\n")


def _dynamic(texts: list[str] | None) -> Any:
    """``["ids:1=seq=2..512", "ids:0=batch"]`` as the mapping that capture takes."""
    if not texts:
        return "batch"
    if texts == ["none"]:
        return None
    dims: dict[str, dict[int, str]] = {}
    for text in texts:
        place, equals, dim = text.partition("=")
        name, colon, axis = place.rpartition(":")
        if not (name and colon and equals and dim and axis.isdigit()):
            raise OptionError(
                f"reading --dynamic {text!r}",
                got=text,
                expected="INPUT:AXIS=NAME or INPUT:AXIS=NAME=LOW..HIGH",
                try_="ids:1=seq=2..512",
            )
        dims.setdefault(name, {})[int(axis)] = dim
    return dims
