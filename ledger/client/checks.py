"""May this subject do this now? The AuthZEN checks and searches, which want a key of a service."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import httpx

from ledger.client.answers import Action, Answer, Decision, Page
from ledger.client.call import (
    ItemT,
    ListMethod,
    Paged,
    Parts,
    SubjectLike,
    call,
    described,
    subject_of,
)
from ledger.domain.values import Subject

Properties = Mapping[str, object]
Semantics = Literal["execute_all", "deny_on_first_deny", "permit_on_first_permit"]


class Decisions(Answer):
    """The decisions of a request with several questions, in their order."""

    evaluations: list[Decision]


def question(
    subject: SubjectLike | None = None,
    action: str | None = None,
    resource: SubjectLike | None = None,
    *,
    through: Iterable[SubjectLike] = (),
    subject_properties: Properties | None = None,
    action_properties: Properties | None = None,
    resource_properties: Properties | None = None,
) -> dict[str, Any]:
    """Return a question, or what several have in common, as AuthZEN writes it."""
    asked: dict[str, Any] = {}
    if subject is not None:
        asked["subject"] = _with(subject_of(subject), subject_properties)
    if action is not None:
        asked["action"] = _with({"name": action}, action_properties)
    if resource is not None:
        asked["resource"] = _with(subject_of(resource), resource_properties)
    acting = [subject_of(each) for each in through]
    if acting:
        asked["context"] = {"subjects": acting}
    return asked


def _with(entity: dict[str, Any], properties: Properties | None) -> dict[str, Any]:
    return entity if properties is None else {**entity, "properties": properties}


def _paged(item: type[ItemT]) -> Callable[[str, Parts], Paged[ItemT]]:
    """Return how the pages of a search follow each other: its token comes and goes in the body."""

    def read(response: httpx.Response) -> Page[ItemT]:
        body = response.json()
        return Page(
            items=[item.model_validate(each) for each in body["results"]],
            next=body.get("page", {}).get("next_token") or None,
            position=int(response.headers.get("ledger-position", 0)),
        )

    def paged(route: str, parts: Parts) -> Paged[ItemT]:
        def following(page: Page[ItemT]) -> Paged[ItemT] | None:
            if page.next is None:
                return None
            assert isinstance(parts.body, dict)
            return paged(route, replace(parts, body={**parts.body, "page": {"token": page.next}}))

        return Paged(described(route, parts, read), following)

    return paged


def _page(page_size: int | None) -> dict[str, Any]:
    return {} if page_size is None else {"page": {"limit": page_size}}


class Checks:
    """What a service asks before each request that it serves."""

    @call("POST /access/v1/evaluation", Decision)
    def evaluate(
        self,
        subject: SubjectLike,
        action: str,
        resource: SubjectLike,
        *,
        through: Iterable[SubjectLike] = (),
        subject_properties: Properties | None = None,
        action_properties: Properties | None = None,
        resource_properties: Properties | None = None,
    ) -> Parts:
        """Ask whether a subject may do this with a resource now, and if not, why."""
        return Parts(
            body=question(
                subject,
                action,
                resource,
                through=through,
                subject_properties=subject_properties,
                action_properties=action_properties,
                resource_properties=resource_properties,
            )
        )

    @call("POST /access/v1/evaluations", Decisions)
    def evaluate_many(
        self,
        questions: Sequence[Mapping[str, Any]],
        *,
        common: Mapping[str, Any] | None = None,
        semantics: Semantics = "execute_all",
    ) -> Parts:
        """Ask several questions, made by ``question``; ``common`` stands in for what they lack."""
        options = {"evaluations_semantic": semantics}
        return Parts(body={**(common or {}), "evaluations": list(questions), "options": options})

    def _subjects(
        self, type_: str, action: str, resource: SubjectLike, *, page_size: int | None = None
    ) -> Parts:
        """List the known subjects of a type that may do this with a resource."""
        asked = question(action=action, resource=resource)
        return Parts(body={**asked, "subject": {"type": type_}, **_page(page_size)})

    def _resources(
        self,
        subject: SubjectLike,
        action: str,
        type_: str = "model",
        *,
        page_size: int | None = None,
    ) -> Parts:
        """List the listed resources of a type with which a subject may do this."""
        asked = question(subject, action)
        return Parts(body={**asked, "resource": {"type": type_}, **_page(page_size)})

    def _actions(
        self, subject: SubjectLike, resource: SubjectLike, *, page_size: int | None = None
    ) -> Parts:
        """List the actions that a subject may do with a resource."""
        return Parts(body={**question(subject, resource=resource), **_page(page_size)})

    search_subjects = ListMethod("POST /access/v1/search/subject", _subjects, _paged(Subject))
    search_resources = ListMethod("POST /access/v1/search/resource", _resources, _paged(Subject))
    search_actions = ListMethod("POST /access/v1/search/action", _actions, _paged(Action))
