"""Settings are validated once, and a wrong one is named with its mend."""

from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import ValidationError

from pipeline.settings import Settings, each_setting, load_settings
from schemas.errors import ConfigError

README = Path(__file__).parents[1] / "README.md"


@pytest.fixture(autouse=True)
def _empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SALIENCE_CONFIG", raising=False)


@pytest.fixture
def toml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    def write(content: str) -> Path:
        path = tmp_path / "given.toml"
        path.write_text(content)
        monkeypatch.setenv("SALIENCE_CONFIG", str(path))
        return path

    return write


def problem() -> str:
    with pytest.raises(ConfigError) as caught:
        load_settings()
    return str(caught.value)


def test_without_anything_set_the_defaults_hold() -> None:
    settings = load_settings()

    assert settings.broker.servers == "127.0.0.1:9092"
    assert settings.database_url == "sqlite+aiosqlite:///salience.db"


def test_settings_are_frozen() -> None:
    settings = load_settings()

    with pytest.raises(ValidationError, match="frozen"):
        settings.broker.partitions = 3  # type: ignore[misc]
    with pytest.raises(ValidationError, match="frozen"):
        settings.broker = settings.broker  # type: ignore[misc]


def test_the_environment_sets_a_value(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SALIENCE_BROKER__SESSION_TIMEOUT", "6.5")
    monkeypatch.setenv("SALIENCE_MODEL__BUNDLE", "stub")

    settings = load_settings()

    assert (settings.broker.session_timeout, settings.model.bundle) == (6.5, "stub")


def test_the_named_file_sets_a_value(toml: Callable[[str], Path]) -> None:
    toml('[broker]\nprefix = "desk"\n[worker]\nchunk = 64\n')

    settings = load_settings()

    assert (settings.broker.prefix, settings.worker.chunk) == ("desk", 64)


def test_salience_toml_of_the_current_folder_is_read_without_being_named(tmp_path: Path) -> None:
    (tmp_path / "salience.toml").write_text('[log]\nlevel = "debug"\n')

    assert load_settings().log.level == "debug"


def test_the_environment_wins_over_the_file_and_the_command_line_over_both(
    toml: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    toml('[broker]\nprefix = "file"\ngroup = "file"\npartitions = 2\n')
    monkeypatch.setenv("SALIENCE_BROKER__PREFIX", "environment")
    monkeypatch.setenv("SALIENCE_BROKER__GROUP", "environment")

    broker = load_settings(broker={"prefix": "line"}).broker

    assert (broker.prefix, broker.group, broker.partitions) == ("line", "environment", 2)


def test_a_secret_comes_from_the_file_that_its_variable_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "password").write_text("geheim\n")
    monkeypatch.setenv("SALIENCE_BROKER__PASSWORD_FILE", str(tmp_path / "password"))

    assert load_settings().broker.password.get_secret_value() == "geheim"


def test_the_variable_itself_wins_over_its_secret_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "url").write_text("sqlite:///file.db")
    monkeypatch.setenv("SALIENCE_DATABASE__URL_FILE", str(tmp_path / "url"))
    monkeypatch.setenv("SALIENCE_DATABASE__URL", "sqlite:///variable.db")

    assert load_settings().database_url == "sqlite+aiosqlite:///variable.db"


def test_a_secret_file_wins_over_the_settings_file(
    toml: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toml('[database]\nhash_key = "toml"\n')
    (tmp_path / "key").write_text("secret file")
    monkeypatch.setenv("SALIENCE_DATABASE__HASH_KEY_FILE", str(tmp_path / "key"))

    assert load_settings().database.hash_key.get_secret_value() == "secret file"


def test_a_setting_whose_own_name_ends_in_file_is_no_secret_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SALIENCE_RULES__FILE", "rules.yaml")

    assert load_settings().rules.file == "rules.yaml"


@pytest.mark.parametrize("content", [None, b"\xff\xfe"], ids=["missing", "no UTF-8"])
def test_a_secret_file_that_cannot_be_read_is_named(
    content: bytes | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "secret"
    if content is not None:
        path.write_bytes(content)
    monkeypatch.setenv("SALIENCE_BROKER__PASSWORD_FILE", str(path))

    why = "it is not UTF-8" if content else "No such file or directory"
    assert problem() == (
        f"SALIENCE_BROKER__PASSWORD_FILE names the file {path}, which cannot be read ({why}); "
        "mend the path or the file"
    )


@pytest.mark.parametrize("name", ["SALIENCE_BROKER__SERVER", "SALIENCE_FOO", "SALIENCE_BROKER"])
def test_an_unknown_name_in_the_environment_is_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "x")

    assert problem() == f"{name} is no setting of this version; `salience config` lists them all"


def test_variables_of_the_tests_are_no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SALIENCE_TEST_STRICT", "1")

    assert load_settings() == Settings()


@pytest.mark.parametrize(
    ("content", "name"), [('[broker]\nserver = "x:1"\n', "broker.server"), ("[brokers]\n", "brokers")]
)
def test_an_unknown_name_in_the_file_is_refused(content: str, name: str, toml: Callable[[str], Path]) -> None:
    toml(content)

    assert problem() == f"{name} is no setting of this version; `salience config` lists them all"


def test_a_settings_file_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SALIENCE_CONFIG", "nowhere.toml")

    assert problem() == "the settings file nowhere.toml cannot be read: No such file or directory"


def test_a_settings_file_that_is_no_toml_is_named_with_the_line(toml: Callable[[str], Path]) -> None:
    path = toml("[broker]\nprefix = desk\n")

    assert problem().startswith(f"the settings file {path} is no TOML: ")
    assert "line 2" in problem()


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("BROKER__PARTITIONS", "many", "Input should be a valid integer"),
        ("BROKER__PARTITIONS", "0", "greater than or equal to 1"),
        ("BROKER__PREFIX", "a b", "should match pattern"),
        ("BROKER__SECURITY_PROTOCOL", "TLS", "'PLAINTEXT', 'SSL', 'SASL_PLAINTEXT' or 'SASL_SSL'"),
        ("BROKER__SERVERS", "localhost", "'localhost' is not host:port, as in 127.0.0.1:9092"),
        ("BROKER__SERVERS", "a:1,b:70000", "'b:70000' is not host:port"),
        ("BROKER__SERVERS", ":9092", "':9092' is not host:port"),
        ("DATABASE__URL", "mysql://h/d", "'mysql' is no database this product knows; use sqlite:///FILE or postg"),
        ("DATABASE__URL", "salience.db", "'salience.db' is no database this product knows"),
        ("DATABASE__URL", "postgresql://h:port/d", "the URL cannot be read; use sqlite:///FILE or postgresql://"),
        ("DATABASE__POOL", "65", "less than or equal to 64"),
        ("MODEL__PROVIDER", "gpu", "'auto', 'cpu' or 'cuda'"),
        ("WORKER__PORT", "65536", "less than or equal to 65535"),
        ("LOG__FORMAT", "xml", "'json' or 'console'"),
    ],
)
def test_a_wrong_value_names_its_setting_and_what_is_allowed(
    name: str, value: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"SALIENCE_{name}", value)

    section, _, field = name.lower().partition("__")
    assert problem().startswith(f"SALIENCE_{name} ({section}.{field} in a settings file): ")
    assert told in problem()


def test_a_wrong_database_url_is_not_quoted_for_it_may_hold_a_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SALIENCE_DATABASE__URL", "postgresql://ann:geheim@host:port/name")

    assert "geheim" not in problem()


def test_sasl_without_a_user_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SALIENCE_BROKER__SECURITY_PROTOCOL", "SASL_SSL")

    assert "username is empty, but security_protocol is SASL_SSL" in problem()


@pytest.mark.parametrize(
    ("given", "used"),
    [
        ("sqlite:///a.db", "sqlite+aiosqlite:///a.db"),
        ("postgres://u@h/n", "postgresql+asyncpg://u@h/n"),
        ("postgresql://u@h:1/n", "postgresql+asyncpg://u@h:1/n"),
        ("postgresql+asyncpg://u@h/n", "postgresql+asyncpg://u@h/n"),
    ],
)
def test_a_database_url_gets_the_driver_that_is_installed(given: str, used: str) -> None:
    assert load_settings(database={"url": given}).database_url == used


def test_servers_are_given_one_by_one() -> None:
    assert load_settings(broker={"servers": "a:1, b:2"}).broker.server_list == ["a:1", "b:2"]


@pytest.mark.parametrize("timeout", [0.9, 2.0, 45.0])
def test_three_heartbeats_fit_in_a_session(timeout: float) -> None:
    broker = load_settings(broker={"session_timeout": timeout}).broker

    assert 0 < broker.heartbeat_interval * 3 < timeout


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://ann:geheim@host/name", "postgresql+asyncpg://ann:**********@host/name"),
        ("postgresql://ann:ge@heim@host/name", "postgresql+asyncpg://ann:**********@host/name"),
        ("postgresql://ann@host/name", "postgresql+asyncpg://ann@host/name"),
        ("postgresql://host/name?password=geheim&x=1", "postgresql+asyncpg://host/name?password=**********&x=1"),
        ("sqlite:///a.db", "sqlite+aiosqlite:///a.db"),
    ],
)
def test_a_password_in_the_database_url_is_masked(url: str, shown: str) -> None:
    assert load_settings(database={"url": url}).masked()["database"]["url"] == shown


def test_secrets_are_masked_and_everything_else_is_shown() -> None:
    settings = load_settings(broker={"password": "geheim", "username": "ann"}, database={"hash_key": "geheim"})

    assert "geheim" not in str(settings.masked())
    assert "geheim" not in repr(settings)
    assert settings.masked()["broker"]["username"] == "ann"
    assert settings.masked()["broker"]["password"] == settings.masked()["database"]["hash_key"] == "**********"


def test_every_setting_has_a_description_and_shows_in_the_masked_settings() -> None:
    shown = load_settings().masked()

    for name, _, description in each_setting():
        section, _, field = name.removeprefix("SALIENCE_").lower().partition("__")
        assert field in shown[section]
        assert description, name
    assert len(each_setting()) == sum(len(section) for section in shown.values())


def test_the_readme_lists_every_setting() -> None:
    text = README.read_text(encoding="utf-8")

    assert [name for name, _, _ in each_setting() if f"`{name}`" not in text] == []


def test_an_outage_may_not_last_longer_than_a_worker_may_go_without_fetching() -> None:
    with pytest.raises(ConfigError, match="OUTAGE_DEADLINE must be less than SALIENCE_BROKER__MAX_POLL_INTERVAL"):
        load_settings(database={"outage_deadline": 600})
