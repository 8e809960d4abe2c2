"""
One way to open every kind of trace: whatever it was, what is read from it afterwards is Parquet.

Text, CSV, perf.data and compressed input is parsed once, into a canonical Parquet file; so a trace can be read again,
from standard input too, and is never wholly in memory. The file is a temporary one, unless somebody wants to keep it.
"""

from __future__ import annotations

import difflib
import hashlib
import io
import os
import stat
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa

from memtrace.errors import OutputError, TraceError
from memtrace.files import ROOM_FOR_SCRATCH, saying, scratch_folder

from .csv_tokenizer import CSV_COLUMNS, CsvTokenizer
from .interner import Rows
from .parquet import OPTIONAL_COLUMNS, ParquetTrace
from .parquet_writer import ParquetTraceWriter
from .perf_data import PerfData
from .perf_header import MAGIC, MAGIC_SWAPPED
from .problems import Problems, Settler
from .schema import EV_MARKER, EventChunk, TraceVocab
from .text import ROWS_PER_CHUNK, parsed_chunks
from .tokenizer import CAUSES, LOST_EVENTS, TextTokenizer
from .trace_dat import TRACE_DAT, TraceCmdReport

Progress = Callable[[int, int], None]
"""Called with (bytes read, bytes in all); the second is 0 when it is not known."""

HEAD_BYTES = 1 << 16
_COMPRESSED = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd"}
_PARQUET = b"PAR1"


class TraceReader:
    """
    A trace, open for reading. Use it as a context manager, or `close` it.

    Attributes
    ----------
    path
        As given; ``-`` is standard input.
    format
        ``parquet``, ``csv``, ``ftrace``, ``perf-script``, ``perf.data`` or ``trace.dat``.
    vocab
        Strings of the chunks; grows while they are read.
    rows
        Number of rows.
    kept
        The Parquet file that `open_trace` was to keep what it parsed in; None when there was nothing to parse.
    """

    def __init__(
        self, path: str, format: str, trace: ParquetTrace, problems: Problems, spool: Any, digest: str,
        kept: Path | None = None,
    ) -> None:  # fmt: skip
        self.path = path
        self.format = format
        self.vocab = trace.vocab
        self.rows: int | None = trace.rows
        self.kept = kept
        self._trace = trace
        self._parse_problems = problems
        self._problems = problems
        self._spool = spool
        self._digest = digest
        self._markers: dict[tuple[str, ...], int] = {}

    @property
    def problems(self) -> dict[str, int]:
        """Counts by cause, of the rows read so far (text and CSV: of all rows)."""
        return self._problems.counts

    @property
    def problem_rows(self) -> dict[str, int]:
        """First line or row of each cause, counted from 1."""
        return self._problems.rows

    def columns(self) -> tuple[str, ...]:
        """The columns that hold something: those of CSV_COLUMNS, in order, without optional ones that are empty."""
        return tuple(name for name in CSV_COLUMNS if name not in OPTIONAL_COLUMNS or self._trace.has(name))

    def digest(self) -> str:
        """SHA-256 of the bytes of the file, or of what came in."""
        if not self._digest:
            with open(self.path, "rb") as file:
                self._digest = hashlib.file_digest(file, "sha256").hexdigest()
        return self._digest

    def chunks(self, rows_per_chunk: int = ROWS_PER_CHUNK) -> Iterator[EventChunk]:
        """All rows in order, from the first again at each call."""
        for chunk, _ in self._pass(rows_per_chunk, texts=False):
            yield chunk

    def chunks_with_text(self, rows_per_chunk: int = ROWS_PER_CHUNK) -> Iterator[tuple[EventChunk, Any]]:
        """Like `chunks`, and with every row's text as a pyarrow string array, for writing them again."""
        yield from self._pass(rows_per_chunk, texts=True)

    def find_marker(self, texts: Sequence[str]) -> int:
        """Row of the first marker with one of these texts, from 0; -1 when there is none. Looked for once."""
        key = tuple(texts)
        if key not in self._markers:
            self._markers[key] = self._row_of_marker(texts)
        return self._markers[key]

    def _row_of_marker(self, texts: Sequence[str]) -> int:
        trace = ParquetTrace(self._trace.path, TraceVocab(), ("text",), self.path)
        try:
            for chunk, _ in trace.batches(ROWS_PER_CHUNK):
                for i in (chunk.event == EV_MARKER).nonzero()[0].tolist():
                    if chunk.text[i] >= 0 and trace.vocab.text.names[chunk.text[i]].strip() in texts:
                        return chunk.row0 + int(i)
        finally:
            trace.close()
        return -1

    def close(self) -> None:
        self._trace.close()
        if self._spool is not None:
            self._spool.cleanup()

    def __enter__(self) -> TraceReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _pass(self, rows_per_chunk: int, texts: bool) -> Iterator[tuple[EventChunk, Any]]:
        spooled = self._spool is not None and self.format != "parquet"
        if not spooled:
            self._problems = self._parse_problems.copy()
        lost_code = self.vocab.event.code(LOST_EVENTS)
        settler = Settler(self._problems, lost_code)
        for chunk, text in self._trace.batches(rows_per_chunk, texts):
            if not spooled:
                settler.settle(chunk)
                self._count_lost(chunk, text, lost_code)
            yield chunk, text

    def _count_lost(self, chunk: EventChunk, text: Any, lost_code: int) -> None:
        for i in (chunk.event_name == lost_code).nonzero()[0].tolist():
            said = text[i].as_py() if text is not None else self.vocab.text.names[chunk.text[i]]
            n = int(said) if said and said.isdigit() else 1
            self._problems.add("lost_events", n, chunk.row0 + i + 1)


def open_trace(
    path: str | Path, *, progress: Progress | None = None, columns: Sequence[str] | None = None,
    symbols: Path | None = None, name_sites: bool = True, keep: Path | None = None,
) -> TraceReader:  # fmt: skip
    """
    Opens a trace of any kind (docs/trace-formats.md), plain or compressed with gzip or zstd.

    Parameters
    ----------
    path
        The file; ``-`` is standard input.
    progress
        Called while text or compressed input is read.
    columns
        Columns that are needed; the chunks' others keep their "no such field" value. All when not given.
    symbols
        Of perf.data: a copy of the recorded kernel's /proc/kallsyms, see `PerfData`.
    name_sites
        Of perf.data: False leaves call sites addresses.
    keep
        Where the Parquet file stays that is made of anything else: small rather than quick, there when it is whole,
        and then in place of what was there. None takes a temporary one.

    Raises
    ------
    TraceError
        When it cannot be read, or is no trace.
    """
    shown = str(path)
    with _open_file(shown) as file:
        size, again = 0, False
        if shown != "-":
            status = os.fstat(file.fileno())
            again = stat.S_ISREG(status.st_mode)  # else a pipe, such as <(zcat …): read once, like standard input
            size = status.st_size if again else 0
        source = _Input(file, size, progress, hashed=not again)
        head = source.peek(HEAD_BYTES)
        if again and head.startswith(_PARQUET):
            return _finish(shown, "parquet", ParquetTrace(path, TraceVocab(), columns), Problems(), None, "")
        try:
            return _spooled(shown, source, columns, again, symbols, name_sites, keep)
        except OutputError as error:
            if keep is not None and Path(error.path) == keep:
                raise
            raise TraceError(f"no copy of it can be made in {tempfile.gettempdir()} ({error.why}); expected "
                             f"{ROOM_FOR_SCRATCH}.", shown) from error  # fmt: skip
        except OSError as error:
            raise TraceError(f"cannot be read to its end ({error}); expected a whole file. Copy or record it again.",
                             shown) from error  # fmt: skip


def _spooled(
    shown: str, source: _Input, columns: Sequence[str] | None, again: bool, symbols: Path | None, name_sites: bool,
    keep: Path | None,
) -> TraceReader:  # fmt: skip
    """Puts what comes in into a Parquet file."""
    spool = scratch_folder()
    try:
        plain = source.peek(len(TRACE_DAT)).startswith((MAGIC, MAGIC_SWAPPED, TRACE_DAT))
        stream = _Head(_decompressed(source))
        target = Path(spool.name) / "trace.parquet"
        parsed = _Parsed(shown, Problems(), target, keep)
        if stream.head.startswith(_PARQUET):
            _copy(stream, target)
            trace = ParquetTrace(target, TraceVocab(), columns, shown)
            return _finish(shown, "parquet", trace, parsed.problems, spool, source.hexdigest())
        if stream.head.startswith((MAGIC, MAGIC_SWAPPED)):
            format = "perf.data"
            file = _whole_file(shown, stream, again and plain, spool.name)
            parsed.perf_data(PerfData(file, shown, TraceVocab(), symbols, name_sites), source.progress)
        elif stream.head.startswith(TRACE_DAT):
            format = "trace.dat"
            file = _whole_file(shown, stream, again and plain, spool.name)
            with TraceCmdReport(file, shown, source.progress) as report:
                parsed.text(_Head(report), is_csv=False)
        else:
            format = parsed.text(stream, _is_csv(shown, stream.head))
        trace = ParquetTrace(keep or target, TraceVocab(), columns, shown)
        return _finish(shown, format, trace, parsed.problems, spool, source.hexdigest(), keep)
    except BaseException:
        spool.cleanup()
        raise


def _finish(
    shown: str, format: str, trace: ParquetTrace, problems: Problems, spool: Any, digest: str, kept: Path | None = None
) -> TraceReader:
    if not trace.rows:
        trace.close()
        raise _no_rows(shown)
    return TraceReader(shown, format, trace, problems, spool, digest, kept)


def _no_rows(shown: str) -> TraceError:
    return TraceError("no rows; expected at least one event. Was anything recorded?", shown)


def _whole_file(shown: str, stream: _Head, as_it_is: bool, folder: str) -> Path:
    """The file itself, or a copy of what comes in, for what cannot be read as a stream."""
    if as_it_is:
        return Path(shown)
    file = Path(folder) / "input"
    _copy(stream, file)
    return file


@dataclass(frozen=True, slots=True)
class _Parsed:
    """
    The one reading of what is not Parquet: its rows go to ``keep``, else to ``target``, when all of it could be read.

    Attributes
    ----------
    problems
        Gets what was wrong with it.
    """

    shown: str
    problems: Problems
    target: Path
    keep: Path | None

    def perf_data(self, data: PerfData, progress: Progress | None) -> None:
        self._write(self._samples(data, progress), data.vocab)

    def text(self, stream: _Head, is_csv: bool) -> str:
        """Parses CSV or log text; its format."""
        _check_text(self.shown, stream.head, is_csv)
        vocab = TraceVocab()
        rows = Rows(ROWS_PER_CHUNK)
        if is_csv:
            self._write(self._csv_rows(stream, CsvTokenizer(rows, vocab, self.shown)), vocab)
            return "csv"
        tokenizer = TextTokenizer(rows, vocab, self.shown)
        self._write(self._log_rows(stream, tokenizer), vocab)
        return "perf-script" if tokenizer.perf else "ftrace"

    def _write(self, chunks: Iterator[tuple[EventChunk, Any]], vocab: TraceVocab) -> None:
        if self.keep is not None:
            writer = ParquetTraceWriter(self.keep, vocab)
        else:
            writer = ParquetTraceWriter(self.target, vocab, drop_empty=False, scratch=True)
        n_rows = 0
        try:
            for chunk, text in chunks:
                n_rows += len(chunk)
                writer.write(chunk, text)
            if not n_rows:
                raise _no_rows(self.shown)
            writer.close()
        except BaseException:
            writer.abort()
            raise

    def _samples(self, data: PerfData, progress: Progress | None) -> Iterator[tuple[EventChunk, Any]]:
        settler = Settler(self.problems, data.vocab.event.code(LOST_EVENTS))
        for chunk, text in data.chunks(progress):
            settler.settle(chunk)
            yield chunk, text
        for cause, n in data.problems.items():
            self.problems.add(cause, n)

    def _csv_rows(self, stream: _Head, tokenizer: CsvTokenizer) -> Iterator[tuple[EventChunk, Any]]:
        yield from self._settled(stream, tokenizer, tokenizer.vocab)
        if not tokenizer.n_columns:
            raise TraceError("no header row; expected ts_ns,cpu,event,ptr,… Was anything recorded?", self.shown)
        for name in tokenizer.unknown_columns:
            self.problems.add(f"column_ignored: {name}", 1, 1)

    def _log_rows(self, stream: _Head, tokenizer: TextTokenizer) -> Iterator[tuple[EventChunk, Any]]:
        n_rows = 0
        for chunk, text in self._settled(stream, tokenizer, tokenizer.vocab):
            n_rows += len(chunk)
            yield chunk, text
        for cause, n, first in zip(CAUSES, tokenizer.count, tokenizer.first_line, strict=True):
            self.problems.add(cause, int(n), int(first))
        self.problems.add("lost_events", int(tokenizer.lost), int(tokenizer.lost_line))
        self.problems.add("overwritten_before_start", int(tokenizer.overwritten), 0)
        if not n_rows:
            raise TraceError(f"not a trace: none of its {tokenizer.line} lines is an event; expected Parquet, CSV with "
                             "a header row, ftrace text or perf script text. See docs/trace-formats.md.", self.shown,
                             min((int(at) for at in tokenizer.first_line if at), default=0))  # fmt: skip

    def _settled(
        self, stream: _Head, tokenizer: CsvTokenizer | TextTokenizer, vocab: TraceVocab
    ) -> Iterator[tuple[EventChunk, Any]]:
        settler = Settler(self.problems, vocab.event.code(LOST_EVENTS))
        for chunk, text, line in parsed_chunks(stream, tokenizer):
            settler.settle(chunk, line)
            yield chunk, text


def _copy(stream: _Head, target: Path) -> None:
    with open(target, "wb") as file:
        while data := stream.read(1 << 20):
            with saying(target):
                file.write(data)


def _check_text(shown: str, head: bytes, is_csv: bool) -> None:
    if not head:
        raise TraceError("the file is empty; expected a trace. Was anything recorded?", shown)
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise TraceError("text in UTF-16; expected UTF-8. Convert it: iconv -f UTF-16 -t UTF-8.", shown)
    if not is_csv and b"\0" in head[:4096]:
        raise TraceError("not a trace: binary data; expected Parquet, CSV, ftrace text or perf script text. "
                         "See docs/trace-formats.md.", shown)  # fmt: skip


def _is_csv(shown: str, head: bytes) -> bool:
    """By the name, or by a first row that names a column of ours."""
    name = shown.removesuffix(".gz").removesuffix(".zst")
    for raw in head.lstrip(b"\xef\xbb\xbf").splitlines():
        line = raw.strip()
        if line and not line.startswith(b"#"):
            names = {part.strip().strip('"') for part in line.decode("utf-8", "replace").split(",")}
            return (len(names) > 1 and bool(names & set(CSV_COLUMNS))) or name.endswith(".csv")
    return name.endswith(".csv")


def _open_file(shown: str) -> BinaryIO:
    if shown == "-":
        return io.BufferedReader(io.FileIO(sys.stdin.fileno(), closefd=False)) if _has_fd() else sys.stdin.buffer
    try:
        if os.path.isdir(shown):
            raise IsADirectoryError
        return open(shown, "rb")
    except FileNotFoundError:
        if "://" in shown:
            raise TraceError("an address; expected a file of this machine. Copy it here, or let `memtrace compare`, "
                             "which reads addresses, replay it.", shown) from None  # fmt: skip
        folder = os.path.dirname(shown) or "."
        names = os.listdir(folder) if os.path.isdir(folder) else []
        near = difflib.get_close_matches(os.path.basename(shown), names, 3)
        hint = f" Near it: {', '.join(sorted(near))}." if near else ""
        if os.path.islink(shown):
            raise TraceError(f"a link to {os.readlink(shown)}, which is not there; expected a trace. Check the link.",
                             shown) from None  # fmt: skip
        raise TraceError(f"no such file; expected a trace.{hint} Check the path.", shown) from None
    except IsADirectoryError:
        raise TraceError("a directory; expected a trace file. Name the file in it.", shown) from None
    except PermissionError:
        raise TraceError("no permission to read it; expected a readable file. Change its permissions or the user.",
                         shown) from None  # fmt: skip
    except (OSError, ValueError) as error:
        raise TraceError(f"cannot be opened ({error}); expected a trace file.", shown) from error


def _has_fd() -> bool:
    """Whether standard input is a real one; under a test runner it is not."""
    try:
        sys.stdin.fileno()
    except (OSError, ValueError, AttributeError):
        return False
    return True


def _decompressed(source: _Input) -> Any:
    head = source.peek(4)
    for magic, codec in _COMPRESSED.items():
        if head.startswith(magic):
            return pa.CompressedInputStream(pa.PythonFile(source, mode="r"), codec)
    return source


class _Head:
    """A stream whose beginning has been looked at."""

    def __init__(self, stream: Any) -> None:
        parts = []
        missing = HEAD_BYTES
        while missing and (data := stream.read(missing)):
            parts.append(data)
            missing -= len(data)
        self.head = b"".join(parts)
        self._ahead = self.head
        self._stream = stream

    def read(self, size: int) -> bytes:
        if self._ahead:
            data, self._ahead = self._ahead[:size], self._ahead[size:]
            return data
        return self._stream.read(size)


class _Input(io.RawIOBase):
    """The raw bytes that come in, counted for the progress bar and, where they come only once, hashed on their way."""

    def __init__(self, file: BinaryIO, size: int, progress: Progress | None, hashed: bool) -> None:
        self._file = file
        self._size = size
        self.progress = progress
        self._hash = hashlib.sha256() if hashed else None
        self._done = 0
        self._ahead = b""

    def peek(self, size: int) -> bytes:
        while len(self._ahead) < size and (data := self._file.read(size - len(self._ahead))):
            self._ahead += data
        return self._ahead[:size]

    def read(self, size: int | None = -1) -> bytes:
        wanted = 1 << 20 if size is None or size < 0 else size
        data, self._ahead = self._ahead[:wanted], self._ahead[wanted:]
        if not data:
            data = self._file.read(wanted)
        if self._hash is not None:
            self._hash.update(data)
        self._done += len(data)
        if self.progress is not None:
            self.progress(self._done, self._size)
        return data

    def readable(self) -> bool:
        return True

    def hexdigest(self) -> str:
        """SHA-256 of what came in; "" of a file, which can be read again for it."""
        return self._hash.hexdigest() if self._hash is not None else ""
