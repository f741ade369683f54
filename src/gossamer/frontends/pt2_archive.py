"""A ``.pt2`` archive, inspected member by member before torch may read it.

``torch.export.load`` trusts its file: it unpickles sample inputs and tensors, evaluates size expressions with
``sympify`` (which is ``eval``), generates code from the names of inputs and parameters, imports modules named in tree
specs, and opens compiled libraries. So a copy is written of what is known to be inert, and torch reads the copy:

    archive_format  archive_version  byteorder  .data/version     fixed short texts
    models/NAME.json                 the graph: every text in it is checked, by the grammar of its place
    data/sample_inputs/NAME.pt       written by torch.save; must load weights-only
    data/weights/*, data/constants/* raw bytes, or (subclasses) written by torch.save; must load weights-only
    extra/*                          left out

Anything else is refused: compiled libraries, custom objects, compressed, duplicate, overlapping or escaping members.
The layout is that of torch 2.9 to 2.13 (torch/export/pt2_archive); older files have to be exported again.
"""

from __future__ import annotations

import ast
import io
import json
import math
import re
import zipfile
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from gossamer.core.errors import ModelError

_FIXED = ("archive_format", "archive_version", "byteorder", ".data/version")
_DROPPED = re.compile(r"extra/|\.data/serialization_id$|\.format_version$|\.storage_alignment$")
_MODEL = re.compile(r"models/([\w-]+)\.json")
_PAYLOAD = re.compile(r"data/(weights|constants)/[\w-]+(\.json)?", re.ASCII)

_INERT = re.compile(r"[\w.:+#-]*", re.ASCII)
"""Names, dtypes, versions: they end up in generated code, so nothing that could be code may be in them."""

_TARGET = re.compile(r"torch\.ops\.\w+\.\w+(\.\w+)?|_operator\.\w+|math\.\w+|torch\.sym_\w+", re.ASCII)
_TREE_TYPES = re.compile(r"builtins\.(tuple|list|dict)|collections\.OrderedDict|transformers\.[\w.]+")
_FREE_TEXT = ("as_string", "as_strings")
_KEPT_METADATA = ("nn_module_stack", "stack_trace")
_MAX_TEXT_BYTES = 512 * 2**20
_MAX_SAMPLE_BYTES = 2 * 2**30

_SIZE_FUNCTIONS = frozenset(
    """Symbol Integer Float Rational Add Mul Pow Max Min Mod PythonMod FloorDiv CleanDiv CeilDiv CeilToInt FloorToInt
    TruncToInt TruncToFloat RoundToInt IntTrueDiv FloatTrueDiv ToFloat Identity Where PowByNatural floor ceiling Abs
    Equality Unequality StrictLessThan LessThan StrictGreaterThan GreaterThan And Or Not""".split()  # noqa: SIM905
)


def checked_copy(path: Path, doing: str) -> io.BytesIO:
    """The archive with its checked members only, for ``torch.export.load``.

    Raises:
        ModelError: the file is missing or no archive, or a member is not what torch.export.save writes.
    """
    if not path.is_file():
        raise ModelError(doing, got="no such file", expected="a .pt2 file")
    members = _members(path.read_bytes(), doing)
    models = [match.group(1) for name in members if (match := _MODEL.fullmatch(name))]
    if "version" in members and not models:
        raise ModelError(
            doing,
            got="the layout of torch 2.8 or older",
            expected="the layout of torch 2.9 or newer",
            try_="export again",
        )
    if models != ["model"]:
        raise ModelError(doing, got=f"programs named {models}", expected="one, as torch.export.save writes it: 'model'")
    kept: dict[str, bytes] = {}
    for name, content in members.items():
        if name in _FIXED:
            kept[name] = content if len(content) <= 64 else _refuse(doing, name, f"{len(content)} bytes")
        elif _MODEL.fullmatch(name):
            kept[name] = json.dumps(_checked_graph(_json(content, name, doing), name, doing)).encode()
        elif name == "data/sample_inputs/model.pt":
            _require_plain_tensors(content, name, doing)
            kept[name] = content
        elif _PAYLOAD.fullmatch(name) and "/custom_obj_" not in name and "/opaque_obj_" not in name:
            kept[name] = content
        elif not _DROPPED.match(name):
            _refuse(doing, name, "a member that torch.export.save does not write for plain programs")
    for kind in ("weights", "constants"):
        _check_payloads(kept, kind, doing)
    copy = io.BytesIO()
    with zipfile.ZipFile(copy, "w") as archive:
        for name, content in kept.items():
            archive.writestr(f"model/{name}", content)
    copy.seek(0)
    return copy


def _refuse(doing: str, member: str, got: str) -> NoReturn:
    raise ModelError(
        doing,
        got=f"{member}: {got}",
        expected="what torch.export.save writes for a program of tensors; code in a file is never run",
        try_="export the model again with torch.export.save, without custom objects",
    )


def _members(content: bytes, doing: str) -> dict[str, bytes]:
    """Members by name below the archive's one folder. Uncompressed only, so that none is larger than its file."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            infos = archive.infolist()
            if sum(info.file_size for info in infos) > len(content):
                _refuse(doing, "the archive", "overlapping or compressed members")
            members: dict[str, bytes] = {}
            seen: set[str] = set()
            for info in infos:
                folder, _, name = info.filename.partition("/")
                parts = name.split("/")
                if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1:
                    _refuse(doing, repr(info.filename[:200]), "a compressed or encrypted member")
                if not folder.strip(".") or not name or any(part in ("", ".", "..") for part in parts) or "\\" in name:
                    _refuse(doing, repr(info.filename[:200]), "a path that leaves the archive")
                if info.filename.lower() in seen:  # torch's reader takes no notice of case
                    _refuse(doing, repr(info.filename[:200]), "a second member of the same name")
                seen.add(info.filename.lower())
                members[name] = archive.read(info)
            if len({info.filename.partition("/")[0] for info in infos}) > 1:
                _refuse(doing, "the archive", "more than one folder")
            return members
    except (zipfile.BadZipFile, EOFError, NotImplementedError, OSError, ValueError) as error:
        if isinstance(error, ModelError):
            raise
        raise ModelError(doing, got=str(error), expected="an archive written by torch.export.save") from error


def _json(content: bytes, name: str, doing: str) -> Any:
    if len(content) > _MAX_TEXT_BYTES:
        _refuse(doing, name, f"{len(content)} bytes of text")
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ModelError(doing, got=f"{name}: {error}", expected="JSON") from error


def _require_plain_tensors(content: bytes, name: str, doing: str) -> None:
    """``content`` is a torch.save file that loads weights-only, and neither it nor what it holds is a bomb."""
    _members(content, f"{doing}: {name}")
    try:
        loaded = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # noqa: BLE001 - UnpicklingError on planted code, anything on damaged bytes
        lines = str(error).strip().splitlines() or [type(error).__name__]
        _refuse(doing, name, f"a pickle of more than tensors: {lines[0][:160]}")
    sizes = [leaf.numel() * leaf.element_size() for leaf in pytree.tree_leaves(loaded) if isinstance(leaf, Tensor)]
    if sum(sizes) > _MAX_SAMPLE_BYTES:
        _refuse(doing, name, f"tensors of {sum(sizes)} bytes")


def _check_payloads(kept: dict[str, bytes], kind: str, doing: str) -> None:
    """The table of weights or constants: each entry names a member, and no tensor is larger than its bytes."""
    name = f"data/{kind}/model_{kind}_config.json"
    if name not in kept:
        _refuse(doing, name, "missing")
    table = _json(kept[name], name, doing)
    _require_inert(table, name, doing)
    entries = table.get("config") if isinstance(table, dict) else None
    if not isinstance(entries, dict):
        _refuse(doing, name, "not a table")
    for entry in entries.values():
        member = f"data/{kind}/{entry.get('path_name')}" if isinstance(entry, dict) else ""
        if member not in kept or member.endswith(".json"):
            _refuse(doing, name, f"an entry without a member: {member!r}")
        if entry.get("use_pickle"):
            _require_plain_tensors(kept[member], member, doing)
        else:
            sizes = _sizes(entry)
            if sizes is None or math.prod(sizes) > len(kept[member]):  # no dtype has less than a byte an element
                _refuse(doing, member, f"{len(kept[member])} bytes for a tensor of shape {sizes}")
    kept[name] = json.dumps(table).encode()


def _sizes(entry: dict[str, Any]) -> list[int] | None:
    try:
        sizes = [size["as_int"] for size in entry["tensor_meta"]["sizes"]]
    except (KeyError, TypeError):
        return None
    return sizes if all(type(size) is int and size >= 0 for size in sizes) else None


def _checked_graph(value: Any, member: str, doing: str) -> Any:
    """The graph with every text checked; notes that are not needed and guards (they are code) are left out."""
    if isinstance(value, list):
        return [_checked_graph(item, member, doing) for item in value]
    _require_inert(value if isinstance(value, str) else list(value) if isinstance(value, dict) else None, member, doing)
    return (
        {key: _checked_field(key, item, member, doing) for key, item in value.items()}
        if isinstance(value, dict)
        else value
    )


def _checked_field(key: str, value: Any, member: str, doing: str) -> Any:
    """One field of the graph by the grammar of its place."""
    if key in ("guards_code", "treespec_namedtuple_fields"):
        return type(value)()
    if key == "metadata" and isinstance(value, dict):
        return {name: text for name, text in value.items() if name in _KEPT_METADATA and isinstance(text, str)}
    if key == "range_constraints" and isinstance(value, dict):
        return {_inert_range(name, member, doing): _checked_graph(ends, member, doing) for name, ends in value.items()}
    if key == "custom_obj_values" and value:
        _refuse(doing, member, "custom objects")
    if key == "target" and not (isinstance(value, str) and _TARGET.fullmatch(value)):
        _refuse(doing, member, f"a call of {str(value)[:80]!r}")
    if key == "expr_str":
        _require_size_expression(value, member, doing)
    elif key in ("in_spec", "out_spec"):
        _require_plain_tree(value, member, doing)
    elif key not in _FREE_TEXT:
        return _checked_graph(value, member, doing)
    return value


def _inert_range(name: str, member: str, doing: str) -> str:
    """The key of a range, a symbol or a size in symbols (``2*s44``), which torch only looks up."""
    # Symbols from data ("u3", "zuf3") are counted up one by one while torch loads, and no Program can have them.
    if not re.fullmatch(r"[\w *+/(),-]*", name, re.ASCII) or "__" in name or name.startswith(("u", "zuf")):
        _refuse(doing, member, f"the size {name[:80]!r}")
    return name


def _require_inert(value: Any, member: str, doing: str) -> None:
    if isinstance(value, str) and not _INERT.fullmatch(value):
        _refuse(doing, member, f"the name {value[:80]!r}")
    if isinstance(value, dict):
        for key, item in value.items():
            _require_inert(key, member, doing)
            _require_inert(item, member, doing)
    elif isinstance(value, list):
        for item in value:
            _require_inert(item, member, doing)


def _require_plain_tree(text: Any, member: str, doing: str) -> None:
    """A tree spec of lists, tuples, mappings and Hugging Face outputs: no enum and no factory to import."""
    if text in (None, ""):
        return
    spec = _json(str(text).encode(), member, doing)

    def visit(node: Any) -> None:
        if not isinstance(node, dict):
            _refuse(doing, member, "a damaged tree spec")
        if node.get("type") is not None and not _TREE_TYPES.fullmatch(str(node["type"])):
            _refuse(doing, member, f"arguments or results of type {str(node['type'])[:80]!r}")
        context = node.get("context")
        if isinstance(context, str) and "__enum__" in json.dumps(_json(context.encode(), member, doing)):
            _refuse(doing, member, "a tree spec that imports a type")
        if not isinstance(context, str | None) or not isinstance(node.get("children_spec"), list):
            _refuse(doing, member, "a damaged tree spec")
        for child in node["children_spec"]:
            visit(child)

    visit(spec[1] if isinstance(spec, list) and len(spec) == 2 else spec)


def _require_size_expression(text: Any, member: str, doing: str) -> None:
    """A size as torch prints it, ``Mul(Integer(2), Symbol('s44', positive=True, integer=True))``, and nothing else."""
    try:
        tree = ast.parse(text, mode="eval") if isinstance(text, str) and len(text) <= 10_000 else None
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        tree = None
    if tree is None or not _is_size(tree.body, powers=1):
        _refuse(doing, member, f"the size {str(text)[:80]!r}")


def _is_size(node: ast.expr, powers: int) -> bool:
    """Whether an expression is made of numbers, symbols and functions of sizes, with ``powers`` levels of powers."""
    if isinstance(node, ast.Constant):
        return _is_size_constant(node.value)
    if isinstance(node, ast.UnaryOp):
        return isinstance(node.op, ast.USub) and _is_size(node.operand, powers)
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name) or node.func.id not in _SIZE_FUNCTIONS:
        return isinstance(node, ast.Name) and node.id in ("true", "false")
    if node.func.id in ("Pow", "PowByNatural"):
        exponent = ast.unparse(node.args[1]) if len(node.args) == 2 else ""
        if not powers or not re.fullmatch(r"Integer\(-?[1-8]\)", exponent):
            return False
        powers -= 1
    if any(isinstance(item, ast.Starred) for item in node.args) or any(not keyword.arg for keyword in node.keywords):
        return False
    return all(_is_size(item, powers) for item in (*node.args, *(keyword.value for keyword in node.keywords)))


def _is_size_constant(value: Any) -> bool:
    if isinstance(value, str):  # the name of a symbol, or the digits of a Float
        return re.fullmatch(r"[A-Za-z]\w{0,40}|-?\d+(\.\d*)?", value, re.ASCII) is not None and "__" not in value
    return isinstance(value, bool) or (isinstance(value, int | float) and abs(value) < 2**63)
