"""How does somebody get a list as a file, and know that it is whole?

The file is asked of ``GET /v1/{view}/export``: of a service, or of one that runs in this process
behind a socket that only this user can reach. It comes in pieces and is written as it comes. Then
its manifest is asked for, which the service makes by reading the ledger again; the file gets its
name only when it is what the manifest says.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import httpx
import orjson
import uvicorn

from ledger.domain.errors import InvalidValue, Unavailable
from ledger.service.http.app import create_app
from ledger.service.wiring import Service

EXPORT_TIMEOUT_S: Final = 60.0  # without a byte; a page is made in a moment
MANIFEST_TIMEOUT_S: Final = 3_600  # as long as the export: an hour is some 50 million events
LINGER_S: Final = 2  # for the connection of this command to end, when all is done

Progress = Callable[[int], None]


async def export_file(
    client: httpx.AsyncClient,
    path: Path,
    *,
    view: str,
    format: str,
    parameters: Sequence[tuple[str, str]],
    progress: Progress,
) -> dict[str, Any]:
    """Write a list to a file, and its manifest beside it; returns the manifest.

    ``progress`` is told how many bytes came. Raises ``InvalidValue`` when one of the files exists
    or the service refuses the question, ``Unavailable`` when it cannot be reached or breaks off.
    """
    beside = path.with_name(f"{path.name}.manifest.json")
    for each in (path, beside):
        if each.exists():
            raise InvalidValue(f"{each} exists; name a file that does not")
    unfinished = path.with_name(f".{path.name}.unfinished")
    query = httpx.QueryParams([("format", format), *parameters])
    try:
        async with client.stream("GET", f"/v1/{view}/export", params=query) as response:
            await _require_ok(response)
            digest = await _write(response, unfinished, progress)
        described = response.links["describedby"]["url"]
        asked = await client.get(described, timeout=MANIFEST_TIMEOUT_S)
        await _require_ok(asked)
        manifest: dict[str, Any] = asked.json()
        if manifest["sha256"] != digest:
            raise Unavailable(
                f"what came has the SHA-256 {digest}, and the manifest says {manifest['sha256']}; "
                "nothing was written"
            )
        beside.write_bytes(orjson.dumps(manifest, option=orjson.OPT_INDENT_2) + b"\n")
        unfinished.replace(path)
    except httpx.HTTPError as error:
        raise Unavailable(f"the service broke off or was not reached: {error!r}") from None
    except OSError as error:
        raise Unavailable(f"{path} cannot be written: {error.strerror}") from None
    finally:
        unfinished.unlink(missing_ok=True)
    return manifest


async def _require_ok(response: httpx.Response) -> None:
    if response.status_code == httpx.codes.OK:
        return
    text = await response.aread()
    try:
        detail = orjson.loads(text)["detail"]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        detail = text.decode(errors="replace")
    kind = InvalidValue if response.is_client_error else Unavailable
    raise kind(f"the service answers {response.status_code}: {detail}")


async def _write(response: httpx.Response, path: Path, progress: Progress) -> str:
    """Write an answer to a file and to the disk; returns the SHA-256 of it."""
    digest = hashlib.sha256()
    with path.open("wb") as file:
        async for part in response.aiter_raw():
            digest.update(part)
            file.write(part)
            progress(len(part))
        file.flush()
        os.fsync(file.fileno())
    return digest.hexdigest()


@asynccontextmanager
async def exporting_client(
    url: str, key: str, service: Service | None
) -> AsyncIterator[httpx.AsyncClient]:
    """Yield a client of the service at a URL, or of a service that runs here for so long."""
    headers = {"Authorization": f"Bearer {key}", "Accept-Encoding": "identity"}
    if service is None:
        async with httpx.AsyncClient(
            base_url=url, headers=headers, timeout=EXPORT_TIMEOUT_S
        ) as client:
            yield client
        return
    front = create_app(service)
    # In a folder that only this user may enter.
    with (
        TemporaryDirectory(prefix="ledger-export-") as folder,
        socket.socket(socket.AF_UNIX) as listening,
    ):
        address = f"{folder}/socket"
        listening.bind(address)
        listening.listen()
        server = uvicorn.Server(
            uvicorn.Config(
                front,
                ws="none",
                lifespan="off",
                access_log=False,
                log_level="warning",
                log_config=None,
                timeout_graceful_shutdown=LINGER_S,
            )
        )
        async with front.api.router.lifespan_context(front.api):
            # The socket listens already: who connects before it is served waits in its queue.
            serving = asyncio.create_task(server.serve(sockets=[listening]))
            try:
                async with httpx.AsyncClient(
                    transport=httpx.AsyncHTTPTransport(uds=address),
                    base_url="http://here",
                    headers=headers,
                    timeout=EXPORT_TIMEOUT_S,
                ) as client:
                    yield client
            finally:
                server.should_exit = True
                await serving
