"""One process at a time: a lock on an open file or folder, which a killed process gives back."""

from io import FileIO

try:
    import fcntl
except ImportError:  # no such locks on this system
    fcntl = None  # type: ignore[assignment]


def taken(file: FileIO | int) -> bool:
    """Take a file, or the folder of a descriptor, for this process until it is closed; False where another has it."""
    if fcntl is not None:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
    return True
