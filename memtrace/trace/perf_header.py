"""The header of a perf.data file: where its records stand, how its samples are laid out, and what its events are."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from memtrace.errors import TraceError

from .event_format import EventFormat, parse_format

MAGIC = b"PERFILE2"
MAGIC_SWAPPED = b"2ELIFREP"
_TRACING_MAGIC = b"\x17\x08Dtracing"
_PIPE_HEADER = 16
_FEATURE_TRACING, _FEATURE_OSRELEASE = 1, 4
_TYPE_TRACEPOINT = 2
_SAMPLE_ID_ALL = 1 << 18

IP, TID, TIME, ADDR, READ, CALLCHAIN, ID, CPU, PERIOD, STREAM_ID, RAW = (1 << i for i in range(11))
IDENTIFIER = 1 << 16
_FIXED = (IDENTIFIER, IP, TID, TIME, ADDR, ID, STREAM_ID, CPU, PERIOD)
"""Eight bytes each, in the order in which they stand in a sample; READ, CALLCHAIN and RAW follow."""
_TRAILER = (TID, TIME, ID, STREAM_ID, CPU, IDENTIFIER)
"""Of what is no sample, these stand at its end."""


@dataclass(frozen=True, slots=True)
class PerfHeader:
    """
    What is needed to read the records.

    Attributes
    ----------
    begin, end
        The records' place in the file, bytes.
    sample_type
        Bits of what a sample holds.
    read_format
        Of the counters in it, when it holds them.
    trailer
        Whether records that are no samples tell time and CPU too.
    ids
        Sample ids of tracepoints, when samples carry one; empty when all samples are tracepoints'.
    formats
        The events.
    release
        Of the recorded kernel, as ``uname -r``; "" when not recorded.
    """

    begin: int
    end: int
    sample_type: int
    read_format: int
    trailer: bool
    ids: frozenset[int]
    formats: tuple[EventFormat, ...]
    release: str

    def sample_offset(self, bit: int) -> int:
        """Where a field of _FIXED stands behind a sample's header of 8 bytes; -1 when samples do not have it."""
        if not self.sample_type & bit:
            return -1
        return 8 + 8 * sum(bool(self.sample_type & other) for other in _FIXED[: _FIXED.index(bit)])

    def fixed_end(self) -> int:
        """Where READ, CALLCHAIN or RAW begin."""
        return 8 + 8 * sum(bool(self.sample_type & bit) for bit in _FIXED)

    def trailer_offset(self, bit: int) -> int:
        """How far before the end of another record a field of _TRAILER stands; 0 when it does not."""
        if not self.trailer or not self.sample_type & bit:
            return 0
        return 8 * sum(bool(self.sample_type & other) for other in _TRAILER[_TRAILER.index(bit) :])


def read_header(file: memoryview, path: str) -> PerfHeader:
    """
    Reads the header of a whole file.

    Raises
    ------
    TraceError
        It was cut off, piped, recorded on a machine of another byte order, or holds no tracepoints.
    """
    if bytes(file[:8]) == MAGIC_SWAPPED:
        raise TraceError("a perf.data of a big-endian machine; expected a little-endian one. Run there: "
                         "perf script --ns | memtrace convert - t.parquet", path)  # fmt: skip
    try:
        return _read(file, path)
    except (struct.error, IndexError, UnicodeDecodeError, ValueError) as error:
        if isinstance(error, TraceError):
            raise
        raise TraceError(f"a broken perf.data ({error}); expected a whole one. Record it again.", path) from error


def _read(file: memoryview, path: str) -> PerfHeader:
    size, attr_size, attrs_at, attrs_len, begin, length = struct.unpack_from("<6Q", file, 8)
    if size == _PIPE_HEADER:
        raise TraceError("a perf.data that was written to a pipe; expected one written with perf record -o FILE. Run: "
                         "perf script --ns -i FILE | memtrace convert - t.parquet", path)  # fmt: skip
    if not length or begin + length > len(file):
        raise TraceError(f"perf record did not end in order, or the file was cut off ({len(file)} bytes, expected "
                         f"{begin + length}). Record it again.", path)  # fmt: skip
    kinds: set[tuple[int, int, bool]] = set()
    ids: set[int] = set()
    mixed = False
    for at in range(attrs_at, attrs_at + attrs_len, max(attr_size, 64)):
        kind, _, _, _, sample_type, read_format, flags = struct.unpack_from("<IIQQQQQ", file, at)
        ids_at, ids_len = struct.unpack_from("<QQ", file, at + attr_size - 16)
        if kind == _TYPE_TRACEPOINT and sample_type & RAW:
            kinds.add((sample_type, read_format, bool(flags & _SAMPLE_ID_ALL)))
            ids.update(struct.unpack_from(f"<{ids_len // 8}Q", file, ids_at))
        else:
            mixed = True
    if not kinds:
        raise TraceError("no tracepoints in it; expected kernel memory events. Run: perf record -e 'kmem:*' -a", path)
    sample_type, read_format, trailer = next(iter(kinds))
    if len(kinds) > 1:
        raise TraceError("events with different sample formats; expected one recording with equal options. Run: "
                         "perf script --ns -i FILE | memtrace convert - t.parquet", path)  # fmt: skip
    for bit, name in ((TIME, "times"), (CPU, "CPU numbers")):
        if not sample_type & bit:
            raise TraceError(f"its samples have no {name}; expected both. Run: perf record -a -e 'kmem:*'", path)
    features = _features(file, begin + length)
    if _FEATURE_TRACING not in features:
        raise TraceError("no event descriptions in it; expected those of perf record. Record it again as root.", path)
    formats = _formats(features[_FEATURE_TRACING])
    release = features.get(_FEATURE_OSRELEASE, b"")[4:].split(b"\0")[0].decode("ascii", "replace")
    known = frozenset(ids) if mixed and sample_type & (IDENTIFIER | ID) else frozenset()
    return PerfHeader(begin, begin + length, sample_type, read_format, trailer, known, formats, release)


def _features(file: memoryview, at: int) -> dict[int, bytes]:
    bits = int.from_bytes(file[72:104], "little")
    found = {}
    for bit in range(256):
        if bits >> bit & 1:
            offset, size = struct.unpack_from("<QQ", file, at)
            at += 16
            if bit in (_FEATURE_TRACING, _FEATURE_OSRELEASE):
                found[bit] = bytes(file[offset : offset + size])
    return found


def _formats(data: bytes) -> tuple[EventFormat, ...]:
    """The event descriptions in a "tracing data" section, whose parts each begin with their length."""
    if not data.startswith(_TRACING_MAGIC):
        raise ValueError("its event descriptions have another beginning")
    at = data.index(b"\0", len(_TRACING_MAGIC)) + 1  # version
    at += 2 + 4  # byte order, size of a long; size of a page
    for title in (b"header_page\0", b"header_event\0"):
        if data[at : at + len(title)] != title:
            raise ValueError(f"no {title[:-1].decode()}")
        at += len(title)
        at += 8 + struct.unpack_from("<Q", data, at)[0]
    found = []
    (n,) = struct.unpack_from("<I", data, at)
    at += 4
    for _ in range(n):  # ftrace's own events
        at += 8 + struct.unpack_from("<Q", data, at)[0]
    (n_systems,) = struct.unpack_from("<I", data, at)
    at += 4
    for _ in range(n_systems):
        at = data.index(b"\0", at) + 1
        (n,) = struct.unpack_from("<I", data, at)
        at += 4
        for _ in range(n):
            (size,) = struct.unpack_from("<Q", data, at)
            found.append(parse_format(data[at + 8 : at + 8 + size].decode("utf-8", "replace")))
            at += 8 + size
    return tuple(found)
