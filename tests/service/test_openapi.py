"""The OpenAPI document: whole, true of what is answered, and survived by thousands of requests."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final

import pytest
import schemathesis
from openapi_schema_validator import OAS31Validator
from openapi_spec_validator import validate
from schemathesis.config import SchemathesisConfig
from schemathesis.engine import events, from_schema

from tests.service.conftest import (
    ENDLESS,
    POLICY,
    WITHIN_S,
    Running,
    suspension_of,
    template_of,
    violation_of,
)
from tests.service.test_http_commands import every_command

# Headers that make a request wait, or one of several: they have tests of their own.
LEFT_OUT: Final = {"Ledger-Min-Position", "Idempotency-Key", "Ledger-On-Behalf-Of", "wait"}
EXAMPLES_OF_EACH: Final = 3
REQUESTS_AT_LEAST: Final = 1_000


@pytest.fixture(scope="module")
def document(shared: Running) -> dict[str, Any]:
    """The document, as anybody can get it."""
    answer = shared.http.get("/openapi.json")
    assert 200 == answer.status_code
    told: dict[str, Any] = answer.json()
    return told


BATCH = "POST /v1/batch"  # takes lines, which test_batch.py sends
WITHOUT_BODY = {
    "DELETE /v1/keys/{id}",
    "DELETE /v1/holds/{id}",
    "POST /v1/erasures/{id}/confirmation",
    BATCH,
}


def operations(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the name and the description of each operation."""
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield f"{method.upper()} {path}", operation


def body_of(operation: dict[str, Any]) -> dict[str, Any] | None:
    """Return what an operation says of its body."""
    content = operation.get("requestBody", {}).get("content", {})
    described: dict[str, Any] | None = content.get("application/json")
    return described


def schema_at(document: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    """Return a schema with the components that it refers to."""
    return {**schema, "components": document["components"]}


def faults(document: dict[str, Any], schema: dict[str, Any], value: object) -> list[str]:
    """Return in what a value does not match a schema of the document."""
    validator = OAS31Validator(schema_at(document, schema))
    return [f"{error.json_path}: {error.message}" for error in validator.iter_errors(value)]


def examples_of(document: dict[str, Any], operation: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the example bodies of an operation, of its own or of its schema."""
    described = body_of(operation)
    if described is None:
        return []
    if "example" in described:
        return [described["example"]]
    name = described["schema"]["$ref"].rpartition("/")[2]
    found: list[dict[str, Any]] = document["components"]["schemas"][name].get("examples", [])
    return found


# --- the document ---------------------------------------------------------------------------------


def test_the_document_is_valid_openapi(document: dict[str, Any]) -> None:
    """By the validator of the specification."""
    validate(document)

    assert document["openapi"].startswith("3.1")


def test_every_operation_says_what_it_does_and_takes(document: dict[str, Any]) -> None:
    """A summary, a description, a tag, an id of its own, and a description of each parameter."""
    ids = [operation["operationId"] for _, operation in operations(document)]
    assert len(ids) == len(set(ids))
    for name, operation in operations(document):
        assert operation["summary"], name
        assert operation["description"], name
        assert operation["tags"], name
        for parameter in operation.get("parameters", []):
            assert parameter.get("description"), (name, parameter["name"])


def test_every_operation_with_roles_says_how_it_refuses(document: dict[str, Any]) -> None:
    """401 and 403, and that a key is needed; open operations need none."""
    for name, operation in operations(document):
        needs_key = "x-roles" in operation
        assert needs_key == ("security" in operation), name
        for status in ("401", "403"):
            assert needs_key == (status in operation["responses"]), name
        assert operation["responses"]["500"]["content"], name


def test_every_refusal_is_described_as_a_problem_with_its_code(document: dict[str, Any]) -> None:
    """Each answer from 400 on is a problem document, and its description names the codes."""
    for name, operation in operations(document):
        for status, described in operation["responses"].items():
            if status >= "400":
                assert ["application/problem+json"] == list(described["content"]), name
                assert re.match(r"`[a-z_]+`: [A-Z]", described["description"]), (name, status)
            else:
                assert "description" in described


def test_every_command_shows_a_body_that_fits_its_schema(document: dict[str, Any]) -> None:
    """What is shown as an example is one, and every body has one."""
    for name, operation in operations(document):
        described = body_of(operation)
        if described is None:
            assert name.startswith("GET ") or name in WITHOUT_BODY, name
            continue
        shown = examples_of(document, operation)
        assert shown, name
        for body in shown:
            assert [] == faults(document, described["schema"], body), name


def test_every_example_is_taken_as_well_formed(shared: Running, document: dict[str, Any]) -> None:
    """The service finds nothing wrong with the form of any body that the document shows."""
    for name, operation in operations(document):
        method, _, path = name.partition(" ")
        for body in examples_of(document, operation):
            answer = shared(
                method, path.replace("{id}", "x"), role=operation["x-roles"][0], json=body
            )

            code = answer.json().get("code")
            assert code not in ("malformed_request", "invalid_request"), (name, answer.text)


# --- what is answered -----------------------------------------------------------------------------


def test_what_is_answered_is_what_is_described(founded: Running, document: dict[str, Any]) -> None:
    """Every command, every list and every single item, of a ledger that holds some of each."""
    described = dict(operations(document))
    seen = set()
    assert founded.service.signer.wait_for(1, WITHIN_S)

    def check(method: str, path: str, role: str | None, **more: Any) -> Any:
        template = template_of(path)
        answer = founded(method, path, role=role, **more)
        assert answer.status_code in (200, 201), answer.text
        content = described[f"{method} {template}"]["responses"][str(answer.status_code)]["content"]
        media_type = answer.headers["content-type"].partition(";")[0]
        if media_type == "application/json":
            assert [] == faults(document, content[media_type]["schema"], answer.json()), path
        assert media_type in content
        seen.add(f"{method} {template}")
        return answer.json() if media_type == "application/json" else None

    for method, path, role, body, _ in every_command(founded):
        check(method, path, role, **({} if body is None else {"json": body}))
    for name, operation in described.items():
        method, _, path = name.partition(" ")
        role = operation.get("x-roles", [None])[0]
        if method == "GET" and "{" not in path and path != ENDLESS:
            parameters = operation.get("parameters", ())
            needed = [p["name"] for p in parameters if p.get("required")]
            given: dict[str, str | int] = {
                "subject": "user:alice",
                "after": 0,
                "position": 1,
                "from": 1,
                "format": "csv",
            }
            body = check(method, path, role, params={name: given[name] for name in needed})
            for item in (body or {}).get("items", ()):
                for one in ("{id}", "{position}"):
                    if f"GET {path}/{one}" in described:
                        check(method, f"{path}/{item[one[1:-1]]}", role)
        elif path.startswith("/access/"):
            (example,) = examples_of(document, operation)
            check(method, path, role, json=example)

    check("GET", "/v1/events/1/proof", "auditor")
    # A tile's path has slashes, which no template of the document can say; it has its own tests.
    assert set(described) == {*seen, BATCH, "GET /log/tile/{path}", f"GET {ENDLESS}"}


# --- thousands of requests ------------------------------------------------------------------------


def seed(run: Running) -> None:
    """Record what the examples of the document name, so that many of them are carried out."""
    policy = {**POLICY, "effective_at": "2026-01-01T00:00:00Z"}
    run.done("PUT", "/v1/policies/acceptable-use", role="admin", json=policy)
    run.done("POST", "/v1/operators", role="admin", json={"id": "mod-tool", "role": "officer"})
    violation_of(run, "user:alice")
    suspension_of(run, "user:alice")


def test_no_request_that_can_be_made_up_fails_the_service(
    founded: Running, document: dict[str, Any]
) -> None:
    """Examples, edges of every schema, random bodies: no 5xx, and every answer as described.

    The same requests every time. Each operation is asked with the key of a role that may use it;
    what schemathesis checks by leaving the key out, or by another method, it does itself.
    """
    seed(founded)
    asked = {
        path: {
            method: {
                **operation,
                "parameters": [
                    parameter
                    for parameter in operation.get("parameters", ())
                    if parameter["name"] not in LEFT_OUT
                ],
            }
            for method, operation in methods.items()
        }
        for path, methods in document["paths"].items()
        if path not in BATCH and path != ENDLESS
    }
    config = SchemathesisConfig.from_dict(
        {
            "seed": 1,
            "base-url": founded.url,
            "request-timeout": 20,
            "continue-on-failure": True,
            "warnings": False,
            "generation": {
                "deterministic": True,
                "max-examples": EXAMPLES_OF_EACH,
                "no-shrink": True,
                "database": "none",
            },
            "phases": {"stateful": {"enabled": False}},
            # What the schema allows, a rule may still refuse: most terms, grounds and times.
            "checks": {"positive_data_acceptance": {"enabled": False}},
        }
    )
    schema = schemathesis.openapi.from_dict({**document, "paths": asked}, config=config)
    schema.auth(refresh_interval=None)(key_of_role(founded.keys))

    requests, failures = 0, []
    for event in from_schema(schema).execute():
        if isinstance(event, events.NonFatalError | events.FatalError):
            failures.append(str(event))
        if isinstance(event, events.ScenarioFinished):
            requests += len(event.recorder.checks)
            failures += list(failed(event))

    assert [] == failures
    assert requests > REQUESTS_AT_LEAST


def failed(event: events.ScenarioFinished) -> Iterator[str]:
    """Yield what a scenario's checks found, with a command that shows it again."""
    for checks in event.recorder.checks.values():
        for check in checks:
            # The decision point ignores what it does not know and takes null for absent.
            tolerated = (
                check.name == "negative_data_rejection" and "/access/v1/" in event.recorder.label
            )
            if check.failure_info is not None and not tolerated:
                failure = check.failure_info.failure
                yield (
                    f"{event.recorder.label}: {check.name}: {failure.title}: {failure.message}\n"
                    f"{check.failure_info.code_sample}"
                )


def key_of_role(keys: dict[str, str]) -> type[schemathesis.AuthProvider[str]]:
    """Return what gives each request the key of the first role that may make it."""

    class KeyOfRole:
        def get(self, case: schemathesis.Case[Any], _: schemathesis.AuthContext) -> str | None:
            roles = case.operation.definition.raw.get("x-roles")
            return keys[roles[0]] if roles else None

        def set(
            self, case: schemathesis.Case[Any], data: str | None, _: schemathesis.AuthContext
        ) -> None:
            if data is not None:
                case.headers["Authorization"] = f"Bearer {data}"

    return KeyOfRole
