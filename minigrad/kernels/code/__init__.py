"""What is compiled: Numba functions and the LLVM that they are made of. Imported only where no compiled code was kept.

Each module ends in SOURCES, its kernels by name. `entry` is the function around them that Python calls.
"""
