"""How a ledger is configured: ``LEDGER_*`` variables, or a TOML file named by ``LEDGER_SETTINGS``.

A variable wins over the file. An unknown name in the file is refused, so a slip cannot pass unseen.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final, Self
from urllib.parse import unquote, urlsplit

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from ledger.domain.access import UnknownSubjects
from ledger.domain.errors import InvalidValue
from ledger.domain.values import Role
from ledger.service.logs import LogFormat
from ledger.service.periods import Length
from ledger.store.address import without_password

SETTINGS_FILE_VARIABLE: Final = "LEDGER_SETTINGS"
METRICS_FOLDER_VARIABLE: Final = "PROMETHEUS_MULTIPROC_DIR"  # set by serve, for its own processes


class Settings(BaseSettings):
    """Everything that can be set. Each name is a variable with ``LEDGER_`` before it."""

    model_config = SettingsConfigDict(env_prefix="LEDGER_", extra="forbid", frozen=True)

    database_url: str = Field(
        default="sqlite:///var/ledger.db",
        description="Where the ledger is kept: sqlite:///relative/path, sqlite:////absolute/path, "
        "or postgresql://user@host/database.",
    )
    read_url: str | None = Field(
        default=None,
        description="The address of a hot standby of that PostgreSQL database, to read from.",
    )
    origin: str = Field(
        default="ledger.localhost",
        min_length=1,
        max_length=200,
        pattern=r"^[^\s+\x00-\x1f]+$",
        description="The name by which others know this ledger; set once, by init.",
    )
    log_key_file: Path | None = Field(
        default=None,
        description="The file of the log's private keys; unset: with the other files.",
    )
    checkpoint_file: Path | None = Field(
        default=None,
        description="The file of the newest signed checkpoint; unset: with the other files.",
    )
    vault_key_file: Path | None = Field(
        default=None,
        description="The file of the vault key; unset: ledger.vault-key with the other files.",
    )
    files: Path | None = Field(
        default=None,
        description="The folder of the vault and, unless named one by one, of the key files and "
        "the checkpoint; when unset, that of an SQLite database, and var for PostgreSQL.",
    )
    allow_owner: bool = Field(
        default=False,
        description="Serve with a PostgreSQL role that could undo the triggers: owner, superuser.",
    )
    unknown_subject: UnknownSubjects = Field(
        default="allow",
        description="What a check answers for a subject that the ledger holds no fact about.",
    )

    public_url: str | None = Field(
        default=None,
        pattern=r"^https://[^/?#\s]+(/[^?#\s]*[^/?#\s])?$",
        description="The https URL under which clients reach the ledger, as AuthZEN metadata says.",
    )
    rate_limit: str | None = Field(
        default=None,
        description="How often one key may ask one process, like 1000/second; no limit when unset.",
    )
    decision_log: Path | None = Field(
        default=None,
        description="A file to which decisions are written as lines of JSON; none when unset.",
    )
    decision_log_sample: float = Field(
        default=1.0,
        ge=0.0,
        le=1.0,
        description="The share of permits that the decision log takes; denials are always taken.",
    )
    check_protocol: bool = Field(
        default=True,
        description="Answer ordinary checks inside the HTTP parser; false leaves all to uvicorn.",
    )
    witness_policy: Path | None = Field(
        default=None,
        description="A policy file (C2SP tlog-policy) that names our witnesses and their quorum.",
    )

    transparency: Length | None = Field(
        default=None,
        description="month, quarter or year: publish the figures of each at /transparency, for "
        "everybody, without a key; nothing is published when unset.",
    )

    oidc_issuer: str | None = Field(
        default=None,
        pattern=r"^(https://|http://(localhost|127\.0\.0\.1)(:\d+)?(/|$))[^?#\s]*$",
        description="The OpenID provider at which people sign in to the console; none when unset.",
    )
    oidc_client_id: str | None = Field(
        default=None, min_length=1, description="The name by which that provider knows the console."
    )
    oidc_client_secret: SecretStr | None = Field(
        default=None,
        description="What the provider gave the console to show; a public client none.",
    )
    oidc_client_secret_file: Path | None = Field(
        default=None, description="The file of that secret, mode 0600."
    )
    oidc_operator_claim: str = Field(
        default="sub", min_length=1, description="The claim that is the id of an operator."
    )
    oidc_role_claim: str = Field(
        default="groups", min_length=1, description="The claim whose values stand for roles."
    )
    oidc_roles: dict[str, Role] = Field(
        default={}, description="Which value of that claim stands for which role."
    )

    metrics_port: int | None = Field(
        default=None,
        ge=1,
        le=65_535,
        description="A port of 127.0.0.1 that answers /metrics, and needs no key; none when unset.",
    )
    log_format: LogFormat | None = Field(
        default=None,
        description="json or text; when unset, text on a terminal and json everywhere else.",
    )
    drain_delay_s: float = Field(
        default=0.0,
        ge=0.0,
        le=300.0,
        description="How long a process that is told to stop serves on as if it were not.",
    )

    @field_validator("database_url")
    @classmethod
    def _store(cls, url: str) -> str:
        if not is_postgresql(url):
            sqlite_path(url)
        return url

    @model_validator(mode="after")
    def _standby_of_postgresql(self) -> Self:
        if self.read_url is not None and not (
            is_postgresql(self.read_url) and is_postgresql(self.database_url)
        ):
            raise ValueError(
                "LEDGER_READ_URL must be postgresql://user@host/database, a standby of the "
                "PostgreSQL database that LEDGER_DATABASE_URL names"
            )
        return self

    @model_validator(mode="after")
    def _whole_provider(self) -> Self:
        if (self.oidc_issuer is None) != (self.oidc_client_id is None):
            raise ValueError(
                "LEDGER_OIDC_ISSUER and LEDGER_OIDC_CLIENT_ID are set together or not at all"
            )
        if self.oidc_client_secret is not None and self.oidc_client_secret_file is not None:
            raise ValueError(
                "LEDGER_OIDC_CLIENT_SECRET or LEDGER_OIDC_CLIENT_SECRET_FILE is set, not both"
            )
        if self.oidc_issuer is not None and not self.oidc_roles:
            raise ValueError(
                "LEDGER_OIDC_ROLES must say which value of the claim stands for which role, like "
                '{"ledger-auditors": "auditor"}'
            )
        return self

    @property
    def database_path(self) -> Path | None:
        """The SQLite file; ``None`` on PostgreSQL."""
        return None if is_postgresql(self.database_url) else sqlite_path(self.database_url)

    @property
    def database(self) -> str:
        """What messages call the database: a file, or an address without a password."""
        if self.database_path is not None:
            return str(self.database_path)
        return without_password(self.database_url)

    def _file(self, suffix: str) -> Path:
        """Return a file that belongs to the ledger, named as its SQLite database is or would be."""
        name = self.database_path or Path("var/ledger.db")
        return ((self.files or name.parent) / name.name).with_suffix(suffix)

    @property
    def log_key_path(self) -> Path:
        """The file of the log's private keys."""
        return self.log_key_file or self._file(".log-key")

    @property
    def checkpoint_path(self) -> Path:
        """The file of the newest checkpoint, which vouches for the database from outside it."""
        return self.checkpoint_file or self._file(".checkpoint")

    @property
    def vault_path(self) -> Path:
        """The file of the vault."""
        return self._file(".vault")

    @property
    def vault_key_path(self) -> Path:
        """The file of the vault key."""
        return self.vault_key_file or self._file(".vault-key")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - passed by name
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - passed by name
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Take arguments, then variables, then the file."""
        named = os.environ.get(SETTINGS_FILE_VARIABLE)
        if named is None:
            return init_settings, env_settings
        if not Path(named).is_file():
            raise InvalidValue(f"{SETTINGS_FILE_VARIABLE} names {named}, which is no file")
        try:
            from_file = TomlConfigSettingsSource(settings_cls, Path(named))
        except (OSError, ValueError) as error:
            raise InvalidValue(f"{named} cannot be read as TOML: {error}") from None
        return init_settings, env_settings, from_file


def is_postgresql(url: str) -> bool:
    """Tell whether a URL names a PostgreSQL database; raises ``ValueError`` when it does half."""
    parts = urlsplit(url)
    if parts.scheme != "postgresql":
        return False
    if len(parts.path) < 2:  # noqa: PLR2004 - a slash and a name
        raise ValueError("must name a database, like postgresql://user@host/database")
    return True


def sqlite_path(url: str) -> Path:
    """Return the file that a ``sqlite:///`` URL names; raises ``ValueError``."""
    parts = urlsplit(url)
    if parts.scheme != "sqlite" or parts.netloc or parts.query or len(parts.path) < 2:  # noqa: PLR2004
        raise ValueError(
            "must be sqlite:///relative/path, sqlite:////absolute/path or "
            "postgresql://user@host/database"
        )
    return Path(unquote(parts.path[1:]))
