"""The settings of a TorchServe 0.12 as it reads them (ConfigManager.java): config.properties and the environment.

TorchServe ignores a key that it does not know without a message; here it is reported, with the nearest one that exists.
"""

from __future__ import annotations

from scripts.cli.command import run

import difflib
import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from handler import properties
from scripts.cli.console import ScriptError, say
from scripts.client.ports import PORTS

KEYS = frozenset(
    """
    allowed_urls async_logging blacklist_env_vars certificate_file cors_allowed_headers cors_allowed_methods
    cors_allowed_origin cpp_log_config cpu_launcher_args cpu_launcher_enable debug decode_input_request
    default_response_timeout default_service_handler default_startup_timeout default_workers_per_model
    disable_system_metrics disable_token_authorization enable_envvars_config enable_grpc_ssl enable_metrics_api
    enable_model_api grpc_inference_address grpc_inference_max_connection_age_grace_ms
    grpc_inference_max_connection_age_ms grpc_inference_port grpc_management_address
    grpc_management_max_connection_age_grace_ms grpc_management_max_connection_age_ms grpc_management_port
    inference_address initial_distribution_port initial_worker_port install_py_dep_per_model io_ratio ipex_enable
    ipex_gpu_enable job_queue_size keystore keystore_pass keystore_type limit_max_image_pixels load_models
    management_address max_request_size max_response_size metric_time_interval metrics_address metrics_config
    metrics_mode model_metrics_auto_detect model_server_home model_snapshot model_store models netty_client_threads
    number_of_gpu number_of_netty_threads plugins_path prefer_direct_buffer private_key_file service_envelope
    system_metrics_cmd token_expiration_min ts_header_key_sequence_end ts_header_key_sequence_id
    ts_header_key_sequence_start ts_open_inference_protocol unregister_model_timeout use_env_allowed_urls
    use_native_io version vmargs workflow_store
    """.split()  # noqa: SIM905 - a word list
)
FILE_ONLY = frozenset(
    """
    enable_envvars_config io_ratio metric_time_interval model_snapshot models plugins_path system_metrics_cmd
    use_env_allowed_urls use_native_io version vmargs
    """.split()  # noqa: SIM905 - a word list
)
INTEGERS = frozenset(
    """
    default_response_timeout default_startup_timeout default_workers_per_model grpc_inference_port grpc_management_port
    grpc_inference_max_connection_age_grace_ms grpc_inference_max_connection_age_ms
    grpc_management_max_connection_age_grace_ms grpc_management_max_connection_age_ms initial_distribution_port
    initial_worker_port io_ratio job_queue_size max_request_size max_response_size metric_time_interval
    netty_client_threads number_of_gpu number_of_netty_threads unregister_model_timeout
    """.split()  # noqa: SIM905 - a word list
)
BOOLEANS = frozenset(
    """
    async_logging cpu_launcher_enable debug disable_system_metrics disable_token_authorization enable_envvars_config
    enable_grpc_ssl enable_metrics_api enable_model_api install_py_dep_per_model ipex_gpu_enable limit_max_image_pixels
    model_metrics_auto_detect prefer_direct_buffer ts_open_inference_protocol use_native_io
    """.split()  # noqa: SIM905 - a word list
)
ADDRESS = re.compile(r"(https?)://([^:/]+)(?::([0-9]+))?")
DEFAULT_PORTS = {"inference_address": (80, 443), "management_address": (8081, 8444), "metrics_address": (8082, 8445)}
VARIABLE_IN_VALUE = re.compile(r"\$\$([^$]+[^$])\$\$")
# The values where nothing is set, as far as a script needs them.
DEFAULTS = {
    "inference_address": "http://127.0.0.1:8080",
    "management_address": "http://127.0.0.1:8081",
    "metrics_address": "http://127.0.0.1:8082",
    "grpc_inference_address": "127.0.0.1",
    "grpc_inference_port": "7070",
    "grpc_management_address": "127.0.0.1",
    "grpc_management_port": "7071",
    "disable_token_authorization": "false",
    "token_expiration_min": "60",
    "enable_model_api": "false",
    "decode_input_request": "true",
    "metrics_mode": "log",
    "job_queue_size": "100",
    "max_response_size": "6553500",
    "default_response_timeout": "120",
    "default_startup_timeout": "120",
}
LOADS = ("load_models", "models", "model_snapshot")
DEFAULT = "TorchServe's default"


@dataclass(frozen=True)
class Setting:
    """One value, and where it is set."""

    value: str
    origin: str  # a file, a variable, or DEFAULT

    @property
    def is_set(self) -> bool:
        """Whether it is set anywhere."""
        return self.origin != DEFAULT


def environment_variable(key: str) -> str:
    """Return the environment variable of a key.

    >>> environment_variable("inference_address"), environment_variable("token_expiration_min")
    ('TS_INFERENCE_ADDRESS', 'TS_TOKEN_EXPIRATION_TIME_MIN')
    >>> environment_variable("ts_open_inference_protocol")
    'TS_OPEN_INFERENCE_PROTOCOL'
    """
    if key == "token_expiration_min":
        return "TS_TOKEN_EXPIRATION_TIME_MIN"
    return f"TS_{key.removeprefix('ts_').upper()}"


def read_file(path: Path) -> dict[str, str]:
    """Read the keys and values of a file as Java does.

    Raises:
        ScriptError: there is no such file, or Java cannot read it.
    """
    if not path.is_file():
        raise ScriptError(f"no settings at {path}")
    try:
        return properties.loads(path.read_bytes())
    except ValueError as error:
        raise ScriptError(f"{path} has {error}: TorchServe does not start with it") from None


def effective(path: Path, environment: Mapping[str, str] | None = None) -> dict[str, Setting]:
    """Return the settings of a server started with this file: `$$NAME$$` in a value is a variable of the environment.

    Where the file allows it, TS_KEY in the environment wins over the file.
    """
    environment = os.environ if environment is None else environment
    settings = {key: Setting(value, DEFAULT) for key, value in DEFAULTS.items()}
    for key, value in read_file(path).items():
        insert = VARIABLE_IN_VALUE.sub(lambda match: environment.get(match[1], match[0]), value)
        settings[key] = Setting(insert, path.name)
    if reads_environment(settings):
        for key in sorted(KEYS - FILE_ONLY):
            if environment_variable(key) in environment and (key != "allowed_urls" or _takes_allowed_urls(settings)):
                settings[key] = Setting(environment[environment_variable(key)], environment_variable(key))
    return settings


def is_true(value: str) -> bool:
    """Parse a boolean as Boolean.parseBoolean does: in any case, but not with a blank.

    >>> is_true("TRUE"), is_true("true "), is_true("yes")
    (True, False, False)
    """
    return value.lower() == "true"


def reads_environment(settings: Mapping[str, Setting]) -> bool:
    """Tell whether TS_KEY in the environment wins over the file."""
    return "enable_envvars_config" in settings and is_true(settings["enable_envvars_config"].value)


def _takes_allowed_urls(settings: Mapping[str, Setting]) -> bool:
    return "use_env_allowed_urls" in settings and is_true(settings["use_env_allowed_urls"].value)


def problem_of(key: str, value: str) -> str:
    """Return why TorchServe cannot use a value, or an empty string.

    >>> problem_of("job_queue_size", "100 ")
    "job_queue_size is '100 ', not a whole number: a blank at its end counts"
    >>> problem_of("enable_model_api", "yes")
    "enable_model_api is 'yes', which is false: write true or false"
    """
    quoted = "not shown" if "pass" in key else repr(value)
    blank = "a blank at its end counts" if value != value.rstrip() else ""
    if variable := VARIABLE_IN_VALUE.search(value):
        return f"{key} needs the environment variable {variable[1]}, which is not set: TorchServe does not start"
    if key in INTEGERS and not _is_java_int(value):
        return f"{key} is {quoted}, not a whole number" + (f": {blank}" if blank else "")
    if key in BOOLEANS and value.lower() not in ("true", "false"):
        return f"{key} is {quoted}, which is false: {blank or 'write true or false'}"
    if key in DEFAULT_PORTS and not ADDRESS.fullmatch(value) and not value.startswith("unix:/"):
        return f"{key} is {quoted}, no http://HOST:PORT: {blank or 'TorchServe does not start'}"
    return ""


def _is_java_int(value: str) -> bool:
    return bool(re.fullmatch(r"[+-]?[0-9]+", value)) and -(2**31) <= int(value) < 2**31


def address_of(settings: Mapping[str, Setting], key: str) -> tuple[str, int]:
    """Return host and port of a setting of PORTS; port 0 where TorchServe cannot read it either."""
    value = settings[key].value
    if key.endswith("_port"):
        host = settings[key.replace("_port", "_address")].value
        return host.strip("[]"), int(value) if _is_java_int(value) else 0
    match = ADDRESS.fullmatch(value)
    if match is None:
        host, _, port = value.strip().partition("://")[2].rpartition(":")
        return host.strip("[]"), int(port) if port.isdecimal() else 0
    return match[2], int(match[3] or DEFAULT_PORTS[key][match[1] == "https"])


def suggestion(key: str) -> str:
    """Return which known key an unknown one may stand for, as the end of a sentence.

    >>> suggestion("job_queue_sise")
    'did you mean job_queue_size?'
    """
    matches = difflib.get_close_matches(key, KEYS, n=1, cutoff=0.6)
    return f"did you mean {matches[0]}?" if matches else "TorchServe 0.12 has no such setting"


def main() -> int:
    """Print what scripts/serve.sh needs of a settings file: a line `KEY HOST PORT` each address, then `vmargs ...`, and
    `loads ...` with the settings by which TorchServe itself would choose archives.

    Exits with 2 when there is a key that TorchServe would ignore or a value that it cannot use.
    """
    file = Path(sys.argv[1])
    unknown = [key for key in read_file(file) if key not in KEYS]
    for key in unknown:
        say(f"{file}: unknown setting {key}: {suggestion(key)}")
    settings = effective(file)
    problems = [problem for key, setting in settings.items() if (problem := problem_of(key, setting.value))]
    for problem in problems:
        say(f"{file}: {problem}")
    if unknown or problems:
        return 2
    for key in PORTS:
        host, port = address_of(settings, key)
        print(key, "127.0.0.1" if host in ("0.0.0.0", "::") else host, port)  # noqa: S104 - not bound, replaced
    print("vmargs", settings["vmargs"].value if "vmargs" in settings else "")
    print("loads", *(f"{key} ({settings[key].origin})" for key in LOADS if key in settings and settings[key].value))
    return 0


if __name__ == "__main__":
    run(main)
