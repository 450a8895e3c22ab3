"""Requests that cannot be answered: what the server says of them, as `{"error": ...}`."""

RETRY_AFTER = {"Retry-After": "1"}  # seconds


class ApiError(Exception):
    """Ends a request with a status and a message.

    Args:
        status: HTTP status, from 400.
        message: What was wrong, what was received and what to do; nothing of the file system.
        headers: Further headers of the answer.
    """

    def __init__(self, status, message, headers=None):
        super().__init__(message)
        self.status = status
        self.message = message
        self.headers = headers or {}


def invalid(message):
    """A request that is wrong in itself: 400."""
    return ApiError(400, message)


def not_found(message):
    """What was asked for is not there: 404."""
    return ApiError(404, message)


def unavailable(message):
    """The same request may be answered a moment later: 503 with Retry-After."""
    return ApiError(503, message, RETRY_AFTER)


def shown(value, longest=60):
    """Returns a value as it may stand in a message: ASCII, one line, cut where it is long."""
    text = ascii(value)
    return text if len(text) <= longest else f"{text[: longest - 3]}..."
