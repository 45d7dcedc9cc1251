"""The settings of a TorchServe 0.12 as it reads them (ConfigManager.java): config.properties and the environment.

TorchServe ignores a key that it does not know without a message; here it is reported, with the nearest one that exists.
"""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from scripts.cli.console import ScriptError, run, say

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
    "default_response_timeout": "120",
    "default_startup_timeout": "120",
}
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
    """Read a file of `key=value` lines as TorchServe does: the last of equal keys wins."""
    if not path.is_file():
        raise ScriptError(f"no settings at {path}")
    lines = map(str.strip, path.read_text(encoding="utf-8").splitlines())
    pairs = (line.split("=", 1) for line in lines if "=" in line and not line.startswith(("#", "!")))
    return {key.strip(): value.strip() for key, value in pairs}


def effective(path: Path, environment: Mapping[str, str] | None = None) -> dict[str, Setting]:
    """Return the settings of a server started with this file; the environment wins where the file allows it."""
    environment = os.environ if environment is None else environment
    settings = {key: Setting(value, DEFAULT) for key, value in DEFAULTS.items()}
    settings |= {key: Setting(value, path.name) for key, value in read_file(path).items()}
    if reads_environment(settings):
        for key in sorted(KEYS - FILE_ONLY):
            if environment_variable(key) in environment:
                settings[key] = Setting(environment[environment_variable(key)], environment_variable(key))
    return settings


def reads_environment(settings: Mapping[str, Setting]) -> bool:
    """Tell whether TS_KEY in the environment wins over the file."""
    return "enable_envvars_config" in settings and settings["enable_envvars_config"].value.lower() == "true"


def suggestion(key: str) -> str:
    """Return which known key an unknown one may stand for, as the end of a sentence.

    >>> suggestion("job_queue_sise")
    'did you mean job_queue_size?'
    """
    matches = difflib.get_close_matches(key, KEYS, n=1, cutoff=0.6)
    return f"did you mean {matches[0]}?" if matches else "TorchServe 0.12 has no such setting"


def main() -> int:
    """Print which keys of a settings file TorchServe would ignore; exit with 2 if there are any."""
    file = Path(sys.argv[1])
    unknown = [key for key in read_file(file) if key not in KEYS]
    for key in unknown:
        say(f"{file}: unknown setting {key}: {suggestion(key)}")
    return 2 if unknown else 0


if __name__ == "__main__":
    run(main)
