"""The public surface: names and signatures as in a golden file, light imports, extras that are named when missing."""

from __future__ import annotations

import inspect
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import numpy as np
import pytest

import gossamer
from gossamer import flow
from gossamer.core import extras
from gossamer.core.errors import MissingExtra

ROOT = Path(__file__).parents[1]
GOLDEN = Path(__file__).parent / "goldens" / "public_surface.txt"
HEAVY = "{'torch', 'onnx', 'onnxruntime', 'scipy', 'safetensors', 'transformers', 'jinja2', 'PIL', 'sympy'}"


def surface() -> str:
    """One line a public name: functions with their signature, errors with their bases."""
    lines = []
    for name in sorted(gossamer.__all__):
        value = getattr(gossamer, name)
        if inspect.isclass(value):
            lines.append(f"class {name}({', '.join(base.__name__ for base in value.__bases__)})")
        else:
            lines.append(f"def {name}{inspect.signature(value)}")
    return "\n".join(lines) + "\n"


def test_the_public_surface_is_as_on_disk():
    """``GOSSAMER_GOLDEN=1 pytest tests/test_flow.py`` rewrites it; a new name needs a page in docs/decisions."""
    if os.environ.get("GOSSAMER_GOLDEN") == "1":
        GOLDEN.parent.mkdir(exist_ok=True)
        GOLDEN.write_text(surface())
    assert surface() == GOLDEN.read_text()


def test_the_surface_is_what_the_module_lists():
    assert set(dir(gossamer)) == {*gossamer.__all__, "__version__"}
    with pytest.raises(AttributeError, match="no attribute 'comprss'"):
        _ = gossamer.comprss


@pytest.mark.parametrize(
    "name", [name for name, value in vars(flow).items() if inspect.isfunction(value) and not name.startswith("_")]
)
def test_each_verb_says_what_it_does(name: str):
    documentation = inspect.getdoc(getattr(flow, name)) or ""
    assert len(documentation.splitlines()[0]) > 20


def test_each_verb_is_short():
    """flow.py is the table of contents: the work is in the folder that it names."""
    for name, value in vars(flow).items():
        if not inspect.isfunction(value) or value.__module__ != flow.__name__:
            continue
        body = inspect.getsource(value).replace(value.__doc__ or "\0", "")
        code = [line for line in body.splitlines() if line.strip() and not line.strip().startswith('"')]
        assert len(code) <= 45, name  # the arguments of `compress` take 15 lines twice


def python(code: str, *arguments: object, home: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """Run code in a fresh process far from the repository."""
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        cwd=home,
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def test_importing_gossamer_brings_in_nothing_heavy(tmp_path: Path):
    code = f"""
import sys
import gossamer
loaded = {{name.split('.')[0] for name in sys.modules}}
assert not loaded & ({HEAVY} | {{'numpy', 'rich', 'typer'}}), loaded
gossamer.compress, gossamer.load, gossamer.GossamerError
from gossamer import cli
loaded = {{name.split('.')[0] for name in sys.modules}}
assert not loaded & {HEAVY}, loaded & {HEAVY}
"""
    done = python(code, home=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")


WITHOUT = """
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"torch", "onnx", "scipy", "safetensors", "transformers", "jinja2", "sympy", "PIL"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Missing())
import numpy as np
import gossamer
"""


def test_an_artifact_runs_where_only_the_base_is_installed(digit_artifact: Path, digits, tmp_path: Path):
    images = digits[0][:5]
    np.save(tmp_path / "images.npy", images)
    code = f"""{WITHOUT}
small = gossamer.load(sys.argv[1])
scores = small(np.load(sys.argv[2]))
np.save("scores.npy", scores)
assert gossamer.verify(small).passed
np.testing.assert_array_equal(scores[:1], small(x=np.load(sys.argv[2])[:1]))
small.close()
"""
    done = python(code, digit_artifact, tmp_path / "images.npy", home=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    with flow.load(digit_artifact) as here:
        np.testing.assert_array_equal(np.load(tmp_path / "scores.npy"), here(images))


def test_the_command_line_works_where_only_the_base_is_installed(digit_artifact: Path, tmp_path: Path):
    code = f"""{WITHOUT}
from gossamer.cli import main
folder = sys.argv[1]
for arguments in (["inspect", folder], ["verify", folder], ["targets"]):
    sys.argv = ["gossamer", *arguments, "--json"]
    try:
        main()
    except SystemExit as end:
        assert not end.code, arguments
"""
    done = python(code, digit_artifact, home=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")


VERBS = {
    "capture": lambda: flow.capture("model.py:net"),
    "compress": lambda: flow.compress("model.py:net", "data.npz"),
    "apply": lambda: flow.apply("model.py:net", "recipe.toml", "data.npz"),
    "analyze": lambda: flow.analyze("model.py:net"),
    "try_recipe": lambda: flow.try_recipe("model.py:net", "int8", "data.npz"),
    "techniques": flow.techniques,
}


@pytest.mark.parametrize("verb", VERBS)
def test_what_needs_torch_names_the_extra(verb: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(extras, "find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r"torch is not installed[\s\S]*pip install \"gossamer\[compress\]\""):
        VERBS[verb]()


def test_a_network_compressed_from_python_alone(digit_net, digits, tmp_path: Path, hasty):
    """The eight lines of the README on a smaller network."""
    images, labels = digits
    front = gossamer.compress(
        digit_net,
        data=images[:300],
        eval_data=(images[900:], labels[900:]),
        metric="top1",
        target="onnxruntime:cpu,batch=8",
        budget="top1 drop <= 3pt",
    )
    small = front.best.save(tmp_path / "small")
    scores = np.asarray(small(images[900:]))
    assert np.mean(scores.argmax(1) == labels[900:]) > 0.88
    assert gossamer.verify(small).passed
    assert gossamer.measure(small).measurements
    program = gossamer.capture(digit_net, images[:2])
    assert gossamer.lower(program).model
    flow.save(program, tmp_path / "program")
    assert gossamer.capture(tmp_path / "program").digest == program.digest


@pytest.mark.slow
def test_a_second_environment_with_the_base_install_runs_an_artifact(digit_artifact: Path, digits, tmp_path: Path):
    environment = tmp_path / "base"
    venv.create(environment, with_pip=True)
    base = environment / "bin" / "python"
    source = tmp_path / "source"
    shutil.copytree(ROOT, source, ignore=shutil.ignore_patterns(".*", "*.egg-info", "build", "benchmarks", "tests"))
    install = [base, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-c", ROOT / "constraints.txt"]
    done = subprocess.run([*install, str(source)], capture_output=True, text=True, check=False, timeout=600)
    if done.returncode and ("No matching distribution" in done.stderr or "Connection" in done.stderr):
        pytest.skip(f"pip reaches no package index: {done.stderr.strip().splitlines()[-1]}")
    assert done.returncode == 0, done.stderr
    np.save(tmp_path / "images.npy", digits[0][:16])
    code = """
import importlib.util, sys
import numpy as np
import gossamer
assert not [name for name in ("torch", "onnx", "safetensors", "scipy") if importlib.util.find_spec(name)]
assert "site-packages" in gossamer.__file__, gossamer.__file__
with gossamer.load(sys.argv[1]) as small:
    np.save("scores.npy", small(np.load("images.npy")))
    assert gossamer.verify(small).passed
"""
    done = subprocess.run(
        [str(base), "-c", code, str(digit_artifact)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    with flow.load(digit_artifact) as here:
        np.testing.assert_array_equal(np.load(tmp_path / "scores.npy"), here(digits[0][:16]))
    command = subprocess.run(
        [str(environment / "bin" / "gossamer"), "compress", "a.py:net", "--data", "b.npz", "--out", "c"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert command.returncode == 2
    assert 'pip install "gossamer[compress]"' in " ".join(command.stderr.split())
