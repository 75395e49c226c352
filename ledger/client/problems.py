"""What can go wrong between a caller and the ledger, as exceptions that say how to mend it.

- ``ClientError``
    - ``NoAnswer``: the connection failed, and repeating did not help
    - ``UnexpectedAnswer``: what answered is not the ledger, or a newer one
    - ``Problem``: the ledger said no (RFC 9457)
        - ``Refused``: 400, 413, 415, 422
        - ``NotAuthenticated``: 401
        - ``NotAllowed``: 403
        - ``NotFound``: 404
        - ``Conflict``: 409
        - ``TooManyRequests``: 429
        - ``Unavailable``: 503, 507
        - ``Failed``: every other 5xx
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import httpx

MEDIA_TYPE: Final = "application/problem+json"
KNOWN_MEMBERS: Final = frozenset(
    ("type", "title", "status", "detail", "code", "hint", "field", "errors")
)


class ClientError(Exception):
    """Everything that the client raises about an exchange with the ledger."""


class NoAnswer(ClientError):
    """The connection failed each time.

    Of a command nobody knows whether it was recorded: sent again under ``idempotency_key``, it is
    recorded once.
    """

    def __init__(self, message: str, *, idempotency_key: str | None) -> None:
        super().__init__(message)
        self.idempotency_key = idempotency_key


class UnexpectedAnswer(ClientError):
    """An answer that the ledger does not give: a proxy's, or that of a newer ledger."""

    def __init__(self, message: str, *, status: int) -> None:
        super().__init__(message)
        self.status = status


class Problem(ClientError):
    """The ledger said no; ``code`` is stable, ``hint`` says how to mend it."""

    def __init__(
        self,
        document: Mapping[str, Any],
        *,
        request_id: str | None = None,
        retry_after_s: float | None = None,
        idempotency_key: str | None = None,
    ) -> None:
        self.status = int(document.get("status", 0))
        self.code = str(document.get("code", ""))
        self.title = str(document.get("title", ""))
        self.detail = str(document.get("detail", ""))
        self.hint = str(document.get("hint", ""))
        field = document.get("field")
        self.field = None if field is None else str(field)
        """JSON pointer of the member, or name of the parameter or header, at fault."""
        self.errors: list[dict[str, str]] = list(document.get("errors") or ())
        """Every fault that was found in the request, each with its place."""
        self.more = {name: value for name, value in document.items() if name not in KNOWN_MEMBERS}
        """Further members, like the ``ended_by`` of ``already_ended``."""
        self.request_id = request_id
        self.retry_after_s = retry_after_s
        self.idempotency_key = idempotency_key
        super().__init__(f"{self.detail} ({self.code}, {self.status})")


class Refused(Problem):
    """The request has not its form, or a rule refuses it; nothing was recorded."""


class NotAuthenticated(Problem):
    """The request carries no usable key."""


class NotAllowed(Problem):
    """The role of the key's operator does not allow this."""


class NotFound(Problem):
    """Nothing is recorded under this id, or there is no such route."""


class Conflict(Problem):
    """What is recorded already stands against it."""


class TooManyRequests(Problem):
    """The key asks more often than it may."""


class Unavailable(Problem):
    """Not now; it was tried again as often as the client may."""


class Failed(Problem):
    """A fault of the ledger's own."""


KINDS: Final[Mapping[int, type[Problem]]] = {
    400: Refused,
    401: NotAuthenticated,
    403: NotAllowed,
    404: NotFound,
    405: Refused,
    409: Conflict,
    413: Refused,
    415: Refused,
    422: Refused,
    429: TooManyRequests,
    503: Unavailable,
    507: Unavailable,
}


def retry_after_s(response: httpx.Response) -> float | None:
    """Return how long an answer asks to wait; ``None`` when it does not say so in seconds."""
    raw = response.headers.get("retry-after", "")
    return float(raw) if raw.isascii() and raw.isdigit() else None


def problem_in(document: Mapping[str, Any], **about: Any) -> Problem:
    """Return the exception of a problem document."""
    return KINDS.get(int(document.get("status", 0)), Failed)(document, **about)


def problem_of(response: httpx.Response, *, idempotency_key: str | None) -> ClientError:
    """Return the exception of an answer that is none of success."""
    if response.headers.get("content-type", "").partition(";")[0] == MEDIA_TYPE:
        try:
            document = response.json()
        except ValueError:
            document = None
        if isinstance(document, dict):
            return problem_in(
                {"status": response.status_code, **document},
                request_id=response.headers.get("x-request-id"),
                retry_after_s=retry_after_s(response),
                idempotency_key=idempotency_key,
            )
    return UnexpectedAnswer(
        f"{response.request.method} {response.request.url.path} was answered with "
        f"{response.status_code}, and not by a ledger; look at the URL and at what stands before "
        "the ledger",
        status=response.status_code,
    )
