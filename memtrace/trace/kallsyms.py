"""Kernel addresses as ``function+0xoffset``, by a copy of /proc/kallsyms."""

from __future__ import annotations

import bisect
from pathlib import Path

from memtrace.errors import TraceError

_TEXT = frozenset("tTwW")
_FARTHEST = 1 << 24
"""No function is longer; an address further behind the last one before it belongs to none."""


class Symbols:
    """
    The functions of one kernel.

    Parameters
    ----------
    text
        Lines ``address type name [module]``.
    """

    def __init__(self, text: str) -> None:
        best: dict[int, tuple[tuple[int, int, int], str]] = {}
        self.text_start = 0
        self.stext = 0
        for line in text.splitlines():
            parts = line.split()
            if len(parts) < 3 or parts[1] not in _TEXT:
                continue
            address = int(parts[0], 16)
            if parts[2] == "_text":
                self.text_start = address
            elif parts[2] == "_stext":
                self.stext = address
            name = parts[2] if len(parts) < 4 else f"{parts[2]} {parts[3]}"
            rank = _rank(parts[1], parts[2])
            if address not in best or rank > best[address][0]:
                best[address] = (rank, name)
        self._addresses = sorted(best)
        self._names = [best[address][1] for address in self._addresses]

    def __len__(self) -> int:
        return len(self._addresses)

    def name(self, address: int) -> str:
        """``function+0xoffset``, with `` [module]`` where it is in one; "" when no function is there."""
        i = bisect.bisect_right(self._addresses, address) - 1
        if i < 0 or not self._addresses[i] or address - self._addresses[i] > _FARTHEST:
            return ""
        name, _, module = self._names[i].partition(" ")
        return f"{name}+{address - self._addresses[i]:#x}" + (f" {module}" if module else "")


def _rank(kind: str, name: str) -> tuple[int, int, int]:
    """Of several names for one address perf takes the global one, with fewer leading underscores, the longer one."""
    return (kind != "w" and kind != "W") * 2 + kind.isupper(), len(name.lstrip("_")) - len(name), len(name)


def read_symbols(path: Path) -> Symbols:
    """
    Reads a copy of /proc/kallsyms.

    Raises
    ------
    TraceError
        It holds no functions, or only zeros, which is what other users than root see.
    """
    try:
        symbols = Symbols(path.read_text(encoding="utf-8", errors="replace"))
    except (OSError, ValueError) as error:
        raise TraceError(f"not kernel symbols ({error}); expected a copy of /proc/kallsyms.", path) from error
    if len(symbols) < 2:
        raise TraceError("no addresses in it; expected a copy of /proc/kallsyms made as root.", path)
    return symbols
