"""Artifacts: packed models as content-addressed folders, written whole, read with suspicion, run like functions."""

from gossamer.artifacts.artifact import Artifact, Opener, load_artifact
from gossamer.artifacts.golden import Golden
from gossamer.artifacts.manifest import FileEntry, Manifest, TargetEntry, parse_manifest, read_manifest
from gossamer.artifacts.pack import DeployFile, pack, require_replaceable

__all__ = [
    "Artifact",
    "DeployFile",
    "FileEntry",
    "Golden",
    "Manifest",
    "Opener",
    "TargetEntry",
    "load_artifact",
    "pack",
    "parse_manifest",
    "read_manifest",
    "require_replaceable",
]
