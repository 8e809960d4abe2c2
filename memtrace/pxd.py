"""
Declarations for compiled modules, written from their annotations.

Cython needs a ``.pxd`` beside a compiled module before other compiled modules can use its classes without
going through Python. Writing them by hand would say everything twice, so ``setup.py`` calls
`declarations` for each compiled module. It loads this file by its path, before the package exists, so
nothing of memtrace is imported here.
"""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

_COMPILED = re.compile(r"^import cython$", re.MULTILINE)
_CONSTANT = re.compile(r"_?[A-Z][A-Z0-9_]*")
_C_TYPES = {
    "bint": "bint",
    "char": "char",
    "schar": "signed char",
    "uchar": "unsigned char",
    "short": "short",
    "ushort": "unsigned short",
    "int": "int",
    "uint": "unsigned int",
    "long": "long",
    "ulong": "unsigned long",
    "longlong": "long long",
    "ulonglong": "unsigned long long",
    "Py_ssize_t": "Py_ssize_t",
    "size_t": "size_t",
    "float": "float",
    "double": "double",
    "void": "void",
}
_PYTHON_TYPES = {"bytes", "bytearray", "str", "list", "dict", "tuple", "set", "frozenset"}
_BINARY_OPS: dict[type[ast.operator], Callable[[int, int], int]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
    ast.LShift: operator.lshift,
    ast.RShift: operator.rshift,
    ast.BitOr: operator.or_,
    ast.BitAnd: operator.and_,
    ast.BitXor: operator.xor,
}


def is_compiled(source: str) -> bool:
    """Whether a module with this source text is one that ``setup.py`` compiles."""
    return _COMPILED.search(source) is not None


def compiled_sources(package: Path) -> list[Path]:
    """The compiled modules below a package folder, sorted by path."""
    return [path for path in sorted(package.rglob("*.py")) if is_compiled(path.read_text(encoding="utf-8"))]


@dataclass
class Module:
    """What the declarations of one module, and of those that import it, need to know of it."""

    path: Path
    compiled: bool
    tree: ast.Module
    classes: dict[str, ast.ClassDef] = field(default_factory=dict)
    """Its ``@cython.cclass`` classes."""
    imports: dict[str, tuple[str, str]] = field(default_factory=dict)
    """Name -> (module, name there), of what it imports from memtrace."""
    assigned: dict[str, ast.expr] = field(default_factory=dict)
    """Upper-case names assigned once at module level, unannotated."""


class Package:
    """
    The sources of one package, parsed when first asked for.

    Parameters
    ----------
    root
        The package folder; its own name is the package's name.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._modules: dict[str, Module | None] = {}

    def module(self, name: str) -> Module | None:
        """The module of this dotted name, or None when it is not a file of this package."""
        if name not in self._modules:
            self._modules[name] = self._parse(name)
        return self._modules[name]

    def name_of(self, path: Path) -> str:
        """``memtrace.mm.slub`` from the path of its source."""
        return ".".join((self.root.name, *path.relative_to(self.root).with_suffix("").parts))

    def _parse(self, name: str) -> Module | None:
        top, *rest = name.split(".")
        path = self.root.joinpath(*rest).with_suffix(".py")
        if top != self.root.name or not path.is_file():
            return None
        source = path.read_text(encoding="utf-8")
        module = Module(path, is_compiled(source), ast.parse(source, str(path)))
        for node in _top_level(module.tree.body):
            if isinstance(node, ast.ClassDef) and "cclass" in _decorators(node):
                module.classes[node.name] = node
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                for alias in node.names:
                    module.imports[alias.asname or alias.name] = (node.module, alias.name)
            elif isinstance(node, ast.ImportFrom) and node.level and module.compiled:
                raise SyntaxError(f"{path}:{node.lineno}: relative import in a compiled module; write it absolute.")
            elif isinstance(node, ast.Assign) and len(node.targets) == 1:
                target = node.targets[0]
                for one, value in _assigned(target, node.value):
                    if isinstance(one, ast.Name) and _CONSTANT.fullmatch(one.id):
                        module.assigned[one.id] = value
        return module

    def constant(self, module: Module, name: str) -> int | float | None:
        """The number that an upper-case name of a module stands for, or None when it is no plain number."""
        if name in module.assigned:
            return self._number(module, module.assigned[name])
        if name in module.imports:
            origin, original = module.imports[name]
            found = self.module(origin)
            return None if found is None else self.constant(found, original)
        return None

    def _number(self, module: Module, node: ast.expr) -> int | float | None:
        if isinstance(node, ast.Constant) and isinstance(node.value, int | float):
            return None if isinstance(node.value, bool) else node.value
        if isinstance(node, ast.Name):
            return self.constant(module, node.id)
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.Invert):
            value = self._number(module, node.operand)
            if isinstance(value, int):
                return -value if isinstance(node.op, ast.USub) else ~value
            return -value if value is not None and isinstance(node.op, ast.USub) else None
        if isinstance(node, ast.BinOp) and type(node.op) in _BINARY_OPS:
            left, right = self._number(module, node.left), self._number(module, node.right)
            if isinstance(left, int) and isinstance(right, int):
                return _BINARY_OPS[type(node.op)](left, right)
        return None


def declarations(package: Package, name: str) -> str:
    """
    The text of the ``.pxd`` of one compiled module.

    Parameters
    ----------
    package
        Where the module and those that it imports are found.
    name
        Its dotted name.

    Raises
    ------
    SyntaxError
        When the module imports a compiled module relatively, or cannot be parsed.
    """
    module = package.module(name)
    assert module is not None, name
    cimports, constants = [], []
    types = set(module.classes)
    for local, (origin, original) in sorted(module.imports.items()):
        found = package.module(origin)
        if found is None:
            continue
        if found.compiled:
            if original in found.classes:
                rename = "" if local == original else f" as {local}"
                cimports.append(f"from {origin} cimport {original}{rename}")
                types.add(local)
        elif _CONSTANT.fullmatch(local):
            constants += _constant(local, package.constant(found, original))
    for local in module.assigned:
        constants += _constant(local, package.constant(module, local))

    lines = [f"# Generated by setup.py from {module.path.name}; do not edit.", "cimport cython", *cimports, ""]
    lines += sorted(constants)
    lines += [f"cdef class {found}({_base(node)})" if _base(node) else f"cdef class {found}"
              for found, node in module.classes.items() if len(module.classes) > 1]
    for node in module.classes.values():
        lines += ["", *_class(node, types)]
    return "\n".join(lines) + "\n"


def _constant(name: str, value: int | float | None) -> list[str]:
    if value is None:
        return []
    if isinstance(value, float):
        return [f"cdef double {name}"]
    return [f"cdef unsigned long long {name}" if value >= 1 << 63 else f"cdef long long {name}"]


def _class(node: ast.ClassDef, types: set[str]) -> Iterator[str]:
    base = _base(node)
    yield f"cdef class {node.name}({base}):" if base else f"cdef class {node.name}:"
    empty = True
    for item in node.body:
        if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name):
            # Public, so that plain Python reads the same attributes compiled as interpreted.
            yield f"    cdef public {_c_type(item.annotation, types)} {item.target.id}"
            empty = False
    for item in node.body:
        if isinstance(item, ast.FunctionDef) and _decorators(item).keys() & {"cfunc", "ccall"}:
            yield f"    {_method(item, types)}"
            empty = False
    if empty:
        yield "    pass"


def _base(node: ast.ClassDef) -> str:
    return ast.unparse(node.bases[0]) if node.bases else ""


def _method(node: ast.FunctionDef, types: set[str]) -> str:
    decorators = _decorators(node)
    n_required = len(node.args.args) - len(node.args.defaults)
    arguments = ["self"]
    for i, argument in enumerate(node.args.args[1:], start=1):
        default = "=*" if i >= n_required else ""
        arguments.append(f"{_c_type(argument.annotation, types)} {argument.arg}{default}")
    kind = "cdef" if "cfunc" in decorators else "cpdef"
    returns = _c_type(node.returns, types)
    return f"{kind} {returns} {node.name}({', '.join(arguments)}){_except_clause(decorators.get('exceptval'))}"


def _except_clause(call: ast.expr | None) -> str:
    """`` noexcept``, `` except -1``, `` except? -1`` or nothing, as ``@cython.exceptval`` says."""
    if not isinstance(call, ast.Call):
        return ""
    keywords = {keyword.arg: keyword.value for keyword in call.keywords}
    check = keywords.get("check")
    checked = check is None or ast.unparse(check) == "True"
    if not call.args:
        return "" if checked else " noexcept"
    return f" except{'?' if checked else ''} {ast.unparse(call.args[0])}"


def _c_type(annotation: ast.expr | None, types: set[str]) -> str:
    """``int[:]`` from ``cython.int[:]``; ``object`` for what C has no better word for."""
    if isinstance(annotation, ast.Constant) and isinstance(annotation.value, str):
        annotation = ast.parse(annotation.value, mode="eval").body
    if isinstance(annotation, ast.BinOp):  # X | None
        return _c_type(annotation.left, types)
    if isinstance(annotation, ast.Subscript):
        item = _c_type(annotation.value, types)
        return item if item in _PYTHON_TYPES | {"object"} else f"{item}[{ast.unparse(annotation.slice).strip('()')}]"
    if isinstance(annotation, ast.Attribute) and ast.unparse(annotation.value) == "cython":
        return _C_TYPES.get(annotation.attr, "object")
    if isinstance(annotation, ast.Name):
        if annotation.id in types or annotation.id in _PYTHON_TYPES:
            return annotation.id
        if annotation.id == "float":  # Cython takes Python's float annotation for a C double
            return "double"
    return "object"


def _decorators(node: ast.ClassDef | ast.FunctionDef) -> dict[str, ast.expr]:
    """The ``@cython.`` decorators of a class or function, by name."""
    found = {}
    for decorator in node.decorator_list:
        function = decorator.func if isinstance(decorator, ast.Call) else decorator
        if isinstance(function, ast.Attribute) and ast.unparse(function.value) == "cython":
            found[function.attr] = decorator
    return found


def _assigned(target: ast.expr, value: ast.expr) -> list[tuple[ast.expr, ast.expr]]:
    """What is assigned to what: of ``A, B = 1, 2`` each by itself."""
    if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple) and len(target.elts) == len(value.elts):
        return list(zip(target.elts, value.elts, strict=True))
    return [(target, value)]


def _top_level(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Statements of a module, looking into ``if TYPE_CHECKING:``."""
    for node in body:
        if isinstance(node, ast.If):
            yield from _top_level(node.body)
        else:
            yield node
