"""Every command: what it prints, its exit code, and that bad input is one clear message and leaves nothing behind."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from gossamer import cli, flow
from gossamer.core import extras

NET = """
import torch
from gossamer.demo.digits import DigitNet

def net():
    return DigitNet(width=8).eval()

def branching():
    return Branching().eval()

class Branching(torch.nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x
"""


class Done(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The one JSON value on standard output."""
        return json.loads(self.out)


@pytest.fixture(scope="session")
def desk(tmp_path_factory: pytest.TempPathFactory, digit_net, digits) -> Path:
    """A folder as a user has it: net.py, weights, calibration and test data."""
    folder = tmp_path_factory.mktemp("desk")
    images, labels = digits
    (folder / "net.py").write_text(NET)
    save_file({name: tensor.clone() for name, tensor in digit_net.state_dict().items()}, folder / "net.safetensors")
    np.savez(folder / "calib.npz", x=images[:300])
    np.savez(folder / "test.npz", x=images[900:], y=labels[900:])
    np.savez(folder / "few.npz", x=images[900:960], y=labels[900:960])
    return folder


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    """Run a command in this process."""

    def run(*arguments: object) -> Done:
        monkeypatch.setattr(sys, "argv", ["gossamer", *map(str, arguments)])
        capsys.readouterr()
        code: Any = 0
        try:
            cli.main()
        except SystemExit as end:
            code = end.code or 0
        return Done(code, *capsys.readouterr())

    return run


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Where --out goes: an empty folder."""
    (tmp_path / "place").mkdir()
    return tmp_path / "place"


@pytest.fixture
def compress(run: Callable[..., Done], desk: Path, place: Path) -> Callable[..., Done]:
    """``gossamer compress`` with options that are right, unless replaced; ``None`` leaves one out."""

    def compress(*flags: str, model: object = desk / "net.py:net", **changes: object) -> Done:
        options: dict[str, object] = {
            "weights": desk / "net.safetensors",
            "data": desk / "calib.npz",
            "eval": desk / "test.npz",
            "target": "onnxruntime:cpu,batch=8",
            "budget": "drop <= 3pt",
            "out": place / "small",
        }
        pairs = [(f"--{name}", value) for name, value in (options | changes).items() if value is not None]
        return run("compress", model, *(part for pair in pairs for part in pair), *flags)

    return compress


def refused(done: Done, place: Path, *messages: str, code: int = 2) -> None:
    """One clear message, the exit code, and nothing written."""
    assert done.code == code, done.err
    assert done.out == ""
    assert "Traceback" not in done.err
    for message in messages:
        assert message in done.err
    assert list(place.iterdir()) == []


# What works.


def test_compress_prints_the_table_and_writes_the_folder(compress, place: Path, measuring):
    done = compress()
    assert done.code == 0
    assert "int8 *" in done.out
    assert "budget met by int8" in done.out
    assert f"wrote {place / 'small'}" in done.out
    assert "[   " in done.err  # plain progress lines
    assert "int8: prove" in done.err
    assert [path.name for path in place.iterdir()] == ["small"]


def test_compress_as_json(compress, place: Path, measuring):
    done = compress("--json")
    report = done.json
    assert done.code == 0
    assert (report["outcome"], report["improved"]) == ("met", True)
    artifact = flow.load(place / "small")
    assert report["artifact"] == {
        "path": str(place / "small"),
        "digest": artifact.digest,
        "size_bytes": artifact.size_bytes,
    }


def test_a_missed_budget_is_exit_code_3_and_writes_nothing(compress, place: Path, measuring):
    done = compress(budget="drop <= 3pt; latency p50 <= 1us")
    assert done.code == cli.EXIT_MISSED == 3
    text = " ".join(done.out.split())
    assert "budget missed; nearest is int8 (latency p50 <= 1us: latency p50 0.769 ms" in text
    assert "beyond it by 769 times the limit" in text
    assert "nothing was written" in text
    assert list(place.iterdir()) == []


def test_an_undecided_budget_is_exit_code_4(compress, desk: Path, place: Path, measuring):
    done = compress(eval=desk / "few.npz", budget="drop <= 2pt")
    assert done.code == cli.EXIT_UNDECIDED == 4
    assert "samples would decide it" in " ".join(done.out.split())
    assert (place / "small" / "manifest.json").exists()


def test_force_replaces_an_artifact(compress, place: Path, digit_artifact: Path, measuring):
    shutil.copytree(digit_artifact, place / "small")
    (place / "small" / "recipe.toml").write_text("damaged")
    assert compress("--force").code == 0
    assert "int8" in flow.load(place / "small").recipe
    assert [path.name for path in place.iterdir()] == ["small"]


def test_inspect_an_artifact(run, digit_artifact: Path):
    done = run("inspect", digit_artifact)
    assert done.code == 0
    assert "DigitNet" in done.out
    assert "budget met by int8" in done.out
    value = run("inspect", digit_artifact, "--json").json
    assert value["search"]["outcome"] == "met"
    assert value["evidence"]["status"] == "accepted"
    assert "technique = " in value["recipe"]


def test_inspect_refuses_options_that_it_would_not_read(run, digit_artifact: Path):
    done = run("inspect", digit_artifact, "--data", "calib.npz")
    assert done.code == 2
    assert "they are for models" in done.err


def test_inspect_a_model(run, desk: Path):
    arguments = ("inspect", desk / "net.py:net", "--weights", desk / "net.safetensors", "--data", desk / "calib.npz")
    assert "conv2d(" in run(*arguments).out
    value = run(*arguments, "--json").json
    assert value["signature"]["inputs"][0]["shape"] == ["batch", 1, 8, 8]
    fixed = run(*arguments, "--dynamic", "none", "--json").json
    assert fixed["signature"]["inputs"][0]["shape"] == [2, 1, 8, 8]


def test_verify(run, digit_artifact: Path):
    assert run("verify", digit_artifact).out.split()[0] in ("exact", "equivalent")
    done = run("verify", digit_artifact, "--json")
    assert (done.code, done.json["certificates"]) == (0, [])


def test_verify_against_the_original(run, digit_artifact: Path, desk: Path):
    original = ("--against", desk / "net.py:net", "--weights", desk / "net.safetensors")
    done = run("verify", digit_artifact, *original, "--data", desk / "test.npz", "--json")
    assert (done.code, done.json["kind"]) == (0, "accepted")
    few = run("verify", digit_artifact, *original, "--data", desk / "few.npz", "--json")
    assert (few.code, few.json["kind"]) == (cli.EXIT_UNDECIDED, "undecided")


def test_verify_against_another_model_is_exit_code_3(run, digit_artifact: Path, desk: Path, digits, tmp_path: Path):
    """An untrained network, and its own answers as labels: the artifact has nearly all of them wrong."""
    torch.manual_seed(5)
    other = flow.capture(desk / "net.py:net", digits[0][:2])
    flow.save(other, tmp_path / "other")
    np.savez(tmp_path / "own.npz", x=digits[0][900:], y=np.asarray(other(digits[0][900:])).argmax(1))
    done = run("verify", digit_artifact, "--against", tmp_path / "other", "--data", tmp_path / "own.npz", "--json")
    assert (done.code, done.json["kind"]) == (cli.EXIT_MISSED, "rejected")


def test_bench(run, digit_artifact: Path, hasty):
    done = run("bench", digit_artifact, "--json")
    assert done.code == 0
    assert {item["name"] for item in done.json["measurements"]} >= {"latency p50", "size", "load", "peak memory"}
    assert "latency p50" in run("bench", digit_artifact, "--target", "onnxruntime:cpu,batch=2").out
    beside = run("bench", digit_artifact, "--against", digit_artifact)
    assert "loads, resolution" in beside.out


def test_apply_replays_a_recipe(run, digit_artifact: Path, desk: Path, place: Path, measuring):
    recipe = place / "recipe.toml"
    text = (digit_artifact / "recipe.toml").read_text()
    recipe.write_text("\n".join(line for line in text.splitlines() if not line.startswith("data_digest")))
    arguments = ("apply", desk / "net.py:net", "--weights", desk / "net.safetensors", "--data", desk / "calib.npz")
    done = run(*arguments, "--recipe", recipe, "--out", place / "small", "--json")
    assert done.code == 0
    with flow.load(place / "small") as artifact:
        assert artifact.digest == done.json["artifact"]["digest"]
        assert artifact.evidence["status"] == "accepted"
    again = run(*arguments, "--recipe", recipe, "--out", place / "small")
    assert again.code == 2
    assert "OutputExists" in again.err
    assert run(*arguments, "--recipe", recipe, "--out", place / "small", "--force").code == 0
    (place / "thesis").mkdir()
    (place / "thesis" / "thesis.tex").write_text("years of work")
    assert run(*arguments, "--recipe", recipe, "--out", place / "thesis", "--force").code == 2
    assert (place / "thesis" / "thesis.tex").exists()


@pytest.fixture
def prune(run, desk: Path, place: Path, measuring) -> Callable[..., Done]:
    """``gossamer apply`` with a recipe in one line."""

    def prune(*flags: object, data: str = "calib.npz", recipe: str = "prune{score=l2,macs=0.5}") -> Done:
        model = (desk / "net.py:net", "--weights", desk / "net.safetensors", "--data", desk / data)
        return run("apply", *model, "--recipe", recipe, "--out", place / "pruned", *flags)

    return prune


def test_apply_prunes_measures_and_packs(prune, run, desk: Path, place: Path):
    done = prune("--eval", desk / "test.npz")
    assert done.code == 0
    assert "prune *" in done.out
    assert "prune beside the original: " in done.out
    assert f"wrote {place / 'pruned'}" in done.out
    with flow.load(place / "pruned") as artifact:
        told = artifact.evidence["surgery"]
        assert told["macs"][1] <= 0.5 * told["macs"][0]
        assert artifact.evidence["command"].startswith("gossamer apply ")
    assert run("inspect", place / "pruned").code == 0
    groups = run("inspect", place / "pruned", "--groups", "--json").json
    assert groups["macs"] == told["macs"][1]
    assert run("verify", place / "pruned").code == 0


def test_apply_fine_tunes(prune, desk: Path, place: Path):
    refused(prune("--fine-tune", 2), place, "DataError", "samples without labels")
    assert prune("--fine-tune", 2, "--json", data="test.npz").json["rows"][1][0] == "prune, fine-tuned *"


def test_apply_refuses_what_it_cannot_do(prune, place: Path):
    refused(prune(recipe="prun{macs=0.5}"), place, "UnknownName", "technique 'prun'", "'prune'")
    refused(prune(recipe="prune{macs=2}"), place, "OptionError", "a share above 0")
    refused(prune("--budget", "drop <= 1pt"), place, "OptionError", "--eval")
    refused(prune(recipe="nowhere.toml"), place, "OptionError", "a TOML file, or steps in one line")


def test_a_budget_that_a_recipe_misses_is_exit_code_3(prune, place: Path):
    done = prune("--budget", "size <= 1kB")
    assert done.code == cli.EXIT_MISSED
    assert "nothing was written: the budget is missed" in done.out
    assert list(place.iterdir()) == []


def test_inspect_shows_groups(run, desk: Path, digit_artifact: Path):
    model = ("inspect", desk / "net.py:net", "--weights", desk / "net.safetensors", "--data", desk / "calib.npz")
    done = run(*model, "--groups")
    assert done.code == 0
    assert "blocks1.0.conv1" in done.out
    assert "frozen: output" in done.out
    assert "6 of 7 groups can be cut; 100.0% of the weights lie in them" in done.out
    assert "deviation" not in done.out
    proven = run(*model, "--groups", "--prove")
    assert "largest deviation in float64" in proven.out
    value = run("inspect", digit_artifact, "--groups", "--json").json
    assert {"groups", "macs", "blocks", "unknown", "free_weights"} <= value.keys()


def test_inspect_proves_only_groups(run, desk: Path):
    done = run("inspect", desk / "net.py:net", "--data", desk / "calib.npz", "--prove")
    assert done.code == 2
    assert "--groups --prove" in done.err


@pytest.mark.parametrize(("command", "word"), [("targets", "onnxruntime:cpu"), ("techniques", "int8"), ("doctor", "")])
def test_lists(run, command: str, word: str):
    done = run(command)
    assert done.code == 0
    assert word in done.out
    assert word in json.dumps(run(command, "--json").json)


def test_demo(run, place: Path, hasty, monkeypatch: pytest.MonkeyPatch):
    """The demo itself, on a twentieth of the work: one epoch, a narrower network."""
    from gossamer.demo import digits

    monkeypatch.setattr(digits.run_demo, "__kwdefaults__", {**digits.run_demo.__kwdefaults__, "epochs": 1})
    monkeypatch.setattr(digits.DigitNet.__init__, "__defaults__", (4,))
    done = run("demo", "--out", place / "demo", "--json")
    assert done.code in (0, 3, 4)
    report = done.json
    assert report["columns"][0] == "model"
    if (place / "demo").exists():
        images, _labels = digits.load_digits()
        with flow.load(place / "demo") as small:
            assert np.asarray(small(images[:3])).shape == (3, 10)
        assert 5 < report["held_out_top1"] <= 100
        assert Path(report["page"]).read_bytes().startswith(b"<!doctype html>")
        assert Path(report["page"]) == place / "demo.html"


def test_help_and_no_command(run):
    assert "compress" in run("--help").out
    assert run("compress", "--help").code == 0


# Bad input: each row of the issue.


def test_a_missing_model(compress, desk: Path, place: Path):
    done = compress(model=desk / "nett.py:net")
    refused(done, place, "ModelError", "no file", "nett.py", "net.py")


@pytest.mark.parametrize("name", ["net.onnx", "nowhere.pt2", "nowhere"])
def test_a_model_of_an_unknown_form(compress, desk: Path, place: Path, name: str):
    refused(compress(model=desk / name, weights=None), place, "ModelError", name)


def test_an_unreadable_model(compress, tmp_path: Path, place: Path):
    (tmp_path / "broken.py").write_text("def net(:\n")
    refused(compress(model=tmp_path / "broken.py:net"), place, "ModelError", "SyntaxError")
    (tmp_path / "broken.pt2").write_bytes(b"PK\x03\x04 nothing")
    refused(compress(model=tmp_path / "broken.pt2", weights=None), place, "ModelError", "broken.pt2")


def test_a_factory_that_is_not_there(compress, desk: Path, place: Path):
    refused(compress(model=desk / "net.py:nett"), place, "ModelError", "no 'nett'", "net")


def test_a_model_that_cannot_be_captured(compress, desk: Path, place: Path):
    done = compress(model=desk / "net.py:branching", weights=None)
    refused(done, place, "CaptureError", "data-dependent branch", "net.py:", "x if x.sum() > 0 else -x")


def test_missing_weights(compress, desk: Path, place: Path):
    refused(compress(weights=desk / "nowhere.safetensors"), place, "ModelError", "nowhere.safetensors", "no such file")


def test_weights_that_do_not_match_name_the_first_differing_key(compress, digit_net, tmp_path: Path, place: Path):
    state = {name: tensor.clone() for name, tensor in digit_net.state_dict().items()}
    missing = {name: tensor for name, tensor in state.items() if name != "blocks1.0.conv1.weight"}
    save_file(missing, tmp_path / "missing.safetensors")
    done = compress(weights=tmp_path / "missing.safetensors")
    refused(done, place, "ModelError", "'blocks1.0.conv1.weight' is missing in the file")
    save_file({**state, "head.bias": torch.zeros(7)}, tmp_path / "shape.safetensors")
    done = compress(weights=tmp_path / "shape.safetensors")
    refused(done, place, "'head.bias' has shape [7] in the file and [10] in the model")
    save_file({**state, "extra": torch.zeros(7)}, tmp_path / "extra.safetensors")
    refused(compress(weights=tmp_path / "extra.safetensors"), place, "'extra' is in the file and not in the model")


def test_weights_that_hold_code_are_never_run(compress, tmp_path: Path, place: Path):
    class Trap:
        def __reduce__(self):
            return (os.mkdir, (str(place / "sprung"),))

    torch.save({"state_dict": Trap()}, tmp_path / "trap.pt")
    refused(compress(weights=tmp_path / "trap.pt"), place, "ModelError", "never run")


@pytest.mark.parametrize(
    ("shape", "dtype", "message"),
    [
        ((40, 1, 8), np.float32, "check the inputs: x: torch.float32[2, 1, 8]"),
        ((40, 3, 8, 8), np.float32, "check the inputs: x: torch.float32[2, 3, 8, 8]"),
        ((40, 1, 8, 8), np.complex64, "complex64"),
        ((40, 1, 8, 8), "<U3", "dtype"),
    ],
)
def test_data_of_the_wrong_shape_or_dtype(compress, tmp_path: Path, place: Path, shape, dtype, message: str):
    np.savez(tmp_path / "odd.npz", x=np.zeros(shape, dtype))
    refused(compress(data=tmp_path / "odd.npz"), place, message)


def test_evaluation_data_of_the_wrong_shape(compress, tmp_path: Path, place: Path):
    np.savez(tmp_path / "odd.npz", x=np.zeros((40, 1, 9, 8), np.float32), y=np.zeros(40, np.int64))
    refused(compress(eval=tmp_path / "odd.npz"), place, "DataError", "float32[40, 1, 9, 8]", "f32[samples, 1, 8, 8]")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_calibration_data_that_are_not_finite(compress, digits, tmp_path: Path, place: Path, value: float):
    images = digits[0][:50].copy()
    images[17, 0, 3, 3] = value
    np.savez(tmp_path / "broken.npz", x=images)
    refused(compress(data=tmp_path / "broken.npz"), place, "DataError", "NaN or infinite", "first in sample 17")


def test_empty_data(compress, tmp_path: Path, place: Path):
    np.savez(tmp_path / "empty.npz", x=np.zeros((0, 1, 8, 8), np.float32))
    refused(compress(data=tmp_path / "empty.npz"), place, "DataError", "0 samples")


def test_missing_data(compress, desk: Path, place: Path):
    refused(compress(data=desk / "calb.npz"), place, "DataError", "no such file", "try: calib.npz")


def test_labels_missing_where_the_metric_needs_them(compress, desk: Path, place: Path):
    done = compress(eval=desk / "calib.npz")
    refused(done, place, "DataError", "computing top1", "samples without labels", "an array 'y' beside the inputs")
    refused(compress(eval=None), place, "DataError", "samples without labels")


@pytest.mark.parametrize(
    ("options", "messages"),
    [
        ({"target": "onnxrutime"}, ("UnknownName", "runtime 'onnxrutime'", "'onnxruntime'?")),
        ({"target": "onnxruntime:cpu,thread=2"}, ("UnknownName", "option 'thread'", "'threads'?")),
        ({"target": "onnxruntime:cpu,threads=two"}, ("OptionError", "threads=two", "threads=N")),
        ({"metric": "top-1"}, ("UnknownName", "metric 'top-1'", "'top1'?")),
        ({"budget": "drop <= 1 pont"}, ("BudgetSyntaxError", "pont")),
        ({"budget": "latnecy <= 1ms"}, ("BudgetSyntaxError", "latnecy", "latency")),
        ({"time": "soon"}, ("OptionError", "'soon'", "20m")),
        ({"dynamic": "x0batch"}, ("OptionError", "INPUT:AXIS=NAME")),
        ({"seed": "x"}, ("--seed",)),
        ({"bugdet": "drop <= 1pt"}, ("--bugdet", "--budget")),
    ],
    ids=str,
)
def test_unknown_names_and_options_offer_the_nearest(compress, place: Path, options, messages):
    refused(compress(**options), place, *messages)


def test_an_unknown_technique_in_a_recipe(run, desk: Path, place: Path, tmp_path: Path):
    recipe = tmp_path / "recipe.toml"
    recipe.write_text('version = 1\ntarget = "onnxruntime:cpu"\n[[step]]\ntechnique = "int18"\n')
    arguments = ("apply", desk / "net.py:net", "--weights", desk / "net.safetensors", "--data", desk / "calib.npz")
    done = run(*arguments, "--recipe", recipe, "--out", place / "program")
    refused(done, place, "UnknownName", "technique 'int18'", "'int8'?")


def test_an_unknown_command(run, place: Path):
    refused(run("comprss"), place, "comprss")


def test_a_missing_extra_is_named(compress, place: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(extras, "find_spec", lambda name: None)
    refused(compress(), place, "MissingExtra", "torch is not installed", 'pip install "gossamer[compress]"')


def test_an_existing_folder_is_refused_before_any_work(compress, place: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(flow, "compress", lambda *args, **options: pytest.fail("work was started"))
    (place / "small").mkdir()
    (place / "small" / "mine").write_text("keep")
    done = compress()
    assert (done.code, done.out) == (2, "")
    assert "OutputExists" in done.err
    assert "--force" in done.err
    done = compress("--force")
    assert (done.code, done.out) == (2, "")
    assert "not an artifact" in done.err
    assert (place / "small" / "mine").read_text() == "keep"


def test_an_interrupt_while_packing_leaves_nothing(compress, place: Path, measuring, monkeypatch):
    pack = sys.modules["gossamer.artifacts.pack"]  # the package has a function of this name
    real, written = pack.write_atomic, []

    def interrupted(path: Path, content: bytes) -> None:
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(path)
        real(path, content)

    monkeypatch.setattr(pack, "write_atomic", interrupted)
    done = compress()
    assert written
    refused(done, place, "interrupted; nothing was written", code=cli.EXIT_INTERRUPTED)


def test_an_interrupt_while_measuring_leaves_nothing(desk: Path, tmp_path: Path, place: Path):
    """A real signal to a real process, temporary files included."""
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    arguments = ["compress", desk / "net.py:net", "--weights", desk / "net.safetensors", "--data", desk / "calib.npz"]
    arguments += ["--eval", desk / "test.npz", "--out", place / "small"]
    process = subprocess.Popen(
        [sys.executable, "-c", "from gossamer.cli import main; main()", *map(str, arguments)],
        env={**os.environ, "TMPDIR": str(temporary), "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    with process.stdout, process.stderr:
        lines = iter(process.stderr.readline, "")
        before = "".join(itertools.takewhile(lambda line: "int8: verify" not in line, lines))
        process.send_signal(signal.SIGINT)
        after, out = "".join(lines), process.stdout.read()
    assert process.wait(timeout=60) == cli.EXIT_INTERRUPTED, before + after
    assert out == ""
    assert after == "interrupted; nothing was written\n"
    assert list(place.iterdir()) == []
    # The lock of measurements stays: a file that is taken away while somebody waits for it locks nothing.
    assert [path.suffix for path in temporary.iterdir()] == [".lock"]


def test_a_command_in_a_process_of_its_own(tmp_path: Path):
    command = [sys.executable, "-c", "from gossamer.cli import main; main()", "targets", "--json"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)[0]["target"] == "onnxruntime:cpu"


@pytest.fixture
def hostile(digit_artifact: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(digit_artifact, tmp_path / "hostile"))


@pytest.mark.parametrize("command", ["inspect", "verify", "bench"])
def test_an_artifact_with_a_changed_byte(run, hostile: Path, place: Path, command: str):
    model = hostile / "deploy" / "onnxruntime-cpu" / "model.onnx"
    model.write_bytes(model.read_bytes()[:-1] + b"\0")
    refused(run(command, hostile), place, "ArtifactError", "model.onnx")


@pytest.mark.parametrize("command", ["inspect", "verify", "bench"])
def test_an_artifact_with_a_missing_file(run, hostile: Path, place: Path, command: str):
    (hostile / "recipe.toml").unlink()
    refused(run(command, hostile), place, "ArtifactError", "recipe.toml")


@pytest.mark.parametrize("command", ["inspect", "verify", "bench"])
def test_an_artifact_whose_paths_lead_elsewhere(run, hostile: Path, place: Path, command: str):
    manifest = (hostile / "manifest.json").read_text().replace('"recipe.toml"', '"../recipe.toml"')
    (hostile / "manifest.json").write_text(manifest)
    refused(run(command, hostile), place, "ArtifactError", "'..'")


def test_a_folder_that_is_no_artifact(run, place: Path, tmp_path: Path):
    for command in ("verify", "bench"):
        refused(run(command, tmp_path / "nowhere"), place, "ArtifactError")
    refused(run("inspect", tmp_path / "nowhere"), place, "ModelError", "no such file or folder")


def test_half_a_comparison(run, digit_artifact: Path, desk: Path, place: Path):
    for given in (("--against", desk / "net.py:net"), ("--data", desk / "test.npz"), ("--transform", "a.py:b")):
        refused(run("verify", digit_artifact, *given), place, "OptionError", "--against and --data together")
