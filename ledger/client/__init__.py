"""The Python client of the ledger's HTTP API, for code that waits and for code that awaits.

- ``clients``        ``Client`` and ``AsyncClient``: sending, sending again, positions
- ``call``           what a method is: a request, described once for both
- ``checks``, ``decisions``, ``reading``, ``administration``  the methods, one for each route
- ``answers``        what is answered, typed
- ``problems``       what can go wrong, as exceptions

It knows the domain's values and nothing else of the ledger.
"""

from ledger.client.checks import question
from ledger.client.clients import AsyncClient, Client
from ledger.client.problems import (
    ClientError,
    Conflict,
    Failed,
    NoAnswer,
    NotAllowed,
    NotAuthenticated,
    NotFound,
    Problem,
    Refused,
    TooManyRequests,
    Unavailable,
    UnexpectedAnswer,
)

__all__ = [
    "AsyncClient",
    "Client",
    "ClientError",
    "Conflict",
    "Failed",
    "NoAnswer",
    "NotAllowed",
    "NotAuthenticated",
    "NotFound",
    "Problem",
    "Refused",
    "TooManyRequests",
    "Unavailable",
    "UnexpectedAnswer",
    "question",
]
