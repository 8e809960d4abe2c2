"""Parquet files of a run folder, written in row groups so that memory stays bounded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from .schema import BY_NAME, TABLES, arrow_schema

ZSTD_LEVEL = 1
"""Higher levels halve no file and double the time."""


class TableWriters:
    """
    One Parquet file a table of the schema; a table nothing was added to becomes a file without rows.

    Equal rows added in equal pieces give equal bytes.

    Parameters
    ----------
    folder
        Where ``TABLE.parquet`` goes; exists.
    """

    def __init__(self, folder: Path) -> None:
        self.rows = {table.name: 0 for table in TABLES}
        self._writers = {}
        for table in TABLES:
            names = [column.name for column in table.columns if column.type in ("name", "string")]
            numbers = {column.name: "DELTA_BINARY_PACKED" for column in table.columns if column.type.startswith("int")}
            self._writers[table.name] = pq.ParquetWriter(
                folder / f"{table.name}.parquet", arrow_schema(table), compression="zstd",
                compression_level=ZSTD_LEVEL, use_dictionary=names, column_encoding=numbers)

    def add(self, table: str, columns: Mapping[str, Any]) -> None:
        """
        Add rows, as one row group.

        Parameters
        ----------
        table
            Name of a table of the schema.
        columns
            Each of its columns: an array or list of equal length, or an arrow array (see ``named``).
        """
        schema = arrow_schema(BY_NAME[table])
        arrays = [_arrow(columns[field.name], field.type) for field in schema]
        batch = pa.table(arrays, schema=schema)
        if batch.num_rows:
            self.rows[table] += batch.num_rows
            self._writers[table].write_table(batch, row_group_size=batch.num_rows)

    def close(self) -> None:
        """End all files."""
        for writer in self._writers.values():
            writer.close()

    def __enter__(self) -> TableWriters:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self.close()


def named(codes: np.ndarray, names: Sequence[str]) -> pa.DictionaryArray:
    """A column of names from codes into ``names``; null where the code is negative."""
    mask = codes < 0
    return pa.DictionaryArray.from_arrays(
        pa.array(np.where(mask, 0, codes).astype(np.int32), mask=mask if mask.any() else None),
        pa.array(names, pa.string()))


def _arrow(column: Any, kind: pa.DataType) -> pa.Array:
    if isinstance(column, pa.Array):
        return column
    if pa.types.is_dictionary(kind):
        return pa.array(column, pa.string()).dictionary_encode()
    if isinstance(column, np.ndarray) and pa.types.is_integer(kind):
        # Columns of a row-major buffer are strided; arrow wants them whole.
        return pa.array(np.ascontiguousarray(column, kind.to_pandas_dtype()))
    return pa.array(column, kind)
