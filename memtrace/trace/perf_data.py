"""perf.data as a source of chunks: no perf program is needed to read it."""

from __future__ import annotations

import mmap
import platform
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from memtrace.errors import TraceError

from .event_format import DATA_LOC, REL_LOC, Field, flag_names
from .interner import Rows
from .kallsyms import Symbols, read_symbols
from .perf_header import read_header
from .perf_samples import PerfSamples
from .perf_spec import TASK_FIELD, make_spec
from .schema import EventChunk, TraceVocab
from .text import ROWS_PER_CHUNK

BATCH = 1 << 18
"""Samples sorted by time at once, and more until one of perf's rounds ends."""
_FULL = 1 << 20
PIECE = 1 << 13
"""Samples decoded in one call: until it returns, the thread that writes cannot take its next step."""
KALLSYMS = Path("/proc/kallsyms")
_KERNEL_MAP = re.compile(rb"\[kernel\.kallsyms\]_(s?text)\0")
_MAP_BYTES = 1 << 16
"""How far into the records the kernel's own map is looked for: perf writes it first."""


class PerfData:
    """
    A perf.data file, read in the order of time.

    Parameters
    ----------
    file
        Where it is.
    shown
        Its name in messages.
    vocab
        Gets the strings.
    symbols
        A copy of the recorded kernel's /proc/kallsyms; None takes this machine's own, when it runs the same kernel
        at the same addresses.
    name_sites
        Name call sites at all; otherwise they stay addresses.

    Raises
    ------
    TraceError
        It cannot be read.
    """

    def __init__(
        self, file: Path, shown: str, vocab: TraceVocab, symbols: Path | None = None, name_sites: bool = True
    ) -> None:
        self._shown = shown
        self.vocab = vocab
        with open(file, "rb") as opened:
            # Copy-on-write, since compiled views want to be able to write.
            self._map = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_COPY)
        self.bytes = len(self._map)
        self._buf = np.frombuffer(self._map, np.uint8)
        self.header = read_header(memoryview(self._map), shown)
        self._name_sites = name_sites
        self._symbols = None
        if name_sites:
            self._symbols = read_symbols(symbols) if symbols is not None else self._own_symbols()
        self.unnamed_sites = 0
        self.rows = Rows(ROWS_PER_CHUNK)
        spec = make_spec(self.header, vocab)
        self._samples = PerfSamples(
            self._buf, spec, self.rows, vocab.name, self._site, self._gfp, self._ctx, self._text
        )

    @property
    def problems(self) -> dict[str, int]:
        """By cause: what was read so far and could not be used."""
        found = {
            "lost_events": self._samples.lost, "broken_record": self._samples.broken,
            "not_a_tracepoint": self._samples.other, "unnamed_call_site": self.unnamed_sites,
        }  # fmt: skip
        return {cause: int(n) for cause, n in found.items() if n}

    def chunks(self, progress: Callable[[int, int], None] | None = None) -> Iterator[tuple[EventChunk, Any]]:
        """
        All rows, with each row's text.

        Yields
        ------
        Chunk, texts as a pyarrow string array; times as perf's clock had them.
        """
        row0 = 0
        for offsets, times in self._in_order(progress):
            at = 0
            while at < len(offsets):
                at = self._samples.decode(offsets, times, at, min(at + PIECE, len(offsets)))
                if self.rows.n == self.rows.capacity:
                    chunk, text, _ = self.rows.take(row0)
                    row0 += len(chunk)
                    yield chunk, text
        self._samples.rest_of_losses()
        if self.rows.n:
            chunk, text, _ = self.rows.take(row0)
            yield chunk, text

    def _in_order(self, progress: Callable[[int, int], None] | None) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """
        Places of records by time; of equal times in the order of the file.

        Each CPU's buffer is in order, the file is not. When perf ends a round it has emptied all buffers once, so what
        comes later is not older than the newest of the round before.
        """
        samples = self._samples
        offsets = times = np.zeros(0, np.int64)
        settled = newest = -1
        done = 0
        while samples.next + 8 <= self.header.end:
            more_offsets, more_times = np.zeros(_FULL, np.int64), np.zeros(_FULL, np.int64)
            before = samples.next
            n = samples.index(self.header.end, more_offsets, more_times, BATCH)
            if samples.compressed:
                raise TraceError("its records are compressed (perf record -z); expected plain ones. Run: perf script "
                                 f"--ns -i {self._shown} | memtrace convert - t.parquet", self._shown)  # fmt: skip
            offsets = np.concatenate([offsets, more_offsets[:n]])
            times = np.concatenate([times, more_times[:n]])
            if progress is not None:
                progress(samples.next, self.bytes)
            if n:
                newest = max(newest, int(more_times[:n].max()))
            if samples.round_end:
                order = np.argsort(times, kind="stable")
                offsets, times = offsets[order], times[order]
                ready = int(np.searchsorted(times, settled, "right"))
                settled = newest
                if ready:
                    yield offsets[:ready], times[:ready]
                    offsets, times = offsets[ready:].copy(), times[ready:].copy()
                    done = self._let_go(done, int(offsets.min()) if len(offsets) else samples.next)
            elif len(offsets) > _FULL:  # no end of a round for long: these pages are needed again, but much later
                self._let_go(before, samples.next)
            if samples.next == before:
                break
        order = np.argsort(times, kind="stable")
        offsets, times = offsets[order], times[order]
        while len(offsets):
            yield offsets[:BATCH], times[:BATCH]
            offsets, times = offsets[BATCH:], times[BATCH:]
            if len(offsets) > _FULL:
                done = self._let_go(done, int(offsets.min()))

    def _let_go(self, begin: int, end: int) -> int:
        """Hands back the memory of the file's pages between: it may be larger than what there is. Where to go on."""
        begin, end = (at - at % mmap.PAGESIZE for at in (begin, end))
        if end > begin and hasattr(mmap, "MADV_DONTNEED"):
            self._map.madvise(mmap.MADV_DONTNEED, begin, end - begin)
        return max(begin, end)

    def _own_symbols(self) -> Symbols | None:
        """This kernel's symbols, when it is the recorded one and has not been loaded elsewhere since."""
        if self.header.release and self.header.release != platform.release():
            return None
        begin = self.header.begin
        found = _KERNEL_MAP.search(self._map, begin, min(begin + _MAP_BYTES, self.header.end))
        if found is None:
            return None
        try:
            symbols = read_symbols(KALLSYMS)
        except TraceError:
            return None
        recorded = int.from_bytes(self._map[found.start() - 8 : found.start()], "little")
        return symbols if recorded in (symbols.text_start, symbols.stext) else None

    def _site(self, address: int) -> int:
        name = self._symbols.name(address) if self._symbols is not None else ""
        if not name and self._name_sites:
            self.unnamed_sites += 1
        return self.vocab.call_site.code(name or f"{address:#x}")

    def _gfp(self, spec: int, mask: int) -> int:
        return self.vocab.gfp.code(flag_names(self.header.formats[spec].flags, mask))

    def _ctx(self, flags: int) -> int:
        return self.vocab.ctx.code(context(flags & 0xFF, flags >> 8))

    def _text(self, spec: int, begin: int, end: int) -> bytes:
        """``name=value`` of an event's own fields, but never what tells a system's processes apart."""
        format = self.header.formats[spec]
        words = []
        for field in format.fields:
            if field.name.startswith("common_"):
                continue
            if TASK_FIELD.search(field.name):
                return b""
            words.append(f"{field.name}={self._value(field, spec, begin, end)}")
        return " ".join(words).encode("utf-8", "replace")

    def _value(self, field: Field, spec: int, begin: int, end: int) -> str:
        at = begin + field.offset
        data = self._map[at : min(at + field.size, end)]
        if field.place in (DATA_LOC, REL_LOC):
            where = int.from_bytes(data, "little")
            at = (at + field.size if field.place == REL_LOC else begin) + (where & 0xFFFF)
            data = self._map[at : min(at + (where >> 16), end)]
        if field.is_text:
            return data.split(b"\0")[0].decode("utf-8", "replace")
        value = int.from_bytes(data, "little", signed=field.signed)
        if field.name == "call_site":
            return self.vocab.call_site.names[self._site(value)]
        if field.name == "gfp_flags":
            return flag_names(self.header.formats[spec].flags, value)
        return f"{value:#x}" if field.is_pointer or field.name == "pfn" else str(value)


def context(flags: int, preempt: int) -> str:
    """
    What ftrace prints before the time, of which the third letter tells interrupts.

    Examples
    --------
    >>> context(0x11, 0x102)
    'd.s2'
    """
    hard, soft, nmi = flags & 0x08, flags & 0x10, flags & 0x40
    level = ("Z" if hard else "z") if nmi else ("H" if soft else "h") if hard else "s" if soft else "."
    irqs = "d" if flags & 0x01 else "."
    depth = preempt & 0xF
    return f"{irqs}{'N' if flags & 0x04 else '.'}{level}{f'{depth:x}' if depth else '.'}"
