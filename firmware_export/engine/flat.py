"""Flatbuffers read with every offset and length checked: bytes that lie give one error, never a crash or a hang.

The layout is that of https://flatbuffers.dev/internals: a table begins with the distance back to its vtable, which
holds one 16-bit place per field (0: not there); vectors, strings and tables are reached by unsigned 32-bit distances.
"""

import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hybrid.errors import SpecError

_FORMATS = {"bool": "?", "byte": "b", "ubyte": "B", "ushort": "H", "int": "i", "uint": "I", "ulong": "Q", "float": "f"}
SCALARS = {name: struct.Struct(f"<{code}") for name, code in _FORMATS.items()}
"""The schema's names of number types."""
_READS_PER_BYTE = 8
_TABLE_BYTES = 16


class Bytes:
    """A whole flatbuffer.

    All reads together are bounded by its size, so that a small file whose vectors lie upon one another cannot ask for
    much work.
    """

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._left = _READS_PER_BYTE * len(data) + 4096

    def root(self, identifier: bytes) -> "Table":
        """Give the root table. Raises: SpecError where the file is too short or has another identifier."""
        if self._data[4:8] != identifier:
            raise SpecError(f"model: bytes 4..7 are {self._data[4:8]!r}, expected {identifier!r}; give a .tflite file")
        return self.table(self.follow(0))

    def number(self, at: int, kind: str) -> Any:
        """Give the number of a schema type at a place."""
        form = SCALARS[kind]
        self._check(at, form.size)
        return form.unpack_from(self._data, at)[0]

    def follow(self, at: int) -> int:
        """Give the place that the distance stored here leads to."""
        return at + int(self.number(at, "uint"))

    def table(self, at: int) -> "Table":
        """Give the table that begins here."""
        self._spend(_TABLE_BYTES)
        vtable = at - int(self.number(at, "int"))
        size = int(self.number(vtable, "ushort"))
        self._check(vtable, size)
        if size < 4 or size % 2:
            raise SpecError(f"model: damaged, a table's description at byte {vtable} has size {size}; convert it again")
        return Table(file=self, at=at, vtable=vtable, fields=size // 2 - 2)

    def vector(self, at: int, dtype: str, *, free: bool = False) -> NDArray[Any]:
        """Give the vector of numbers that begins here, as a view; a `free` one is not counted as work."""
        count, item = int(self.number(at, "uint")), np.dtype(dtype)
        self._check(at + 4, count * item.itemsize)
        self._spend(0 if free else count * item.itemsize)
        return np.frombuffer(self._data, item, count, at + 4) if count else np.zeros(0, item)

    def _check(self, at: int, size: int) -> None:
        if at < 0 or at + size > len(self._data):
            raise SpecError(
                f"model: damaged or cut off, {size} bytes at {at} of {len(self._data)} are asked for; convert it again"
            )

    def _spend(self, size: int) -> None:
        self._left -= size
        if self._left < 0:
            raise SpecError("model: damaged, its parts lie upon one another; convert it again")


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table; fields are numbered from 0 in the order of the schema. All methods raise SpecError on lying bytes."""

    file: Bytes
    at: int
    vtable: int
    fields: int

    def _field(self, slot: int) -> int | None:
        """Place of a field's value."""
        place = int(self.file.number(self.vtable + 4 + 2 * slot, "ushort")) if slot < self.fields else 0
        return self.at + place if place else None

    def number(self, slot: int, kind: str, default: Any = 0) -> Any:
        """Give a number, flag or enumeration; `default` where the field is not there."""
        at = self._field(slot)
        return default if at is None else self.file.number(at, kind)

    def table(self, slot: int) -> "Table | None":
        """Give a table."""
        at = self._field(slot)
        return None if at is None else self.file.table(self.file.follow(at))

    def tables(self, slot: int) -> list["Table"]:
        """Give a vector of tables; empty where the field is not there."""
        at = self._field(slot)
        if at is None:
            return []
        begin = self.file.follow(at)
        places = self.file.vector(begin, "<u4")
        return [self.file.table(begin + 4 * index + int(place)) for index, place in enumerate(places, 1)]

    def vector(self, slot: int, dtype: str, *, free: bool = False) -> NDArray[Any]:
        """Give a vector of numbers; empty where the field is not there."""
        at = self._field(slot)
        return np.zeros(0, dtype) if at is None else self.file.vector(self.file.follow(at), dtype, free=free)

    def text(self, slot: int) -> str:
        """Give a string; empty where the field is not there."""
        return self.vector(slot, "u1").tobytes().decode("utf-8", "replace")
