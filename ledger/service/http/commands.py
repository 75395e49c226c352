"""Which routes are commands: what a line of a batch may name, for a service and for an import."""

from __future__ import annotations

from typing import Final

from ledger.service.http import catalogue, conduct, erasures, operators, subjects, suspensions
from ledger.service.http.batch import Commands

AREAS: Final = (subjects, conduct, suspensions, erasures, catalogue, operators)


def commands() -> Commands:
    """Return every route that records something."""
    return Commands(route for area in AREAS for route in area.routes.routes)
