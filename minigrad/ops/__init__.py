"""Every operation, one record each, a file a family. This page gathers the public functions of all of them."""

from minigrad.ops import (
    activation,
    contraction,
    convolution,
    creation,
    elementwise,
    indexing,
    losses,
    manipulation,
    reduction,
    special,
)
from minigrad.ops.activation import *  # noqa: F403
from minigrad.ops.contraction import *  # noqa: F403
from minigrad.ops.convolution import *  # noqa: F403
from minigrad.ops.creation import *  # noqa: F403
from minigrad.ops.elementwise import *  # noqa: F403
from minigrad.ops.indexing import *  # noqa: F403
from minigrad.ops.losses import *  # noqa: F403
from minigrad.ops.manipulation import *  # noqa: F403
from minigrad.ops.reduction import *  # noqa: F403
from minigrad.ops.special import *  # noqa: F403

_FAMILIES = (
    activation,
    contraction,
    convolution,
    creation,
    elementwise,
    indexing,
    losses,
    manipulation,
    reduction,
    special,
)
__all__ = sorted(name for family in _FAMILIES for name in family.__all__)
