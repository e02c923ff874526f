"""Contractions: products that sum over shared axes. matmul is the common one, einsum the general one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.lib.array_utils import normalize_axis_tuple

from minigrad.core.adjoint import sum_to
from minigrad.core.op import Op
from minigrad.core.value import raw
from minigrad.kernels import matmul as kernels
from minigrad.ops.elementwise import multiply
from minigrad.ops.manipulation import expand_dims, matrix_transpose, permute_dims, reshape, squeeze
from minigrad.ops.reduction import sum as sum_


def _is_for_blas(a: Any, b: Any) -> bool:
    """Where a vector is multiplied with a larger matrix, all that counts is to read it once: BLAS does so faster."""
    return type(b) is np.ndarray and a.size + b.size > 8192 and 1 in (a.shape[-2], b.shape[-1])


def _by_kernel(a: Any, b: Any) -> Any:
    return NotImplemented if _is_for_blas(a, b) else kernels.matmul(a, b)


_matmul = Op(
    "matmul",
    np.matmul,
    vjp={
        "a": lambda g, b: _matmul(g, matrix_transpose(b)),
        "b": lambda g, a: _matmul(matrix_transpose(a), g),
    },
    kernels={"y": (_by_kernel, 0)},
    kind="bilinear",
    signature="(m,k),(k,n)->(m,n)",
    formula="Y = AB,  Ā = ȲBᵀ,  B̄ = AᵀȲ",
)


def matmul(a: Any, b: Any) -> Any:
    """Matrix product of the last two axes; leading axes broadcast; a 1-D operand is a row (left) or a column (right).

    Raises:
        ValueError: a 0-d operand, or inner dimensions that differ.

    Example:
        >>> import minigrad as mg
        >>> mg.matmul(mg.Tensor([[1.0, 2.0]]), mg.Tensor([3.0, 4.0])).data
        array([11.])
    """
    m, n = raw(a), raw(b)
    if m.ndim == 0 or n.ndim == 0:
        raise ValueError(
            f"matmul: expected arrays of at least one dimension, got shapes {m.shape} and {n.shape}; use *"
        )
    if m.shape[-1] != n.shape[-2 if n.ndim > 1 else 0]:
        raise ValueError(
            f"matmul: the last axis of a and the last but one of b must agree, got shapes {m.shape} and {n.shape}"
        )
    a = expand_dims(a, 0) if m.ndim == 1 else a
    b = expand_dims(b, 1) if n.ndim == 1 else b
    y = _matmul(a, b)
    y = squeeze(y, -1) if n.ndim == 1 else y
    return squeeze(y, -2 if n.ndim > 1 else -1) if m.ndim == 1 else y


_linear = Op(
    "linear",
    lambda x, w, b: np.matmul(x, w) + b[..., None, :],
    vjp={
        "x": lambda g, w: _matmul(g, matrix_transpose(w)),
        "w": lambda g, x: _matmul(matrix_transpose(x), g),
        "b": lambda g: sum_(g, -2),
    },
    kernels={"y": (lambda x, w, b: NotImplemented if _is_for_blas(x, w) else kernels.linear(x, w, b), 0)},
    signature="(m,k),(k,n),(n)->(m,n)",
    formula="Y = XW + b,  X̄ = ȲWᵀ,  W̄ = XᵀȲ,  b̄ = Σ Ȳ over rows",
)


def linear(x: Any, w: Any, b: Any = None) -> Any:
    """x·w + b in one pass: x (..., k), w (k, n), b (n,) or None, for no b.

    Raises:
        ValueError: shapes that don't fit.

    Example:
        >>> import minigrad as mg
        >>> mg.linear(mg.Tensor([[1.0, 2.0]]), mg.Tensor([[3.0], [4.0]]), mg.Tensor([0.5])).data
        array([[11.5]])
    """
    m, n = raw(x).shape, raw(w).shape
    if not m or len(n) != 2 or m[-1] != n[0] or (b is not None and raw(b).shape != n[1:]):
        given = f"{m}, {n} and {None if b is None else raw(b).shape}"
        raise ValueError(f"linear: expected x (..., k), w (k, n) and b (n,) or None, got shapes {given}")
    if b is None:
        return matmul(x, w)
    if len(m) == 1:
        return squeeze(_linear(expand_dims(x, 0), w, b), 0)
    return _linear(x, w, b)


def tensordot(a: Any, b: Any, axes: int | tuple[Sequence[int], Sequence[int]] = 2) -> Any:
    """Sum over pairs of axes: the last `axes` of a with the first of b, or the pairs (axes of a, axes of b).

    Raises:
        ValueError: paired axes of different lengths.
    """
    m, n = raw(a), raw(b)
    if isinstance(axes, int):
        if not 0 <= axes <= min(m.ndim, n.ndim):
            raise ValueError(
                f"tensordot: expected 0 to {min(m.ndim, n.ndim)} axes for shapes {m.shape}, {n.shape}, got {axes}"
            )
        axes = (range(m.ndim - axes, m.ndim), range(axes))
    left, right = (
        normalize_axis_tuple(tuple(np.atleast_1d(np.asarray(list(x) if not isinstance(x, int) else x, int))), d)
        for x, d in zip(axes, (m.ndim, n.ndim), strict=True)
    )
    shared = tuple(m.shape[i] for i in left)
    if shared != tuple(n.shape[i] for i in right):
        raise ValueError(f"tensordot: axes {left} of shape {m.shape} and {right} of shape {n.shape} differ in length")
    rows = [i for i in range(m.ndim) if i not in left]
    columns = [i for i in range(n.ndim) if i not in right]
    k = int(np.prod(shared, dtype=int))
    row_shape, column_shape = [m.shape[i] for i in rows], [n.shape[i] for i in columns]
    a = reshape(permute_dims(a, (*rows, *left)), (int(np.prod(row_shape, dtype=int)), k))
    b = reshape(permute_dims(b, (*right, *columns)), (k, int(np.prod(column_shape, dtype=int))))
    return reshape(_matmul(a, b), (*row_shape, *column_shape))


def outer(a: Any, b: Any) -> Any:
    """Products of every element of a with every element of b, both flattened: shape (a.size, b.size)."""
    return multiply(reshape(a, (-1, 1)), reshape(b, (1, -1)))


def vecdot(a: Any, b: Any, axis: int = -1) -> Any:
    """Dot products of vectors along an axis; the other axes broadcast.

    Raises:
        ValueError: vectors of different lengths.
    """
    m, n = raw(a), raw(b)
    if m.shape[axis] != n.shape[axis]:
        raise ValueError(f"vecdot: vectors along axis {axis} differ in length, got shapes {m.shape} and {n.shape}")
    return sum_(multiply(a, b), axis)


def _complete(subscripts: str, ndims: list[int]) -> tuple[list[str], str]:
    """Explicit subscripts of the operands and of the output: no ellipsis, no implied output, no spaces."""
    text = subscripts.replace(" ", "")
    inputs, arrow, output = text.partition("->")
    operands = inputs.split(",")
    if len(operands) != len(ndims):
        raise ValueError(f"einsum: {subscripts!r} names {len(operands)} operands, got {len(ndims)}")
    free = [c for c in "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz" if c not in text]
    dots = [ndim - len(s.replace("...", "")) if "..." in s else 0 for s, ndim in zip(operands, ndims, strict=True)]
    longest = max(dots, default=0)
    letters = free[:longest]
    operands = [s.replace("...", "".join(letters[longest - d :])) for s, d in zip(operands, dots, strict=True)]
    for s, ndim in zip(operands, ndims, strict=True):
        if len(s) != ndim:
            raise ValueError(
                f"einsum: {s!r} in {subscripts!r} has {len(s)} subscripts for an operand of {ndim} dimensions"
            )
    if not arrow:
        named = sorted(c for c in set("".join(operands)) - set(letters) if "".join(operands).count(c) == 1)
        output = "..." * bool(letters) + "".join(named)
    output = output.replace("...", "".join(letters))
    if unknown := set(output) - set("".join(operands)):
        raise ValueError(f"einsum: the output of {subscripts!r} has {', '.join(sorted(unknown))}, which no operand has")
    return operands, output


_einsum = Op(
    "einsum",
    lambda a, b, *, a_axes, b_axes, axes: np.array(np.einsum(f"{a_axes},{b_axes}->{axes}", a, b)),
    vjp={
        "a": lambda g, b, like_a, a_axes, b_axes, axes: _einsum_vjp(g, b, like_a, a_axes, b_axes, axes),
        "b": lambda g, a, like_b, a_axes, b_axes, axes: _einsum_vjp(g, a, like_b, b_axes, a_axes, axes),
    },
    kind="bilinear",
    formula="y = Σ a·b over the axes that y lacks;  ā = Σ ȳ·b,  b̄ = Σ ȳ·a over the axes that they lack",
)


def _einsum_vjp(g: Any, other: Any, like: Any, own: str, others: str, axes: str) -> Any:
    """The cotangent of one operand: what neither ȳ nor the other operand has is copied, a diagonal is put in place."""
    distinct = "".join(dict.fromkeys(own))
    present = [c for c in distinct if c in axes or c in others]
    c = _einsum(g, other, a_axes=axes, b_axes=others, axes="".join(present))
    sizes = dict(zip(own, like.shape, strict=True))
    kept = tuple(1 if sizes[name] == 1 else n for name, n in zip(present, raw(c).shape, strict=True))
    c = sum_to(c, shape=kept)  # over axes along which the operand, of length 1 there, was copied
    c = reshape(c, tuple(kept[present.index(name)] if name in present else 1 for name in distinct))
    for position, name in enumerate(own):  # along repeated subscripts only the diagonal was read
        if own.index(name) != position:
            c = expand_dims(c, position)
    c = multiply(c, np.ones((1,) * len(own), like.dtype))
    for position, name in enumerate(own):
        if own.index(name) != position:
            eye = np.eye(sizes[name], dtype=like.dtype)
            shape = [1] * len(own)
            shape[own.index(name)] = shape[position] = sizes[name]
            c = multiply(c, eye.reshape(shape))
    return multiply(c, np.ones(like.shape, like.dtype))


def einsum(subscripts: str, *operands: Any) -> Any:
    """Einstein summation in NumPy's notation: `einsum("ij,jk->ik", a, b)`; operands are contracted from left to right.

    Raises:
        ValueError: subscripts that don't fit the operands.

    Example:
        >>> import minigrad as mg
        >>> a = mg.Tensor([[1.0, 2.0], [3.0, 4.0]])
        >>> mg.einsum("ii->", a).data
        array(5.)
    """
    if not operands:
        raise ValueError("einsum: expected at least one operand, got none")
    inputs, output = _complete(subscripts, [raw(x).ndim for x in operands])
    a, a_axes = operands[0], inputs[0]
    if len(operands) == 1:
        return _einsum(a, np.ones((), raw(a).dtype), a_axes=a_axes, b_axes="", axes=output)
    for k, (b, b_axes) in enumerate(zip(operands[1:], inputs[1:], strict=True), start=2):
        later = output + "".join(inputs[k:])
        axes = output if k == len(operands) else "".join(c for c in dict.fromkeys(a_axes + b_axes) if c in later)
        a, a_axes = _einsum(a, b, a_axes=a_axes, b_axes=b_axes, axes=axes), axes
    return a


__all__ = ["einsum", "linear", "matmul", "outer", "tensordot", "vecdot"]
