"""Every form: which command of the API it is, which fields it has, what it shows beside them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, get_args

from eventsourcing.persistence import Cursor
from fastapi.routing import APIRoute

from ledger.domain.errors import NotFound
from ledger.domain.values import (
    GROUNDS_MAX,
    Basis,
    Cause,
    DetectedBy,
    Ending,
    Role,
    Scope,
    Subject,
)
from ledger.service.console.acting import fields
from ledger.service.console.acting.fields import Field, Values, present
from ledger.service.console.frame import readable_time, sentence_of
from ledger.service.console.session import CONSOLE_ROLES
from ledger.service.http import conduct, erasures, operators, subjects, suspensions
from ledger.service.http.route import LedgerRoute
from ledger.service.http.shapes import subject_of
from ledger.service.wiring import Service

OFFERED_MAX: Final = 200  # models that are offered to be ticked; others can be written
DURATIONS: Final = (
    ("P1D", "1 day"),
    ("P7D", "7 days"),
    ("P14D", "14 days"),
    ("P1M", "1 month"),
    ("P2M", "2 months"),
    ("P3M", "3 months"),
    ("P6M", "6 months"),
    ("P1Y", "1 year"),
    ("indefinite", "no end, until somebody reinstates"),
)

Options = Sequence[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Desk:
    """What a form may look at: the ledger in one snapshot, as it is now."""

    service: Service
    c: Cursor
    position: int
    at: datetime

    def violations_of(self, subject: Subject) -> list[dict[str, Any]]:
        """Return what stands against a subject and those directly below it, newest first."""
        access = self.service.access
        links = access.links_of(self.c, subject, position=self.position, at=self.at)
        below = [Subject.model_validate(each["subject"]) for each in links["children"]]
        found: list[dict[str, Any]] = []
        for each in (subject, *below):
            found += self.service.conduct.violations(
                self.c,
                at=self.at,
                position=self.position,
                limit=GROUNDS_MAX - len(found),
                subject=each.key,
                state="stands",
            )
            if len(found) >= GROUNDS_MAX:
                break
        return found

    def one(self, find: Callable[..., list[Any]], id_: str, **more: Any) -> dict[str, Any]:
        """Return what a projection has under an id. Raises ``NotFound``."""
        found = find(self.c, position=self.position, limit=1, id_=id_, **more)
        if not found:
            raise NotFound(f"nothing is recorded under the id {id_!r}")
        return dict(found[0])


@dataclass(frozen=True, slots=True)
class Shown:
    """What is shown beside the fields: facts, what can be chosen, and what is filled in already."""

    facts: Sequence[tuple[str, str]] = ()
    options: Mapping[str, Options] = field(default_factory=dict)
    filled: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Asked:
    """The request of the API that a form amounts to."""

    method: str
    path: str
    parameters: Mapping[str, str]
    body: dict[str, object] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """A command of the API as a form; ``body`` makes of the fields what its route reads.

    ``explains`` says what it is for, ``says`` what its button does; ``is_final``: and cannot undo.
    """

    name: str
    title: str
    explains: str
    says: str
    endpoint: Callable[..., Any]
    fields: tuple[Field, ...]
    body: Callable[[Values], dict[str, object]] | None = None
    id_field: str | None = None
    is_final: bool = False
    show: Callable[[Desk, Values], Shown] = lambda _desk, _values: Shown()

    @property
    def address(self) -> str:
        """Where the form is."""
        return f"/console/{self.name}"

    @property
    def given(self) -> tuple[Field, ...]:
        """The fields that say what it is about."""
        return tuple(each for each in self.fields if each.kind == "given")

    @property
    def route(self) -> LedgerRoute:
        """The API's route of the command."""
        return ROUTES[self.endpoint]

    @property
    def roles(self) -> frozenset[Role]:
        """Who may use it: whom the API lets, of those who may sign in here."""
        assert self.route.roles is not None, "a command is never for anybody"
        return frozenset(map(Role, self.route.roles)) & CONSOLE_ROLES

    def asked(self, values: Values) -> Asked:
        """Return the request that the fields amount to."""
        parameters = {} if self.id_field is None else {"id": values.one(self.id_field)}
        (method,) = self.route.methods or {"POST"}
        path = self.route.path.format(**parameters)
        return Asked(method, path, parameters, self.body and self.body(values))


ROUTES: Final[Mapping[Callable[..., Any], LedgerRoute]] = {
    route.endpoint: route
    for module in (conduct, suspensions, subjects, erasures, operators)
    for route in module.routes.routes
    if isinstance(route, APIRoute) and isinstance(route, LedgerRoute)
}


# --- fields that several forms have ---------------------------------------------------------------


def _choices(values: Sequence[str]) -> tuple[tuple[str, str], ...]:
    return tuple((value, sentence_of(value)) for value in values)


SUBJECT: Final = Field(
    name="subject",
    label="Subject",
    kind="given",
    required=True,
    help="As type:id, such as user:alice.",
    pointers=("/subject",),
)
PARENT: Final = Field(
    name="parent",
    label="Parent",
    kind="given",
    required=True,
    help="Who is to stand above it, such as organization:northwind.",
    pointers=("/parent",),
)
SUSPENSION: Final = Field(
    name="suspension",
    label="Suspension",
    kind="given",
    required=True,
    help="Its id, which begins with sus_.",
    pointers=("/suspension",),
)
GROUNDS: Final = Field(
    name="grounds",
    label="Grounds",
    kind="checks",
    help="Violations of the subject, or of subjects directly below it, that stand.",
    pointers=("/grounds",),
)
TERM: Final = (
    Field(
        name="duration",
        label="How long",
        kind="choice",
        options=DURATIONS,
        help="By the calendar in UTC, from the start.",
        pointers=("/duration",),
    ),
    Field(
        name="other_duration",
        label="Or another duration",
        help="As ISO 8601 writes it: P45D, P1M15D, PT36H.",
        pointers=("/duration",),
    ),
    Field(
        name="ends_at",
        label="Or until",
        kind="instant",
        help="The first instant after the term.",
        pointers=("/ends_at",),
    ),
)


def reason(help_: str = "Kept in clear, for ever.") -> Field:
    """Return the field of a reason."""
    return Field(
        name="reason", label="Reason", kind="area", required=True, help=help_, pointers=("/reason",)
    )


ON_BEHALF_OF: Final = Field(
    name="on_behalf_of",
    label="On behalf of",
    help="Another person who decided it, as type:id. Leave it empty when it is you.",
    pointers=("on_behalf_of",),
)
"""Every form has it, last."""


# --- what they show -------------------------------------------------------------------------------


def _grounds(desk: Desk, values: Values) -> Options:
    return [
        (
            each["id"],
            ", ".join(
                (
                    f"{each['policy']} {each['clause']}",
                    readable_time(each["occurred_at"]),
                    f"{Subject.model_validate(each['subject']).key}: {each['summary']}",
                )
            ),
        )
        for each in desk.violations_of(subject_of(values.one("subject")))
    ]


def _show_grounds(desk: Desk, values: Values) -> Shown:
    return Shown(options={"grounds": _grounds(desk, values)})


def _show_catalogue(desk: Desk, _: Values) -> Shown:
    return Shown(options=_catalogue(desk))


def _catalogue(desk: Desk) -> dict[str, Options]:
    """Return what a scope may name: models, groups, types, actions."""
    catalogue = desk.service.ledger.known([], position=desk.position).catalogue
    listed = catalogue.listed_at(desk.at)
    types = dict.fromkeys(entry.resource.type for entry in listed)
    actions = dict.fromkeys(action for entry in listed for action in entry.actions)
    groups = {group: history.at(desk.at) for group, history in sorted(catalogue.groups.items())}
    return {
        "models": [(entry.resource.key, entry.resource.key) for entry in listed[:OFFERED_MAX]],
        "types": [(each, f"every {each}") for each in types],
        "actions": [(each, each) for each in sorted(actions)],
        "groups": [
            (group, f"{group} ({', '.join(each.id for each in defined.resources) or 'empty'})")
            for group, defined in groups.items()
            if defined is not None
        ],
    }


def _show_suspending(desk: Desk, values: Values) -> Shown:
    return Shown(options={"grounds": _grounds(desk, values), **_catalogue(desk)})


def _show_violation_form(desk: Desk, _: Values) -> Shown:
    clauses = [
        (f"{policy.id}:{clause.id}", f"{policy.id}: {clause.title} ({clause.severity})")
        for policy in desk.service.ledger.policies(position=desk.position)
        for clause in policy.versions[-1].clauses
    ]
    return Shown(options={"clause": clauses, "models": _catalogue(desk)["models"]})


def _show_violation(desk: Desk, values: Values) -> Shown:
    found = desk.one(desk.service.conduct.violations, values.one("violation"), at=desk.at)
    return Shown(
        facts=[
            ("Subject", Subject.model_validate(found["subject"]).key),
            ("Clause", f"{found['policy']} {found['clause']}"),
            ("Happened", readable_time(found["occurred_at"])),
            ("Summary", found["summary"]),
            ("State", found["state"]),
        ]
    )


def _show_suspension(desk: Desk, values: Values) -> Shown:
    found = desk.one(desk.service.access.suspensions, values.one("suspension"), at=desk.at)
    return Shown(
        facts=[
            ("Subject", Subject.model_validate(found["subject"]).key),
            ("Refuses", Scope.model_validate(found["scope"]).label),
            ("From", readable_time(found["effective_at"])),
            ("Until", readable_time(found["ends_at"]) if found["ends_at"] else "no end"),
            ("State", sentence_of(found["state"])),
            ("Reason", found["reason"]),
        ]
    )


def _show_erasure(desk: Desk, values: Values) -> Shown:
    found = desk.one(desk.service.erasures.erasures, values.one("erasure"))
    return Shown(facts=_requested(found))


def _show_hold(desk: Desk, values: Values) -> Shown:
    found = desk.one(desk.service.erasures.holds, values.one("hold"))
    return Shown(facts=_requested(found))


def _requested(found: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [
        ("Subject", Subject.model_validate(found["subject"]).key),
        ("Reason", found["reason"]),
        ("By", found["operator"]),
        ("Recorded", readable_time(found["recorded_at"])),
        ("State", found["state"]),
    ]


def _show_properties(desk: Desk, values: Values) -> Shown:
    asked = subject_of(values.one("subject"))
    record = desk.service.ledger.known([asked], position=desk.position).records.get(asked)
    held = (record.properties.latest if record else None) or {}
    return Shown(filled={"properties": fields.property_lines(held)})


# --- the forms ------------------------------------------------------------------------------------


def _clause(values: Values) -> dict[str, object]:
    policy, _, clause = values.one("clause").rpartition(":")
    return present(policy=policy, clause=clause)


FORMS: Final = (
    Form(
        name="violation",
        title="Record a violation",
        explains="Record that a subject broke a clause of a policy. Nothing is refused by it.",
        says="Record the violation",
        endpoint=conduct.record_violation,
        fields=(
            SUBJECT,
            Field(
                name="clause",
                label="Clause",
                kind="choice",
                required=True,
                help="Of the version that was in force when it happened.",
                pointers=("/clause", "/policy"),
            ),
            Field(
                name="occurred_at",
                label="When it happened",
                kind="instant",
                required=True,
                pointers=("/occurred_at",),
            ),
            Field(
                name="detected_by",
                label="Found by",
                kind="choice",
                required=True,
                options=_choices(get_args(DetectedBy)),
                pointers=("/detected_by",),
            ),
            Field(
                name="summary",
                label="Summary",
                kind="area",
                required=True,
                help="Kept in clear, for ever: no personal data.",
                pointers=("/summary",),
            ),
            Field(
                name="details",
                label="Details",
                kind="area",
                sealed=True,
                help="Sealed: shown only to who asks for it, which is recorded.",
                pointers=("/details",),
            ),
            Field(
                name="evidence",
                label="Evidence",
                kind="area",
                sealed=True,
                help="On each line a URI, its SHA-256, and the word personal if it is: "
                "then both are sealed.",
                pointers=("/evidence",),
            ),
            Field(name="models", label="Misused", kind="checks", pointers=("/resources",)),
            Field(
                name="resources",
                label="Misused, not listed",
                kind="area",
                help="On each line a resource as type:id.",
                pointers=("/resources",),
            ),
        ),
        body=lambda values: {
            "subject": fields.subject(values),
            **_clause(values),
            **present(
                occurred_at=values.instant("occurred_at"),
                detected_by=values.one("detected_by"),
                summary=values.text("summary"),
                details=values.text("details"),
                evidence=fields.evidence(values),
                resources=fields.resources_of(values, "/resources"),
            ),
        },
        show=_show_violation_form,
    ),
    Form(
        name="overturn",
        title="Overturn a violation",
        explains="Say that a violation was found wrong. What rests on it alone ends with it.",
        says="Overturn the violation",
        endpoint=conduct.overturn,
        fields=(
            Field(
                name="violation",
                label="Violation",
                kind="given",
                required=True,
                help="Its id, which begins with vio_.",
            ),
            reason(),
        ),
        id_field="violation",
        body=lambda values: present(reason=values.text("reason")),
        show=_show_violation,
    ),
    Form(
        name="warn",
        title="Warn a subject",
        explains="Send word to a subject. Nothing is refused by it.",
        says="Record the warning",
        endpoint=conduct.warn,
        fields=(SUBJECT, GROUNDS, reason("Shown to the subject.")),
        body=lambda values: {
            "subject": fields.subject(values),
            **present(grounds=values["grounds"], reason=values.text("reason")),
        },
        show=_show_grounds,
    ),
    Form(
        name="suspend",
        title="Suspend a subject",
        explains="Refuse models to a subject and to all below it. It binds at once.",
        says="Suspend the subject",
        endpoint=suspensions.suspend,
        fields=(
            SUBJECT,
            Field(name="groups", label="Groups", kind="checks", pointers=("/scope/resources",)),
            Field(
                name="types", label="All of a kind", kind="checks", pointers=("/scope/resources",)
            ),
            Field(name="models", label="Models", kind="checks", pointers=("/scope/resources",)),
            Field(
                name="resources",
                label="Resources that are not listed",
                kind="area",
                help="On each line one as type:id.",
                pointers=("/scope/resources",),
            ),
            Field(
                name="actions",
                label="Actions",
                kind="checks",
                help="None ticked: every action.",
                pointers=("/scope/actions",),
            ),
            Field(
                name="conditions",
                label="Only under conditions",
                kind="area",
                help="On each line one, and all must hold: resource.properties.status in "
                "released, beta. Also not_in, and exists.",
                pointers=("/scope/conditions",),
            ),
            *TERM,
            Field(
                name="effective_at",
                label="From",
                kind="instant",
                help="At once when empty.",
                pointers=("/effective_at",),
            ),
            Field(
                name="basis",
                label="Basis",
                kind="choice",
                required=True,
                options=_choices(list(Basis)),
                preset=True,
                pointers=("/basis",),
            ),
            GROUNDS,
            reason("Shown to the subject."),
            Field(
                name="note",
                label="Note",
                kind="area",
                sealed=True,
                help="Sealed: shown only to who asks for it, which is recorded.",
                pointers=("/note",),
            ),
            Field(
                name="reinstatement",
                label="At the end of the term",
                kind="choice",
                required=True,
                preset=True,
                options=(
                    (Ending.AUTOMATIC, "it ends by itself"),
                    (Ending.ON_REVIEW, "it goes on until a person looks"),
                ),
                pointers=("/reinstatement",),
            ),
            Field(
                name="disclosure",
                label="The subject",
                kind="choice",
                required=True,
                preset=True,
                options=(
                    ("notified", "is told"),
                    ("deferred", "is told later"),
                    ("public", "is told, and everybody may know"),
                ),
                pointers=("/disclosure",),
            ),
        ),
        body=lambda values: {
            "subject": fields.subject(values),
            "scope": fields.scope(values),
            **fields.term(values),
            **present(
                effective_at=values.instant("effective_at"),
                basis=values.one("basis"),
                grounds=values["grounds"],
                reason=values.text("reason"),
                note=values.text("note"),
                reinstatement=values.one("reinstatement"),
                disclosure=values.one("disclosure"),
            ),
        },
        show=_show_suspending,
    ),
    Form(
        name="revise",
        title="Move the end of a suspension",
        explains="Extend or shorten a suspension that is scheduled or in force.",
        says="Move the end",
        endpoint=suspensions.revise,
        fields=(SUSPENSION, *TERM, reason("Shown to the subject.")),
        id_field="suspension",
        body=lambda values: {**fields.term(values), **present(reason=values.text("reason"))},
        show=_show_suspension,
    ),
    Form(
        name="cancel",
        title="Cancel a suspension",
        explains="Take a suspension back before it begins.",
        says="Cancel the suspension",
        endpoint=suspensions.cancel,
        fields=(SUSPENSION, reason("Shown to the subject.")),
        id_field="suspension",
        body=lambda values: present(reason=values.text("reason")),
        show=_show_suspension,
    ),
    Form(
        name="reinstate",
        title="Reinstate a subject",
        explains="End one suspension. Others of the same subject stay as they are.",
        says="End the suspension",
        endpoint=suspensions.reinstate,
        fields=(
            SUSPENSION,
            Field(
                name="cause",
                label="Cause",
                kind="choice",
                required=True,
                options=_choices(list(Cause)),
                pointers=("/cause",),
            ),
            reason("Shown to the subject."),
            Field(
                name="effective_at",
                label="From",
                kind="instant",
                help="At once when empty. In the past only as a correction: for error, "
                "violation overturned and legal order.",
                pointers=("/effective_at",),
            ),
        ),
        body=lambda values: {
            "suspension": values.one("suspension"),
            **present(
                cause=values.one("cause"),
                reason=values.text("reason"),
                effective_at=values.instant("effective_at"),
            ),
        },
        show=_show_suspension,
    ),
    Form(
        name="register",
        title="Register a subject",
        explains="Make a subject known, or replace its properties.",
        says="Register the subject",
        endpoint=subjects.register,
        fields=(
            SUBJECT,
            Field(
                name="properties",
                label="Properties",
                kind="area",
                help="On each line name = value. They replace those it has, stay in clear, and "
                "are not for personal data.",
                pointers=("/properties",),
            ),
        ),
        body=lambda values: {
            "subject": fields.subject(values),
            "properties": fields.properties(values),
        },
        show=_show_properties,
    ),
    Form(
        name="link",
        title="Link a subject below another",
        explains="From then on, what is refused to the parent is refused to the subject.",
        says="Link the two",
        endpoint=subjects.link,
        fields=(SUBJECT, PARENT),
        body=lambda values: {
            "subject": fields.subject(values),
            "parent": fields.subject(values, "parent"),
        },
    ),
    Form(
        name="unlink",
        title="Unlink a subject",
        explains="From then on, the two stand separately.",
        says="Unlink the two",
        endpoint=subjects.unlink,
        fields=(SUBJECT, PARENT),
        body=lambda values: {
            "subject": fields.subject(values),
            "parent": fields.subject(values, "parent"),
        },
    ),
    Form(
        name="erase",
        title="Request an erasure",
        explains="Ask that what is sealed about a subject be erased. An approver confirms it.",
        says="Request the erasure",
        endpoint=erasures.request_erasure,
        fields=(SUBJECT, reason("Kept in clear, for ever: no personal data.")),
        body=lambda values: {
            "subject": fields.subject(values),
            **present(reason=values.text("reason")),
        },
    ),
    Form(
        name="confirm-erasure",
        title="Confirm an erasure",
        explains="Destroy the keys of a subject. Nobody can read what they sealed, ever again.",
        says="Erase it for good",
        endpoint=erasures.confirm_erasure,
        fields=(
            Field(
                name="erasure",
                label="Erasure",
                kind="given",
                required=True,
                help="Its id, which begins with era_.",
            ),
        ),
        id_field="erasure",
        is_final=True,
        show=_show_erasure,
    ),
    Form(
        name="hold",
        title="Place a legal hold",
        explains="Forbid every erasure of a subject while the hold stands.",
        says="Place the hold",
        endpoint=erasures.place_hold,
        fields=(SUBJECT, reason("Kept in clear, for ever: no personal data.")),
        body=lambda values: {
            "subject": fields.subject(values),
            **present(reason=values.text("reason")),
        },
    ),
    Form(
        name="lift-hold",
        title="Lift a legal hold",
        explains="Take one hold away. Others on the subject stay.",
        says="Lift the hold",
        endpoint=erasures.lift_hold,
        fields=(
            Field(
                name="hold",
                label="Hold",
                kind="given",
                required=True,
                help="Its id, which begins with hld_.",
            ),
        ),
        id_field="hold",
        show=_show_hold,
    ),
    Form(
        name="enroll",
        title="Enroll an operator",
        explains="Let an operator act in one role, or change its role.",
        says="Enroll the operator",
        endpoint=operators.enroll,
        fields=(
            Field(name="operator", label="Operator", required=True, pointers=("/id",)),
            Field(
                name="role",
                label="Role",
                kind="choice",
                required=True,
                options=_choices(list(Role)),
                pointers=("/role",),
            ),
        ),
        body=lambda values: present(id=values.one("operator"), role=values.one("role")),
    ),
    Form(
        name="issue-key",
        title="Issue a key",
        explains="Give an operator one more key. It is shown once, when it is issued.",
        says="Issue the key",
        endpoint=operators.issue_key,
        fields=(
            Field(name="operator", label="Operator", kind="given", required=True),
            Field(name="label", label="Label", help="What it is for.", pointers=("/label",)),
            Field(
                name="expires_at",
                label="Good until",
                kind="instant",
                help="For ever when empty.",
                pointers=("/expires_at",),
            ),
        ),
        id_field="operator",
        body=lambda values: present(
            label=values.text("label"), expires_at=values.instant("expires_at")
        ),
    ),
    Form(
        name="revoke-key",
        title="Revoke a key",
        explains="Refuse a key from now on, in every process within a second.",
        says="Revoke the key",
        endpoint=operators.revoke_key,
        fields=(
            Field(
                name="key",
                label="Key",
                kind="given",
                required=True,
                help="Its id, which begins with key_; not the key.",
            ),
        ),
        id_field="key",
    ),
)
"""In the order in which they are offered."""
