"""The normaliser: a captured graph becomes a graph of the dialect.

It walks the captured graph once and writes a new one. In-place operations and views are made functional (mutation.py),
spellings are reduced to the canonical one (rewrites.py), assertions and grad-mode regions disappear, and each new node
gets its dtype and shape by running the operation on the fake tensors that capture left behind.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping
from typing import Any

import sympy
import torch
from torch import fx
from torch._dispatch.python import enable_python_dispatcher
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.fx.experimental.symbolic_shapes import free_unbacked_symbols

from gossamer.core.errors import CaptureError, UnsupportedOp
from gossamer.program import dialect
from gossamer.program.mutation import Cell, is_mutation, may_share_memory, read, view_writer, write
from gossamer.program.rewrites import ALIASES, IGNORED, REWRITES
from gossamer.program.values import TensorValue, value_of

_SPECIALISING = frozenset(
    {dialect.aten.upsample_nearest2d.vec, dialect.aten.upsample_bilinear2d.vec, dialect.aten.upsample_bicubic2d.vec}
)
"""Run on symbolic sizes outside of export these fix the sizes, so the result that capture saw is taken."""

_PLAIN_LAYERS = re.compile(
    r"torch\.nn\.modules\.(conv|linear|batchnorm|normalization|dropout|pooling|sparse|activation)\.(?!Multi)"
)


def normalize(module: fx.GraphModule, dim_names: Mapping[sympy.Symbol, str], buffers: frozenset[str]) -> fx.Graph:
    """Rewrite a captured module's graph in the dialect.

    Args:
        module: what ``ExportedProgram.module(check_guards=False)`` returns.
        dim_names: name of each symbolic size.
        buffers: names of tensors that are state of the model, not trained.

    Raises:
        CaptureError: the graph changes its inputs or state.
        UnsupportedOp: an operation outside the dialect, named with its module and source line.
    """
    fakes = (node.meta.get("val") for node in module.graph.nodes if node.op in ("placeholder", "get_attr"))
    fake_mode = next(val.fake_mode for val in fakes if isinstance(val, FakeTensor))
    normalizer = Normalizer(dict(dim_names), buffers, fake_mode)
    outputs = [output for output in normalizer.walk(module, None) if output is not None]
    _require_tensors(outputs)
    graph = normalizer.graph
    graph.output(tuple(outputs))
    for node in reversed(list(graph.nodes)):
        if not node.users and node.op not in ("output", "placeholder"):
            graph.erase_node(node)
    graph.lint()
    for node in graph.nodes:
        node.meta.pop("val", None)
    return graph


def _require_tensors(outputs: list[Any]) -> None:
    other = [x for x in outputs if not (isinstance(x, fx.Node) and isinstance(x.meta["value"], TensorValue))]
    if other or not outputs:
        raise CaptureError(
            "rewriting the captured graph",
            problem="unsupported Python object",
            got=f"forward returns {other[0]!r} beside tensors" if other else "forward returns no tensor",
            expected="tensors, alone or in tuples, lists and mappings",
            try_="return tensors only: torch.tensor(...), or leave the value out",
        )


class Normalizer:
    """Writes the new graph; rewrites call ``emit`` and ``apply`` on it."""

    def __init__(self, dim_names: dict[sympy.Symbol, str], buffers: frozenset[str], fake_mode: FakeTensorMode) -> None:
        self.graph = fx.Graph()
        self._fake_mode = fake_mode
        self._dim_names = dim_names
        self._buffers = buffers
        self._attributes: dict[str, fx.Node] = {}
        self._size_nodes: dict[tuple[fx.Node, int], fx.Node] = {}
        self._origin: fx.Node | None = None

    def walk(self, module: fx.GraphModule, inputs: list[Cell] | None) -> list[Any]:
        """Rewrite all nodes of a module; an inlined submodule is given its ``inputs``. Returns the output nodes."""
        cells: dict[fx.Node, Cell] = {}
        given = iter(inputs or ())
        for node in module.graph.nodes:
            if node.op == "placeholder":
                cells[node] = next(given) if inputs is not None else self._placeholder(node)
            elif node.op == "get_attr":
                cells[node] = self._attribute(module, node)
            elif node.op == "output":
                return _flat(_substitute(node.args[0], lambda used: read(cells[used])))
            else:
                self._origin = node
                self._call(module, node, cells)
        raise AssertionError("a captured graph ends with its output node")

    def _placeholder(self, node: fx.Node) -> Cell:
        val = node.meta["val"]
        if val is None or isinstance(val, bool | int | float | str):
            return Cell(val)  # an argument that export fixed: no input of the program
        if not isinstance(val, torch.Tensor):
            raise UnsupportedOp(
                "rewriting the captured graph",
                got=f"input {node.target} is a {type(val).__name__}",
                expected="tensors as inputs",
                try_="make it a tensor, or fix it at export",
            )
        new = self.graph.create_node("placeholder", str(node.target), name=str(node.target))
        self._describe(new, val)
        return Cell(new, owner=f"input {node.target}")

    def _attribute(self, module: fx.GraphModule, node: fx.Node) -> Cell:
        name = str(node.target)
        if "val" not in node.meta:
            return Cell(_submodule(module, name))
        if name not in self._attributes:
            first = next(iter(self.graph.nodes), None)
            context = self.graph.inserting_before(first) if first is not None else self.graph.inserting_after()
            with context:
                new = self.graph.create_node("get_attr", name, name="p__" + name.replace(".", "_"))
            self._describe(new, node.meta["val"])
            self._attributes[name] = new
        kind = "buffer" if name in self._buffers else "parameter"
        return Cell(self._attributes[name], owner="" if name.startswith("lifted_tensor") else f"{kind} {name}")

    def _call(self, module: fx.GraphModule, node: fx.Node, cells: dict[fx.Node, Cell]) -> None:
        if node.target in IGNORED:
            return
        self._require_known_sizes(node)
        args, kwargs = _substitute((node.args, node.kwargs), lambda used: read(cells[used]))
        if isinstance(node.target, torch._ops.HigherOrderOperator):
            cells[node] = Cell(self._inline(node, args, cells))
            return
        source = node.args[0] if node.args and isinstance(node.args[0], fx.Node) else None
        if is_mutation(node) and source is not None:
            value = self.apply(_functional(node), *args, **kwargs)
            value = self.apply(dialect.aten.to.dtype, value, self.dtype(args[0]))  # a tensor keeps its dtype in place
            write(cells[source], value, source_line(node))
            cells[node] = cells[source]
            return
        value = self.apply(node.target, *args, **kwargs)
        if source is not None and value is args[0] and self._shares_memory(node, source):
            cells[node] = cells[source]  # the same tensor under another name
        elif source is not None and self._shares_memory(node, source):
            base, rest = cells[source], args[1:]
            cells[node] = Cell(
                value,
                base,
                remake=lambda current, node=node, rest=rest, kwargs=kwargs: self.apply(
                    node.target, current, *rest, **kwargs
                ),
                write_back=view_writer(node.target, rest, self),
                seen=base.version,
            )
        elif node.target is operator.getitem and source is not None and cells[source].base is not None:
            parent, index = cells[source], args[1]
            cells[node] = Cell(
                value,
                parent,
                remake=lambda parts, index=index: self.apply(operator.getitem, parts, index),
                seen=parent.version,
            )
        else:
            cells[node] = Cell(value)

    def _shares_memory(self, node: fx.Node, source: fx.Node) -> bool:
        """Whether a call yields a view of its first argument: ``reshape`` and ``contiguous`` do for some strides."""
        if not may_share_memory(node) or not isinstance(source.meta.get("val"), torch.Tensor):
            return False
        args, kwargs = _substitute((node.args, node.kwargs), lambda used: used.meta["val"])
        result = self._run_on_fakes(node.target, args, kwargs)
        first = result[0] if isinstance(result, tuple | list) else result
        return first.untyped_storage()._cdata == source.meta["val"].untyped_storage()._cdata

    @staticmethod
    def _require_known_sizes(node: fx.Node) -> None:
        val = node.meta.get("val")
        if val is not None and free_unbacked_symbols(val):
            raise CaptureError(
                "rewriting the captured graph",
                problem="data-dependent shape",
                got=f"the number or size that {node.target} yields depends on values",
                location=source_line(node),
                expected="sizes that follow from the sizes of the inputs",
                try_="avoid .item(), nonzero and boolean indexing: use masks of a fixed shape and torch.where",
            )

    def _inline(self, node: fx.Node, args: tuple[Any, ...], cells: dict[fx.Node, Cell]) -> tuple[Any, ...]:
        name = str(node.target)
        if name == "wrap_with_set_grad_enabled" or (name == "wrap_with_autocast" and args[2] is False):
            at = next(i for i, argument in enumerate(args) if isinstance(argument, fx.GraphModule))
            given = [cells[arg] if isinstance(arg, fx.Node) else Cell(arg) for arg in node.args[at + 1 :]]
            return tuple(self.walk(args[at], given))
        raise UnsupportedOp(
            "rewriting the captured graph",
            got=f"{name} in module {module_path(node)!r} ({source_line(node)})",
            expected="plain tensor operations",
            try_="write the branch with torch.where, and leave autocast out of forward",
        )

    def apply(self, target: Any, *args: Any, **kwargs: Any) -> Any:
        """Rewrite one captured call; returns the new node, or a tuple of nodes, or a number."""
        if target in REWRITES:
            return REWRITES[target](self, *args, **kwargs)
        if target in ALIASES:
            return args[0]
        if target is operator.getitem and isinstance(args[0], tuple | list):
            return args[0][args[1]]
        if target in dialect.NAMES:
            return self.emit(target, *args, **kwargs)
        origin = self._origin
        if torch.Tag.nondeterministic_seeded in getattr(target, "tags", ()):
            raise CaptureError(
                "rewriting the captured graph",
                problem="randomness inside forward",
                got=f"{target} draws random numbers",
                location=source_line(origin),
                expected="a forward that depends on its inputs only",
                try_="make the random numbers an input",
            )
        raise UnsupportedOp(
            "rewriting the captured graph",
            got=f"operation {target} in module {module_path(origin)!r} ({source_line(origin)})",
            expected="an operation of the dialect (docs/dialect.md)",
            try_="write this part of forward with other operations, or ask for this one in an issue",
        )

    def emit(self, target: Any, *args: Any, **kwargs: Any) -> Any:
        """Write one call of the dialect. Numbers in, number out: size arithmetic on known sizes is done at once."""
        value_args, value_kwargs = _substitute((args, kwargs), lambda used: used.meta["val"])
        if target in _SPECIALISING and self._origin is not None and self._origin.target is target:
            val = self._origin.meta["val"]
        else:
            val = self._run_on_fakes(target, value_args, value_kwargs)
        if isinstance(val, int) and not isinstance(val, bool):
            return val
        args, kwargs = _canonical_arguments(target, args, kwargs)
        node = self.graph.create_node("call_function", target, args, kwargs, name=self._name(target))
        node.meta["module"] = module_path(self._origin)
        node.meta["source"] = source_line(self._origin)
        self._describe(node, val)
        return node

    def _run_on_fakes(self, target: Any, args: Any, kwargs: Any) -> Any:
        try:
            # Python's dispatcher, as export has it: some C++ shape functions want sizes that are known.
            with enable_python_dispatcher(), self._fake_mode:
                return target(*args, **kwargs)
        except Exception as error:
            lines = str(error).strip().splitlines() or [""]
            raise self.unsupported(f"{target} ({type(error).__name__}: {lines[0][:160]})") from error

    def size(self, x: fx.Node, axis: int) -> Any:
        """Size of an axis: an int where it is known, else the node that yields it."""
        size = self.shape(x)[axis]
        if isinstance(size, int):
            return size
        key = (x, axis % len(self.shape(x)))
        if key not in self._size_nodes:
            self._size_nodes[key] = self.emit(dialect.aten.sym_size.int, x, key[1])
        return self._size_nodes[key]

    def sizes(self, x: fx.Node) -> list[Any]:
        """Sizes of all axes, as ``size`` gives them."""
        return [self.size(x, axis) for axis in range(len(self.shape(x)))]

    def shape(self, x: fx.Node) -> list[int | torch.SymInt]:
        """Sizes as capture saw them, for decisions inside a rewrite."""
        return [int(s) if isinstance(s, torch.SymInt) and s.node.expr.is_Integer else s for s in x.meta["val"].shape]

    def dtype(self, x: fx.Node) -> torch.dtype:
        """Element type of a node."""
        return x.meta["val"].dtype

    def unsupported(self, what: str, try_: str = "") -> UnsupportedOp:
        """The error for a spelling that a rewrite cannot express, with module and source line."""
        where = f"{what} in module {module_path(self._origin)!r} ({source_line(self._origin)})"
        return UnsupportedOp("rewriting the captured graph", got=where, expected="a form the dialect has", try_=try_)

    def _describe(self, node: fx.Node, val: Any) -> None:
        node.meta["val"] = val
        node.meta["value"] = value_of(val, self._dim_names)

    def _name(self, target: Any) -> str:
        path, layer = _module_of(self._origin)
        base = re.sub(r"\W", "_", path)
        plain = base and _PLAIN_LAYERS.match(layer) and self._origin is not None and not may_share_memory(self._origin)
        return base if plain else "_".join(part for part in (base, dialect.op_name(target)) if part)


def _substitute(argument: Any, value_of_node: Callable[[fx.Node], Any]) -> Any:
    """An argument with each node in it replaced by what ``value_of_node`` gives for it."""
    if isinstance(argument, fx.Node):
        return value_of_node(argument)
    if isinstance(argument, tuple | list):
        items = [_substitute(item, value_of_node) for item in argument]
        return tuple(items) if isinstance(argument, tuple) else items
    if isinstance(argument, Mapping):
        return {key: _substitute(item, value_of_node) for key, item in argument.items()}
    return argument


def _flat(value: Any) -> list[Any]:
    return [item for part in value for item in _flat(part)] if isinstance(value, tuple | list) else [value]


def _canonical_arguments(
    target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Positional where the schema allows it, trailing defaults left out: one call has one spelling."""
    schema = getattr(target, "_schema", None)
    if schema is None:
        return args, kwargs
    given = {argument.name: value for argument, value in zip(schema.arguments, args, strict=False)} | kwargs
    kept: list[Any] = []
    keywords: dict[str, Any] = {}
    for argument in schema.arguments:
        default = argument.default_value if argument.has_default_value() else None
        value = given.get(argument.name, default)
        if argument.kwarg_only:
            if value != default and argument.name not in ("layout", "device", "pin_memory"):
                keywords[argument.name] = value
        else:
            kept.append((value, argument.has_default_value() and _same(value, default)))
    while kept and kept[-1][1]:
        kept.pop()
    return tuple(list(value) if isinstance(value, tuple) else value for value, _ in kept), keywords


def _same(value: Any, default: Any) -> bool:
    return not isinstance(value, fx.Node) and type(value) is type(default) and value == default


def _functional(node: fx.Node) -> Any:
    """The out-of-place operation of an in-place one: ``add_.Tensor`` -> ``add.Tensor``."""
    assert isinstance(node.target, torch._ops.OpOverload)
    name, overload = str(node.target._schema.name).partition("::")[2], node.target._overloadname
    packet = getattr(torch.ops.aten, name.removesuffix("_"), None)
    if name == "__iand__":
        packet = torch.ops.aten.__and__
    elif name == "__ior__":
        packet = torch.ops.aten.__or__
    if packet is None or overload not in packet.overloads():
        raise UnsupportedOp(
            "rewriting the captured graph",
            got=f"in-place operation {node.target} in module {module_path(node)!r} ({source_line(node)})",
            expected="an in-place operation that has a plain form",
        )
    return getattr(packet, overload)


def _submodule(module: fx.GraphModule, name: str) -> Any:
    return module.get_submodule(name)


def _module_of(node: fx.Node | None) -> tuple[str, str]:
    """Path and class name of the innermost module that a captured node comes from."""
    stack = (node.meta.get("nn_module_stack") if node is not None else None) or {}
    if not stack:
        return "", ""
    path, layer = list(stack.values())[-1]
    path = "" if "empty_nn_module_stack" in str(path) else str(path)
    return path, layer if isinstance(layer, str) else f"{layer.__module__}.{layer.__qualname__}"


def module_path(node: fx.Node | None) -> str:
    """Path of the module that a captured node comes from: ``layer1.0.conv1``; empty for the model itself."""
    return _module_of(node)[0]


_FRAME = re.compile(r'File "([^"]+)", line (\d+), in [^\n]*\n\s*([^\n]*)')


def source_line(node: fx.Node | None) -> str:
    """The user's own line behind a captured node: ``net.py:12: x = x.view(8, -1)``; library frames are passed over."""
    frames = _FRAME.findall((node.meta.get("stack_trace") if node is not None else None) or "")
    own = [frame for frame in frames if "/torch/" not in frame[0]] or frames
    if not own:
        return ""
    path, line, code = own[-1]
    return f"{path.rsplit('/', 1)[-1]}:{line}: {code.strip()}"
