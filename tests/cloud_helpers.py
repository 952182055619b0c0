"""What the tests of the cloud half share: an endpoint for 2x2 grey images, and a server on a free loopback port."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import uvicorn

from firmware_export.cloud import CloudInputs, endpoint_info
from hybrid.serve.server import listen

DIGEST = "0123456789abcdef" * 4
INPUTS = CloudInputs(
    saved_model={"saved_model.pb": b"graph", "variables/variables.index": b"index"},
    input_shape=(2, 2, 1),
    class_names=("dark", 'half "lit"', "bright"),
    url="http://127.0.0.1:8080/v2/models/cloud",
    deadline_ms=1500.0,
    value_range=(0.0, 255.0),
    edge_digest=DIGEST,
    max_batch=4,
)
INFO = endpoint_info(INPUTS)


def brightness(pixels):
    """Scores (n, 3) that a pencil can check: mean, minimum and maximum of the pixels, over 256."""
    flat = pixels.reshape(len(pixels), -1).astype(np.float32) / 256
    return np.stack([flat.mean(axis=1), flat.min(axis=1), flat.max(axis=1)], axis=1)


@contextmanager
def running(app) -> Iterator[str]:
    """Serve `app`; the socket listens before the server runs, so that nobody has to wait for it."""
    with listen("127.0.0.1", 0) as listener:
        server = uvicorn.Server(uvicorn.Config(app, log_level="critical", lifespan="off"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()
