"""The tokenizer against a slow parser made of regular expressions, and on lines that real recorders wrote."""

from __future__ import annotations

import random
import re
from typing import Any

import pytest

from memtrace.errors import TraceError
from memtrace.trace.interner import Interner, Numbers, Rows
from memtrace.trace.schema import EVENT_ALIASES, EVENT_CODES, NO_NODE, TraceVocab, Vocab
from memtrace.trace.tokenizer import CAUSES, KEYS, NEEDED, PLAIN, TextTokenizer

Row = dict[str, Any]

# --------------------------------------------------------------------------- the reference

PREFIX = re.compile(r"\[(\d{1,6})\] *(?:([^\d ]\S*) +)?(\d{1,9})\.(\d{1,9}): *(?:\d+ +)?")
FIELD = re.compile(r"(?:^|(?<= ))([a-z_]+)=( *\(\S*|\S*)")
NULL = ("(null)", "(nil)")


def reference_rows(text: str) -> tuple[list[Row], dict[str, int]]:
    """Rows and causes, as the tokenizer should find them, in the simplest way that can be thought of."""
    rows: list[Row] = []
    causes: dict[str, int] = {}
    tasks: dict[str, int] = {}
    t0 = None
    for line in text.splitlines():
        if not line or line.startswith(("#", "\t")):
            continue
        match = PREFIX.search(line)
        event = re.match(r"(?:\S*:)?([^\s:]+):(?: |$)", line[match.end() :]) if match else None
        if not match or not event:
            causes["unparsed_line"] = causes.get("unparsed_line", 0) + 1
            continue
        row, cause = reference_row(event[1], line[match.end() + event.end() :].lstrip(" "))
        if cause:
            causes[cause] = causes.get(cause, 0) + 1
            continue
        t_ns = int(match[3]) * 10**9 + int(match[4].ljust(9, "0"))
        t0 = t_ns if t0 is None else t0
        pid = re.search(r"(\d*)(?: +\( *\S+\))? *$", line[: match.start()])[1]
        row |= {"ts_ns": t_ns - t0, "cpu": int(match[1]), "ctx": match[2]}
        row["task"] = tasks.setdefault(pid, len(tasks)) if pid else -1
        rows.append(row)
    return rows, causes


def reference_row(event: str, args: str) -> tuple[Row, str]:
    name = {"tracing_mark_write": "marker"}.get(event, EVENT_ALIASES.get(event, event))
    kind = EVENT_CODES.get(name, 0)
    row: Row = {"event": kind, "event_name": name, "call_site": None, "ptr": 0, "name": None, "bytes_req": -1,
                "bytes_alloc": -1, "gfp_flags": None, "node": NO_NODE, "order": -1, "migratetype": -1, "pfn": -1,
                "text": None}  # fmt: skip
    if name == "marker":
        return row | {"text": args}, ""
    cause = ""
    seen = set()
    page = 0
    for match in FIELD.finditer(args):
        key, value = match[1], match[2].lstrip(" ").rstrip(",")
        seen.add(key)
        if key in ("call_site", "name", "gfp_flags"):
            row[key] = value
        elif key in ("ptr", "page"):
            if value not in NULL and not re.fullmatch(r"(0x)?[0-9a-f]{1,16}", value):
                cause = "unreadable_pointer"
                continue
            number = 0 if value in NULL else int(value, 16)
            page, row["ptr"] = (number, row["ptr"]) if key == "page" else (page, number)
        elif key in ("bytes_req", "bytes_alloc", "node", "order", "migratetype", "pfn"):
            limit = {"node": 1023, "order": 30, "migratetype": 30}.get(key, 2**63 - 1)
            good = re.fullmatch(r"0x[0-9a-f]{1,16}|-?\d{1,20}", value)
            number = int(value, 16 if "x" in value else 10) if good else None
            if key == "pfn" and number is not None:
                row[key] = number if 0 <= number < 2**52 else 0
            elif key == "node" and number is not None and number < 0:
                row[key] = -1
            elif number is None or not 0 <= number <= limit:
                cause = "bad_number"
            else:
                row[key] = number
    if "page" in seen and "pfn" not in seen:
        row["ptr"] = page
        seen.add("pfn")
    keys = ("call_site", "ptr", "name", "bytes_req", "bytes_alloc", "gfp_flags", "node", "order", "migratetype", "pfn")
    needed = {key for i, key in enumerate(keys) if NEEDED.get(kind, 0) >> i & 1}
    if kind not in PLAIN and not re.search("comm=|pid=", args):
        row["text"] = args
    if kind == 0:
        return row, ""
    return row, cause or ("" if needed <= seen else "missing_field")


# --------------------------------------------------------------------------- the tokenizer, in the same form


def tokenizer_rows(text: str | bytes, capacity: int = 7, block: int = 1 << 20) -> tuple[list[Row], TextTokenizer]:
    """Rows as dictionaries; small columns and blocks, so that their ends are met."""
    raw = text.encode() if isinstance(text, str) else text
    vocab = TraceVocab()
    rows = Rows(capacity)
    tokenizer = TextTokenizer(rows, vocab, "log.txt")
    found: list[Row] = []
    buf = bytearray(raw)
    pos = 0
    while pos < len(raw):
        end = min(pos + block, len(raw))
        while True:
            new = tokenizer.parse(buf, pos, end, end == len(raw))
            full = rows.n == capacity
            found += rows_of(rows, vocab)
            if not full:
                break
            pos = new
        if new == pos and end < len(raw):
            block *= 2  # a line longer than the block
        pos = new
    return found, tokenizer


def rows_of(rows: Rows, vocab: TraceVocab) -> list[Row]:
    chunk, texts, _ = rows.take(0)
    names = {"event_name": vocab.event, "call_site": vocab.call_site, "name": vocab.name, "gfp_flags": vocab.gfp,
             "ctx": vocab.ctx}  # fmt: skip
    found = []
    for i, text in enumerate(texts.to_pylist()):
        row = {name: int(getattr(chunk, name)[i]) for name in
               ("ts_ns", "cpu", "task", "event", "ptr", "bytes_req", "bytes_alloc", "node", "order", "migratetype",
                "pfn")}  # fmt: skip
        for name, strings in names.items():
            code = int(getattr(chunk, name)[i])
            row[name] = strings.names[code] if code >= 0 else None
        found.append(row | {"text": text})
    return found


def causes_of(tokenizer: TextTokenizer) -> dict[str, int]:
    return {cause: int(n) for cause, n in zip(CAUSES, tokenizer.count, strict=True) if n}


# --------------------------------------------------------------------------- differential

COMMS = ("init", "kworker/0:1", "a b", "[000] x", "tr-1", "weird [1]", "x: y", "perf", "")
NUMBERS = ("0", "1", "64", "4096", "-1", "12x", "9223372036854775807", "9223372036854775808", "18446744073709551615",
           "18446744073709551616", "99999999999999999999", "0x10", "", "007")  # fmt: skip
POINTERS = ("ffff888003a41c00", "0xffff888003a41c00", "c147dd20", "  (null)", "(nil)", "(____ptrval____)", "0",
            "00000000deadbeef", "12345678901234567", "zz")  # fmt: skip


def random_line(rng: random.Random, t_us: int) -> str:
    if rng.random() < 0.04:
        return rng.choice(("", "# comment", "\tffffffff81 frame", "junk", "bash-1 [000] nothing here: x", "[0] 1.2: :"))
    pid = rng.choice((0, 1, 17, 4242))
    digits = rng.choice((6, 9))
    clock = f"{t_us // 10**6}.{t_us % 10**6:06d}" + "123"[: digits - 6]
    if rng.random() < 0.5:
        flags = rng.choice((".... ", "d.s2. ", ""))
        tgid = rng.choice(("", f" ({pid:5d})"))
        prefix = f"{rng.choice(COMMS):>16}-{pid}{tgid}  [{rng.randrange(9):03d}] {flags}  {clock}: "
    else:
        period = rng.choice(("", "      1 "))
        prefix = f"{rng.choice(COMMS):>16} {pid:5d} [{rng.randrange(9):03d}] {clock}: {period}  kmem:"
    event = rng.choice((*EVENT_CODES, *EVENT_ALIASES, "rss_stat", "sched_switch", "tracing_mark_write"))
    fields = {
        "call_site": rng.choice(("c104dd2f", "do_sys_open+0x1b/0x210", "f")), "ptr": rng.choice(POINTERS),
        "name": rng.choice(("filp", "kmalloc-64", "a,b")), "bytes_req": rng.choice(NUMBERS),
        "bytes_alloc": rng.choice(NUMBERS), "gfp_flags": rng.choice(("GFP_KERNEL", "GFP_KERNEL|__GFP_ZERO", "0x400")),
        "node": rng.choice(("-1", "0", "3", "2000")), "order": rng.choice(("0", "3", "31", "-1")),
        "migratetype": rng.choice(("0", "1", "2,")), "pfn": rng.choice(("0x1a2b", "77", "0x0", "18446744073709551615")),
        "page": rng.choice(POINTERS), "accounted": "true", "mm_id": "12", "next_comm": "bash",
    }  # fmt: skip
    keys = rng.sample(sorted(fields), rng.randrange(len(fields)))
    if rng.random() < 0.7:  # mostly usable events
        keys = [*dict.fromkeys([*keys, "ptr", "bytes_req", "pfn", "order"])]
        fields |= {"ptr": rng.choice(POINTERS[:5]), "bytes_req": "64", "bytes_alloc": "64", "node": "-1", "order": "1"}
        fields |= {"page": "0xffffea0000"}
    words = [f"{key}={fields[key]}" for key in keys]
    return f"{prefix}{event}: {' '.join(words)}"


@pytest.mark.parametrize("seed", range(12))
def test_equals_the_reference_parser(seed: int) -> None:
    rng = random.Random(seed)
    text = "\n".join(random_line(rng, 1_000_000 + i * 3) for i in range(150)) + "\n"
    expected, causes = reference_rows(text)
    assert len(expected) > 30 and len(causes) > 1
    found, tokenizer = tokenizer_rows(text, capacity=rng.choice((1, 7, 64)), block=rng.choice((50, 4096)))
    assert found == expected
    assert causes_of(tokenizer) == causes


# --------------------------------------------------------------------------- single facts

PREFIXED = "            init-1     [003] .N..     0.150000: "


def one(line: str) -> Row:
    found, _ = tokenizer_rows(line + "\n")
    assert len(found) == 1, line
    return found[0]


def test_old_events_take_their_new_names() -> None:
    row = one(PREFIXED + "kmalloc_node: call_site=c104dd54 ptr=c1607ef0 bytes_req=22 bytes_alloc=30 "
                         "gfp_flags=GFP_KERNEL node=-1")  # fmt: skip
    assert (row["event_name"], row["ptr"], row["bytes_req"], row["node"]) == ("kmalloc", 0xC1607EF0, 22, -1)
    assert one(PREFIXED + "mm_page_free_direct: page=f00 pfn=99 order=2")["event_name"] == "mm_page_free"


def test_pfn_is_decimal_without_0x_and_hexadecimal_with_it() -> None:
    assert one(PREFIXED + "mm_page_free: page=ea00 pfn=100 order=0")["pfn"] == 100
    assert one(PREFIXED + "mm_page_free: page=ea00 pfn=0x100 order=0")["pfn"] == 256


def test_a_block_without_pfn_is_known_by_its_page() -> None:
    row = one(PREFIXED + "mm_page_alloc: page=ffffea0000123400 order=1 migratetype=0 gfp_flags=GFP_KERNEL")
    assert (row["pfn"], row["ptr"]) == (-1, 0xFFFFEA0000123400)


def test_names_and_modules_with_blanks() -> None:
    row = one(PREFIXED + "kmem_cache_alloc: call_site=f+0x1/0x2 [ext4] ptr=0x10 name=my own cache bytes_req=8 "
                         "bytes_alloc=8 gfp_flags=GFP_NOFS")  # fmt: skip
    assert (row["call_site"], row["name"], row["gfp_flags"]) == ("f+0x1/0x2 [ext4]", "my own cache", "GFP_NOFS")


def test_markers_keep_their_text_and_others_lose_names_and_pids() -> None:
    assert one(PREFIXED + "tracing_mark_write: SNAP_BEGIN a=b  [0]")["text"] == "SNAP_BEGIN a=b  [0]"
    assert one(PREFIXED + "print: tracing_mark_write: hello")["text"] == "hello"
    assert one(PREFIXED + "sched_switch: prev_comm=bash prev_pid=7")["text"] is None
    assert one(PREFIXED + "mm_vmscan_kswapd_wake: nid=0 order=3")["text"] == "nid=0 order=3"


def test_tasks_are_numbered_by_first_appearance() -> None:
    text = "".join(f"  x-{pid} [000] .... 1.000000: kfree: call_site=f ptr=0x10\n" for pid in (900, 3, 900, 77, 3))
    found, _ = tokenizer_rows(text)
    assert [row["task"] for row in found] == [0, 1, 0, 2, 1]


@pytest.mark.parametrize(
    ("line", "lost"),
    [
        ("CPU:2 [LOST 123 EVENTS]", 123),
        ("CPU:2 [LOST EVENTS]", 1),
        ("CPU:2 [7 EVENTS DROPPED]", 7),
        ("perf  7502 [002]  1187.409321: PERF_RECORD_LOST lost 5", 5),
    ],
)
def test_lost_events_are_a_row_and_a_count(line: str, lost: int) -> None:
    event = "x-1 [002] .... 1.5: kfree: call_site=f ptr=0x10\n"
    found, tokenizer = tokenizer_rows(event + line + "\n" + event)
    assert tokenizer.lost == lost and tokenizer.lost_line == 2
    assert [(row["event_name"], row["cpu"], row["text"]) for row in found][1] == ("lost_events", 2, str(lost))
    assert causes_of(tokenizer) == {}


def test_what_recorders_say_of_themselves_is_no_problem() -> None:
    text = ("# tracer: nop\n# entries-in-buffer/entries-written: 90/100   #P:4\n\ncpus=4\n"
            "##### CPU 1 buffer started ####\nCPU 3 is empty\n"
            "\tffffffff81634d4d __kmalloc+0x20d ([kernel.kallsyms])\n"
            "           ee137 sched_setaffinity+0x7 (/usr/lib/libc.so.6)\n")  # fmt: skip
    found, tokenizer = tokenizer_rows(text)
    assert found == [] and causes_of(tokenizer) == {} and tokenizer.overwritten == 10 and tokenizer.line == 8


def test_windows_line_ends_and_a_last_line_without_one() -> None:
    line = "x-1 [000] .... 1.5: kmem_cache_free: call_site=f ptr=0x10 name=filp"
    found, _ = tokenizer_rows(f"{line}\r\n{line}")
    assert [row["name"] for row in found] == ["filp", "filp"]


def test_broken_utf8_does_not_stop_the_reading() -> None:
    found, _ = tokenizer_rows(PREFIXED.encode() + b"tracing_mark_write: a\xff b\n"
                              + PREFIXED.encode() + b"kmem_cache_free: call_site=f ptr=0x1 name=\xc3(\n")  # fmt: skip
    assert [row["text"] for row in found] == ["a\ufffd b", None]
    assert found[1]["name"] == "\ufffd("


def test_a_cpu_beyond_the_limit_is_an_error_with_its_line() -> None:
    with pytest.raises(TraceError, match=r"^log\.txt:2: cpu 4096; expected 0\.\.4095"):
        tokenizer_rows("# x\nx-1 [4096] .... 1.5: kfree: call_site=f ptr=0x10\n")


def test_first_lines_of_causes_are_kept() -> None:
    good = "x-1 [000] .... 1.5: kfree: call_site=f ptr=0x10\n"
    bad = "x-1 [000] .... 1.5: kmalloc: call_site=f ptr=0x10 bytes_req=9223372036854775808\n"
    _, tokenizer = tokenizer_rows(good + bad + good + bad + "junk\n")
    assert causes_of(tokenizer) == {"bad_number": 2, "unparsed_line": 1}
    assert tokenizer.first_line[CAUSES.index("bad_number")] == 2
    assert tokenizer.first_line[CAUSES.index("unparsed_line")] == 5


# --------------------------------------------------------------------------- the parts


def test_every_key_has_a_slot_of_its_own() -> None:
    tokenizer = TextTokenizer(Rows(1), TraceVocab(), "")
    assert sorted(code for code in tokenizer.key_slots if code >= 0) == list(range(len(KEYS)))


def test_interner_agrees_with_a_dictionary_through_growth() -> None:
    rng = random.Random(5)
    words = [bytes(rng.choice(b"ab\0z") for _ in range(rng.randrange(12))) for _ in range(6000)]
    vocab = Vocab()
    interner = Interner(vocab)
    buf = bytearray(b"|".join(words) + b"|")
    interner.buf = buf
    expected: dict[bytes, int] = {}
    at = 0
    for word in words:
        code = interner.code(at, at + len(word))
        assert code == expected.setdefault(word, len(expected))
        at += len(word) + 1
    assert len(vocab) == len(expected) > 512


def test_interner_tells_strings_of_equal_hash_apart() -> None:
    """The hash leaves out the highest bit of every fourth byte."""
    buf = bytearray(b"abc\x01abc\x81")
    interner = Interner(Vocab())
    interner.buf = buf
    assert interner.code(0, 4) == 0
    first = interner.last_hash
    assert interner.code(4, 8) == 1
    assert interner.last_hash == first


@pytest.mark.parametrize("chunk", range(4))
def test_numbers_agree_with_python(chunk: int) -> None:
    rng = random.Random(chunk)
    edges = [0, 9, 10, 2**31, 2**32, 2**63 - 1, 2**63, 2**64 - 1, 2**64, 10**19, 10**19 - 1, 10**20]
    texts = [str(n + d) for n in edges for d in (-1, 0, 1)] + [hex(abs(n)) for n in edges]
    texts += ["", "-", "0x", "0xg", "1 ", "00012", "-0", "0x" + "f" * 17, "000000000000000000000000001"]
    texts += [str(rng.getrandbits(rng.randrange(1, 70))) for _ in range(100)]
    numbers = Numbers()
    for text in texts:
        good, value, negative = _read(numbers, text)
        plain = re.fullmatch(r"-?\d+|0x[0-9a-f]{1,16}", text)
        fits = plain is not None and abs(int(text, 16 if "x" in text else 10)) < 2**64
        assert good == fits, text
        if good:
            assert (-value if negative else value) == int(text, 16 if "x" in text else 10), text


def _read(numbers: Numbers, text: str) -> tuple[bool, int, bool]:
    numbers.buf = bytearray(text.encode() + b" ")
    good = bool(numbers.any_base(0, len(text)))
    return good, numbers.value, numbers.negative
