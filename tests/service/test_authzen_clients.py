"""Clients that others wrote, unchanged: what speaks AuthZEN 1.0 works with this service."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest
from authzen_backend import AsyncAuthZENBackend, AuthZENBackend, FieldMapping
from decern import Client, DecernError  # type: ignore[import-untyped] # it carries no types

from tests.service.conftest import Running, suspension_of

AGENT = "auth:agent:agentmesh:"  # what the backend puts before the id of an agent
ALICE = {"type": "user", "id": "alice"}
BOB = {"type": "user", "id": "bob"}
ATLAS = {"type": "model", "id": "atlas-3"}


@pytest.fixture(scope="module")
def run(shared: Running) -> Running:
    """A service that has suspended a user and an agent from group frontier."""
    suspension_of(shared, "user:alice")
    suspension_of(shared, f"ai_agent:{AGENT}scout")
    link = {"subject": {"type": "application", "id": "press"}, "parent": ALICE}
    shared.done("POST", "/v1/links", role="officer", json=link)
    return shared


# --- decern ---------------------------------------------------------------------------------------


def test_decern_is_answered_and_told_why(run: Running) -> None:
    """``decern``: permit and denial; its reasons are ours, its context is the whole of ours."""
    client = Client(run.url, token=run.keys["service"])

    permit = client.evaluate(BOB, "use", ATLAS)
    denial = client.evaluate(ALICE, {"name": "use"}, ATLAS, {"ip": "::1"})

    assert (True, [], []) == (permit.allowed, permit.reasons, permit.errors)
    assert (False, ["suspended"], []) == (denial.allowed, denial.reasons, denial.errors)
    assert denial.context is not None
    assert 1 == len(denial.context["suspensions"])
    through = {"subjects": [{"type": "application", "id": "press"}]}
    assert not client.evaluate(BOB, "use", ATLAS, through).allowed


def test_decern_sees_refusals_as_errors(run: Running) -> None:
    """Without a key, and with half a request: an error with the status and our words."""
    with pytest.raises(DecernError) as unknown:
        Client(run.url, token="clk_x").evaluate(BOB, "use", ATLAS)
    with pytest.raises(DecernError) as malformed:
        Client(run.url, token=run.keys["service"]).evaluate({"type": "user"}, "use", ATLAS)

    assert (401, 400) == (unknown.value.status_code, malformed.value.status_code)
    assert '"code":"malformed_request"' in malformed.value.body


# --- authzen-policy-backend -----------------------------------------------------------------------


def arguments(run: Running, **more: Any) -> dict[str, Any]:
    """What every backend is made with."""
    return {
        "pdp_url": f"{run.url}/access/v1/evaluation",
        "pdp_application": "press",
        "token": run.keys["service"],
        "default_resource_type": "model",
        **more,
    }


def call(agent: str, model: str = "atlas-3") -> dict[str, Any]:
    """What the toolkit passes when an agent calls a tool."""
    return {"agent_id": agent, "tool_name": model, "action": "use", "user_id": "u1", "cost": 1.5}


def test_a_policy_backend_decides_by_our_answers(run: Running) -> None:
    """``authzen-policy-backend``: it shows the reason that is meant for administrators."""
    with AuthZENBackend(**arguments(run)) as backend:
        allowed = backend.evaluate(call("helper"))
        denied = backend.evaluate(call("scout"))
        elsewhere = backend.evaluate(call("scout", "mini-2"))

    assert (True, "allow", None) == (allowed.allowed, allowed.action, allowed.error)
    assert elsewhere.allowed
    assert (False, "deny", None) == (denied.allowed, denied.action, denied.error)
    assert denied.reason == denied.raw_result["context"]["reason_admin"]["en"]
    assert f"ai_agent:{AGENT}scout is suspended from model:atlas-3" in denied.reason


def test_a_policy_backend_for_users(run: Running) -> None:
    """Its subject type and its mapping of fields reach our subjects, too."""
    mapping = FieldMapping(agent_id_key="account")
    more = {"default_subject_type": "user", "mapping": mapping}
    suspension_of(run, "user:auth:account:agentmesh:carol")
    with AuthZENBackend(**arguments(run, **more)) as backend:
        found = [
            backend.evaluate({"account": name, "tool_name": "atlas-3", "action": "use"}).allowed
            for name in ("carol", "dan")
        ]

    assert [False, True] == found


def test_a_policy_backend_without_a_key_fails_closed(
    run: Running, caplog: pytest.LogCaptureFixture
) -> None:
    """What we refuse it takes for a denial, with the status as its reason."""
    with caplog.at_level(logging.CRITICAL), AuthZENBackend(**arguments(run, token="x")) as backend:
        found = backend.evaluate(call("helper"))

    assert not found.allowed
    assert "HTTP 401" in found.reason


def test_the_asynchronous_policy_backend(run: Running) -> None:
    """The same over connections that are kept and used at once."""

    async def evaluate() -> list[bool]:
        async with AsyncAuthZENBackend(**arguments(run)) as backend:
            agents = ["helper", "scout"] * 20
            found = await asyncio.gather(*(backend.evaluate(call(agent)) for agent in agents))
            return [decision.allowed for decision in found]

    assert [True, False] * 20 == asyncio.run(evaluate())
