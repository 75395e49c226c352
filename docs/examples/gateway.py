"""A gateway that decides access in its own process, in one file.

``POST /v1/models/<id>/completions`` is a model; here each answers with its own name. The header
``X-User`` stands for the gateway's own login. ``GET /status`` says how current the answers are.

    GATEWAY_KEY=clk_... LEDGER=http://127.0.0.1:8080 python docs/examples/gateway.py
"""

from __future__ import annotations

import json
import os
import re
from typing import Any

import uvicorn

from projections.access import AccessFollower, RequireAccess

LEDGER = os.environ.get("LEDGER", "http://127.0.0.1:8080")
PORT = int(os.environ.get("GATEWAY_PORT", "8081"))

# Cut off from the ledger, this gateway refuses everybody rather than let a suspended user through.
follower = AccessFollower(LEDGER, os.environ["GATEWAY_KEY"], when_cut_off="deny")


def user_of(scope: Any) -> str | None:
    """Return the user who is logged in, as the ledger names users; ``None``: nobody is."""
    user = dict(scope["headers"]).get(b"x-user", b"").decode("latin-1")
    return f"user:{user}" if re.fullmatch(r"[\w.-]+", user, re.ASCII) else None


def model_of(scope: Any) -> str | None:
    """Return the model that a request uses; ``None`` for what needs no access."""
    found = re.fullmatch(r"/v1/models/([\w.-]+)/completions", scope["path"])
    return f"model:{found[1]}" if found else None


async def models(scope: Any, _: Any, send: Any) -> None:
    """Answer what access was given to; the verdict says what that rests on."""
    model, verdict = model_of(scope), scope["state"].get("access")
    if model is None or verdict is None:
        await answer(send, 404, {"error": "There is nothing here."})
    else:
        await answer(send, 200, {"text": f"I am {model}.", "position": verdict.position})


guarded = RequireAccess(models, follower, subject_of=user_of, resource_of=model_of)


async def gateway(scope: Any, receive: Any, send: Any) -> None:
    """Answer a request: the status to anybody, the models to users who are logged in."""
    if scope["path"] == "/status":
        status: dict[str, object] = {
            "position": follower.position,
            "age_s": round(follower.age_s, 3),
            "cut_off": follower.is_cut_off,
        }
        await answer(send, 503 if follower.is_cut_off else 200, status)
    elif user_of(scope) is None:
        # RequireAccess passes on what has no subject, so whoever is unknown ends here.
        await answer(send, 401, {"error": "Say who you are in X-User."})
    else:
        await guarded(scope, receive, send)


async def answer(send: Any, status: int, body: dict[str, object]) -> None:
    """Send an answer."""
    headers = [(b"content-type", b"application/json")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": json.dumps(body).encode()})


if __name__ == "__main__":
    with follower:  # loads the snapshot, so no request is served before there is something to ask
        uvicorn.run(
            gateway,
            host="127.0.0.1",
            port=PORT,
            lifespan="off",
            ws="none",
            access_log=False,
            log_level="warning",
        )
