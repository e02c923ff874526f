"""Random draws, reproducible: counter-based streams whose whole state is one small tensor.

A `Generator` holds a key and the number of draws made so far. Draw number n is a fresh Philox stream (Salmon et al.
2011, "Parallel random numbers: as easy as 1, 2, 3") with that key, whose counter starts at n·2¹⁹². So a draw depends
on nothing but the state: neither on threads, nor on whether it runs eagerly, under a tape or compiled. Drawing and
stepping the state are operations, so that a tape of a training step replays its draws and leaves the state where the
step would.

The functions draw from the generator of the context, one for each thread (and each asyncio task that seeds its own):
`seed` puts a new one there, `use` one for a block, and `generator=` one for a single call.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from threading import Lock
from typing import Any, SupportsIndex

import numpy as np
from numpy.typing import DTypeLike

from minigrad.core.adjoint import copy
from minigrad.core.op import Op
from minigrad.core.value import raw
from minigrad.kernels import random as kernels
from minigrad.kernels.random import TILE
from minigrad.ops.elementwise import less
from minigrad.tensor import Tensor

__all__ = ["Generator", "bernoulli", "current", "integers", "normal", "permutation", "seed", "uniform", "use"]

Shape = tuple[int, ...] | int


def _bits(state: np.ndarray) -> np.random.Philox:
    """The stream of the draw that comes next in `state` = [key, draws so far]."""
    key = np.array([state[0], 0], np.uint64)
    counter = np.array([0, 0, 0, state[1]], np.uint64)
    return np.random.Philox(key=key, counter=counter)


def _stream(state: np.ndarray) -> np.random.Generator:
    return np.random.Generator(_bits(state))


def _normal_forward(state: np.ndarray, *, shape: tuple[int, ...], dtype: DTypeLike) -> np.ndarray:
    """Pairs r·cos φ and r·sin φ with r = √(-2·log u), for uniform u and φ/2π (Box and Muller 1958).

    NumPy's own method takes as many words from the stream as it happens to need, so its draws can't be made side by
    side. Here draws come in tiles of 64: first the cosines, then the sines that belong to them. In float64 every word
    of 64 bits of a tile is one number, first each u, then each φ/2π, of 53 bits. In float32 every word is one pair: u
    is its lower half, of 32 bits, and φ/2π its upper 24 bits. u is never 0, so that no draw exceeds 8.6 in float64 and
    6.7 in float32; of true normal numbers one in 10¹⁷, in 4·10¹⁰, would.
    """
    n = math.prod(shape)
    tiles = -(-n // (2 * TILE))
    if np.dtype(dtype) == np.float64:
        radii, angles = np.moveaxis(_bits(state).random_raw(tiles * 2 * TILE).reshape(tiles, 2, TILE), 1, 0)
        u, turns = ((radii >> 11) + 1) * 2.0**-53, (angles >> 11) * 2.0**-53
    else:
        words = _bits(state).random_raw(tiles * TILE).reshape(tiles, TILE)
        u, turns = ((words & 0xFFFFFFFF) + 1).astype(np.float32) * np.float32(2.0**-32), (words >> 40) * 2.0**-24
    angle = 2.0 * np.pi * (turns - np.round(turns))
    circle = np.stack([np.cos(angle), np.sin(angle)], 1).astype(dtype)
    y = np.sqrt(-2.0 * np.log(u))[:, None] * circle
    return y.reshape(-1)[:n].reshape(shape).copy()


_uniform = Op(
    "random_uniform",
    lambda state, *, shape, dtype: np.asarray(_stream(state).random(shape, dtype)),
    kernels={"y": (kernels.uniform, 0)},
    formula="y ~ U[0, 1)",
)
_normal = Op(
    "random_normal",
    _normal_forward,
    kernels={"y": (kernels.normal, 0)},
    formula="y ~ N(0, 1)",
)
_integers = Op(
    "random_integers",
    lambda state, *, low, high, shape: np.asarray(_stream(state).integers(low, high, shape)),
    formula="y ~ U{low, …, high - 1}",
)
_permutation = Op(
    "random_permutation",
    lambda state, *, n: _stream(state).permutation(n),
    formula="y = a random order of 0, …, n - 1",
)
_split = Op(
    "random_split",
    lambda state, *, n: tuple(
        np.array([key, 0], np.uint64) for key in _stream(state).integers(2**64, size=(n,), dtype=np.uint64)
    ),
    formula="n states, each of a random key and no draws",
)
_next_state = Op(
    "random_next",
    lambda state: state + np.array([0, 1], np.uint64),
    formula="y = [key, draws + 1]",
)


class Generator:
    """A stream of random draws.

    Args:
        seed: a whole number ≥ 0, hashed into the key; None: fresh from the operating system.

    `state` is a Tensor, uint64 (2,): the key and the number of draws made. It can be saved, and assigned to go back.

    Raises:
        ValueError: a negative seed.
        TypeError: a seed that is no whole number.

    Example:
        >>> import minigrad as mg
        >>> g = mg.random.Generator(7)
        >>> before = g.state.data
        >>> x = mg.random.normal(3, generator=g)
        >>> _ = g.state.assign(before)
        >>> (mg.random.normal(3, generator=g).data == x.data).all()
        np.True_
    """

    def __init__(self, seed: SupportsIndex | None = None):
        if seed is not None:
            if not hasattr(seed, "__index__"):
                raise TypeError(f"a seed is a whole number or None, not {seed!r}")
            seed = seed.__index__()
            if seed < 0:
                raise ValueError(f"a seed is at least 0, not {seed}")
        key = np.random.SeedSequence(seed).generate_state(1, np.uint64)[0]
        self._stand_on(Tensor(np.array([key, 0], np.uint64)))

    def _stand_on(self, state: Tensor) -> Generator:
        self.state = state
        self._lock = Lock()  # should threads share the generator, no draw is made twice
        return self

    def __repr__(self) -> str:
        key, draws = self.state.data
        return f"<Generator {key:016x} after {draws} draws>"

    def __tree__(self) -> tuple[dict[str, Any], Callable[[dict[str, Any]], Generator]]:
        """A tree of one leaf, the state."""
        return {"state": self.state}, lambda children: Generator.__new__(Generator)._stand_on(children["state"])

    def draw(self, op: Op, **params: Any) -> Any:
        """What an operation on the state makes of it; the state then steps on."""
        with self._lock:
            y = op(self.state, **params)
            self.state.assign(_next_state(self.state))
        return y

    def copy(self) -> Generator:
        """Another generator at the same place: it will make the same draws."""
        return Generator.__new__(Generator)._stand_on(copy(self.state))

    def __deepcopy__(self, memo: dict[int, Any]) -> Generator:
        return self.copy()

    def split(self, n: int) -> list[Generator]:
        """New generators with streams of their own, for threads or parts of a model; counts as one draw of this one.

        Raises:
            ValueError: n < 1.

        Example:
            >>> import minigrad as mg
            >>> workers = mg.random.Generator(0).split(4)
            >>> len({int(mg.random.integers(0, 2**62, generator=g).item()) for g in workers})
            4
        """
        if n < 1:
            raise ValueError(f"split into at least 1, not {n}")
        return [Generator.__new__(Generator)._stand_on(state) for state in self.draw(_split, n=n)]


_CURRENT: ContextVar[Generator] = ContextVar("minigrad_generator")


def current() -> Generator:
    """The generator of this context: of this thread, or of the innermost `use`. The first one is freshly seeded.

    Example:
        >>> import minigrad as mg
        >>> with mg.random.use(mg.random.Generator(3)) as g:
        ...     mg.random.current() is g
        True
    """
    generator = _CURRENT.get(None)
    if generator is None:
        generator = Generator()
        _CURRENT.set(generator)
    return generator


def seed(n: SupportsIndex) -> None:
    """Put a new generator with this seed into this context, and into no other thread's.

    Raises:
        ValueError, TypeError: as `Generator`.

    Example:
        >>> import minigrad as mg
        >>> mg.random.seed(1); a = mg.random.uniform(2).data
        >>> mg.random.seed(1); (mg.random.uniform(2).data == a).all()
        np.True_
    """
    _CURRENT.set(Generator(n))


@contextmanager
def use(generator: Generator) -> Iterator[Generator]:
    """Draw from this generator within the block.

    Example:
        >>> import minigrad as mg
        >>> with mg.random.use(mg.random.Generator(3)):
        ...     a = mg.random.normal(2)
        >>> a.data.shape
        (2,)
    """
    token = _CURRENT.set(generator)
    try:
        yield generator
    finally:
        _CURRENT.reset(token)


def _dtype(dtype: DTypeLike | None, *like: Any) -> np.dtype[Any]:
    """The dtype asked for, else that of the tensors or arrays given, else float64."""
    given = [x.dtype for x in like if isinstance(x, (Tensor, np.ndarray)) and x.dtype.kind == "f"]
    chosen = np.dtype(dtype) if dtype is not None else np.result_type(*given) if given else np.dtype(np.float64)
    if chosen not in (np.float32, np.float64):
        raise TypeError(f"random numbers are float32 or float64, not {chosen}")
    return chosen


def _shape(shape: Shape) -> tuple[int, ...]:
    return (int(shape),) if isinstance(shape, (int, np.integer)) else tuple(map(int, shape))


def uniform(
    shape: Shape = (),
    low: Any = 0.0,
    high: Any = 1.0,
    *,
    dtype: DTypeLike | None = None,
    generator: Generator | None = None,
) -> Tensor:
    """Uniform draws from [low, high), which broadcast against `shape`; rounding may give `high` itself.

    `low` and `high` may be tensors; the result is differentiable in them. The dtype is theirs, else float64.

    Raises:
        TypeError: another dtype than float32 or float64.

    Example:
        >>> import minigrad as mg
        >>> mg.random.uniform((2, 3), -1.0, 1.0, dtype="float32").shape
        (2, 3)
    """
    u = (generator or current()).draw(_uniform, shape=_shape(shape), dtype=_dtype(dtype, low, high))
    if type(low) is float and type(high) is float and (low, high) == (0.0, 1.0):
        return u
    return low + (high - low) * u


def normal(
    shape: Shape = (),
    mean: Any = 0.0,
    std: Any = 1.0,
    *,
    dtype: DTypeLike | None = None,
    generator: Generator | None = None,
) -> Tensor:
    """Normal draws, mean + std·ε with ε of shape `shape` from N(0, 1).

    `mean` and `std` may be tensors; the result is differentiable in them (Kingma and Welling 2014, the
    reparameterisation trick). The dtype is theirs, else float64.

    Raises:
        TypeError: another dtype than float32 or float64.

    Example:
        >>> import minigrad as mg
        >>> mean = mg.Tensor([1.0, 2.0], requires_grad=True)
        >>> mg.random.normal(2, mean, 0.1).sum().backward()
        >>> mean.grad.data
        array([1., 1.])
    """
    noise = (generator or current()).draw(_normal, shape=_shape(shape), dtype=_dtype(dtype, mean, std))
    if type(mean) is float and type(std) is float and (mean, std) == (0.0, 1.0):
        return noise
    return mean + std * noise


def bernoulli(p: Any, shape: Shape | None = None, *, generator: Generator | None = None) -> Tensor:
    """Booleans, each true with probability p.

    Args:
        p: a number or an array of numbers in [0, 1].
        shape: of the result; None: the shape of p.

    Raises:
        ValueError: a probability outside [0, 1].

    Example:
        >>> import minigrad as mg
        >>> mg.random.bernoulli([0.0, 1.0]).data
        array([False,  True])
    """
    values = raw(p)
    if not np.all((values >= 0) & (values <= 1)):
        raise ValueError(f"bernoulli: probabilities lie in [0, 1], not {values}")
    threshold = p if isinstance(p, (Tensor, float, int)) else values
    size = values.shape if shape is None else _shape(shape)
    return less((generator or current()).draw(_uniform, shape=size, dtype=np.dtype(np.float64)), threshold)


def integers(low: int, high: int, shape: Shape = (), *, generator: Generator | None = None) -> Tensor:
    """Whole numbers, int64, uniform from low to high - 1.

    Raises:
        ValueError: low ≥ high.

    Example:
        >>> import minigrad as mg
        >>> mg.random.integers(5, 6, 3).data
        array([5, 5, 5])
    """
    if low >= high:
        raise ValueError(f"integers: low must be below high, not {low} and {high}")
    return (generator or current()).draw(_integers, low=int(low), high=int(high), shape=_shape(shape))


def permutation(n: int, *, generator: Generator | None = None) -> Tensor:
    """The numbers 0 to n - 1, int64, in random order; `x[permutation(len(x))]` is x shuffled.

    Raises:
        ValueError: n < 0.

    Example:
        >>> import minigrad as mg
        >>> sorted(mg.random.permutation(4).data.tolist())
        [0, 1, 2, 3]
    """
    if n < 0:
        raise ValueError(f"permutation: n is at least 0, not {n}")
    return (generator or current()).draw(_permutation, n=int(n))
