"""Tensor: the face that people touch. Every operator and method is one line into `minigrad.ops`.

A tensor is an array and a node (see `minigrad.core.value`); its `.grad` and its hooks live here too. Arrays never
change: results are read-only, `.data` is a read-only view, and a leaf gets another value by `assign` only.
"""

from __future__ import annotations

import operator
import sys
from collections.abc import Callable, Iterator
from threading import RLock
from typing import Any, NoReturn, Self
from weakref import ref

import numpy as np
from numpy.typing import DTypeLike

from minigrad import ops
from minigrad.arrays import changeable, check_dtype, frozen, read_only_view
from minigrad.core import adjoint
from minigrad.core.backward import backward
from minigrad.core.mode import changed, current, grad_enabled
from minigrad.core.node import Leaf
from minigrad.core.value import Value
from minigrad.ops import add, by_numpy, divide, matmul, multiply, negative, subtract
from minigrad.tape import pass_begins

Axis = int | tuple[int, ...] | None


class Tensor(Value):
    """An array that remembers how it was computed.

    Args:
        data: an array (copied), a number, or a nest of lists; float64 if of Python floats, as in NumPy.
        dtype: float32, float64, an integer or boolean dtype; default: that of the data.
        requires_grad: whether backward leaves a gradient in `.grad`; floating-point tensors only.

    Raises:
        TypeError: a dtype that the engine does not compute with, an integer tensor that requires a gradient, or data
            that is a tensor through which a gradient flows, and would be lost (under no_grad() it may be).

    Example:
        >>> from minigrad import Tensor
        >>> x = Tensor([1.0, 2.0, 3.0], requires_grad=True)
        >>> loss = (x * x).sum()
        >>> loss.backward()
        >>> x.grad.data
        array([2., 4., 6.])
    """

    __slots__ = ()

    def __init__(self, data: Any, dtype: DTypeLike | None = None, requires_grad: bool = False):
        if isinstance(data, Tensor):
            data._refuse_to_lose_gradient()
        array = np.array(data.array if isinstance(data, Value) else data, dtype=dtype)
        array.setflags(write=False)
        self._set_leaf(frozen(array), requires_grad)
        if (mode := current()) is not None:
            for watcher in mode.watchers:
                watcher.copied(data, self)

    def _set_leaf(self, array: np.ndarray, requires_grad: bool) -> None:
        if requires_grad:
            _check_differentiable(array.dtype)
        self.node = None
        self.become_leaf(array, requires_grad)

    # What it is

    @property
    def shape(self) -> tuple[int, ...]:
        """The length of each axis."""
        return self.array.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """The NumPy dtype."""
        return self.array.dtype

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return self.array.ndim

    @property
    def size(self) -> int:
        """The number of elements."""
        return self.array.size

    @property
    def data(self) -> np.ndarray:
        """The values, as a read-only view. Setting it is `assign`."""
        self._show_watchers(".data")
        return read_only_view(self.array)

    @data.setter
    def data(self, value: Any) -> None:
        self.assign(value)

    @property
    def is_leaf(self) -> bool:
        """Whether no recorded operation made it."""
        return self.node is None or type(self.node) is Leaf

    @property
    def requires_grad(self) -> bool:
        """Whether a gradient flows through it. Can be set on leaves."""
        return self.node is not None and self.node.requires_grad

    @requires_grad.setter
    def requires_grad(self, value: bool) -> None:
        if not self.is_leaf:
            raise RuntimeError(
                f"requires_grad can be set on leaves only; {self.node!r} is a result: use detach() first"
            )
        if value:
            _check_differentiable(self.dtype)
        if self.node is None:
            self.become_leaf(self.array, bool(value))
        elif value != self.node.requires_grad:  # the same leaf: its value did not change, so no graph becomes stale
            self.node.requires_grad = bool(value)
            self.node.owner = ref(self) if value else None

    def _show_watchers(self, how: str) -> None:
        """Tell whoever watches that Python is about to see the values, by a method of this class."""
        if (mode := current()) is not None:
            for watcher in mode.watchers:
                watcher.looked(self, how)

    def __repr__(self) -> str:
        self._show_watchers("print() or repr()")
        text = np.array2string(self.array, separator=", ", prefix="Tensor(")
        default = self.dtype in (np.float64, np.int64, np.bool_)
        by = "" if self.is_leaf else f", by={self.node.plan.op.name}"  # type: ignore[union-attr]
        grad = ", requires_grad=True" if self.is_leaf and self.requires_grad else ""
        return f"Tensor({text}{'' if default else f', dtype={self.dtype}'}{grad}{by})"

    def __format__(self, spec: str) -> str:
        return format(self.item() if spec and self.ndim == 0 else str(self), spec)

    def __len__(self) -> int:
        if self.ndim == 0:
            raise TypeError("a tensor of no dimensions has no length")
        return self.shape[0]

    def __iter__(self) -> Iterator[Self]:
        if self.ndim == 0:
            raise TypeError("can't iterate over a tensor of no dimensions")
        return iter(ops.unstack(self))

    def __bool__(self) -> bool:
        return bool(self.item())

    def __float__(self) -> float:
        return float(self.item())

    def __int__(self) -> int:
        return int(self.item())

    def __index__(self) -> int:
        return operator.index(self.item())

    __hash__ = object.__hash__

    def item(self) -> Any:
        """The only element, as a Python number.

        Raises:
            ValueError: more than one element, or none.
        """
        if self.size != 1:
            raise ValueError(f"item() takes a tensor of one element, got shape {self.shape}")
        self._show_watchers(".item(), float(), int() or a branch on it")
        return self.array.item()

    def tolist(self) -> Any:
        """The values as nested lists of Python numbers."""
        self._show_watchers(".tolist()")
        return self.array.tolist()

    # Its value

    def assign(self, value: Any) -> Self:
        """Give a leaf another value, of the same shape and dtype; a Python number fills it.

        Graphs that were recorded with the old value, and need it, refuse to run backward from now on.

        Raises:
            RuntimeError: not a leaf, or a value through which a gradient flows.
            ValueError, TypeError: another shape, another dtype.

        Example:
            >>> import minigrad as mg
            >>> w = mg.Tensor([1.0, 2.0], requires_grad=True)
            >>> w.assign([3.0, 4.0]).data
            array([3., 4.])
        """
        if not self.is_leaf:
            raise RuntimeError(f"assign: only leaves can be assigned; {self.node!r} is the result of an operation")
        new = value if isinstance(value, Tensor) else self._like_self(value)
        if new.requires_grad and grad_enabled():
            raise RuntimeError(
                "assign: the value has a history, which would be lost: use detach(), or work under no_grad()"
            )
        if new.shape != self.shape:
            raise ValueError(f"assign: expected shape {self.shape}, got {new.shape}")
        if new.dtype != self.dtype:
            raise TypeError(
                f"assign: expected dtype {self.dtype}, got {new.dtype}: convert with astype({str(self.dtype)!r})"
            )
        self.become_leaf(adjoint.assign(self, new).array, self.requires_grad)
        return self

    def _like_self(self, value: Any) -> Tensor:
        """A value that is no tensor as one: numbers and lists are weak, arrays keep their dtype."""
        if isinstance(value, np.ndarray):
            return Tensor(value)
        into, kind = ("bif".find(d.kind.replace("u", "i")) for d in (self.dtype, np.asarray(value).dtype))
        if kind > into:
            raise TypeError(f"assign: {value!r} would be truncated to {self.dtype}: convert with astype first")
        if isinstance(value, (bool, int, float, np.generic)):
            value = np.full(self.shape, value, self.dtype)
        return Tensor(value, self.dtype)

    def detach(self) -> Self:
        """The same values without their history."""
        return self.wrap(self.array)

    # Its gradient

    @property
    def grad(self) -> Any:
        """The gradient that backward left here, a tensor of the same shape and dtype, or None."""
        return getattr(self, "_grad", None)

    @grad.setter
    def grad(self, value: Tensor | None) -> None:
        if value is not None and (
            not isinstance(value, Tensor) or (value.shape, value.dtype) != (self.shape, self.dtype)
        ):
            given = f"{value.dtype} {value.shape}" if isinstance(value, Tensor) else type(value).__name__
            raise TypeError(f"grad: expected None or a tensor {self.dtype} {self.shape}, got {given}")
        self._grad = value

    def zero_grad(self) -> None:
        """Forget the gradient."""
        self._grad = None

    def backward(self, cotangent: Any = None, retain_graph: bool | None = None, create_graph: bool = False) -> None:
        """Add the gradient of this tensor to `.grad` of every leaf that requires one.

        Args:
            cotangent: what the Jacobian is multiplied with from the left, of this tensor's shape and dtype; for one
                element it may be left out, and is 1.
            retain_graph: keep what the graph saved, so that backward can be called again; default: `create_graph`.
            create_graph: record this pass, so that the gradients can be differentiated.

        Raises:
            RuntimeError: no gradient flows here, the graph was freed, or a leaf that it needs was assigned since.
            ValueError, TypeError: a cotangent of another shape or dtype.
        """
        if not self.requires_grad:
            raise RuntimeError(
                "backward: no gradient flows through this tensor; set requires_grad=True on what it is computed from, "
                "and compute it outside of no_grad()"
            )
        g: Any = np.ones(self.shape, self.dtype) if cotangent is None and self.size == 1 else self._cotangent(cotangent)
        if isinstance(g, Tensor) and not (create_graph and g.requires_grad):
            g = g.array
        retain = create_graph if retain_graph is None else retain_graph
        cls = type(self)
        pass_begins()
        reached = backward([(self.node, g)], cls, retain_graph=retain, create_graph=create_graph)  # type: ignore[list-item]
        _accumulate(reached, cls, create_graph)

    def _cotangent(self, given: Any) -> Tensor:
        if given is None:
            raise ValueError(
                f"backward: a tensor of shape {self.shape} needs a cotangent of that shape; or reduce it, to sum() say"
            )
        g = given if isinstance(given, Tensor) else Tensor(given, None if isinstance(given, np.ndarray) else self.dtype)
        if g.shape != self.shape:
            raise ValueError(f"backward: expected a cotangent of shape {self.shape}, got {g.shape}")
        if g.dtype != self.dtype:
            raise TypeError(f"backward: expected a cotangent of dtype {self.dtype}, got {g.dtype}: convert with astype")
        return g

    def register_hook(self, hook: Callable[[Any], Any]) -> Hook:
        """Call `hook(gradient)` in backward with the whole gradient; unless it returns None, that replaces it.

        Hooks live on the tensor: keep a reference to it until backward. Returns a handle with `remove()`.

        Raises:
            RuntimeError: no gradient flows through this tensor.
            TypeError: the hook can't be called.

        Example:
            >>> import minigrad as mg
            >>> x = mg.Tensor(2.0, requires_grad=True)
            >>> handle = x.register_hook(lambda g: g * 10.0)
            >>> (x * x).backward()
            >>> x.grad.item()
            40.0
        """
        if self.node is None or not self.node.requires_grad:
            raise RuntimeError("register_hook: no gradient flows through this tensor: it needs requires_grad=True")
        if not callable(hook):
            raise TypeError(f"register_hook: expected a function of the gradient, got {hook!r}")
        if not hasattr(self, "_hooks"):
            self._hooks = {}
        if not isinstance(self.node.owner, Hooked):
            self.node.owner = Hooked(self)
        return Hook(self, self.node.owner, hook)

    def retain_grad(self) -> None:
        """Let backward leave a gradient in `.grad` though this is no leaf."""
        if self.node is None or not self.node.requires_grad:
            raise RuntimeError("retain_grad: no gradient flows through this tensor: it needs requires_grad=True")
        if self.node.owner is None:
            self.node.owner = ref(self)
        self._retains = True

    # Operators

    def __neg__(self) -> Self:
        return negative(self)

    def __pos__(self) -> Self:
        return self

    def __abs__(self) -> Self:
        return ops.abs(self)

    def __add__(self, other: Any) -> Self:
        return add(self, other)

    def __radd__(self, other: Any) -> Self:
        return add(other, self)

    def __sub__(self, other: Any) -> Self:
        return subtract(self, other)

    def __rsub__(self, other: Any) -> Self:
        return subtract(other, self)

    def __mul__(self, other: Any) -> Self:
        return multiply(self, other)

    def __rmul__(self, other: Any) -> Self:
        return multiply(other, self)

    def __truediv__(self, other: Any) -> Self:
        return divide(self, other)

    def __rtruediv__(self, other: Any) -> Self:
        return divide(other, self)

    def __pow__(self, other: Any) -> Self:
        return ops.pow(self, other)

    def __rpow__(self, other: Any) -> Self:
        return ops.pow(other, self)

    def __matmul__(self, other: Any) -> Self:
        return matmul(self, other)

    def __rmatmul__(self, other: Any) -> Self:
        return matmul(other, self)

    def __eq__(self, other: object) -> Self:  # type: ignore[override]
        return ops.equal(self, other)

    def __ne__(self, other: object) -> Self:  # type: ignore[override]
        return ops.not_equal(self, other)

    def __lt__(self, other: Any) -> Self:
        return ops.less(self, other)

    def __le__(self, other: Any) -> Self:
        return ops.less_equal(self, other)

    def __gt__(self, other: Any) -> Self:
        return ops.greater(self, other)

    def __ge__(self, other: Any) -> Self:
        return ops.greater_equal(self, other)

    def __getitem__(self, index: Any) -> Self:
        return ops.getitem(self, index)

    def __setitem__(self, index: Any, value: Any) -> NoReturn:
        raise TypeError("tensors don't change in place: write t = minigrad.setitem(t, index, value)")

    def __iadd__(self, other: Any) -> Self:
        return self._in_place("+", ops.add, other)

    def __isub__(self, other: Any) -> Self:
        return self._in_place("-", ops.subtract, other)

    def __imul__(self, other: Any) -> Self:
        return self._in_place("*", ops.multiply, other)

    def __itruediv__(self, other: Any) -> Self:
        return self._in_place("/", ops.divide, other)

    def __ipow__(self, other: Any) -> Self:
        return self._in_place("**", ops.pow, other)

    def __imatmul__(self, other: Any) -> Self:
        return self._in_place("@", ops.matmul, other)

    def _in_place(self, symbol: str, op: Callable[..., Any], other: Any) -> Self:
        if grad_enabled() or not self.is_leaf:
            raise TypeError(
                f"{symbol}= would change a tensor in place: write t = t {symbol} other; "
                "to update a leaf, such as a parameter, do it under no_grad()"
            )
        return self.assign(op(self, other))

    # NumPy's protocols

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> np.ndarray:
        self._refuse_to_lose_gradient()
        self._show_watchers("a conversion to a NumPy array")
        if dtype is not None and np.dtype(dtype) != self.dtype:
            if copy is False:
                raise ValueError(f"a tensor of {self.dtype} becomes an array of {np.dtype(dtype)} by copying only")
            return self.array.astype(dtype)
        return self.array.copy() if copy else read_only_view(self.array)

    def _refuse_to_lose_gradient(self) -> None:
        if self.requires_grad and grad_enabled():
            raise TypeError(
                "a tensor through which a gradient flows does not turn into an array by itself, since the gradient "
                "would be lost: take .data, or .detach() it first"
            )

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **options: Any) -> Any:
        return by_numpy.call_ufunc(ufunc, method, inputs, options)

    def __array_function__(self, function: Callable[..., Any], types: Any, args: Any, options: Any) -> Any:
        return by_numpy.call_function(function, args, options)

    # Copies and files

    def __copy__(self) -> Self:
        return self.__deepcopy__({})

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        if not self.is_leaf:
            raise RuntimeError(
                f"only leaves can be copied by the copy module; {self.node!r} is a result: detach() it first"
            )
        return type(self)(self.array, requires_grad=self.requires_grad)

    def __reduce__(self) -> NoReturn:
        raise TypeError("tensors are not pickled: save them with minigrad.io.save")

    # Methods

    @property
    def T(self) -> Self:
        """Axes in reverse order; for a matrix its transpose."""
        return ops.permute_dims(self, tuple(range(self.ndim))[::-1])

    @property
    def mT(self) -> Self:
        """The last two axes exchanged."""
        return ops.matrix_transpose(self)

    def sum(self, axis: Axis = None, keepdims: bool = False) -> Self:
        """See `minigrad.sum`."""
        return ops.sum(self, axis, keepdims)

    def mean(self, axis: Axis = None, keepdims: bool = False) -> Self:
        """See `minigrad.mean`."""
        return ops.mean(self, axis, keepdims)

    def max(self, axis: Axis = None, keepdims: bool = False) -> Self:
        """See `minigrad.max`."""
        return ops.max(self, axis, keepdims)

    def min(self, axis: Axis = None, keepdims: bool = False) -> Self:
        """See `minigrad.min`."""
        return ops.min(self, axis, keepdims)

    def var(self, axis: Axis = None, correction: float = 0, keepdims: bool = False) -> Self:
        """See `minigrad.var`."""
        return ops.var(self, axis, correction, keepdims)

    def std(self, axis: Axis = None, correction: float = 0, keepdims: bool = False) -> Self:
        """See `minigrad.std`."""
        return ops.std(self, axis, correction, keepdims)

    def prod(self, axis: Axis = None, keepdims: bool = False) -> Self:
        """See `minigrad.prod`."""
        return ops.prod(self, axis, keepdims)

    def argmax(self, axis: int | None = None, keepdims: bool = False) -> Self:
        """See `minigrad.argmax`."""
        return ops.argmax(self, axis, keepdims)

    def argmin(self, axis: int | None = None, keepdims: bool = False) -> Self:
        """See `minigrad.argmin`."""
        return ops.argmin(self, axis, keepdims)

    def all(self, axis: Axis = None, keepdims: bool = False) -> Self:
        """See `minigrad.all`."""
        return ops.all(self, axis, keepdims)

    def any(self, axis: Axis = None, keepdims: bool = False) -> Self:
        """See `minigrad.any`."""
        return ops.any(self, axis, keepdims)

    def reshape(self, *shape: Any) -> Self:
        """See `minigrad.reshape`; the shape may be given as a tuple or as separate numbers."""
        return ops.reshape(self, shape[0] if len(shape) == 1 else shape)

    def transpose(self, *axes: Any) -> Self:
        """See `minigrad.permute_dims`; without axes, in reverse order."""
        if not axes:
            return self.T
        return ops.permute_dims(self, axes[0] if len(axes) == 1 else axes)

    def squeeze(self, axis: Axis = None) -> Self:
        """See `minigrad.squeeze`."""
        return ops.squeeze(self, axis)

    def astype(self, dtype: DTypeLike) -> Self:
        """See `minigrad.astype`."""
        return ops.astype(self, dtype)

    def clip(self, min: Any = None, max: Any = None) -> Self:
        """See `minigrad.clip`."""
        return ops.clip(self, min, max)

    def abs(self) -> Self:
        """See `minigrad.abs`."""
        return ops.abs(self)

    def exp(self) -> Self:
        """See `minigrad.exp`."""
        return ops.exp(self)

    def log(self) -> Self:
        """See `minigrad.log`."""
        return ops.log(self)

    def sqrt(self) -> Self:
        """See `minigrad.sqrt`."""
        return ops.sqrt(self)

    def tanh(self) -> Self:
        """See `minigrad.tanh`."""
        return ops.tanh(self)

    def sigmoid(self) -> Self:
        """See `minigrad.sigmoid`."""
        return ops.sigmoid(self)

    def relu(self) -> Self:
        """See `minigrad.relu`."""
        return ops.relu(self)


def _accumulate(reached: dict[Any, Any], cls: Any, create_graph: bool) -> None:
    """Add cotangents to the `.grad` of the tensors that own their nodes.

    A gradient is shared with nothing: what something else still holds is copied.
    """
    with _ACCUMULATING:
        while reached:
            node, g = reached.popitem()
            tensor = node.owner and node.owner()
            if tensor is None:
                continue
            old = getattr(tensor, "_grad", None)
            if isinstance(g, Value):
                with changed(grad=create_graph):
                    tensor._grad = adjoint.copy(g) if old is None else add(old, g)
                continue
            if old is not None:
                g = add(old.array, g)
            elif g.base is not None or sys.getrefcount(g) > _UNSHARED:
                g = g.copy()
            g.setflags(write=False)
            tensor._grad = cls.wrap(g)


def _references_to_a_local() -> int:
    """What getrefcount says of what one local variable alone holds: 2, or less where references are borrowed."""
    alone = object()
    return sys.getrefcount(alone)


_UNSHARED = _references_to_a_local()
_ACCUMULATING = RLock()  # threads may share parameters; reentrant, since a __del__ may run anywhere


class Hooked(ref):
    """A node's weak reference to its tensor when that has hooks: should it die, backward must not be silent."""

    count = 0


class Hook:
    """The handle of a hook: `remove()` takes it off its tensor."""

    def __init__(self, tensor: Tensor, hooked: Hooked, hook: Callable[[Any], Any]):
        self._hooks, self._hooked = tensor._hooks, hooked
        self._key = object()
        self._hooks[self._key] = lambda g: _replacement(g, hook(g))
        hooked.count += 1

    def remove(self) -> None:
        """Take the hook off; a second time changes nothing."""
        if self._hooks.pop(self._key, None):
            self._hooked.count -= 1


def _replacement(g: Tensor, new: Any) -> Tensor | None:
    """What a hook returned for the gradient g, as a tensor; None if it only looked."""
    if new is None:
        return None
    new = new if isinstance(new, Tensor) else Tensor(new, None if isinstance(new, np.ndarray) else g.dtype)
    if (new.shape, new.dtype) != (g.shape, g.dtype):
        raise ValueError(
            f"a hook replaced a gradient, {g.dtype} {g.shape}, by {new.dtype} {new.shape}: "
            "return one of the same shape and dtype, or None"
        )
    return new


def _check_differentiable(dtype: np.dtype[Any]) -> None:
    if dtype.kind != "f":
        raise TypeError(
            f"only floating-point tensors can require a gradient, not {dtype}: convert with astype('float64')"
        )


def from_numpy(array: np.ndarray, requires_grad: bool = False) -> Tensor:
    """A tensor that shares an array's memory; the array becomes read-only.

    Raises:
        TypeError: no ndarray, or a dtype that the engine does not compute with.
        ValueError: a view of an array that can be written to: the tensor could change without notice. (NumPy can't say
            whether the array itself has earlier views; writing to one of those does change the tensor.)

    Example:
        >>> import numpy as np, minigrad as mg
        >>> a = np.ones(3)
        >>> t = mg.from_numpy(a)
        >>> a.flags.writeable
        False
    """
    if not isinstance(array, np.ndarray):
        raise TypeError(f"from_numpy: expected an ndarray, got {type(array).__name__}: use Tensor(...), which copies")
    check_dtype(array.dtype)
    if array.base is not None and changeable(array.base):
        raise ValueError(
            "from_numpy: this is a view of an array (or buffer) that can be written to: use Tensor(array), which copies"
        )
    array.setflags(write=False)
    tensor = Tensor.__new__(Tensor)
    tensor._set_leaf(frozen(array), requires_grad)
    return tensor
