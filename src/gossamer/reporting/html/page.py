"""The page: template, styles, script and data joined into one file that a browser can open without a network."""

from __future__ import annotations

import base64
import gzip
import hashlib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from gossamer.artifacts import Artifact
from gossamer.artifacts.manifest import MANIFEST_FILE
from gossamer.core.errors import ArtifactError, OptionError, OutputExists
from gossamer.core.extras import require_extra
from gossamer.core.files import write_atomic
from gossamer.reporting.html.charts import build_charts
from gossamer.reporting.html.view import build_view

_TEMPLATES = Path(__file__).parent / "templates"

GENERATOR = '<meta name="generator" content="gossamer">'
"""A file with this mark is a report, and may be replaced by another one."""

_HEAD_BYTES = 4096


def artifact_facts(artifact: Artifact) -> dict[str, Any]:
    """What the report of an artifact is written from: all of it is in its folder."""
    manifest = artifact.manifest
    digests = {"artifact": artifact.digest} | {
        role: manifest.role_digest(role) for role in ("deploy", "program", "evidence")
    }
    return {
        "name": artifact.name,
        "signature": artifact.signature.to_json(),
        "targets": [
            {"target": entry.target, "precision": entry.precision} for _, entry in sorted(manifest.targets.items())
        ],
        "size_bytes": artifact.size_bytes,
        "recipe": artifact.recipe,
        "digests": digests,
        "evidence": artifact.evidence,
    }


def write_report(facts: Mapping[str, Any], path: Path, *, force: bool = False) -> Path:
    """Write the report of an artifact or a search into one HTML file of about 2 MB; the same facts give the same bytes.

    Most of the file is the script that draws the charts, gzipped. An older report at ``path`` is replaced; any other
    file only with ``force``.

    Raises:
        MissingExtra: Jinja or Plotly is not installed.
        OutputExists: there is something else than a report at ``path``.
        OptionError: ``path`` lies inside an artifact, which another file would damage, or cannot be written.
        ArtifactError: the evidence is not as gossamer writes it.
    """
    require_report(path, force=force)
    content = _render(facts).encode()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, content)
    except OSError as error:
        raise OptionError(
            _doing(path), got=str(error), expected="a file that can be written", try_="another --out"
        ) from error
    return path


def require_report(path: Path, *, force: bool) -> None:
    """Raise as ``write_report`` would, unless it can write to ``path``. Call it before any work starts."""
    for module in ("jinja2", "plotly"):
        require_extra(module, "report", "writing the HTML report")
    doing = _doing(path)
    if any((folder / MANIFEST_FILE).is_file() for folder in path.absolute().parents):
        raise OptionError(
            doing,
            got="a path inside an artifact",
            expected="one outside: an artifact holds its own files and no other",
            try_=f"--out {path.name}",
        )
    if path.is_dir():
        raise OutputExists(doing, got="a folder", expected="a file name", try_=f"--out {path / 'report.html'}")
    if path.exists() and not force and GENERATOR.encode() not in _head(path):
        raise OutputExists(
            doing,
            got="a file that is no report",
            expected="a free path, or a report to replace",
            try_="another --out, or --force",
        )


def _doing(path: Path) -> str:
    return f"writing the report {path}"


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(_HEAD_BYTES)


def _render(facts: Mapping[str, Any]) -> str:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    try:
        view = build_view(facts)
        charts = build_charts(facts["evidence"], view["metric"])
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise ArtifactError(
            f"writing the report of {facts['name']}",
            got=f"evidence that breaks its form: {type(error).__name__}: {error!s:.200}",
            expected="evidence as gossamer writes it",
        ) from error
    environment = Environment(
        autoescape=True,
        loader=FileSystemLoader(_TEMPLATES),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    script = (_TEMPLATES / "report.js").read_text(encoding="utf-8")
    packed, plotly_hash = _plotly() if charts else ("", "")
    return environment.get_template("report.html.j2").render(
        view,
        charts=charts,
        generator=Markup(GENERATOR),  # noqa: S704 - a constant
        style=Markup((_TEMPLATES / "report.css").read_text(encoding="utf-8")),  # noqa: S704 - our own file
        script=Markup(script),  # noqa: S704 - our own file
        script_hashes=[digest for digest in (_hash(script), plotly_hash) if digest],
        plotly=Markup(packed),  # noqa: S704 - base64
    )


@cache
def _plotly() -> tuple[str, str]:
    """Plotly's script, gzipped and in base64, and the hash that lets the page's policy run it."""
    from plotly.offline import get_plotlyjs

    script = get_plotlyjs()
    return base64.b64encode(gzip.compress(script.encode(), 9, mtime=0)).decode(), _hash(script)


def _hash(script: str) -> str:
    """The hash of a script as a content security policy writes it."""
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
