"""Marks around the layers of a compiled model, so that each is counted: as many at a time as there are numbers."""

WHOLE = 255
"""The number under which a whole inference is counted, `target/answers.c` has the same; layers have those below."""


def profile_header(guard: str, first: int, *, begin: int = 0) -> str:
    """Write a header that marks layers from `first` on, a multiple of `WHOLE`, in a model whose macros begin so.

    Its layer 0 counts as layer `begin`.
    """
    number = f"{begin} + (number)"
    marks = [
        f"#define {guard}_LAYER_{edge}(number) "
        f"if (({number}) / {WHOLE} == {first // WHOLE}) {{ EMULATE_REGION_{mark}(({number}) % {WHOLE}); }}"
        for edge, mark in (("BEGIN", "START"), ("END", "STOP"))
    ]
    return "\n".join(['#include "emulate.h"', *marks, ""])
