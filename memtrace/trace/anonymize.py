"""
A trace without what is private in it, that replays as before.

Names become numbered ones, kernel addresses those of a kernel that randomises nothing; times, sizes, flags, CPUs, nodes
and page frames stay, as a replay decides by them. The same trace always gives the same result.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from memtrace.files import write_text

from .naming import DESCRIPTOR_CACHES
from .ownership import find_direct_map
from .pointer_map import PLAIN_BELOW, PointerMap
from .schema import EV_CACHE_CREATE, EV_MARKER, EVENT_CODES, EventChunk, TraceVocab
from .source import TraceReader
from .tokenizer import LOST_EVENTS

KNOWN_CACHES = "kernel_caches.txt"
_KEPT_MARKERS = re.compile(
    r"(?:SNAP_BEGIN|SNAP_END) (?:boot|start|end|before|after)|SNAP_FILE /proc/\w+|GT_SNAP \d+ \w+")
"""Markers at which snapshots were taken, and their files read: validate looks for them."""
_KEPT_EVENTS = re.compile("|".join((*map(re.escape, EVENT_CODES), re.escape(LOST_EVENTS), r"mm_vmscan_\w+")))
_HEX = re.compile(r"(?:0x)?[0-9a-f]{9,16}")
_NUMBER = re.compile(r"-?\d{1,10}|0x[0-9a-f]{1,8}")
_WORD = re.compile(r"alloc|free|new|grow|discard|ctor|\d{1,19}")
_FLAG = re.compile(r"[A-Z0-9_]+|0x[0-9a-fA-F]+|\(?none\)?")
_OPERATION = re.compile(r"[a-z_]+")
_TASK_KEYS = ("pid", "tid", "comm")


@dataclass
class Renaming:
    """New names of one kind, numbered in order of appearance; `kept` says which stay, `before` what of one does."""

    prefix: str
    kept: Callable[[str], bool] = lambda _: False
    before: Callable[[str], str] = lambda _: ""
    names: dict[str, str] = field(default_factory=dict)

    def __call__(self, name: str) -> str:
        if self.kept(name):
            return name
        if name not in self.names:
            self.names[name] = f"{self.before(name)}{self.prefix}_{len(self.names) + 1:04}"
        return self.names[name]


class Anonymiser:
    """
    Maps the chunks of one reader.

    Parameters
    ----------
    reader
        The open trace. It is read once here: pointers keep their order, so all must be known.
    progress
        Called with (rows read, rows in all).

    Attributes
    ----------
    vocab
        Of the chunks that `map` returns.
    """

    def __init__(self, reader: TraceReader, progress: Callable[[int, int], None] | None = None) -> None:
        caches = known_caches()
        self.vocab = TraceVocab()
        self.sites = Renaming("site", before=_telling_function)
        self.caches = Renaming("cache", lambda name: caches.fullmatch(name) is not None)
        self.events = Renaming("event", lambda name: _KEPT_EVENTS.fullmatch(name) is not None)
        self.markers = Renaming("marker", lambda text: _KEPT_MARKERS.fullmatch(text.strip()) is not None)
        self.pointers = PointerMap()
        self._from = reader.vocab
        self._texts: dict[tuple[int, str], str | None] = {}
        self._tasks: dict[int, int] | None = None
        self._look(reader, progress)

    def _look(self, reader: TraceReader, progress: Callable[[int, int], None] | None) -> None:
        max_pfn = -1
        tasks: dict[int, int] = {}
        for chunk, texts in reader.chunks_with_text():
            self.pointers.see(chunk.ptr)
            found = {int(word, 16) for _, text in set(self._said(chunk, texts)) for word in _hex_words(text)}
            self.pointers.see(np.array(sorted(found), np.uint64))
            max_pfn = max(max_pfn, int(chunk.pfn.max()))
            values, first = np.unique(chunk.task, return_index=True)
            for task in values[np.argsort(first)].tolist():
                if task >= 0:
                    tasks.setdefault(task, len(tasks))
            if progress is not None:
                progress(chunk.row0 + len(chunk), reader.rows or 0)
        self.pointers.settle(find_direct_map(reader).base, max_pfn)
        if max(tasks, default=0) >= len(tasks) > 0:  # else they are the small numbers that they should be
            self._tasks = tasks

    def _said(self, chunk: EventChunk, texts: Any) -> list[tuple[int, str]]:
        """(event name's code, text) of the rows that have one."""
        rows = np.flatnonzero(texts.is_valid().to_numpy(zero_copy_only=False))
        said = texts.take(pa.array(rows)).to_pylist()
        return list(zip(chunk.event_name[rows].tolist(), said, strict=True))

    def map(self, chunk: EventChunk, texts: Any) -> tuple[EventChunk, Any]:
        """A chunk, and its texts as a pyarrow array, as they may be given away."""
        for kind, rename in (("event", self.events), ("name", self.caches), ("call_site", self.sites),
                             ("gfp", _flags), ("ctx", _ctx)):  # fmt: skip
            names, done = getattr(self._from, kind).names, getattr(self.vocab, kind).names
            done += map(rename, names[len(done) :])
        chunk.ptr = self.pointers.map(chunk.ptr)
        if self._tasks is not None:
            values, index = np.unique(chunk.task, return_inverse=True)
            chunk.task = np.array([self._tasks.get(task, -1) for task in values.tolist()], np.int32)[index]
        said: list[str | None] = [None] * len(chunk)
        rows = np.flatnonzero(texts.is_valid().to_numpy(zero_copy_only=False))
        for row, key in zip(rows.tolist(), self._said(chunk, texts), strict=True):
            if key not in self._texts:
                self._texts[key] = self._text(self._from.event.names[key[0]], key[1])
            said[row] = self._texts[key]
        return chunk, pa.array(said, pa.string())

    def _text(self, event: str, text: str) -> str | None:
        kind = EVENT_CODES.get(event, 0)
        if kind == EV_MARKER:
            return self.markers(text)
        if not _KEPT_EVENTS.fullmatch(event):
            return None
        words = [kept for word in text.split() if (kept := self._word(word))]
        if kind == EV_CACHE_CREATE:
            words = ["ctor" if word.startswith("ctor") else word for word in words]
        return " ".join(words) or None

    def _word(self, word: str) -> str:
        """One word of an event's arguments, "" when it says something else than those that replays need."""
        key, equals, value = word.partition("=")
        if not equals:
            return word if _WORD.fullmatch(word) else ""
        if key in _TASK_KEYS or not re.fullmatch(r"\w{1,40}", key):
            return ""
        if key == "call_site":
            return f"{key}={self.sites(value)}"
        if key == "ctor":
            return word if value in ("0", "no") else key
        if key in ("ptr", "base_addr") or _HEX.fullmatch(value):
            return f"{key}={self._address(value)}" if _HEX.fullmatch(value) else ""
        if _NUMBER.fullmatch(value) or (key in ("gfp_flags", "flags") and value == _flags(value)):
            return word
        return word if key == "op" and _OPERATION.fullmatch(value) else ""

    def _address(self, digits: str) -> str:
        new = int(self.pointers.map(np.array([int(digits, 16)], np.uint64))[0])
        return f"{new:#x}" if digits.startswith("0x") else f"{new:0{len(digits)}x}"

    def renamed(self) -> str:
        """How many names of each kind have new ones, as words."""
        counts = (("call sites", self.sites), ("caches", self.caches), ("events", self.events),
                  ("markers", self.markers))  # fmt: skip
        return ", ".join(f"{len(renaming.names):,} {kind}" for kind, renaming in counts)

    def write_mapping(self, path: str | Path) -> None:
        """What stands for what, as JSON: new names and addresses with the old ones. Keep it to yourself."""
        what = {
            kind: {new: old for old, new in renaming.names.items()}
            for kind, renaming in (("call_sites", self.sites), ("caches", self.caches), ("events", self.events),
                                   ("markers", self.markers))
        }  # fmt: skip
        tasks = {str(new): old for old, new in (self._tasks or {}).items()}
        text = json.dumps({**what, "addresses": self.pointers.known(), "tasks": tasks}, indent=1) + "\n"
        write_text(path, text)


def known_caches() -> re.Pattern[str]:
    """Matches the names of the caches that Linux itself creates; ``#`` stands for a number."""
    lines = resources.files("memtrace").joinpath("data", KNOWN_CACHES).read_text(encoding="utf-8").splitlines()
    names = [line.strip() for line in lines if line.strip() and not line.startswith("# ")]
    return re.compile("|".join(re.escape(name).replace(r"\#", r"\d{1,7}[kM]?") for name in names))


def _telling_function(site: str) -> str:
    """Of the two functions by which caches are told, the function's name stays before the number."""
    function = site.partition("+")[0]
    return f"{function}+" if function in DESCRIPTOR_CACHES else ""


def _hex_words(text: str) -> list[str]:
    values = (word.partition("=")[2] for word in text.split())
    return [value for value in values if _HEX.fullmatch(value) and int(value, 16) >= PLAIN_BELOW]


def _flags(text: str) -> str:
    """Flags as they were, without what is none: that has no bits in a replay either."""
    return "|".join(flag for flag in text.split("|") if _FLAG.fullmatch(flag.strip()))


def _ctx(text: str) -> str:
    return text if re.fullmatch(r"[\w.]{1,8}", text) else ""
