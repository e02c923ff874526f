"""Linking: object code becomes functions of this process. LLVM could do it, but to load LLVM takes 50 MB.

What LLVM leaves on Linux are relocatable ELF files (Tool Interface Standard, "Executable and Linking Format", 1.2):
sections of code and of constants; symbols, which are names for places in them; and relocations, which say where the
address of a symbol is to be written, and how. The kinds of relocation are those of the "System V ABI, AMD64
Architecture Processor Supplement", table 4.9; LLVM's code for addresses that may lie anywhere needs five of them.
"""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from struct import Struct
from typing import Any, NamedTuple

START = b"\x7fELF\x02\x01"  # 64 bits, little-endian
MACHINE, X86_64 = slice(18, 20), b"\x3e\x00"
HEADER = Struct("<40xQ12xHH")  # where the sections are described, how many there are, which of them holds their names
SECTION = Struct("<IIQQQQIIQQ")
SYMBOL = Struct("<IBBHQQ")  # name, info, other, section, value, size
RELOCATION = Struct("<QIIq")  # place, kind, symbol, addend
BITS, SYMBOLS, RELOCATIONS = 1, 2, 4  # kinds of sections
IS_WRITTEN, IS_LOADED = 1, 2  # flags of sections
UNDEFINED = 0  # in place of a symbol's section
GLOBAL_FUNCTION = 0x12
ENTRY = 27  # the kind of relocation whose symbol gets an entry in the global offset table


class Section(NamedTuple):
    """A section as the file describes it."""

    name: int
    kind: int
    flags: int
    address: int
    begin: int
    size: int
    link: int  # of symbols: which section their names are in
    info: int  # of relocations: which section they are for
    alignment: int
    entry: int

    def of(self, code: bytes) -> bytes:
        return code[self.begin : self.begin + self.size]


# What is written: S is the address of the symbol, with the addend, P the place where it is written, T that of the
# global offset table, and E that of the symbol's entry there.
VALUES: dict[int, Callable[[int, int, int, int], int]] = {
    1: lambda S, P, T, E: S,  # R_X86_64_64
    24: lambda S, P, T, E: S - P,  # PC64
    25: lambda S, P, T, E: S - T,  # GOTOFF64
    29: lambda S, P, T, E: S + T - P,  # GOTPC64, whose symbol, the table, is at 0
    ENTRY: lambda S, P, T, E: E - T,  # GOT64
}
TABLE_NAME = "_GLOBAL_OFFSET_TABLE_"

_mapped: list[mmap.mmap] = []  # for as long as the process lives


def link(code: bytes) -> dict[str, int] | None:
    """The addresses of all functions of object code, in memory of their own; None where only LLVM can do it.

    That is: another kind of file, section or relocation, a symbol that the process does not have, or a system that
    lets nobody make code.
    """
    if code[: len(START)] != START or code[MACHINE] != X86_64:
        return None
    try:
        return _linked(code)
    except (KeyError, AttributeError, OSError):
        return None


def _linked(code: bytes) -> dict[str, int]:
    begin, count, _ = HEADER.unpack_from(code)
    sections = [Section(*SECTION.unpack_from(code, begin + SECTION.size * k)) for k in range(count)]
    places, size = {}, 0  # of sections in memory
    for k, section in enumerate(sections):
        if section.flags & IS_WRITTEN:
            raise KeyError("variables, which kernels have none of")
        if section.kind == BITS and section.flags & IS_LOADED:
            places[k] = -(-size // section.alignment) * section.alignment
            size = places[k] + section.size
    relocations = [
        (places[section.info] + place, kind, symbol, addend)
        for section in sections
        if section.kind == RELOCATIONS and section.info in places
        for place, kind, symbol, addend in RELOCATION.iter_unpack(section.of(code))
    ]
    table = -(-size // 8) * 8
    listed = list(dict.fromkeys(symbol for _, kind, symbol, _ in relocations if kind == ENTRY))
    entries = {symbol: table + 8 * k for k, symbol in enumerate(listed)}

    memory = mmap.mmap(-1, table + 8 * len(entries) + 8, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    base = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    for k, place in places.items():
        memory[place : place + sections[k].size] = sections[k].of(code)
    names, addresses = _symbols(code, sections, {k: base + place for k, place in places.items()})
    for place, kind, symbol, addend in relocations:
        entry = base + entries.get(symbol, 0)
        _write(memory, place, VALUES[kind](addresses[symbol] + addend, base + place, base + table, entry))
    for symbol, place in entries.items():
        _write(memory, place, addresses[symbol])
    if _process().mprotect(ctypes.c_void_p(base), ctypes.c_size_t(len(memory)), mmap.PROT_READ | mmap.PROT_EXEC):
        raise OSError("this system does not let memory become code")
    _mapped.append(memory)
    return names


def _symbols(code: bytes, sections: Sequence[Section], loaded: Mapping[int, int]) -> tuple[dict[str, int], list[int]]:
    """The addresses of the functions that others may call, by name; and those of all symbols, by number."""
    functions, addresses = {}, []
    symbols = next(section for section in sections if section.kind == SYMBOLS)
    texts = sections[symbols.link].of(code)
    for begin, info, _, section, value, _ in SYMBOL.iter_unpack(symbols.of(code)):
        name = texts[begin : texts.index(0, begin)].decode()
        if section == UNDEFINED:
            addresses.append(_outside(name) if name not in ("", TABLE_NAME) else 0)
        else:
            addresses.append(loaded.get(section, 0) + value)
            if info == GLOBAL_FUNCTION:
                functions[name] = addresses[-1]
    return functions, addresses


def _outside(name: str) -> int:
    """The address of what the process has: a function of Python's, or of the C library's."""
    return ctypes.cast(getattr(_process(), name), ctypes.c_void_p).value or 0


@cache
def _process() -> Any:
    return ctypes.PyDLL(None)


def _write(memory: mmap.mmap, place: int, value: int) -> None:
    memory[place : place + 8] = (value % (1 << 64)).to_bytes(8, "little")
