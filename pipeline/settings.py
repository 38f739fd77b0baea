"""All settings in one frozen object: environment (SALIENCE_SECTION__NAME), a TOML file, `_FILE` secrets."""

import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from schemas.errors import ConfigError

PREFIX = "SALIENCE_"
CONFIG_FILE = "SALIENCE_CONFIG"
# Read by the test-suite and the benchmarks, no settings of the product.
_FOREIGN_PREFIX = "SALIENCE_TEST_"
_FOREIGN = ("SALIENCE_DATA", CONFIG_FILE)

DRIVERS = {
    "sqlite": "sqlite+aiosqlite",
    "postgresql": "postgresql+asyncpg",
    "postgres": "postgresql+asyncpg",
    "sqlite+aiosqlite": "sqlite+aiosqlite",
    "postgresql+asyncpg": "postgresql+asyncpg",
}


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class BrokerSettings(_Section):
    """Where Kafka is and how to speak with it."""

    servers: str = Field("127.0.0.1:9092", description="host:port of the brokers, separated by commas")
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = Field(
        "PLAINTEXT", description="how the connection is secured"
    )
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = Field(
        "PLAIN", description="how the user is authenticated, when security_protocol is SASL_*"
    )
    username: str = Field("", description="SASL user")
    password: SecretStr = Field(SecretStr(""), description="SASL password")
    cafile: str = Field("", description="PEM file of the authority that signed the broker's certificate")
    certfile: str = Field("", description="PEM file of the client's certificate, when the broker asks for one")
    keyfile: str = Field("", description="PEM file of the client's key")
    prefix: str = Field("salience", pattern=r"^[A-Za-z0-9._-]+$", description="first part of every topic's name")
    group: str = Field("salience", pattern=r"^[A-Za-z0-9._-]+$", description="consumer group of the workers")
    session_timeout: float = Field(
        45.0, gt=0, description="seconds without a heartbeat before a worker's partitions go to another"
    )
    max_poll_interval: float = Field(300.0, ge=10, description="seconds a worker may go without fetching")
    read_committed: bool = Field(False, description="skip messages of aborted transactions")
    partitions: int = Field(8, ge=1, description="partitions of a topic made by `salience topics create`")
    replication: int = Field(1, ge=1, description="replicas of a topic made by `salience topics create`")
    offset_reset: Literal["earliest", "latest"] = Field(
        "earliest", description="where a new consumer group begins to read"
    )

    @field_validator("servers")
    @classmethod
    def _host_port(cls, value: str) -> str:
        for server in value.split(","):
            host, colon, port = server.strip().rpartition(":")
            if not (host and colon and port.isdigit() and 0 < int(port) < 65536):
                raise ValueError(f"{server!r} is not host:port, as in 127.0.0.1:9092")
        return ",".join(server.strip() for server in value.split(","))

    @model_validator(mode="after")
    def _user_needs_sasl(self) -> "BrokerSettings":
        if self.security_protocol.startswith("SASL") and not self.username:
            raise ValueError(f"username is empty, but security_protocol is {self.security_protocol}")
        return self

    @property
    def server_list(self) -> list[str]:
        return self.servers.split(",")

    @property
    def heartbeat_interval(self) -> float:
        """Seconds between heartbeats: three must fit in a session."""
        return min(3.0, self.session_timeout / 4)


class DatabaseSettings(_Section):
    """Where results are stored."""

    url: SecretStr = Field(
        SecretStr("sqlite+aiosqlite:///salience.db"),
        description="where results are stored: sqlite:///FILE or postgresql://USER:PASSWORD@HOST/NAME",
    )
    pool: int = Field(8, ge=1, le=64, description="connections a worker keeps (PostgreSQL)")
    lock_timeout: float = Field(10.0, gt=0, description="seconds to wait for a lock, or idle in a transaction")
    outage_deadline: float = Field(
        240.0, gt=0, description="seconds a worker retries an absent database or broker before it gives up"
    )
    hash_key: SecretStr = Field(
        SecretStr(""),
        description="key of derived ids and content hashes; made and kept in the database when empty",
    )

    @field_validator("url")
    @classmethod
    def _known_driver(cls, value: SecretStr) -> SecretStr:
        scheme, colon, rest = value.get_secret_value().partition("://")
        if not colon or scheme not in DRIVERS:
            raise ValueError(
                f"{scheme!r} is no database this product knows; "
                "use sqlite:///FILE or postgresql://USER:PASSWORD@HOST/NAME"
            )
        url = f"{DRIVERS[scheme]}://{rest}"
        try:
            make_url(url)
        except (ArgumentError, ValueError):
            raise ValueError(
                "the URL cannot be read; use sqlite:///FILE or postgresql://USER:PASSWORD@HOST:PORT/NAME"
            ) from None
        return SecretStr(url)


class ModelSettings(_Section):
    """What scores the texts."""

    bundle: str = Field(
        "",
        description=(
            "bundle folder, `stub`, or empty for the packaged bundle; workers and back-fills score with the one "
            "that was promoted (`salience model promote`), when there is one"
        ),
    )
    provider: Literal["auto", "cpu", "cuda"] = Field("auto", description="where ONNX Runtime runs")
    threads: int = Field(0, ge=0, description="threads of ONNX Runtime, 0 = its own choice")
    batch_tokens: int = Field(512, ge=32, description="padded tokens in one batch at most")
    cache: int = Field(4096, ge=0, description="texts whose scores are remembered, 0 = none")
    top_words: int = Field(5, ge=0, le=50, description="attention words kept for each head")


class WorkerSettings(_Section):
    """How a worker reads, and what it shows."""

    chunk: int = Field(256, ge=1, le=4_000, description="records of one partition handled together, at most")
    chunks_in_work: int = Field(
        4, ge=1, le=64, description="chunks of a stream between reading and acknowledgement"
    )
    shutdown_timeout: float = Field(20.0, gt=0, description="seconds a stopping worker takes at most")
    host: str = Field("127.0.0.1", description="address on which /metrics, /healthz and /readyz are served")
    publish_scored: bool = Field(True, description="send what the model said of each event to the scored topic")
    port: int = Field(9090, ge=0, le=65535, description="port of the first worker's pages; 0 = none")
    stalled_after: float = Field(
        60.0, gt=0, description="seconds with work but without an acknowledgement after which /readyz says no"
    )


class EventSettings(_Section):
    """What an event may look like."""

    max_bytes: int = Field(1_048_576, ge=1024, description="bytes of one event at most")
    actions: str = Field(
        "view,click,comment,share,purchase,rate",
        description="actions a behavior event may name, separated by commas",
    )
    dead_share: float = Field(
        0.5,
        gt=0,
        le=1,
        description="share of dead letters in a stream's last 1,000 records above which a worker stops; 1 = never",
    )

    @property
    def action_set(self) -> frozenset[str]:
        return frozenset(action.strip() for action in self.actions.split(",") if action.strip())


class RulesSettings(_Section):
    """What raises alerts."""

    file: str = Field("", description="YAML file of rules; empty = none")


class EntitySettings(_Section):
    """Which companies are found in texts."""

    gazetteer: str = Field(
        "",
        description="CSV or JSONL file of companies (name, ticker, aliases) found in news and chat; empty = none",
    )


class LogSettings(_Section):
    """What is logged, on standard error."""

    level: Literal["debug", "info", "warning", "error"] = Field("info", description="least level that is logged")
    format: Literal["json", "console"] = Field(
        "json", description="json: one object a line; console: text for a person"
    )


class _SecretFiles(PydanticBaseSettingsSource):
    """SALIENCE_X_FILE=/run/secrets/x gives X the content of that file, as container secrets come."""

    def get_field_value(self, field: Any, field_name: str) -> tuple[Any, str, bool]:
        return None, field_name, False

    def __call__(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, path in os.environ.items():
            if not (name.startswith(PREFIX) and name.endswith("_FILE") and "__" in name):
                continue
            section, _, key = name[len(PREFIX) : -len("_FILE")].lower().partition("__")
            if key not in _fields(section):
                continue  # SALIENCE_RULES__FILE is a setting itself
            try:
                value = Path(path).read_text(encoding="utf-8").strip()
            except (OSError, UnicodeDecodeError) as error:
                why = getattr(error, "strerror", None) or "it is not UTF-8"
                raise ConfigError(
                    f"{name} names the file {path}, which cannot be read ({why}); mend the path or the file"
                ) from None
            found.setdefault(section, {})[key] = value
        return found


class _Environment(EnvSettingsSource):
    """The environment without the names that `_SecretFiles` reads."""

    def __call__(self) -> dict[str, Any]:
        found = super().__call__()
        for section, values in found.items():
            fields = _fields(section)
            if isinstance(values, dict):
                found[section] = {
                    name: value
                    for name, value in values.items()
                    if name in fields or name.removesuffix("_file") not in fields
                }
        return found


class _TomlFile(PydanticBaseSettingsSource):
    """The file named by SALIENCE_CONFIG, or salience.toml of the current folder."""

    def get_field_value(self, field: Any, field_name: str) -> tuple[Any, str, bool]:
        return None, field_name, False

    def __call__(self) -> dict[str, Any]:
        named = os.environ.get(CONFIG_FILE)
        path = Path(named or "salience.toml")
        if not named and not path.is_file():
            return {}
        try:
            with path.open("rb") as file:
                return tomllib.load(file)
        except OSError as error:
            raise ConfigError(f"the settings file {path} cannot be read: {error.strerror}") from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigError(f"the settings file {path} is no TOML: {error}") from None


class Settings(BaseSettings):
    """Everything that can be set, validated once at the start."""

    model_config = SettingsConfigDict(
        frozen=True, extra="forbid", env_prefix=PREFIX, env_nested_delimiter="__", env_nested_max_split=1
    )

    broker: BrokerSettings = BrokerSettings()
    database: DatabaseSettings = DatabaseSettings()
    model: ModelSettings = ModelSettings()
    worker: WorkerSettings = WorkerSettings()
    events: EventSettings = EventSettings()
    rules: RulesSettings = RulesSettings()
    entities: EntitySettings = EntitySettings()
    log: LogSettings = LogSettings()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (
            init_settings,
            _Environment(settings_cls),
            _SecretFiles(settings_cls),
            _TomlFile(settings_cls),
        )

    @model_validator(mode="after")
    def _outage_fits_in_a_poll(self) -> "Settings":
        if self.database.outage_deadline >= self.broker.max_poll_interval:
            raise ValueError(
                "SALIENCE_DATABASE__OUTAGE_DEADLINE must be less than SALIENCE_BROKER__MAX_POLL_INTERVAL, or a "
                "worker that waits for an outage to end is taken for dead"
            )
        return self

    @property
    def database_url(self) -> str:
        return self.database.url.get_secret_value()

    def masked(self) -> dict[str, Any]:
        """All values with secrets masked, for `salience config` and logs."""
        shown = self.model_dump(mode="json")
        shown["database"]["url"] = _mask_url(self.database_url)
        return shown


def load_settings(**sections: Mapping[str, Any]) -> Settings:
    """Read and validate the settings; keyword arguments win over every other source.

    Raises:
        ConfigError: a value is wrong or a name is unknown, with its name and the mend.
    """
    _refuse_unknown_names()
    try:
        return Settings(**{name: dict(values) for name, values in sections.items()})  # type: ignore[arg-type]
    except ValidationError as error:
        raise ConfigError(_sentence(error)) from None


def each_setting() -> list[tuple[str, str, str]]:
    """(environment name, default, description) of every setting, secrets without their value."""
    rows = []
    for section in Settings.model_fields:
        for name, field in _fields(section).items():
            default = field.default
            shown = default.get_secret_value() if isinstance(default, SecretStr) else default
            rows.append((f"{PREFIX}{section}__{name}".upper(), str(shown), field.description or ""))
    return rows


def _fields(section: str) -> Mapping[str, FieldInfo]:
    field = Settings.model_fields.get(section)
    model = field.annotation if field is not None else None
    return model.model_fields if isinstance(model, type) and issubclass(model, BaseModel) else {}


def _refuse_unknown_names() -> None:
    known = {name for name, _, _ in each_setting()}
    known |= {f"{name}_FILE" for name in known}
    for name in os.environ:
        ours = name.startswith(PREFIX) and not name.startswith(_FOREIGN_PREFIX) and name not in _FOREIGN
        if ours and name not in known:
            raise ConfigError(f"{name} is no setting of this version; `salience config` lists them all")


def _sentence(error: ValidationError) -> str:
    first = error.errors()[0]
    where = [str(part) for part in first["loc"]]
    message = first["msg"].removeprefix("Value error, ")
    name = f"{PREFIX}{'__'.join(where)}".upper()
    if not where:
        return message
    if first["type"] == "extra_forbidden":
        return f"{'.'.join(where)} is no setting of this version; `salience config` lists them all"
    return f"{name} ({'.'.join(where)} in a settings file): {message}"


def _mask_url(url: str) -> str:
    url = re.sub(r"(?<=password=)[^&]*", "**********", url)
    head, at, tail = url.rpartition("@")
    if not at:
        return url
    scheme, _, login = head.partition("://")
    user, colon, _ = login.partition(":")
    return f"{scheme}://{user}{':**********' if colon else ''}@{tail}"
