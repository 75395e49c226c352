"""Recording from the console: a form, a page that says what will happen, and only then the fact.

The form is sent twice. The first time, the command is rehearsed: all rules look at it, what they
refuse is shown beside the form, and nothing is recorded. The second time it is recorded, under an
idempotency key that was made with the form, so that sending it again changes nothing.
"""

from __future__ import annotations

import inspect
import secrets
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Final

from fastapi import Query, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import RedirectResponse, Response

from ledger.application import Done, Once, Rehearsed
from ledger.domain.errors import IdempotencyKeyReused, LedgerError, NotFound
from ledger.domain.events import Author, Recorded, SubjectEvent, SubjectSuspended, ViolationRecorded
from ledger.domain.values import Role
from ledger.service.console.acting.fields import Field, Values
from ledger.service.console.acting.foretold import foretell, seen_in
from ledger.service.console.acting.forms import FORMS, ON_BEHALF_OF, Desk, Form, Shown
from ledger.service.console.frame import HEADERS, is_open_to, render, with_query
from ledger.service.console.route import author_of, console_router, only, record
from ledger.service.http.problems import RequestRefused, document_of, status_of
from ledger.service.http.route import Command, fingerprint, is_header_id, service_of
from ledger.store.codec import as_json

CONSEQUENCES_SHOWN_MAX: Final = 100  # of one fact; a violation may be a ground of many suspensions
Many = Annotated[list[str] | None, Query()]

routes = console_router()


@routes.get("/console/record", openapi_extra=only(Role.OFFICER, Role.APPROVER, Role.ADMIN))
def what_can_be_recorded(request: Request) -> Response:
    """List the forms that the caller may use."""
    forms = [form for form in FORMS if request.state.caller.role in form.roles]
    return render(request, "acting.html", forms=forms)


@routes.get(
    "/console/recorded/{position}", openapi_extra=only(Role.OFFICER, Role.APPROVER, Role.ADMIN)
)
def recorded(request: Request, position: int, repeated: bool = False) -> Response:  # noqa: FBT001, FBT002 - a parameter of the address
    """Show what the caller has recorded, and what followed from it."""
    found = service_of(request).recorder.event(position)
    if found is None or found.author.operator != request.state.caller.operator:
        raise NotFound(f"you have recorded nothing at position {position}")
    return recorded_page(request, Done(found, "repeated" if repeated else "recorded"))


def recorded_page(request: Request, done: Done) -> Response:
    """Return the page after a decision."""
    service, fact = service_of(request), done.recorded
    caused = [] if done.outcome == "unchanged" else _caused_by(service.recorder.events, fact)
    about = fact.event.subject.key if isinstance(fact.event, SubjectEvent) else None
    return render(
        request,
        "recorded.html",
        area="/console/record",
        done=done,
        event=as_json(fact),
        caused=caused,
        about=about,
        following=_following(request, fact),
    )


def _caused_by(events: Callable[..., Any], fact: Recorded) -> list[Recorded]:
    """Return the consequences of a fact: they were recorded with it, right after it."""
    until = fact.position + CONSEQUENCES_SHOWN_MAX
    return [
        each for each in events(after=fact.position, until=until) if each.caused_by == fact.position
    ]


def _following(request: Request, fact: Recorded) -> list[tuple[str, str]]:
    """Return what may be done next: address and words, of the forms that the caller may use."""
    event, found = fact.event, list[tuple[str, str]]()
    if isinstance(event, ViolationRecorded):
        about = {"subject": event.subject.key, "grounds": event.violation}
        found = [
            (with_query("/console/suspend", about), "Suspend the subject for it"),
            (with_query("/console/warn", about), "Warn the subject for it"),
        ]
    elif isinstance(event, SubjectSuspended):
        about = {"suspension": event.suspension}
        found = [
            (with_query("/console/revise", about), "Move its end"),
            (with_query("/console/reinstate", about), "End it"),
        ]
    found.append(("/console/record", "Record something else"))
    return [each for each in found if is_open_to(request, each[0].partition("?")[0])]


# --- a form, twice --------------------------------------------------------------------------------


def show_form(request: Request, form: Form) -> Response:
    """Show a form, filled in with the parameters of its address."""
    return form_page(request, form, Values(request.query_params.multi_items()))


async def take(request: Request, form: Form) -> Response:
    """Take a form that was sent: rehearse it, or record it once that was looked at."""
    values = Values(request.state.form)
    try:
        if values.one("step") == "change":
            return await run_in_threadpool(form_page, request, form, values)
        asked = form.asked(values)
        command = form.route.read(request, asked.parameters, asked.body)
        by = author_of(request, values.text(ON_BEHALF_OF.name) or None)
        seal = fingerprint(asked.method, asked.path, asked.body)
        once = Once(_once_of(values), seal)
        try:
            rehearsed = await run_in_threadpool(_rehearse, request, command, by, once)
        except IdempotencyKeyReused:
            # They went back, and changed what was recorded meanwhile: this is another request.
            once = Once(new_key(), seal)
            rehearsed = await run_in_threadpool(_rehearse, request, command, by, once)
        if rehearsed.done.outcome == "repeated":
            return _to_recorded(rehearsed.done)
        if rehearsed.done.outcome == "unchanged":
            return await run_in_threadpool(recorded_page, request, rehearsed.done)
        if values.one("step") != "record" or values.one("seen") != seen_in(rehearsed):
            return await run_in_threadpool(
                confirmation_page, request, form, values, once, rehearsed
            )
        done = await record(request, command, by=by, once=once)
    except LedgerError as error:
        return await run_in_threadpool(form_page, request, form, values, error)
    if done.secret is not None or done.outcome == "unchanged":
        return await run_in_threadpool(recorded_page, request, done)
    return _to_recorded(done)


def _rehearse(request: Request, command: Command, by: Author, once: Once) -> Rehearsed:
    return service_of(request).ledger.rehearse(lambda: command.run(by=by, once=once))


def _to_recorded(done: Done) -> Response:
    address = with_query(
        f"/console/recorded/{done.recorded.position}",
        repeated="true" if done.outcome == "repeated" else None,
    )
    return RedirectResponse(address, 303, headers=HEADERS)


def new_key() -> str:
    """Return a new idempotency key for a form."""
    return f"console-{secrets.token_urlsafe(18)}"


def _once_of(values: Values) -> str:
    """Return the key that a form was made with."""
    key = values.one("once")
    return key if is_header_id(key) else new_key()


# --- its pages ------------------------------------------------------------------------------------


def form_page(
    request: Request, form: Form, values: Values, error: LedgerError | None = None
) -> Response:
    """Return a form with its values, and with what was refused about them.

    While it is not said what the form is about, only that is asked for.
    """
    shown, is_whole = Shown(), all(values[each.name] for each in form.given)
    if is_whole:
        try:
            shown = _shown(request, form, values)
        except LedgerError as refusal:
            error, is_whole = error or refusal, False
    problem = document_of(error) if error else None
    headers = error.headers() if isinstance(error, RequestRefused) else {}
    return render(
        request,
        "form.html",
        status_of(error) if error else 200,
        area="/console/record",
        headers=headers,
        form=form,
        fields=(*form.fields, ON_BEHALF_OF) if is_whole else form.given,
        is_whole=is_whole,
        values=values,
        shown=shown,
        once=new_key() if isinstance(error, IdempotencyKeyReused) else _once_of(values),
        problem=problem,
        **({"faults": {}, "unplaced": []} if problem is None else _faults(form, problem)),
    )


def _shown(request: Request, form: Form, values: Values) -> Shown:
    service = service_of(request)
    with service.reading(newest=True) as (c, head):
        return form.show(Desk(service, c, head, service.now()), values)


def _faults(form: Form, problem: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a refusal says about each field, and what it says about none of them."""
    errors = problem.get("errors") or [
        {"pointer": f"#{problem.get('field', '')}", "detail": problem["detail"]}
    ]
    faults: dict[str, list[str]] = {}
    unplaced: list[str] = []
    for each in errors:
        pointer = each.get("pointer", "").removeprefix("#")
        detail = each["detail"].removeprefix(f"{pointer}: ")
        fields = (*form.fields, ON_BEHALF_OF)
        name = next((one.name for one in fields if _is_in(pointer, one)), None)
        said = unplaced if name is None else faults.setdefault(name, [])
        if detail not in said:
            said.append(detail)
    return {"faults": faults, "unplaced": unplaced}


def _is_in(pointer: str, field: Field) -> bool:
    return any(f"{pointer}/".startswith(f"{each}/") for each in field.pointers)


def confirmation_page(
    request: Request, form: Form, values: Values, once: Once, rehearsed: Rehearsed
) -> Response:
    """Return the page that says what will happen. Nothing is recorded yet."""
    fields = (*form.fields, ON_BEHALF_OF)
    return render(
        request,
        "confirm.html",
        area="/console/record",
        form=form,
        carried=values.of(fields),
        sealed=[(each, len(values.text(each.name))) for each in _sealed(fields, values)],
        once=once.key,
        seen=seen_in(rehearsed),
        moved=values.one("step") == "record" and bool(values.one("seen")),
        foretold=foretell(service_of(request), rehearsed),
    )


def _sealed(fields: Sequence[Field], values: Values) -> list[Field]:
    return [each for each in fields if each.sealed and values.text(each.name)]


# --- their addresses ------------------------------------------------------------------------------


def _add(form: Form) -> None:
    """Give a form its address, which takes as parameters all fields but those that are sealed."""

    def page(request: Request, **_: object) -> Response:
        return show_form(request, form)

    async def sent(request: Request) -> Response:
        return await take(request, form)

    keyword = inspect.Parameter.KEYWORD_ONLY
    page.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [
            inspect.Parameter("request", keyword, annotation=Request),
            *(
                inspect.Parameter(each.name, keyword, default=None, annotation=Many)
                for each in (*form.fields, ON_BEHALF_OF)
                if not each.sealed  # an address is kept in logs and histories
            ),
        ]
    )
    may = only(*sorted(form.roles))
    routes.get(form.address, openapi_extra=may, name=form.name)(page)
    routes.post(form.address, openapi_extra=may, name=f"{form.name}-sent")(sent)


for _form in FORMS:
    _add(_form)
