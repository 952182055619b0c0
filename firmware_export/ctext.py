"""Python values as C text, and templates of it."""

import re
from collections.abc import Iterable, Sequence
from math import isfinite
from typing import Any

import numpy as np
from jinja2 import BaseLoader, Environment, StrictUndefined

from hybrid.errors import SpecError

_VALUES_PER_LINE = 20


def c_string(text: str) -> str:
    r"""Write a C string literal of the UTF-8 bytes; octal escapes, as hexadecimal ones swallow what follows.

    >>> print(c_string('T-shirt "top"'), c_string("??/é"))
    "T-shirt \042top\042" "\077\077/\303\251"
    """
    return '"' + "".join(_c_char(byte) for byte in text.encode()) + '"'


def _c_char(byte: int) -> str:
    plain = 32 <= byte < 127 and chr(byte) not in '"\\?'
    return chr(byte) if plain else f"\\{byte:03o}"


def c_comment(text: str) -> str:
    """Put text on one line that cannot end or nest a C comment.

    >>> c_comment("a */ b")
    'a * / b'
    """
    return " ".join(text.split()).replace("*/", "* /").replace("/*", "/ *")


def identifier(text: str) -> str:
    """Turn a name into part of an upper-case C identifier.

    >>> identifier("no-excess loss")
    'NO_EXCESS_LOSS'
    """
    return re.sub(r"[^A-Z0-9]+", "_", text.upper()).strip("_")


def c_float(value: float) -> str:
    """Write a C float literal. Raises: SpecError for infinity and not-a-number.

    >>> c_float(0.75), c_float(3.0), c_float(1e-12)
    ('0.75f', '3.0f', '1e-12f')
    """
    if not isfinite(value):
        raise SpecError(f"a figure of an operating point is {value}, allowed finite numbers")
    text = f"{value:.9g}"
    return text + ("f" if "." in text or "e" in text else ".0f")


def c_bytes(data: bytes) -> str:
    """Write initialiser lines for bytes, hexadecimal."""
    return _lines(f"0x{byte:02x}" for byte in data)


def c_ints(values: Iterable[Any]) -> str:
    """Write initialiser lines for integers."""
    return _lines(str(int(value)) for value in values)


def c_int_rows(rows: "np.ndarray[Any, Any]") -> str:
    """Write initialiser lines for an array ``(n, ...)``: one brace for each of the n."""
    return "\n".join("    {\n" + c_ints(row) + "\n    }," for row in rows.reshape(len(rows), -1).tolist())


def _lines(words: Iterable[str]) -> str:
    all_words: Sequence[str] = list(words)
    starts = range(0, len(all_words), _VALUES_PER_LINE)
    return "\n".join("    " + ", ".join(all_words[i : i + _VALUES_PER_LINE]) + "," for i in starts)


_FILTERS = {
    "c_string": c_string,
    "c_comment": c_comment,
    "c_upper": identifier,
    "c_float": c_float,
    "c_bytes": c_bytes,
    "c_ints": c_ints,
    "c_int_rows": c_int_rows,
}
"""By the names that templates use."""


def templates_of(loader: BaseLoader) -> Environment:
    """Templates of C or other plain text; a hole without a value is an error."""
    environment = Environment(
        loader=loader,
        undefined=StrictUndefined,
        keep_trailing_newline=True,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=False,
    )
    environment.filters.update(_FILTERS)
    return environment
