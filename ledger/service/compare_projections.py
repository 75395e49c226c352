"""``python -m ledger.service.compare_projections`` prints the tables that differ from the events.

It is what ``projection_check`` runs in a process of its own; for people there is
``compliance-ledger rebuild --check``. ``LEDGER_DATABASE_URL`` names the database.
"""

from __future__ import annotations

import sys

import orjson

from ledger.service.settings import Settings
from ledger.service.wiring import reading_recorder
from ledger.store.replay import rebuild


def main() -> None:
    """Print their names as a JSON array."""
    settings = Settings()
    recorder = reading_recorder(settings.database_path or settings.database_url)
    try:
        found = rebuild(recorder)
    finally:
        recorder.store.close()
    sys.stdout.write(orjson.dumps([each.table for each in found.differences]).decode())


if __name__ == "__main__":
    main()
