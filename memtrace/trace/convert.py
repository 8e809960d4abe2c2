"""A trace of any kind, written again as Parquet or CSV."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from memtrace.errors import TraceError
from memtrace.files import check_file

from .anonymize import Anonymiser
from .csv import CsvTraceWriter
from .parquet_writer import ParquetTraceWriter
from .source import TraceReader

SUFFIXES = (".parquet", ".csv")


def convert(
    reader: TraceReader, out: str | Path, progress: Callable[[int, int], None] | None = None,
    anonymiser: Anonymiser | None = None, force: bool = False,
) -> int:  # fmt: skip
    """
    Writes all rows of a trace to a new file; nothing is left behind when it fails.

    Of a trace that `open_trace` was to keep as ``out`` nothing is left to be written.

    Parameters
    ----------
    reader
        The open trace.
    out
        The file; its name ends in one of SUFFIXES.
    progress
        Called with (rows written, rows in all).
    anonymiser
        Of this reader; its rows are written instead.
    force
        Replace the file if it exists.

    Returns
    -------
    Rows written.

    Raises
    ------
    TraceError, OutputError
        When the format of ``out`` is not known, or it exists, is the trace itself, or cannot be written.
    """
    path = Path(out)
    if reader.kept is not None and reader.kept == path:
        return reader.rows or 0
    check_target(reader.path, out, force)
    vocab = anonymiser.vocab if anonymiser is not None else reader.vocab
    writer: ParquetTraceWriter | CsvTraceWriter
    if path.suffix == ".parquet":
        writer = ParquetTraceWriter(path, vocab, columns=reader.columns())
    else:
        writer = CsvTraceWriter(path, vocab, reader.columns())
    rows = 0
    try:
        for chunk, text in reader.chunks_with_text():
            if anonymiser is not None:
                chunk, text = anonymiser.map(chunk, text)
            writer.write(chunk, text)
            rows += len(chunk)
            if progress is not None:
                progress(rows, reader.rows or 0)
        writer.close()
    except BaseException:
        writer.abort()
        raise
    return rows


def check_target(source: str | Path, out: str | Path, force: bool = False) -> None:
    """Raises TraceError or OutputError when ``out`` cannot be written; asked before a long reading, not after it."""
    path = Path(out)
    if path.suffix not in SUFFIXES:
        raise TraceError(f'cannot write "{path.suffix}"; expected a name ending in {" or ".join(SUFFIXES)}.', out)
    check_file(out)
    if str(source) != "-" and path.exists() and Path(source).exists() and path.samefile(source):
        raise TraceError("it is the input itself; expected another file. Choose another name.", out)
    check_new(out, force)


def check_new(out: str | Path, force: bool) -> None:
    """Raises TraceError when ``out`` exists and may not be replaced."""
    if Path(out).exists() and not force:
        raise TraceError("exists already; expected a new name. Choose another, or replace it with --force "
                         "(force=True).", out)  # fmt: skip


def check_mapping(path: str | Path, *others: str | Path, force: bool = False) -> None:
    """Raises TraceError or OutputError when a mapping cannot be written there; asked before a long reading."""
    check_file(path)
    if any(Path(other) == Path(path) for other in others):
        raise TraceError("it is the trace; expected a file of its own. Choose another name.", path)
    check_new(path, force)
