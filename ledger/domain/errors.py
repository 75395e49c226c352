"""Every refusal the ledger can make, with a stable ``code`` and a ``hint`` how to mend it.

Nothing here knows HTTP; ``ledger/service/http/problems.py`` maps the kinds to status codes, once.

::

    LedgerError
    ├── Refused                     the rule says no, whatever the record's state   (422)
    │   ├── InvalidValue            invalid_value
    │   ├── UnknownPolicy           unknown_policy
    │   ├── UnknownClause           unknown_clause
    │   ├── PolicyNotInForce        policy_not_in_force
    │   ├── OccurredInFuture        occurred_in_future
    │   ├── UnknownGroup            unknown_group
    │   ├── UnknownViolation        unknown_violation
    │   ├── TermRequired            term_required
    │   ├── EffectiveInPast         effective_in_past
    │   ├── EndInPast               end_in_past
    │   ├── EndTooFar               end_too_far
    │   ├── GroundsRequired         grounds_required
    │   ├── GroundOverturned        ground_overturned
    │   ├── GroundOfAnother         ground_of_another_subject
    │   ├── CauseNotAllowed         cause_not_allowed
    │   ├── LinkCycle               link_cycle
    │   ├── LinkTooDeep             link_too_deep
    │   ├── TooManyParents          too_many_parents
    │   ├── ReservedOperator        reserved_operator
    │   ├── EventTooLarge           event_too_large
    │   └── IdempotencyKeyReused    idempotency_key_reused
    ├── NotFound                    not_found: no such thing is recorded            (404)
    ├── Conflict                    conflict: the record moved on                   (409)
    │   ├── AlreadyEnded            already_ended
    │   ├── AlreadyStarted          already_started
    │   ├── AlreadyOverturned       already_overturned
    │   ├── AlreadyLinked           already_linked
    │   ├── NotLinked               not_linked
    │   ├── KeyAlreadyRevoked       key_already_revoked
    │   ├── LastAdminKey            last_admin_key
    │   ├── LegalHold               legal_hold
    │   ├── AlreadyRequested        already_requested
    │   ├── AlreadyErased           already_erased
    │   ├── HoldAlreadyLifted       hold_already_lifted
    │   └── ConflictOfInterest      conflict_of_interest
    ├── Unavailable                 unavailable: not now, try again                 (503)
    │   ├── Behind                  behind
    │   ├── StoreBusy               store_busy
    │   ├── OutcomeUnknown          outcome_unknown: recorded or not, nobody could say
    │   ├── NotConfirmed            not_confirmed
    │   ├── StorageFull             storage_full
    │   ├── StorageFailed           storage_failed
    │   ├── VaultUnavailable        vault_unavailable
    │   ├── UnknownFact             unknown_fact: the store holds facts of a newer version
    │   └── LogNotVerified          log_not_verified: the log does not fit what was signed
    └── TamperDetected              tamper_detected: the record does not add up     (500)
"""

from __future__ import annotations

from typing import ClassVar


class LedgerError(Exception):
    """A refusal: ``str(error)`` says what is wrong, ``hint`` how to mend it.

    ``code`` names it for machines. ``field`` is the JSON pointer of the member at fault, where
    there is one (``/scope/resources/0``). ``more`` holds further members that a problem document
    shows (for example the position that ended it).
    """

    code: ClassVar[str] = "ledger_error"
    title: ClassVar[str] = "The ledger refused"
    hint: ClassVar[str] = ""

    def __init__(self, detail: str, *, field: str | None = None, **more: object) -> None:
        super().__init__(detail)
        self.field = field
        self.more = more


class Refused(LedgerError):
    """The rule says no."""

    code = "refused"
    title = "The rule says no"


class InvalidValue(Refused):
    """A value has not the form it must have."""

    code = "invalid_value"
    title = "A value is not valid"
    hint = "Correct the value as the detail says and send the request again."


class UnknownPolicy(Refused):
    """The policy, or this version of it, was never published."""

    code = "unknown_policy"
    title = "No such policy version"
    hint = "GET /v1/policies lists the policies and their versions."


class UnknownClause(Refused):
    """The policy version has no clause of this id."""

    code = "unknown_clause"
    title = "No such clause"
    hint = "GET /v1/policies/{id} shows the clauses of a policy."


class PolicyNotInForce(Refused):
    """The policy version was not in force when the conduct happened."""

    code = "policy_not_in_force"
    title = "The policy version was not in force"
    hint = "Name the version that was in force at occurred_at, or leave the version out."


class OccurredInFuture(Refused):
    """The conduct is said to happen later than the clock allows."""

    code = "occurred_in_future"
    title = "The conduct lies in the future"
    hint = "Send occurred_at in UTC, at most 5 minutes ahead of the ledger's clock."


class UnknownGroup(Refused):
    """The group was never defined."""

    code = "unknown_group"
    title = "No such group"
    hint = "GET /v1/groups lists the groups; PUT /v1/groups/{id} defines one."


class UnknownViolation(Refused):
    """A violation named as a ground was never recorded."""

    code = "unknown_violation"
    title = "No such violation"
    hint = "GET /v1/violations lists the violations of a subject."


class TermRequired(Refused):
    """A suspension says its end in exactly one of three ways."""

    code = "term_required"
    title = "Exactly one end must be given"
    hint = 'Give one of duration (P2M), ends_at (an instant) and "indefinite": true.'


class EffectiveInPast(Refused):
    """A restriction cannot begin before it is recorded."""

    code = "effective_in_past"
    title = "The start lies in the past"
    hint = "Leave effective_at out to start now, or give a later instant."


class EndInPast(Refused):
    """The new end is not later than now, or not later than the start."""

    code = "end_in_past"
    title = "The end lies in the past"
    hint = "Give an end after now and after the start; to end a suspension now, reinstate."


class EndTooFar(Refused):
    """The end lies beyond what the rule allows."""

    code = "end_too_far"
    title = "The end lies too far ahead"
    hint = 'Give an earlier end; a suspension without an end says so with "indefinite": true.'


class GroundsRequired(Refused):
    """A suspension must rest on violations, unless its basis is precautionary or a legal order."""

    code = "grounds_required"
    title = "A suspension needs grounds"
    hint = (
        "Name the violations in grounds, or set basis to precautionary (with an end within "
        "30 days) or legal_order."
    )


class GroundOverturned(Refused):
    """A violation named as a ground was overturned and no longer stands."""

    code = "ground_overturned"
    title = "A ground no longer stands"
    hint = "Name only violations that stand."


class GroundOfAnother(Refused):
    """A violation named as a ground belongs to nobody the suspension restricts."""

    code = "ground_of_another_subject"
    title = "A ground belongs to another subject"
    hint = "Name violations of the subject itself or of a subject below it."


class CauseNotAllowed(Refused):
    """A person cannot give this cause for this suspension."""

    code = "cause_not_allowed"
    title = "This cause does not fit"
    hint = (
        "Use early, error or legal_order; violation_overturned once a ground was overturned; "
        "term_served once the term of an on_review suspension is over."
    )


class LinkCycle(Refused):
    """The link would make a subject its own ancestor."""

    code = "link_cycle"
    title = "The link would close a cycle"
    hint = "Links run from a subject to who stands above it; remove the opposite link first."


class LinkTooDeep(Refused):
    """The link would make a chain longer than the ledger allows."""

    code = "link_too_deep"
    title = "The chain of links would be too deep"
    hint = "At most 8 links may stand one above the other."


class TooManyParents(Refused):
    """The subject has as many parents as the ledger allows."""

    code = "too_many_parents"
    title = "Too many parents"
    hint = "Unlink a parent first, or link to an organization that stands for several."


class ReservedOperator(Refused):
    """The operator ``system`` is the ledger itself."""

    code = "reserved_operator"
    title = "This operator id is reserved"
    hint = "Choose another id; system is the ledger itself."


class EventTooLarge(Refused):
    """The fact with its envelope would be larger than a log entry may be."""

    code = "event_too_large"
    title = "The fact is too large"
    hint = "Shorten its texts or split it; evidence belongs behind a URI with its SHA-256."


class IdempotencyKeyReused(Refused):
    """The same Idempotency-Key came with another request."""

    code = "idempotency_key_reused"
    title = "The idempotency key was used for another request"
    hint = "Use a new Idempotency-Key for each command; repeat one only with the same body."


class NotFound(LedgerError):
    """No such thing is recorded."""

    code = "not_found"
    title = "Not found"
    hint = "Check the id; lists show what is recorded."


class Conflict(LedgerError):
    """The record moved on, so the command no longer fits it."""

    code = "conflict"
    title = "The record moved on"
    hint = "Read the record again and decide anew."


class AlreadyEnded(Conflict):
    """The suspension has ended; ``more["ended_by"]`` is the position of the fact that ended it."""

    code = "already_ended"
    title = "The suspension has already ended"
    hint = "Nothing is left to end; see the event that ended it."


class AlreadyStarted(Conflict):
    """Only a suspension that has not begun can be cancelled."""

    code = "already_started"
    title = "The suspension has already started"
    hint = "Use a reinstatement to end a suspension that is in force."


class AlreadyOverturned(Conflict):
    """The violation was overturned before."""

    code = "already_overturned"
    title = "The violation was already overturned"
    hint = "Nothing is left to overturn."


class AlreadyLinked(Conflict):
    """The link stands already."""

    code = "already_linked"
    title = "The link stands already"
    hint = "Nothing is left to link."


class NotLinked(Conflict):
    """There is no such link to remove."""

    code = "not_linked"
    title = "There is no such link"
    hint = "GET /v1/subjects/record shows a subject's links."


class KeyAlreadyRevoked(Conflict):
    """The key was revoked before."""

    code = "key_already_revoked"
    title = "The key was already revoked"
    hint = "Nothing is left to revoke."


class LastAdminKey(Conflict):
    """Without this key nobody could administer the ledger."""

    code = "last_admin_key"
    title = "This is the last usable admin key"
    hint = "Issue another admin key first."


class LegalHold(Conflict):
    """A legal hold stands on the subject; ``more["holds"]`` names each that does."""

    code = "legal_hold"
    title = "A legal hold forbids it"
    hint = "Nothing about this subject is erased until every hold on it is lifted."


class AlreadyRequested(Conflict):
    """An erasure of the subject waits for its confirmation; ``more["erasure"]`` names it."""

    code = "already_requested"
    title = "The erasure was already requested"
    hint = "An approver confirms the request that waits."


class AlreadyErased(Conflict):
    """The erasure was confirmed before; ``more["erased_by"]`` is the position of that fact."""

    code = "already_erased"
    title = "The erasure was already confirmed"
    hint = "Nothing is left to confirm; what was recorded since needs a new request."


class HoldAlreadyLifted(Conflict):
    """The hold was lifted before."""

    code = "hold_already_lifted"
    title = "The hold was already lifted"
    hint = "Nothing is left to lift."


class ConflictOfInterest(Conflict):
    """Whoever asked for it cannot also be the one who agrees to it."""

    code = "conflict_of_interest"
    title = "Somebody else must decide this"
    hint = "Let another person confirm it, in their own name."


class Unavailable(LedgerError):
    """Not now; the same request may succeed later."""

    code = "unavailable"
    title = "Not available now"
    hint = "Try again after the time in Retry-After."


class Behind(Unavailable):
    """The position that the request asks for is not yet applied in this process."""

    code = "behind"
    title = "Not yet caught up"
    hint = "Try again, or ask another process."


class StoreBusy(Unavailable):
    """Another process holds the write lock for longer than the limit."""

    code = "store_busy"
    title = "The store is busy"
    hint = "Try again; nothing was recorded."


class OutcomeUnknown(Unavailable):
    """The database went away while it committed: all of the command is recorded, or nothing is."""

    code = "outcome_unknown"
    title = "It is not known whether this was recorded"
    hint = "Send the same request with the same Idempotency-Key again: its answer tells."


class NotConfirmed(Unavailable):
    """It is committed on the server that was asked; a standby that must have it did not say so."""

    code = "not_confirmed"
    title = "A standby did not confirm in time"
    hint = "Send the same request with the same Idempotency-Key again, and see to the standby."


class StorageFull(Unavailable):
    """The disk that holds the store has no room left; nothing of the command was recorded."""

    code = "storage_full"
    title = "The disk is full"
    hint = "Make room on the disk of the database; writing goes on by itself. Checks go on anyway."


class StorageFailed(Unavailable):
    """The disk that holds the store could not be written; nothing of the command was recorded."""

    code = "storage_failed"
    title = "The disk cannot be written"
    hint = "See to the disk and the kernel's log; checks and reads go on. GET /readyz tries again."


class VaultUnavailable(Unavailable):
    """The vault cannot be used, so nothing can be sealed, shown or erased."""

    code = "vault_unavailable"
    title = "The vault is not available"
    hint = "See to the vault's file and to LEDGER_VAULT_KEY_FILE, then try again."


class UnknownFact(Unavailable):
    """The store holds a fact of a type or schema version that this program does not know.

    Writing on would decide on half the record, so writing stops until the program is upgraded.
    """

    code = "unknown_fact"
    title = "The store holds facts of a newer version"
    hint = "Upgrade this program to the version that wrote the ledger."


class LogNotVerified(Unavailable):
    """The transparency log does not fit what was signed of it; the detail says what and where.

    Nothing is recorded until a person has looked: what was recorded now would cover up the trace.
    """

    code = "log_not_verified"
    title = "The transparency log is in doubt"
    hint = "The operator of the ledger must act: GET /readyz says what is wrong and what to do."


class TamperDetected(LedgerError):
    """The record does not add up; ``more["position"]`` is the first bad position, where known."""

    code = "tamper_detected"
    title = "The record does not add up"
    hint = "Stop writing, keep the database as it is, and compare it with a backup."
