"""``hybrid serve``: a bundle's cloud behind a port of this machine."""

import contextlib
import socket
from pathlib import Path

import uvicorn

from hybrid.errors import HybridError
from hybrid.progress import SILENT, Narrator
from hybrid.serve.app import create_app
from hybrid.serve.model import load_model

_MAX_CONNECTIONS = 128
"""Beyond it the server answers 503 at once."""


def serve(bundle_folder: Path, host: str = "127.0.0.1", port: int = 8080, *, narrator: Narrator = SILENT) -> None:
    """Serve the bundle's cloud until interrupted; port 0 takes a free one, which the narrator hears.

    Raises: HybridError where the port cannot be opened; and what `load_model` raises.
    """
    with listen(host, port) as listener:
        model, info = load_model(bundle_folder / "cloud")
        shown = f"[{host}]" if ":" in host else host
        narrator.say(f"Serving http://{shown}:{listener.getsockname()[1]}/v2/models/{info.model_name}")
        config = uvicorn.Config(
            create_app(model, info),
            log_level="warning",
            access_log=False,
            lifespan="off",
            limit_concurrency=_MAX_CONNECTIONS,
        )
        with contextlib.suppress(KeyboardInterrupt):
            uvicorn.Server(config).run(sockets=[listener])


def listen(host: str, port: int) -> socket.socket:
    """Open a listening socket; port 0 takes a free one.

    Its connections send at once: header and body leave in two writes, and Nagle's algorithm would hold the second until
    the client's delayed acknowledgement, 40 ms later.
    Raises: HybridError where the port cannot be opened.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family)
    except (OSError, OverflowError) as exc:
        reason = getattr(exc, "strerror", None) or str(exc)
        raise HybridError(f"{host}:{port} cannot be opened ({reason}); choose another host or port") from exc
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # accepted connections inherit it
    return listener
