"""Which ledger does a command mean, and is it there?"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from ledger.domain.errors import InvalidValue
from ledger.service.settings import Settings

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

    from ledger.service.wiring import Service


def settings_given(**given: Any) -> Settings:
    """Return the settings of the environment, with these instead of some; or say what is wrong."""
    try:
        return Settings(**given)
    except ValidationError as error:
        lines = [
            f"{place_of(fault)} is no setting; there are {', '.join(Settings.model_fields)}"
            if fault["type"] == "extra_forbidden"
            else f"LEDGER_{place_of(fault).upper()}: {words_of(fault)}"
            for fault in error.errors()
        ]
        raise InvalidValue("; ".join(lines)) from None


def place_of(fault: ErrorDetails) -> str:
    """Return the name of the value at fault."""
    return "_".join(str(part) for part in fault["loc"])


def words_of(fault: ErrorDetails) -> str:
    """Return what is wrong with a value."""
    return fault["msg"].removeprefix("Value error, ")


def require_database(settings: Settings) -> None:
    """Raise ``InvalidValue`` when the file that the settings name is not there."""
    path = settings.database_path
    if path is not None and not path.exists():
        raise InvalidValue(f"{path} does not exist; run compliance-ledger init first")


@contextmanager
def existing(settings: Settings) -> Iterator[Service]:
    """Open the ledger that the settings name, which must have been opened by ``init``."""
    from ledger.service.wiring import build  # noqa: PLC0415 - a command's --help needs none of it

    require_database(settings)
    service = build(settings)
    try:
        service.signer.check()  # in doubt, reading goes on and writing is refused
        if not service.recorder.position:
            raise InvalidValue(
                f"{settings.database} holds no ledger; run compliance-ledger init first"
            )
        yield service
    finally:
        service.close()
