"""TensorFlow, loaded when a command needs it, without its chatter."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager


def load_tensorflow() -> None:
    """Load it without its chatter, which is for its own developers."""
    with native_stderr_muted():
        import tensorflow as tf
    tf.get_logger().setLevel("ERROR")


@contextmanager
def native_stderr_muted() -> Iterator[None]:
    """Keep what native libraries print while they load off the terminal; at that time they heed no log level."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
