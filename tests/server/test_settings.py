"""config.properties for the standalone server: what it obeys, and what it refuses by name."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest
import trustme

from handler.errors import ConfigError
from server.settings import ServerSettings
from tests.support.samples import ROOT


def read(folder: Path, *lines: str) -> ServerSettings:
    """Read a file of these lines, with nothing in the environment."""
    file = folder / "config.properties"
    file.write_text("\n".join(lines) + "\n")
    return ServerSettings.read(file, folder, {})


def test_the_projects_settings_are_obeyed() -> None:
    """The file of the repository, as it stands."""
    settings = ServerSettings.read(ROOT / "config.properties", ROOT, {})
    assert (settings.addresses["inference"].host, settings.addresses["inference"].port) == ("127.0.0.1", 8080)
    assert settings.max_request_bytes == 6_553_500
    assert settings.max_response_bytes == 134_217_728
    assert settings.authorized
    assert settings.may_change_models
    assert settings.metrics_config == ROOT / "metrics.yaml"


def test_without_settings_the_defaults_are_torchserves(tmp_path: Path) -> None:
    """Addresses, keys, limits."""
    settings = read(tmp_path, "")
    assert [address.port for address in settings.addresses.values()] == [8080, 8081, 8082]
    assert (settings.authorized, settings.key_lifetime_s, settings.may_change_models) == (True, 3600, False)
    assert settings.metrics_config is None


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("keystore=keys.jks", "keystore is set: convert it to PEM"),
        ("enable_grpc_ssl=true", "enable_grpc_ssl is set: this server has no gRPC"),
        ("service_envelope=body", "service_envelope is set"),
        ("max_request_size=6 MB", "max_request_size is '6 MB', not a whole number"),
        ("token_expiration_min=never", "token_expiration_min is 'never', accepted: minutes"),
        ("inference_address=8080", "inference_address is '8080', no http://HOST:PORT"),
        ("inference_address=unix:/tmp/socket", "inference_address is 'unix:/tmp/socket', accepted: http://HOST:PORT"),
    ],
)
def test_what_it_cannot_obey_is_refused_by_name(tmp_path: Path, line: str, reason: str) -> None:
    """A key that would change answers or security, and values that nobody can use."""
    with pytest.raises(ConfigError, match=reason.split("'", maxsplit=1)[0]):
        read(tmp_path, line)


def test_an_https_address_needs_a_certificate(tmp_path: Path) -> None:
    """In PEM; a broken one is refused."""
    https = "inference_address=https://127.0.0.1:8443"
    with pytest.raises(ConfigError, match="private_key_file and certificate_file"):
        read(tmp_path, https).tls()
    files = ["private_key_file=server.pem", "certificate_file=server.pem"]
    (tmp_path / "server.pem").write_text("no certificate")
    with pytest.raises(ConfigError, match="cannot be read"):
        read(tmp_path, https, *files).tls()
    authority = trustme.CA()
    authority.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(tmp_path / "server.pem")
    assert isinstance(read(tmp_path, https, *files).tls(), ssl.SSLContext)
    assert read(tmp_path, "").tls() is None
