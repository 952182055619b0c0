"""The one exception of the endpoint's handlers: what a client did wrong, as an HTTP status and one line."""


class RequestError(Exception):
    """A request that is answered with `status` and ``{"error": message}``."""

    def __init__(self, message: str, status: int = 400) -> None:
        self.message, self.status = message, status
        super().__init__(message)
