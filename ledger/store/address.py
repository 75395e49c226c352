"""What may be shown of a database's address?"""

from __future__ import annotations

from urllib.parse import urlsplit


def without_password(url: str) -> str:
    """Return the address of a database as messages may show it."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
