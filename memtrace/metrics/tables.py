"""Parquet files of a run folder, written in row groups so that memory stays bounded."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from .arrays import integers, lists, named, strings
from .schema import BY_NAME, TABLES, arrow_schema

ZSTD_LEVEL = 3
"""On samples, where most bytes are zero, smaller and quicker than level 1 with or without delta encoding."""


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
            self._writers[table.name] = pq.ParquetWriter(
                folder / f"{table.name}.parquet", arrow_schema(table), compression="zstd",
                compression_level=ZSTD_LEVEL, use_dictionary=names,
                # So that one sample is found without reading the others.
                write_statistics=["t_ns"] if "t_ns" in table.names else False)

    def add(self, table: str, columns: Mapping[str, Any]) -> None:
        """
        Add rows, as one row group.

        Parameters
        ----------
        table
            Name of a table of the schema.
        columns
            Each of its columns: an array or list of equal length, or an arrow array.
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


def _arrow(column: Any, kind: pa.DataType) -> pa.Array:
    if isinstance(column, pa.Array):
        return column
    if pa.types.is_dictionary(kind):
        names = list(dict.fromkeys(column))
        code = {name: i for i, name in enumerate(names)}
        return named(np.array([code[name] for name in column], np.int64), names)
    if pa.types.is_string(kind):
        return strings(column)
    if pa.types.is_list(kind):
        return lists(column)
    return integers(np.asarray(column), kind)
