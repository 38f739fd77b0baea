"""How each client library is told to secure its connection."""

import ssl
from pathlib import Path
from typing import Any

from pipeline.settings import BrokerSettings
from schemas.errors import ConfigError


def tls_context(settings: BrokerSettings) -> ssl.SSLContext | None:
    """The TLS context of the settings, None for a plain connection.

    Raises:
        ConfigError: a certificate or key file cannot be used.
    """
    if settings.security_protocol not in ("SSL", "SASL_SSL"):
        return None
    for name, path in (
        ("CAFILE", settings.cafile),
        ("CERTFILE", settings.certfile),
        ("KEYFILE", settings.keyfile),
    ):
        if path and not Path(path).is_file():
            raise ConfigError(f"SALIENCE_BROKER__{name} names the file {path}, which is not there; mend the path")
    try:
        context = ssl.create_default_context(cafile=settings.cafile or None)
        if settings.certfile:
            context.load_cert_chain(settings.certfile, settings.keyfile or None)
    except ssl.SSLError as error:
        raise ConfigError(
            f"a TLS file of SALIENCE_BROKER__* is not in PEM form ({error.reason}); convert it to PEM"
        ) from None
    return context


def client_options(settings: BrokerSettings) -> dict[str, Any]:
    """Options that kafka-python and aiokafka have in common."""
    options: dict[str, Any] = {
        "bootstrap_servers": settings.server_list,
        "security_protocol": settings.security_protocol,
        "ssl_context": tls_context(settings),
    }
    if settings.security_protocol.startswith("SASL"):
        options |= {
            "sasl_mechanism": settings.sasl_mechanism,
            "sasl_plain_username": settings.username,
            "sasl_plain_password": settings.password.get_secret_value(),
        }
    return options


def unreachable(settings: BrokerSettings, error: BaseException) -> str:
    """The sentence for a broker that does not let us in."""
    causes = "start it, or mend SALIENCE_BROKER__SERVERS"
    if settings.security_protocol.startswith("SASL"):
        causes = (
            f"it is not running, or it refuses the user {settings.username!r}: a wrong password or user "
            "(SALIENCE_BROKER__USERNAME, SALIENCE_BROKER__PASSWORD) shows in just this way"
        )
    elif settings.security_protocol == "SSL":
        causes = (
            "it is not running, does not speak TLS there, or SALIENCE_BROKER__CAFILE did not sign its certificate"
        )
    line = (str(error).splitlines() or [type(error).__name__])[0]
    return f"the broker {settings.servers} cannot be reached over {settings.security_protocol} ({line}); {causes}"
