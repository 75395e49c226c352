"""Taking a list along as a file: exactly the list that was on the page, in a form of choice.

The file is sent for a form, not for a link: that somebody took it is recorded in their name, and
a link that stands on another site must not bring that about.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import orjson
from fastapi import Depends, Request
from fastapi.responses import Response, StreamingResponse

from ledger.domain.errors import InvalidValue
from ledger.domain.values import format_instant
from ledger.service.console.frame import HEADERS, query_of, render, with_query
from ledger.service.console.route import console_router, form_of, only
from ledger.service.exports import FORMATS, VIEWS, begin_export, export_of, formats_of, manifest
from ledger.service.exports.formats import Format
from ledger.service.exports.views import View
from ledger.service.http.exports import FILTERS, MANNER
from ledger.service.http.route import author_of, service_of
from ledger.service.http.shapes import Order, Times, Travel

PARTS: Final = ("file", "manifest")

routes = console_router()


@dataclass(frozen=True, slots=True)
class Offer:
    """What a page offers to take along: where its form is sent, and the forms of the file."""

    address: str
    formats: Sequence[Format]


def export_offer(request: Request, view: str, times: Times) -> Offer:
    """Offer the list of this request as a file, as it is known now and with all of its pages."""
    query = {
        name: value
        for name, value in query_of(request).items()
        if name not in ("limit", "cursor", "known_at", "format")
    }
    if VIEWS[view].of_a_time:
        query["at"] = format_instant(times.at)
    else:
        query.pop("at", None)
    address = with_query(f"/console/export/{view}", query, known_position=str(times.position))
    return Offer(address, [FORMATS[name] for name in formats_of(VIEWS[view])])


def _add(view: View) -> None:
    """Add the page of a list that says what is offered, and the route that sends it."""
    read = FILTERS[view.name]
    path = f"/console/export/{view.name}"

    def offer(
        request: Request,
        travel: Travel,
        order: Order = "newest",
        filters: dict[str, Any] = Depends(read),
    ) -> Response:
        """Say what would be exported, and ask in which form."""
        service = service_of(request)
        with service.reading() as (_, head):
            times = travel.resolve(service, head)
        return render(
            request,
            "export.html",
            area="/console/trail" if view.name == "events" else f"/console/{view.name}",
            times=times,
            view=view.name,
            offer=export_offer(request, view.name, times),
            asked=_asked(request),
            filters=filters,
            order=order,
        )

    def send(
        request: Request,
        travel: Travel,
        order: Order = "newest",
        filters: dict[str, Any] = Depends(read),
    ) -> Response:
        """Send the file, or what it must be; who takes the file is recorded before."""
        form = form_of(request)
        part, name = form.get("part", "file"), form.get("format", "")
        if name not in formats_of(view):
            raise InvalidValue(f"{view.name} cannot be exported as {name!r}", field="format")
        if part not in PARTS:
            raise InvalidValue(f"an export has no {part!r}", field="part")
        service = service_of(request)
        export = export_of(
            service,
            view,
            FORMATS[name],
            filters=filters,
            asked=_asked(request),
            travel=travel,
            oldest_first=order == "oldest",
        )
        file_name = export.file_name if part == "file" else f"{export.file_name}.manifest.json"
        headers = {
            **HEADERS,
            "Ledger-Position": str(export.position),
            "Content-Disposition": f'attachment; filename="{file_name}"',
        }
        if part == "manifest":
            body = orjson.dumps(manifest(service, export, by=author_of(request)))
            return Response(body, media_type="application/json", headers=headers)
        return StreamingResponse(
            begin_export(service, export, by=author_of(request)),
            media_type=export.format.media_type,
            headers={**headers, **export.format.headers},
        )

    routes.get(path, name=f"offer_{view.name}", openapi_extra=only(*view.roles))(offer)
    routes.post(path, name=f"send_{view.name}", openapi_extra=only(*view.roles))(send)


def _asked(request: Request) -> tuple[tuple[str, str], ...]:
    """Return the filters as they were given, name and value."""
    return tuple(item for item in request.query_params.multi_items() if item[0] not in MANNER)


for each in VIEWS.values():
    _add(each)
