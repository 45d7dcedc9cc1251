"""F7: requests without a key, with a wrong, foreign, replaced or expired key are refused on every port."""

from __future__ import annotations

import contextlib
import json
import re
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import requests

from tests.reliability.result import ScenarioResult
from tests.reliability.server import START_S
from tests.support.live import Live, own_config

REFUSED = re.compile("Token Auth(orization|entication) failed")
KINDS = ("inference", "management", "API")  # keys of key_file.json
EXPIRING = KINDS[:2]
# Routes by the kind of their key. None needs a model: the key is checked first.
ROUTES: dict[str, list[tuple[str, str]]] = {
    "inference": [
        ("GET", "/ping"),
        ("POST", "/predictions/m"),
        ("POST", "/predictions/m/1.0"),
        ("POST", "/explanations/m"),
        ("POST", "/v1/models/m:predict"),
        ("POST", "/v2/models/m/infer"),
        ("POST", "/invocations?model_name=m"),
    ],
    "management": [
        ("GET", "/models"),
        ("GET", "/models/m?customized=true"),
        ("POST", "/models?url=m.mar"),
        ("PUT", "/models/m?min_worker=1"),
        ("PUT", "/models/m/1.0/set-default"),
        ("DELETE", "/models/m"),
    ],
    "API": [("GET", "/token?type=inference"), ("GET", "/token?type=management")],
}
ONLY_STANDALONE = [  # of the key for inference
    ("GET", "/v2"),
    ("GET", "/v2/models/m"),
    ("GET", "/v2/models/m/ready"),
    ("POST", "/models/m/invoke"),
    ("GET", "/v1/models"),
    ("POST", "/v1/embeddings"),
    ("POST", "/v1/rerank"),
    ("POST", "/v2/rerank"),
]
GRPC = {
    "inference": "/org.pytorch.serve.grpc.inference.InferenceAPIsService/Predictions",
    "management": "/org.pytorch.serve.grpc.management.ManagementAPIsService/ListModels",
}


@dataclass(frozen=True)
class KeyedPort:
    """One port, by the kind of key that it needs."""

    live: Live
    kind: str
    standalone: bool = False

    @property
    def routes(self) -> list[tuple[str, str]]:
        """The routes over HTTP."""
        return ROUTES[self.kind] + (ONLY_STANDALONE if self.standalone and self.kind == "inference" else [])

    @property
    def has_grpc(self) -> bool:
        """Whether there is a gRPC service with this key."""
        return self.kind in GRPC and not self.standalone

    @property
    def n_routes(self) -> int:
        """The number of routes over HTTP and gRPC."""
        return len(self.routes) + self.has_grpc

    def accepts(self, authorization: str | None) -> list[str]:
        """Return the routes that do not refuse this header."""
        headers = {} if authorization is None else {"Authorization": authorization}
        port = self.live.ports["inference_address" if self.kind == "inference" else "management_address"]
        accepted = []
        for method, path in self.routes:
            response = requests.request(method, f"http://127.0.0.1:{port}{path}", data=b"", headers=headers, timeout=30)
            if response.status_code not in (400, 401) or not REFUSED.search(response.text):
                accepted.append(f"{method} {path} {response.status_code}")
        return accepted + (self._accepts_grpc(authorization) if self.has_grpc else [])

    def is_opened_by(self, key: str) -> bool:
        """Tell whether no route refuses a key."""
        return len(self.accepts(f"Bearer {key}")) == self.n_routes

    def _accepts_grpc(self, authorization: str | None) -> list[str]:
        metadata = [("protocol", "gRPC")] + ([] if authorization is None else [("authorization", authorization)])
        with grpc.insecure_channel(f"127.0.0.1:{self.live.ports[f'grpc_{self.kind}_port']}") as channel:
            try:
                channel.unary_unary(GRPC[self.kind])(b"", metadata=metadata, timeout=30)
            except grpc.RpcError as error:
                if error.code() == grpc.StatusCode.PERMISSION_DENIED:
                    return []
                return [f"gRPC {self.kind} {error.code().name}"]
            return [f"gRPC {self.kind} OK"]


def guarded(expire_s: float, *, standalone: bool = False) -> ScenarioResult:
    """F7: a server whose keys expire after seconds refuses everything but the right key, and then that one, too."""
    with server(expire_s, "standalone" if standalone else "torchserve") as live:
        keys = {kind: str(entry["key"]) for kind, entry in _keys(live).items()}
        ports = {kind: KeyedPort(live, kind, standalone) for kind in KINDS}
        invariants: dict[str, bool] = {}
        tried = 0
        for port in ports.values():
            for name, header in wrong(port.kind, keys).items():
                accepted = port.accepts(header)
                tried += port.n_routes
                invariants |= {f"{name} passes: {way}": False for way in accepted}
        fresh = {}
        for kind in EXPIRING:  # each key is asked just after it was made: the refusals above had no other cause
            replaced = _renewed(live, kind, keys["API"])
            invariants[f"the {kind} key opens"] = ports[kind].is_opened_by(replaced)
            fresh[kind] = _renewed(live, kind, keys["API"])
            invariants[f"the {kind} key that was replaced does not"] = not ports[kind].accepts(f"Bearer {replaced}")
            invariants[f"the new {kind} key opens"] = ports[kind].is_opened_by(fresh[kind])
        time.sleep(expire_s + 1)
        for kind, key in fresh.items():
            accepted = ports[kind].accepts(f"Bearer {key}")
            tried += ports[kind].n_routes
            invariants |= {f"expired {kind} key passes: {way}": False for way in accepted}
    return ScenarioResult(
        "F7",
        "no key, a wrong one, one of another port, one replaced, one expired: refused on every route of every port",
        {"refusals": tried, "routes": sum(port.n_routes for port in ports.values()), "expired after s": expire_s},
        invariants,
    )


def wrong(kind: str, keys: Mapping[str, str]) -> dict[str, str | None]:
    """Return headers that do not hold the key of this kind."""
    key = keys[kind]
    return {
        "no header": None,
        "nothing": "",
        "no key": "Bearer ",
        "a wrong key": "Bearer wrong",
        "half a key": f"Bearer {key[:-1]}",
        "more than a key": f"Bearer {key}x",
        "a key in other capitals": f"Bearer {key.swapcase()}",
        "another scheme": f"Basic {key}",
        "no scheme": key,
        **{f"the {other} key for {kind}": f"Bearer {keys[other]}" for other in KINDS if other != kind},
    }


@contextlib.contextmanager
def server(expire_s: float, kind: str) -> Iterator[Live]:
    """Run a server without models, whose keys expire after `expire_s` seconds."""
    with tempfile.TemporaryDirectory(prefix="r-") as scratch:
        home = Path(scratch)
        (home / "store").mkdir()
        config, ports = own_config(home, optimizes_java=True)
        text, changed = re.subn(
            r"(?m)^token_expiration_min=.*$", f"token_expiration_min={expire_s / 60:.6f}", config.read_text()
        )
        assert changed == 1
        config.write_text(text)
        live = Live(home, config, home / "store", ports)
        try:
            live.script("serve.sh", "start", "--server", kind, "--model-store", str(live.store))
            deadline = time.monotonic() + START_S
            while not live.server.key_file.exists() and time.monotonic() < deadline:
                time.sleep(0.1)
            yield live
        finally:
            live.script("serve.sh", "stop", check=False)


def _keys(live: Live) -> dict[str, Any]:
    keys: dict[str, Any] = json.loads(live.server.key_file.read_text(encoding="utf-8"))
    return keys


def _renewed(live: Live, kind: str, key: str) -> str:
    port = live.ports["management_address"]
    headers = {"Authorization": f"Bearer {key}"}
    response = requests.get(f"http://127.0.0.1:{port}/token?type={kind}", headers=headers, timeout=30)
    assert response.status_code == 200, response.text
    return str(_keys(live)[kind]["key"])
