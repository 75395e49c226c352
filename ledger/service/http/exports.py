"""A whole list as a file, and the manifest that says what the file must be.

A browser or a program is sent bytes as they are made. When making them fails, the connection is
broken off, which every client reports: half a file never looks whole.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Final
from urllib.parse import urlencode

from fastapi import Depends, Query, Request
from fastapi.responses import Response, StreamingResponse
from pydantic import BaseModel, Field

from ledger.domain.errors import (
    EventTooLarge,
    InvalidValue,
    LogNotVerified,
    StorageFailed,
    StorageFull,
    StoreBusy,
    UnknownFact,
)
from ledger.domain.values import Instant
from ledger.service.exports import (
    FORMATS,
    VIEWS,
    Export,
    begin_export,
    export_of,
    formats_of,
    manifest,
)
from ledger.service.exports.views import View
from ledger.service.http.conduct import violation_filter, warning_filter
from ledger.service.http.events import event_filter
from ledger.service.http.problems import responses
from ledger.service.http.route import allow, answer, author_of, router, service_of
from ledger.service.http.shapes import BEHIND_THE_GATE, Order, Travel, read_responses
from ledger.service.http.suspensions import reinstatement_filter, suspension_filter

routes = router("exports")

# What says how an export is made, and not what of the list is in it.
MANNER: Final = frozenset(("format", "order", "at", "known_at", "known_position"))

FILTERS: Final[dict[str, Callable[..., dict[str, Any]]]] = {
    "events": event_filter,
    "suspensions": suspension_filter,
    "violations": violation_filter,
    "reinstatements": reinstatement_filter,
    "warnings": warning_filter,
}


class ManifestAnswer(BaseModel):
    """What an exported file must be, and what it was made of."""

    origin: str = Field(description="Of the log: which ledger it is.")
    view: str = Field(examples=["events"])
    format: str = Field(examples=["csv"])
    media_type: str
    file: str = Field(examples=["events-41.csv"])
    filters: dict[str, list[str]] = Field(examples=[{"subject": ["user:alice"]}])
    order: str
    position: int = Field(description="The position as of which the list was read.")
    at: Instant | None = Field(description="What was in force then; null where that is no matter.")
    count: int = Field(description="How many items the file has.")
    bytes: int
    sha256: str = Field(description="Of the file, in hexadecimal.")
    checkpoint: str | None = Field(description="The newest checkpoint when the manifest was made.")
    made_at: Instant
    operator: str = Field(description="Who asked for the manifest.")
    on_behalf_of: str | None


def _add(view: View) -> None:
    """Add the two routes of a list."""
    read = FILTERS[view.name]
    names = formats_of(view)
    form = Query(
        pattern=f"^({'|'.join(names)})$",
        description=f"The form of the file: {', '.join(names)}.",
        examples=["ndjson"],
    )

    def asked(
        request: Request,
        travel: Travel,
        format: Annotated[str, form],
        order: Order = "newest",
        filters: dict[str, Any] = Depends(read),
    ) -> Export:
        return export_of(
            service_of(request),
            view,
            FORMATS[format],
            filters=filters,
            asked=tuple(
                item for item in request.query_params.multi_items() if item[0] not in MANNER
            ),
            travel=travel,
            oldest_first=order == "oldest",
        )

    # Their annotations are texts, which FastAPI could not resolve to what is known only here.
    for name, annotation in (("travel", Travel), ("format", Annotated[str, form])):
        asked.__annotations__[name] = annotation

    def export(request: Request, export: Export = Depends(asked)) -> Response:
        """Send every item that the list with these parameters has, as a file.

        Who takes it with them is recorded before the first byte.
        """
        made = begin_export(service_of(request), export, by=author_of(request))
        described = f"{view.path}/export/manifest?{urlencode(export.query())}"
        return StreamingResponse(
            made,
            media_type=export.format.media_type,
            headers={
                "Ledger-Position": str(export.position),
                "Content-Disposition": f'attachment; filename="{export.file_name}"',
                "Link": f'<{described}>; rel="describedby"',
                "Cache-Control": "no-store",
                "X-Content-Type-Options": "nosniff",
                **export.format.headers,
            },
        )

    def export_manifest(request: Request, export: Export = Depends(asked)) -> Response:
        """Say what the file of this export must be, by making it again without sending it.

        Ask with the parameters of the export's header `Link`, which name its position.
        """
        found = manifest(service_of(request), export, by=author_of(request))
        return answer(found, position=export.position)

    routes.get(
        f"{view.path}/export",
        name=f"export_{view.name}",
        summary=f"Export {view.name}",
        openapi_extra=allow(*view.roles, reveals=True),
        response_class=Response,
        responses={
            200: {
                "description": "The file.",
                "content": {
                    FORMATS[name].media_type.partition(";")[0]: {"schema": {"type": "string"}}
                    for name in names
                },
            },
            **responses(
                *BEHIND_THE_GATE,
                InvalidValue,
                EventTooLarge,
                StoreBusy,
                StorageFull,
                StorageFailed,
                UnknownFact,
                LogNotVerified,
            ),
        },
    )(export)
    routes.get(
        f"{view.path}/export/manifest",
        name=f"export_{view.name}_manifest",
        summary=f"What an export of {view.name} must be",
        openapi_extra=allow(*view.roles, reveals=True),
        responses=read_responses(ManifestAnswer),
    )(export_manifest)


for each in VIEWS.values():
    _add(each)
