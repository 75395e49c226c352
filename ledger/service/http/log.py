"""What does the log commit to, and how is it proven? Checkpoint, tiles and proofs over HTTP.

Trust: nothing that is served here need be believed. A checkpoint is signed; tiles, entries and
proofs are checked against it. Only what the newest published checkpoint covers is served, so all
of it can be.

Implements C2SP tlog-tiles under the prefix ``/log`` and C2SP tlog-proof. Tiles and entries hold the
whole record, so they are for auditors; the checkpoint says nothing about anybody.
"""

from __future__ import annotations

from typing import Annotated, Any, Final

from fastapi import Path, Query, Request
from fastapi.responses import Response
from pydantic import BaseModel, Field

from ledger.domain.errors import Behind, InvalidValue, LogNotVerified, NotFound
from ledger.domain.values import Role
from ledger.service.http.events import PositionPath
from ledger.service.http.health import KEY_PROBLEMS
from ledger.service.http.problems import responses
from ledger.service.http.route import allow, answer, router, service_of
from ledger.service.http.shapes import BEHIND_THE_GATE, read_responses
from ledger.service.wiring import Service
from ledger.tlog.merkle import LogFormatError, consistency_proof, inclusion_proof, root_at
from ledger.tlog.note import encode_base64
from ledger.tlog.proof import TlogProof, format_proof
from ledger.tlog.tiles import parse_tile_path, tile_exists

routes = router("log")

PROOF_WAIT_S: Final = 2.0  # for an event that is not signed yet: two intervals of signing
CHECKPOINT_SECONDS: Final = 1  # how long a cache may keep the checkpoint: there is one a second
TILE_SECONDS: Final = 31_536_000  # a year, the longest that caches honour; a tile never changes
PREFIX: Final = "/log/"

TEXT: Final = "text/plain; charset=utf-8"
BYTES: Final = "application/octet-stream"


def _described(description: str, media_type: str, *errors: type[Any]) -> dict[int | str, Any]:
    """Describe the answers of a route that does not answer in JSON."""
    schema = {"type": "string"} if media_type == TEXT else {"type": "string", "format": "binary"}
    return {
        200: {
            "description": description,
            "content": {media_type.partition(";")[0]: {"schema": schema}},
        },
        **responses(*errors),
    }


class InclusionAnswer(BaseModel):
    """That an event is in the tree of a size: the way up from its leaf to the root."""

    position: int
    leaf_index: int = Field(description="The event's place in the tree: position - 1.")
    size: int
    leaf_hash: str = Field(description="Base64 of the event's leaf hash.")
    root: str = Field(description="Base64 of the root of the tree of this size.")
    hashes: list[str] = Field(description="Base64 of each hash, the leaf's sibling first.")


class ConsistencyAnswer(BaseModel):
    """That the tree of one size is the beginning of that of another."""

    from_: int = Field(alias="from")
    to: int
    from_root: str = Field(description="Base64 of the root of the smaller tree.")
    to_root: str = Field(description="Base64 of the root of the larger tree.")
    hashes: list[str] = Field(description="Base64 of each hash of the proof.")


Size = Annotated[
    int | None,
    Query(ge=1, le=2**53, description="A tree size; that of the newest checkpoint when absent."),
]


def _published(service: Service) -> tuple[int, bytes]:
    """Return size and note of the published checkpoint; raises ``Behind`` when there is none."""
    size, note = service.signer.published
    if note is None:
        service.signer.require_verified()
        raise Behind(
            "no checkpoint is published yet; one is within seconds of the first event, once it has "
            "the cosignatures that the quorum asks for"
        )
    return size, note


def _size(service: Service, asked: int | None, parameter: str) -> int:
    """Return a tree size that the newest checkpoint covers."""
    size, _ = _published(service)
    if asked is not None and asked > size:
        raise InvalidValue(
            f"the newest checkpoint covers {size} events, not {asked}", field=parameter
        )
    return asked or size


@routes.get(
    "/log/checkpoint",
    summary="The newest checkpoint",
    response_class=Response,
    responses=_described(
        "The signed checkpoint, with the cosignatures of witnesses (C2SP tlog-checkpoint).",
        TEXT,
        *(kind for kind in BEHIND_THE_GATE if kind not in KEY_PROBLEMS),
        LogNotVerified,
    ),
)
async def checkpoint(request: Request) -> Response:
    """Return what the log commits to now. Anybody may ask."""
    _, note = _published(service_of(request))
    headers = {"Cache-Control": f"public, max-age={CHECKPOINT_SECONDS}"}
    return Response(note, headers=headers, media_type=TEXT)


@routes.get(
    "/log/tile/{path:path}",
    summary="A tile of hashes, or a bundle of entries",
    response_class=Response,
    openapi_extra=allow(Role.AUDITOR),
    responses=_described(
        "The tile, whole or partial (C2SP tlog-tiles).",
        BYTES,
        *BEHIND_THE_GATE,
        NotFound,
        LogNotVerified,
    ),
)
def tile(
    request: Request,
    path: Annotated[str, Path(description="Like `0/000`, `entries/000` or `0/000.p/7`.")],
) -> Response:
    """Return a tile that the newest checkpoint covers. It never changes."""
    service = service_of(request)
    size, _ = _published(service)
    # The path as it was sent: a second spelling of a tile would be a second copy in every cache.
    raw: bytes = request.scope["raw_path"]
    try:
        named = parse_tile_path(raw.decode("ascii").removeprefix(PREFIX))
    except (LogFormatError, UnicodeDecodeError) as error:
        raise NotFound(f"{path!r} names no tile: {error}") from None
    if not tile_exists(named, size):
        raise NotFound(f"the newest checkpoint covers {size} events, and so no tile {path}")
    with service.reading(at_least=size) as (c, _):
        read = service.log.bundle if named.level is None else service.log.tile
        data = read(c, named)
    headers = {"Cache-Control": f"private, max-age={TILE_SECONDS}, immutable"}
    return Response(data, headers=headers, media_type=BYTES)


@routes.get(
    "/v1/log/inclusion",
    summary="Prove that an event is in the log",
    openapi_extra=allow(Role.AUDITOR),
    responses=read_responses(InclusionAnswer, NotFound, InvalidValue, LogNotVerified),
)
def inclusion(
    request: Request,
    position: Annotated[int, Query(ge=1, le=2**53, description="The event's position.")],
    size: Size = None,
) -> Response:
    """Return the audit path of an event in the tree of a size (RFC 6962, section 2.1.1)."""
    service = service_of(request)
    size = _size(service, size, "size")
    if position > size:
        raise NotFound(f"a tree of {size} events holds no event {position}")
    with service.reading(at_least=size) as (c, head):
        read = service.log.hash_reader(c, size)
        body = {
            "position": position,
            "leaf_index": position - 1,
            "size": size,
            "leaf_hash": encode_base64(read(0, position - 1)),
            "root": encode_base64(root_at(size, read)),
            "hashes": [encode_base64(each) for each in inclusion_proof(position - 1, size, read)],
        }
    return answer(body, position=head)


@routes.get(
    "/v1/log/consistency",
    summary="Prove that nothing was changed between two checkpoints",
    openapi_extra=allow(Role.AUDITOR),
    responses=read_responses(ConsistencyAnswer, InvalidValue, LogNotVerified),
)
def consistency(
    request: Request,
    from_: Annotated[
        int, Query(alias="from", ge=1, le=2**53, description="The size of the earlier checkpoint.")
    ],
    to: Size = None,
) -> Response:
    """Return the proof that one tree is the beginning of another (RFC 6962, section 2.1.2)."""
    service = service_of(request)
    to = _size(service, to, "to")
    if from_ > to:
        raise InvalidValue(f"from is {from_} and to is {to}: a log only grows", field="from")
    with service.reading(at_least=to) as (c, head):
        read = service.log.hash_reader(c, to)
        body = {
            "from": from_,
            "to": to,
            "from_root": encode_base64(root_at(from_, read)),
            "to_root": encode_base64(root_at(to, read)),
            "hashes": [encode_base64(each) for each in consistency_proof(from_, to, read)],
        }
    return answer(body, position=head)


@routes.get(
    "/v1/events/{position}/proof",
    summary="The proof file of an event",
    response_class=Response,
    openapi_extra=allow(Role.AUDITOR),
    responses=_described(
        "A C2SP tlog-proof file: the checkpoint, and the way from the event's leaf to its root.",
        TEXT,
        *BEHIND_THE_GATE,
        NotFound,
        LogNotVerified,
    ),
)
def proof(request: Request, position: PositionPath) -> Response:
    """Return a file that proves an event offline; waits up to 2 s for its checkpoint."""
    service = service_of(request)
    with service.reading() as (_, head):
        if position > head:
            raise NotFound(f"the ledger ends at position {head}")
    if not service.signer.wait_for(position, PROOF_WAIT_S):
        service.signer.require_verified()
        raise Behind(f"event {position} is not under a checkpoint yet")
    size, note = _published(service)
    with service.reading(at_least=size) as (c, _):
        hashes = inclusion_proof(position - 1, size, service.log.hash_reader(c, size))
    return Response(
        format_proof(TlogProof(position - 1, hashes, note)),
        headers={"Ledger-Position": str(size)},
        media_type=TEXT,
    )
