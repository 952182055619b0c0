"""Unpickling without trust: plain values and NumPy arrays, nothing that could run."""

import _codecs
import io
import pickle
from typing import Any

import numpy as np

from datasets.errors import DatasetError

_RECONSTRUCT = np.empty(0).__reduce__()[0]  # wherever this NumPy keeps it
_ALLOWED = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("numpy.core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("numpy._core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("_codecs", "encode"): _codecs.encode,  # how Python 3 writes bytes in protocol 2
}


class _Plain(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        """Look a name up in the short list of harmless ones."""
        try:
            return _ALLOWED[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"refused to load {module}.{name}") from None


def unpickle(content: bytes, *, where: str) -> Any:
    """Load a pickle of numbers, bytes, text, lists, dicts and NumPy arrays; Python 2's strings come back as bytes.

    Raises: DatasetError for anything else, naming it, and for a damaged pickle.
    """
    try:
        return _Plain(io.BytesIO(content), encoding="bytes").load()
    except Exception as exc:  # a damaged pickle may raise anything, says the documentation of pickle
        raise DatasetError(f"{where}: not a pickle of plain arrays ({exc}); fetch it again") from exc
