"""Data: minibatches of arrays that have one sample a row."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, SupportsIndex

import numpy as np

from minigrad import random
from minigrad.arrays import check_dtype
from minigrad.random import Generator
from minigrad.tensor import Tensor, from_numpy

__all__ = ["Minibatches", "minibatches"]


class Minibatches:
    """What `minibatches` returns: iterate over it once an epoch, each time in a new order; `len` is an epoch's."""

    def __init__(
        self,
        arrays: tuple[np.ndarray, ...],
        batch_size: int,
        generator: Generator | None,
        shuffle: bool,
        drop_last: bool,
    ):
        self._arrays, self._batch_size, self._generator = arrays, batch_size, generator
        self._shuffle, self._drop_last = shuffle, drop_last

    def __len__(self) -> int:
        whole, rest = divmod(len(self._arrays[0]), self._batch_size)
        return whole + (rest > 0 and not self._drop_last)

    def __iter__(self) -> Iterator[Any]:
        count = len(self._arrays[0])
        order = random.permutation(count, generator=self._generator).data if self._shuffle else np.arange(count)
        for i in range(len(self)):
            rows = order[i * self._batch_size : (i + 1) * self._batch_size]
            batch = tuple(from_numpy(np.take(array, rows, axis=0)) for array in self._arrays)
            yield batch if len(batch) > 1 else batch[0]


def minibatches(
    *arrays: Any,
    batch_size: int,
    seed: SupportsIndex | None = None,
    generator: Generator | None = None,
    shuffle: bool = True,
    drop_last: bool = False,
) -> Minibatches:
    """Minibatches of the rows of one array, or of the same rows of several, as tensors.

    Args:
        arrays: arrays or tensors of one length n.
        batch_size: rows in a batch, at least 1; the last one of an epoch has what is left.
        seed: makes the orders of all epochs reproducible.
        generator: where the orders are drawn from instead; if neither is given, the generator of the context.
        shuffle: whether each epoch has a new order; otherwise the rows come as they are.
        drop_last: leave out a last batch that would be smaller.

    Returns:
        An iterable with a length. It yields a tensor (batch_size, ...), or for several arrays a tuple of them.

    Raises:
        ValueError: no arrays, one without rows, different lengths, batch_size < 1, or both seed and generator.
        TypeError: an array of a dtype that tensors don't have.

    Example:
        >>> import numpy as np, minigrad as mg
        >>> x, y = np.arange(10.0).reshape(5, 2), np.arange(5)
        >>> batches = mg.data.minibatches(x, y, batch_size=2, seed=0)
        >>> len(batches), [(xb.shape, yb.shape) for xb, yb in batches]
        (3, [((2, 2), (2,)), ((2, 2), (2,)), ((1, 2), (1,))])
    """
    plain = tuple(array.data if isinstance(array, Tensor) else np.asarray(array) for array in arrays)
    if not plain or any(array.ndim == 0 for array in plain):
        raise ValueError("minibatches: expected at least one array, each with one sample a row")
    for array in plain:
        check_dtype(array.dtype)
    lengths = [len(array) for array in plain]
    if len(set(lengths)) > 1:
        raise ValueError(f"minibatches: the arrays have different lengths: {', '.join(map(str, lengths))}")
    if batch_size < 1:
        raise ValueError(f"minibatches: batch_size is at least 1, not {batch_size}")
    if seed is not None and generator is not None:
        raise ValueError("minibatches: give seed or generator, not both")
    return Minibatches(plain, batch_size, Generator(seed) if seed is not None else generator, shuffle, drop_last)
