"""The kernel's own description of an event (tracefs ``format`` files, also inside perf.data): fields and flag names."""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable
from dataclasses import dataclass

from memtrace.errors import TraceError

STATIC, DATA_LOC, REL_LOC = 0, 1, 2
"""Where a field's value stands: in it, at the offset that it names, at an offset from behind it."""

_FIELD = re.compile(r"field:(.*?);\s*offset:(\d+);\s*size:(\d+);(?:\s*signed:([01]);)?")
_FLAG = re.compile(r'\{\s*([^{}"]*?),\s*"(\w+)"\s*\}')
_CAST = re.compile(r"\(\s*(?:const\s+|unsigned\s+|__force\s+|struct\s+)*[A-Za-z_]\w*(?:\s+\w+)*\s*\**\s*\)")
_SUFFIX = re.compile(r"\b(0x[0-9a-fA-F]+|\d+)[uUlL]+\b")
_BINARY: dict[type[ast.operator], Callable[[int, int], int]] = {
    ast.BitOr: operator.or_, ast.BitAnd: operator.and_, ast.BitXor: operator.xor, ast.LShift: operator.lshift,
    ast.RShift: operator.rshift, ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul,
}  # fmt: skip
_MAX_SHIFT = 64
_ALL_BITS = (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class Field:
    """One field: bytes from the beginning of the record, and how to read them."""

    name: str
    offset: int
    size: int
    signed: bool
    place: int
    """STATIC, DATA_LOC or REL_LOC."""
    is_text: bool
    is_pointer: bool


@dataclass(frozen=True, slots=True)
class EventFormat:
    """
    An event of a recorded kernel.

    Attributes
    ----------
    id
        What the record's ``common_type`` holds.
    flags
        (mask, name) of gfp_flags, in the order in which the kernel tries them.
    printed_order
        What it always prints as its order (mm_page_free_batched prints 0 and has no such field); -1 if nothing.
    """

    name: str
    id: int
    fields: tuple[Field, ...]
    flags: tuple[tuple[int, str], ...]
    printed_order: int = -1

    def field(self, *names: str) -> Field | None:
        """The first of these that the event has."""
        return next((field for name in names for field in self.fields if field.name == name), None)


def parse_format(text: str) -> EventFormat:
    """
    Reads one description.

    Raises
    ------
    TraceError
        When it has no name or no id.
    """
    name = re.search(r"^name:\s*(\S+)", text, re.MULTILINE)
    number = re.search(r"^ID:\s*(\d+)", text, re.MULTILINE)
    if name is None or number is None:
        raise TraceError(f'an event description begins "{text[:40]!r}"; expected "name: … ID: …". Record again.')
    head, _, printed = text.partition("print fmt:")
    fields = tuple(_field(*match.groups()) for match in _FIELD.finditer(head))
    at = printed.find("__print_flags(REC->gfp_flags")
    flags = []
    for match in _FLAG.finditer(printed, at) if at >= 0 else ():
        mask = constant(match[1])
        if mask:
            flags.append((mask, match[2]))
    always = re.search(r'\border=(\d{1,2})\b', printed.partition('",')[0])
    return EventFormat(name[1], int(number[1]), fields, tuple(flags), int(always[1]) if always else -1)


def _field(declared: str, offset: str, size: str, signed: str | None) -> Field:
    place = DATA_LOC if "__data_loc" in declared else REL_LOC if "__rel_loc" in declared else STATIC
    name = re.sub(r"\[.*?\]\s*$", "", declared).split()[-1].lstrip("*")
    is_text = "char" in declared and ("[" in declared)
    return Field(name, int(offset), int(size), signed == "1", place, is_text, "*" in declared)


def constant(expression: str) -> int:
    """
    Value of a constant C expression of numbers, casts, ``| & ^ << >> + - * ~`` and brackets; 0 when it is none.

    Examples
    --------
    >>> hex(constant("( unsigned long)((( gfp_t)((((1UL))) << (5)))|(( gfp_t)0x800u))"))
    '0x820'
    """
    plain = _SUFFIX.sub(r"\1", _CAST.sub("", expression)).strip()
    try:
        return _value(ast.parse(plain, mode="eval").body) & _ALL_BITS
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return 0


def _value(node: ast.expr) -> int:
    if isinstance(node, ast.Constant) and type(node.value) is int:
        return node.value
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Invert):
        return ~_value(node.operand)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_value(node.operand)
    if isinstance(node, ast.BinOp) and type(node.op) in _BINARY:
        left, right = _value(node.left), _value(node.right)
        if isinstance(node.op, ast.LShift | ast.RShift) and not 0 <= right < _MAX_SHIFT:
            raise ValueError("shift")
        return _BINARY[type(node.op)](left, right) & _ALL_BITS
    raise ValueError("not constant")


def flag_names(flags: tuple[tuple[int, str], ...], mask: int) -> str:
    """
    A mask as the kernel prints it: names joined with ``|``, what has none as hex.

    Examples
    --------
    >>> flag_names(((6, "BOTH"), (2, "A"), (4, "B")), 0x12)
    'A|0x10'
    """
    if not mask:
        return "none"
    if not flags:
        return f"{mask:#x}"
    found = []
    for bits, name in flags:
        if mask & bits == bits:
            found.append(name)
            mask &= ~bits
    return "|".join([*found, *([f"{mask:#x}"] if mask else [])])
