"""What the engine does for every rule: sum over broadcast axes, cast, add and copy.

They are operations themselves, so that a recorded backward pass, and a tape, see them like any other.
"""

from __future__ import annotations

import numpy as np

from minigrad.core.op import Op


def _sum_to(x: np.ndarray, *, shape: tuple[int, ...]) -> np.ndarray:
    extra = x.ndim - len(shape)
    copied = [extra + i for i, size in enumerate(shape) if size == 1 and x.shape[extra + i] != 1]
    return x.sum(axis=(*range(extra), *copied), keepdims=True, dtype=x.dtype).reshape(shape)


def _broadcast_to(x: np.ndarray, *, shape: tuple[int, ...]) -> np.ndarray:
    return np.broadcast_to(x, shape).view()


# For each: the formula, and the rule.
_SUM_TO = "y = Σ x over the axes that broadcasting copied,  x̄ = ȳ copied along them"
_sum_to_rule = {"x": lambda g, like_x: broadcast_to(g, shape=like_x.shape)}
sum_to = Op("sum_to", _sum_to, _sum_to_rule, kind="linear", formula=_SUM_TO)

_BROADCAST_TO = "y = x copied to a shape,  x̄ = ȳ summed over the copies"
_broadcast_to_rule = {"x": lambda g, like_x: sum_to(g, shape=like_x.shape)}
broadcast_to = Op("broadcast_to", _broadcast_to, _broadcast_to_rule, kind="linear", formula=_BROADCAST_TO)

_CAST = "y = x in another dtype,  x̄ = ȳ in x's"
_cast_rule = {"x": lambda g, like_x: cast(g, dtype=like_x.dtype)}
cast = Op("cast", lambda x, *, dtype: x.astype(dtype), _cast_rule, kind="linear", formula=_CAST)

_ADD, _SUM = "y = a + b,  ā = ȳ,  b̄ = ȳ", "Add, elementwise, with broadcasting."
add = Op("add", np.add, {"a": lambda g: g, "b": lambda g: g}, kind="elementwise", formula=_ADD, doc=_SUM)

copy = Op("copy", lambda x: np.array(x), {"x": lambda g: g}, kind="linear", formula="y = x,  x̄ = ȳ")
assign = Op("assign", lambda old, new: new.view(), formula="the leaf's value becomes `new`")
