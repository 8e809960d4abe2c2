"""What the compiled reader of perf.data is told: offsets and sizes as arrays, made of the file's own descriptions."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .event_format import REL_LOC, STATIC, EventFormat, Field
from .perf_header import CALLCHAIN, CPU, ID, IDENTIFIER, READ, TID, TIME, PerfHeader
from .schema import EV_OTHER, EVENT_ALIASES, EVENT_CODES, TraceVocab
from .tokenizer import KEYS, LOST_EVENTS, PLAIN

KEY_CALL_SITE, KEY_PTR, KEY_NAME, KEY_BYTES_REQ, KEY_BYTES_ALLOC = 0, 1, 2, 3, 4
KEY_GFP, KEY_NODE, KEY_ORDER, KEY_MIGRATETYPE, KEY_PFN, KEY_PAGE = 5, 6, 7, 8, 9, 10
NR_KEYS = 11
FIELDS = 3
AT_SIZE = 1
AT_PLACE = 2
PLACE_REL = 1
PLACE_SIGNED = 2
RECORD_LOST = 2
RECORD_SAMPLE = 9
RECORD_LOST_SAMPLES = 13
RECORD_ROUND = 68
RECORD_COMPRESSED = 81
TEXT_HEX = 1
TEXT_SIGNED = 2
TASK_FIELD = re.compile(r"comm|pid$")
_MAX_IDS = 1 << 16
_READ_ENABLED, _READ_RUNNING, _READ_ID, _READ_GROUP, _READ_LOST = 1, 2, 4, 8, 16


@dataclass(frozen=True, slots=True)
class PlainFields:
    """
    How the text of events is made whose fields are all plain numbers.

    Attributes
    ----------
    first
        By format, and one more: its first field in the arrays below.
    need
        By format: bytes that a record must have; -1 when the format takes more than numbers.
    at, size, how
        By field: offset, bytes, TEXT_* bits.
    word_end
        By field, and one more: where in ``words`` the text before its value begins.
    """

    first: np.ndarray
    need: np.ndarray
    at: np.ndarray
    size: np.ndarray
    how: np.ndarray
    word_end: np.ndarray
    words: bytes


@dataclass(frozen=True, slots=True)
class PerfSpec:
    """
    Where everything stands.

    Attributes
    ----------
    time_at, tid_at, cpu_at, id_at
        From the beginning of a sample, bytes; -1 when it does not have it.
    lost_time, lost_cpu
        Before the end of a record about losses; 0 when it does not say.
    spec_of
        By event id: number of its format, -1 when there is none.
    table
        By format, key of KEYS and FIELDS: offset, size (0: no such field), PLACE_* bits.
    """

    begin: int
    time_at: int
    tid_at: int
    cpu_at: int
    id_at: int
    fixed_end: int
    lost_time: int
    lost_cpu: int
    reads: bool
    read_group: bool
    read_head: int
    read_each: int
    callchain: bool
    ids: tuple[int, ...]
    spec_of: np.ndarray
    table: np.ndarray
    kinds: np.ndarray
    events: np.ndarray
    keeps_text: np.ndarray
    orders: np.ndarray
    """By format: the order of events that have none of their own, -1 for none."""
    lost_code: int
    plain: PlainFields


def make_spec(header: PerfHeader, vocab: TraceVocab) -> PerfSpec:
    """The arrays of one file; event names enter the vocabulary here, in the order of the descriptions."""
    n = len(header.formats)
    spec_of = np.full(_MAX_IDS, -1, np.int16)
    table = np.zeros(n * NR_KEYS * FIELDS, np.int32)
    kinds = np.zeros(n, np.uint8)
    events = np.zeros(n, np.int32)
    keeps_text = np.zeros(n, np.uint8)
    orders = np.array([format.printed_order for format in header.formats], np.int16)
    for i, format in enumerate(header.formats):
        if format.id < _MAX_IDS:
            spec_of[format.id] = i
        name = EVENT_ALIASES.get(format.name, format.name)
        kinds[i] = EVENT_CODES.get(name, EV_OTHER)
        events[i] = vocab.event.code(name)
        keeps_text[i] = kinds[i] not in PLAIN
        _fill(table[i * NR_KEYS * FIELDS : (i + 1) * NR_KEYS * FIELDS], format)
    bits = header.read_format
    head = bool(bits & _READ_ENABLED) + bool(bits & _READ_RUNNING)
    each = 1 + bool(bits & _READ_ID) + bool(bits & _READ_LOST)
    identifier = header.sample_offset(IDENTIFIER)
    return PerfSpec(
        begin=header.begin, time_at=header.sample_offset(TIME), tid_at=header.sample_offset(TID),
        cpu_at=header.sample_offset(CPU), id_at=identifier if identifier >= 0 else header.sample_offset(ID),
        fixed_end=header.fixed_end(), lost_time=header.trailer_offset(TIME), lost_cpu=header.trailer_offset(CPU),
        reads=bool(header.sample_type & READ), read_group=bool(bits & _READ_GROUP), read_head=head, read_each=each,
        callchain=bool(header.sample_type & CALLCHAIN), ids=tuple(sorted(header.ids)), spec_of=spec_of, table=table,
        kinds=kinds, events=events, keeps_text=keeps_text, orders=orders,
        lost_code=vocab.event.code(LOST_EVENTS), plain=_plain_fields(header.formats),
    )  # fmt: skip


def _fill(table: np.ndarray, format: EventFormat) -> None:
    for key, name in enumerate(KEYS):
        field = format.field(name)
        if field is None or (name == "page" and format.field("pfn") is not None) or field.size > 8:
            continue
        place = PLACE_REL * (field.place == REL_LOC) | PLACE_SIGNED * field.signed
        if (name == "name") != (field.place != 0):  # a name stands elsewhere, nothing else does
            continue
        table[key * FIELDS : (key + 1) * FIELDS] = field.offset, field.size, place


def _plain_fields(formats: Sequence[EventFormat]) -> PlainFields:
    first, need, words = [0], [], b""
    fields: list[Field] = []
    word_end = [0]
    for format in formats:
        own = sorted((field for field in format.fields if not field.name.startswith("common_")), key=lambda f: f.offset)
        plain = all(map(_is_plain, own))
        need.append(max((field.offset + field.size for field in own), default=0) if plain else -1)
        for i, field in enumerate(own if plain else ()):
            fields.append(field)
            words += f"{' ' if i else ''}{field.name}=".encode()
            word_end.append(len(words))
        first.append(len(fields))
    hexadecimal = [TEXT_HEX * (field.is_pointer or field.name == "pfn") for field in fields]
    how = [bits | TEXT_SIGNED * field.signed for bits, field in zip(hexadecimal, fields, strict=True)]
    columns = (first, need, [field.offset for field in fields], [field.size for field in fields], how, word_end)
    firsts, needs, at, size, hows, word_ends = (np.array(column, np.int32) for column in columns)
    return PlainFields(firsts, needs, at, size, hows, word_ends, words)


def _is_plain(field: Field) -> bool:
    """Whether it is a number that is written as it is: no flags, no symbol, and nothing that tells of a process."""
    return (field.place == STATIC and not field.is_text and field.name not in ("call_site", "gfp_flags")
            and field.size in (1, 2, 4, 8) and TASK_FIELD.search(field.name) is None)  # fmt: skip
