"""The transparency report: for those with a key all of it, for everybody what may be published."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Annotated, Any, Final

from fastapi import Path, Query, Request
from fastapi.responses import Response
from pydantic import BaseModel, Field

from ledger.domain.errors import InvalidValue, NotFound
from ledger.domain.values import Instant, Role
from ledger.service.console.frame import ENVIRONMENT, HEADERS
from ledger.service.http.problems import NotAllowed, NotAuthenticated, TooManyRequests, responses
from ledger.service.http.route import allow, answer, router
from ledger.service.http.shapes import BEHIND_THE_GATE, KnownPosition, read_responses
from ledger.service.periods import Period
from ledger.service.plots import plot_of, plots_of
from ledger.service.report import Reports, as_csv, tables_of
from ledger.service.transparency.publication import Publication, newest

routes = router("report")

READERS: Final = (Role.AUDITOR, Role.OFFICER, Role.APPROVER, Role.ADMIN)
PUBLIC_MAX_AGE_S: Final = 3600  # what is published never changes; which periods are does, rarely
PLOT_HEADERS: Final[Mapping[str, str]] = {
    # A plot runs nothing, loads nothing and has no styles but attributes.
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
}
PUBLIC_HEADERS: Final[Mapping[str, str]] = {"Cache-Control": f"public, max-age={PUBLIC_MAX_AGE_S}"}

PeriodFrom = Annotated[
    Instant, Query(alias="from", description="The period begins at this instant.")
]
PeriodTo = Annotated[Instant, Query(description="The period ends before this instant.")]
PeriodName = Annotated[
    str | None,
    Query(
        max_length=10,
        description="A published period; the newest when absent.",
        examples=["2026-09", "2026-Q3", "2026"],
    ),
]
PlotName = Annotated[
    str, Path(max_length=100, description="Which plot.", examples=["violations-by-month"])
]
Format = Annotated[str, Query(pattern="^(json|csv)$", description="json, or csv")]


class ReportAnswer(BaseModel):
    """The figures of a period, a function of the period and ``known_position`` alone."""

    from_: str = Field(alias="from", examples=["2026-07-01T00:00:00.000000Z"])
    to: str = Field(examples=["2026-10-01T00:00:00.000000Z"])
    known_position: int
    known_at: str | None = Field(description="When the event at that position was recorded.")
    violations: dict[str, Any]
    warnings: dict[str, Any]
    suspensions: dict[str, Any]
    reinstatements: dict[str, Any]
    subjects: dict[str, Any]


class PublishedAnswer(ReportAnswer):
    """What is published of a period; null stands for what is left out."""

    origin: str
    period: str = Field(examples=["2026-Q3"])
    small: int = Field(description="Counts below it are left out.")
    note: str


@routes.get(
    "/v1/report",
    summary="The transparency figures of a period",
    openapi_extra=allow(*READERS),
    responses=read_responses(ReportAnswer),
)
def report(
    request: Request,
    start: PeriodFrom,
    to: PeriodTo,
    known_position: KnownPosition = None,
    format_: Annotated[Format, Query(alias="format")] = "json",
) -> Response:
    """Return what was recorded in a period, in figures, as known at a position.

    The same question with the same ``known_position`` is answered with the same bytes, always.
    """
    reports: Reports = request.app.state.reports
    body = reports.of(start=start, end=to, known_position=known_position)
    known = body["known_position"]
    if format_ == "json":
        return answer(body, position=known)
    return Response(
        as_csv(body),
        headers={
            "Ledger-Position": str(known),
            "Content-Disposition": f'attachment; filename="report-at-{known}.csv"',
        },
        media_type="text/csv; charset=utf-8",
    )


# --- what is published ----------------------------------------------------------------------------


def _public_answers(
    media_type: str, model: type[BaseModel] | None = None
) -> dict[int | str, dict[str, Any]]:
    with_key = (NotAuthenticated, NotAllowed, TooManyRequests)
    open_to_all = [kind for kind in BEHIND_THE_GATE if kind not in with_key]
    shown: dict[str, Any] = {"description": "What is published of a period."}
    if model is not None:
        shown["model"] = model
    else:
        shown["content"] = {media_type: {"schema": {"type": "string"}}}
    return {200: shown, **responses(*open_to_all, InvalidValue, NotFound)}


def publication_of(request: Request) -> Publication:
    """Return what is published. Raises ``NotFound`` when nothing is to be."""
    found: Publication | None = request.app.state.publication
    if found is None:
        raise NotFound("this ledger publishes no figures")
    return found


def _period(publication: Publication, name: str | None) -> Period:
    return newest(publication.periods()) if name is None else Period.parse(name)


@routes.get(
    "/transparency.json",
    summary="What is published of a period",
    responses=_public_answers("application/json", PublishedAnswer),
)
def transparency_json(request: Request, period: PeriodName = None) -> Response:
    """Return the public figures of a period that has ended, small counts left out. No key."""
    publication = publication_of(request)
    return _published(
        request,
        publication.encoded(_period(publication, period)),
        "application/json",
    )


@routes.get(
    "/transparency/plot/{name}.svg",
    summary="A plot of what is published",
    response_class=Response,
    responses=_public_answers("image/svg+xml"),
)
def transparency_plot(request: Request, name: PlotName, period: PeriodName = None) -> Response:
    """Return a plot of the public figures of a period. No key."""
    publication = publication_of(request)
    document = publication.document(_period(publication, period))
    return _published(request, plot_of(name, document), "image/svg+xml", PLOT_HEADERS)


@routes.get(
    "/transparency",
    summary="What is published, as a page",
    response_class=Response,
    responses=_public_answers("text/html"),
)
def transparency(request: Request, period: PeriodName = None) -> Response:
    """Show the public figures of a period in a browser. No key."""
    publication = publication_of(request)
    periods = publication.periods()
    asked = newest(periods) if period is None else Period.parse(period)
    document = publication.document(asked)
    page = ENVIRONMENT.get_template("transparency.html").render(
        document=document,
        periods=[each.name for each in periods],
        tables=list(tables_of(document)),
        plots=plots_of(document),
    )
    shown = {name: value for name, value in HEADERS.items() if name != "Cache-Control"}
    return _published(request, page.encode(), "text/html; charset=utf-8", shown)


def _published(
    request: Request, content: bytes, media_type: str, headers: Mapping[str, str] | None = None
) -> Response:
    tag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
    more = {**PUBLIC_HEADERS, **(headers or {}), "ETag": tag}
    if request.headers.get("if-none-match") == tag:
        return Response(status_code=304, headers=more)
    return Response(content, headers=more, media_type=media_type)
