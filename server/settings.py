"""The settings of a server: config.properties and the environment, read as TorchServe reads them.

Every key of TorchServe is in one of three groups: it applies here, it is about something that this server does not have
(Java, gRPC, worker processes) and changes no answer, or it is refused by name.
"""

from __future__ import annotations

import math
import os
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from handler.errors import ConfigError
from scripts.client.settings import Setting, address_of, effective, is_true, problem_of
from server.openai_tokens import VARIABLE

REFUSED = {
    "keystore": "convert it to PEM and set private_key_file and certificate_file",
    "enable_grpc_ssl": "this server has no gRPC",
    "plugins_path": "this server has no plugins",
    "service_envelope": "every protocol is read without an envelope",
    "default_service_handler": "archives of this project bring what they need",
    "workflow_store": "this server has no workflows",
}
PORTS = ("inference_address", "management_address", "metrics_address")
DEFAULTS = {"max_request_size": 6_553_500, "max_response_size": 6_553_500, "job_queue_size": 100}
S_PER_MIN = 60


@dataclass(frozen=True)
class Address:
    """Where one port listens."""

    host: str
    port: int
    tls: bool = False


@dataclass(frozen=True)
class ServerSettings:
    """What of config.properties applies to this server."""

    addresses: Mapping[str, Address]  # by the names in PORTS, without `_address`
    authorized: bool = True  # whether requests need keys
    key_lifetime_s: float = 3600
    may_change_models: bool = False  # enable_model_api
    max_request_bytes: int = DEFAULTS["max_request_size"]
    max_response_bytes: int = DEFAULTS["max_response_size"]
    queue_requests: int = DEFAULTS["job_queue_size"]  # of a model whose archive does not say
    metrics_config: Path | None = None
    certificate: Path | None = None
    private_key: Path | None = None
    cors_origin: str = ""
    cors_methods: str = ""
    cors_headers: str = ""
    openai_vocabulary: Path | None = None  # SERVE_OPENAI_VOCABULARY

    @classmethod
    def read(cls, path: Path, run_dir: Path, environment: Mapping[str, str] | None = None) -> ServerSettings:
        """Read a file.

        Raises:
            ConfigError: a value that cannot be used, or a key that this server cannot obey.
        """
        settings = effective(path, environment)
        variables = os.environ if environment is None else environment
        problems = [problem for key, setting in settings.items() if (problem := problem_of(key, setting.value))]
        problems += [f"{key} is set: {reason}" for key, reason in refused(settings).items()]
        if problems:
            raise ConfigError("; ".join(problems))
        return cls(
            addresses={key.removesuffix("_address"): _address(settings, key) for key in PORTS},
            authorized=not is_true(settings["disable_token_authorization"].value),
            key_lifetime_s=_minutes(settings, "token_expiration_min") * S_PER_MIN,
            may_change_models=is_true(settings["enable_model_api"].value),
            max_request_bytes=_number(settings, "max_request_size"),
            max_response_bytes=_number(settings, "max_response_size"),
            queue_requests=_number(settings, "job_queue_size"),
            metrics_config=_path(settings, "metrics_config", run_dir),
            certificate=_path(settings, "certificate_file", run_dir),
            private_key=_path(settings, "private_key_file", run_dir),
            cors_origin=_word(settings, "cors_allowed_origin"),
            cors_methods=_word(settings, "cors_allowed_methods"),
            cors_headers=_word(settings, "cors_allowed_headers"),
            openai_vocabulary=Path(vocabulary) if (vocabulary := variables.get(VARIABLE)) else None,
        )

    def tls(self) -> ssl.SSLContext | None:
        """Return the context of the ports that end TLS here; None without a certificate.

        Raises:
            ConfigError: the certificate cannot be read, or an https address has none.
        """
        if not any(address.tls for address in self.addresses.values()):
            return None
        if self.certificate is None or self.private_key is None:
            raise ConfigError("an https address needs private_key_file and certificate_file")
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        try:
            context.load_cert_chain(self.certificate, self.private_key)
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(f"{self.certificate} and {self.private_key} cannot be read: {error}") from error
        return context


def refused(settings: Mapping[str, Setting]) -> dict[str, str]:
    """Return the keys that are set and that this server cannot obey, with what to do about each."""
    return {key: reason for key, reason in REFUSED.items() if _is_set(settings, key)}


def _is_set(settings: Mapping[str, Setting], key: str) -> bool:
    return key in settings and settings[key].is_set and settings[key].value.lower() not in ("", "false")


def _address(settings: Mapping[str, Setting], key: str) -> Address:
    host, port = address_of(settings, key)
    if not port:
        raise ConfigError(f"{key} is {settings[key].value!r}, accepted: http://HOST:PORT or https://HOST:PORT")
    return Address(host, port, settings[key].value.startswith("https"))


def _number(settings: Mapping[str, Setting], key: str) -> int:
    return int(settings[key].value) if key in settings else DEFAULTS[key]


def _minutes(settings: Mapping[str, Setting], key: str) -> float:
    value = settings[key].value
    try:
        minutes = float(value)
    except ValueError:
        minutes = math.nan
    if math.isnan(minutes):  # TorchServe would take 60 and say so in its log alone
        raise ConfigError(f"{key} is {value!r}, accepted: minutes, e.g. 525600")
    return minutes


def _word(settings: Mapping[str, Setting], key: str) -> str:
    return settings[key].value if key in settings else ""


def _path(settings: Mapping[str, Setting], key: str, run_dir: Path) -> Path | None:
    return run_dir / settings[key].value if key in settings and settings[key].value else None
