"""Settings: variables, a file, which wins, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from ledger.domain.errors import InvalidValue
from ledger.service.settings import SETTINGS_FILE_VARIABLE, Settings, sqlite_path


@pytest.fixture(autouse=True)
def _nothing_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever runs the tests may have a ledger of their own in the environment."""
    for name in Settings.model_fields:
        monkeypatch.delenv(f"LEDGER_{name.upper()}", raising=False)
    monkeypatch.delenv(SETTINGS_FILE_VARIABLE, raising=False)


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A settings file that the environment names."""
    path = tmp_path / "ledger.toml"
    path.write_text(
        'database_url = "sqlite:///from/file.db"\norigin = "from.file"\n', encoding="utf-8"
    )
    monkeypatch.setenv(SETTINGS_FILE_VARIABLE, str(path))
    return path


def test_without_anything_set_a_ledger_is_kept_under_var() -> None:
    """The defaults are enough to begin with."""
    settings = Settings()

    assert Path("var/ledger.db") == settings.database_path
    assert ("ledger.localhost", "allow") == (settings.origin, settings.unknown_subject)


def test_a_variable_sets_what_it_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each setting is a variable with LEDGER_ before its name."""
    monkeypatch.setenv("LEDGER_ORIGIN", "from.variable")
    monkeypatch.setenv("LEDGER_DATABASE_URL", "sqlite:////srv/ledger.db")
    monkeypatch.setenv("LEDGER_UNKNOWN_SUBJECT", "deny_unknown")

    settings = Settings()

    assert "from.variable" == settings.origin
    assert Path("/srv/ledger.db") == settings.database_path
    assert "deny_unknown" == settings.unknown_subject


def test_a_variable_wins_over_the_file(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not set by a variable is read from the file."""
    monkeypatch.setenv("LEDGER_ORIGIN", "from.variable")

    settings = Settings()

    assert "from.variable" == settings.origin
    assert Path("from/file.db") == settings.database_path


def test_an_argument_wins_over_both(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that builds settings has the last word."""
    monkeypatch.setenv("LEDGER_ORIGIN", "from.variable")

    assert "from.argument" == Settings(origin="from.argument").origin


def test_an_unknown_name_in_the_file_is_refused(file: Path) -> None:
    """A slip in a name does not pass for a setting that was never made."""
    file.write_text('orgin = "a.slip"\n', encoding="utf-8")

    with pytest.raises(ValidationError, match="orgin"):
        Settings()


@pytest.mark.parametrize("text", ["origin = \n", "origin\n", "[[\n", "\0"])
def test_a_file_that_is_no_toml_is_refused_by_name(file: Path, text: str) -> None:
    """The refusal names the file and the place."""
    file.write_text(text, encoding="utf-8")

    with pytest.raises(InvalidValue, match=r"ledger\.toml cannot be read as TOML") as refused:
        Settings()
    assert "line 1" in str(refused.value)


def test_a_file_that_is_no_utf_8_is_refused(file: Path) -> None:
    """TOML is UTF-8."""
    file.write_bytes(b'origin = "\xff"\n')

    with pytest.raises(InvalidValue, match="cannot be read as TOML"):
        Settings()


def test_a_file_that_does_not_exist_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A missing file is not taken for an empty one; nor is a folder."""
    for name in (tmp_path / "none.toml", tmp_path):
        monkeypatch.setenv(SETTINGS_FILE_VARIABLE, str(name))
        with pytest.raises(InvalidValue, match="is no file"):
            Settings()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("database_url", "mysql://localhost/ledger"),
        ("database_url", ""),
        ("database_url", "ledger.db"),
        ("database_url", "sqlite://ledger.db"),
        ("database_url", "sqlite:///"),
        ("database_url", "sqlite:///:memory:?cache=shared"),
        ("origin", ""),
        ("origin", "o" * 201),
        ("unknown_subject", "deny"),
        ("unknown_subject", ""),
    ],
)
def test_a_value_that_cannot_be_used_is_refused(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A setting that means nothing stops the program before it starts."""
    monkeypatch.setenv(f"LEDGER_{name.upper()}", value)

    with pytest.raises(ValidationError) as refused:
        Settings()
    assert [(name,)] == [fault["loc"] for fault in refused.value.errors()]


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("sqlite:///var/ledger.db", "var/ledger.db"),
        ("sqlite:////var/lib/ledger.db", "/var/lib/ledger.db"),
        ("sqlite:///with%20space.db", "with space.db"),
        ("sqlite:///l%C3%A9dger.db", "lédger.db"),
    ],
)
def test_a_url_names_a_file(url: str, path: str) -> None:
    """Three slashes begin a relative path, four an absolute one."""
    assert Path(path) == sqlite_path(url)


def test_settings_do_not_change_once_they_are_read() -> None:
    """A running program does not turn into another."""
    with pytest.raises(ValidationError, match="frozen"):
        Settings().origin = "another"  # type: ignore[misc]
