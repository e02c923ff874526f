"""Kernels: machine code for what takes time, written in Numba. Arrays in, arrays out; nothing here knows of tensors.

Read `simd` (registers), `simd_math` (formulas on them) and `vectors` (both for Numba) first, then a family:
`elementwise`, `matmul`, `reductions`, `losses`, `convolution`, `optimisers`, `scatter`, `random` are what Python calls,
and the module of the same name in `code` is what is compiled. `native` turns that into machine code, which `store`
keeps on disk, and `threads` shares the work out.

Importing this compiles nothing, and does not import Numba. `use("numpy")` turns all kernels off.
"""

from minigrad.kernels.dispatch import mode, use
from minigrad.kernels.threads import num_threads, set_num_threads

__all__ = ["mode", "num_threads", "set_num_threads", "use"]
