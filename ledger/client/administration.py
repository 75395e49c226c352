"""What administrators keep: policies, the catalogue, operators and keys, erasures and holds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypedDict, Unpack

from ledger.client.answers import (
    Group,
    KeyIssued,
    ListedResource,
    Operator,
    Policy,
    Recorded,
)
from ledger.client.call import (
    Parts,
    SubjectLike,
    When,
    body_of,
    call,
    command,
    listing,
    query_of,
    subject_of,
)
from ledger.client.reading import Times
from ledger.domain.values import Role


class Keyed(Times, total=False):
    """How a list in the order of its keys is gone through."""

    page_size: int | None


class Operators(TypedDict, total=False):
    """How the list of operators is gone through."""

    page_size: int | None


class Administration:
    """Policies, resources, groups, operators, keys, erasures, holds."""

    @command("PUT /v1/policies/{id}", Recorded)
    def publish(
        self,
        policy: str,
        *,
        title: str,
        clauses: Sequence[Mapping[str, Any]],
        effective_at: When | None = None,
    ) -> Parts:
        """Publish the next version of a policy."""
        return Parts(
            {"id": policy},
            body=body_of(title=title, clauses=list(clauses), effective_at=effective_at),
        )

    @listing("GET /v1/policies", Policy)
    def policies(self, **asked: Unpack[Keyed]) -> Parts:
        """List policies, each with all its versions."""
        return Parts(query=query_of(asked))

    @call("GET /v1/policies/{id}", Policy)
    def policy(self, id: str, **asked: Unpack[Times]) -> Parts:
        """Return one policy with all its versions."""
        return Parts({"id": id}, query_of(asked))

    @command("PUT /v1/resources", Recorded)
    def list_resource(
        self,
        resource: SubjectLike,
        *,
        properties: Mapping[str, object] | None = None,
        actions: Sequence[str] | None = None,
    ) -> Parts:
        """Put a resource into the catalogue, or replace its entry."""
        return Parts(
            body=body_of(resource=subject_of(resource), properties=properties, actions=actions)
        )

    @listing("GET /v1/resources", ListedResource)
    def resources(self, **asked: Unpack[Keyed]) -> Parts:
        """List the catalogue."""
        return Parts(query=query_of(asked))

    @command("PUT /v1/groups/{id}", Recorded)
    def define_group(self, group: str, resources: Iterable[SubjectLike]) -> Parts:
        """Set the members of a group."""
        members = [subject_of(each) for each in resources]
        return Parts({"id": group}, body=body_of(resources=members))

    @listing("GET /v1/groups", Group)
    def groups(self, **asked: Unpack[Keyed]) -> Parts:
        """List groups with their members."""
        return Parts(query=query_of(asked))

    @call("GET /v1/groups/{id}", Group)
    def group(self, id: str, **asked: Unpack[Times]) -> Parts:
        """Return one group."""
        return Parts({"id": id}, query_of(asked))

    @command("POST /v1/operators", Recorded)
    def enroll(self, operator: str, *, role: Role | str) -> Parts:
        """Let an operator act in one role, or change its role."""
        return Parts(body=body_of(id=operator, role=role))

    @listing("GET /v1/operators", Operator)
    def operators(self, **asked: Unpack[Operators]) -> Parts:
        """List operators and their keys; never a key itself."""
        return Parts(query=query_of(asked))

    @command("POST /v1/operators/{id}/keys", KeyIssued)
    def issue_key(
        self, operator: str, *, expires_at: When | None = None, label: str | None = None
    ) -> Parts:
        """Issue a key; it is shown in this answer only."""
        return Parts({"id": operator}, body=body_of(expires_at=expires_at, label=label))

    @command("DELETE /v1/keys/{id}", Recorded)
    def revoke_key(self, key: str) -> Parts:
        """Refuse a key from now on."""
        return Parts({"id": key})

    @command("POST /v1/erasures", Recorded)
    def request_erasure(self, subject: SubjectLike, *, reason: str) -> Parts:
        """Ask that what is sealed about a subject be erased."""
        return Parts(body=body_of(subject=subject_of(subject), reason=reason))

    @command("POST /v1/erasures/{id}/confirmation", Recorded)
    def confirm_erasure(self, erasure: str) -> Parts:
        """Destroy a subject's keys."""
        return Parts({"id": erasure})

    @command("POST /v1/holds", Recorded)
    def place_hold(self, subject: SubjectLike, *, reason: str) -> Parts:
        """Forbid every erasure of a subject."""
        return Parts(body=body_of(subject=subject_of(subject), reason=reason))

    @command("DELETE /v1/holds/{id}", Recorded)
    def lift_hold(self, hold: str) -> Parts:
        """Lift one hold."""
        return Parts({"id": hold})
