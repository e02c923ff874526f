"""Adding rows at places that may repeat. A chunk has some columns and all rows, which it adds in their order."""

from __future__ import annotations

from typing import Any

from minigrad.kernels.code.reductions import loaded, put
from minigrad.kernels.native import Source
from minigrad.kernels.vectors import lanes_of


def add_rows(
    rows: Any, values: Any, y: Any, failed: Any, length: int, n: int, columns: int, per_chunk: int, chunk: int
) -> None:
    """y[rows[i]] += values[i], for i = 0 ... n - 1; up to the first row that y, of this length, does not have."""
    first, last = chunk * per_chunk, min((chunk + 1) * per_chunk, columns)
    for i in range(n):
        row = rows[i] if rows[i] >= 0 else rows[i] + length
        if not 0 <= row < length:
            if chunk == 0:
                failed[0] = 1
            return
        if columns == 1:
            y[row] += values[i]
            continue
        source, target = i * columns, row * columns
        for j in range(first, last, lanes_of(y)):
            count = last - j
            put(y, target + j, loaded(y, target + j, count) + loaded(values, source + j, count), count)


SOURCES = {"add_rows": Source(add_rows, "int64* real* real* int64* int int int int")}
