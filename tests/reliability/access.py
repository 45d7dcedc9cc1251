"""F7: whoever has no key, another one, that of the other port or one that expired is refused on every port."""

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

from tests.reliability.result import Verdict
from tests.support.live import Live, own_config

REFUSED = "InvalidKeyException"
KINDS = ("inference", "management", "API")  # keys of key_file.json
# Routes by the key that each wants. None needs a model: the key is looked at first.
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
GRPC = {
    "inference": "/org.pytorch.serve.grpc.inference.InferenceAPIsService/Predictions",
    "management": "/org.pytorch.serve.grpc.management.ManagementAPIsService/ListModels",
}


@dataclass(frozen=True)
class Door:
    """One way in."""

    live: Live
    wants: str  # which key

    def accepts(self, authorization: str | None) -> list[str]:
        """Return the routes on which these words are not refused."""
        headers = {} if authorization is None else {"Authorization": authorization}
        port = self.live.ports["inference_address" if self.wants == "inference" else "management_address"]
        found = []
        for method, path in ROUTES[self.wants]:
            reply = requests.request(method, f"http://127.0.0.1:{port}{path}", data=b"", headers=headers, timeout=30)
            if (reply.status_code, _kind(reply)) != (400, REFUSED):
                found.append(f"{method} {path} {reply.status_code}")
        return found + (self._accepts_grpc(authorization) if self.wants in GRPC else [])

    def _accepts_grpc(self, authorization: str | None) -> list[str]:
        metadata = [("protocol", "gRPC")] + ([] if authorization is None else [("authorization", authorization)])
        with grpc.insecure_channel(f"127.0.0.1:{self.live.ports[f'grpc_{self.wants}_port']}") as channel:
            try:
                channel.unary_unary(GRPC[self.wants])(b"", metadata=metadata, timeout=30)
            except grpc.RpcError as error:
                if error.code() == grpc.StatusCode.PERMISSION_DENIED:
                    return []
                return [f"gRPC {self.wants} {error.code().name}"]
            return [f"gRPC {self.wants} OK"]


def guarded(expire_s: float) -> Verdict:
    """F7: on a server whose keys live for seconds, every other word than the right key is refused, and then it, too."""
    with server(expire_s) as live:
        keys = {kind: str(found["key"]) for kind, found in _keys(live).items()}
        doors = [Door(live, kind) for kind in KINDS]
        claims: dict[str, bool] = {}
        tried = 0
        for door in doors:
            for name, words in wrong(door.wants, keys).items():
                passed = door.accepts(words)
                tried += _ways(door)
                claims |= {f"{name} passes: {way}": False for way in passed}
        for kind in GRPC:  # still: what was refused above was refused for what it is
            claims[f"the {kind} key opens"] = len(Door(live, kind).accepts(f"Bearer {keys[kind]}")) == _ways(
                Door(live, kind)
            )
        fresh = {kind: _renewed(live, kind, keys["API"]) for kind in GRPC}
        for kind, key in fresh.items():
            claims[f"the new {kind} key opens"] = len(Door(live, kind).accepts(f"Bearer {key}")) == _ways(
                Door(live, kind)
            )
            claims[f"the {kind} key that was replaced does not"] = not Door(live, kind).accepts(f"Bearer {keys[kind]}")
        time.sleep(expire_s + 1)
        for kind, key in fresh.items():
            passed = Door(live, kind).accepts(f"Bearer {key}")
            tried += _ways(Door(live, kind))
            claims |= {f"expired {kind} key passes: {way}": False for way in passed}
    return Verdict(
        "F7",
        "no key, a wrong one, one of another port, one replaced, one expired: refused on every route of every port",
        {"refusals": tried, "routes": sum(map(_ways, doors)), "expired after s": expire_s},
        claims,
    )


def wrong(wanted: str, keys: Mapping[str, str]) -> dict[str, str | None]:
    """Return words that are not the key that is wanted."""
    key = keys[wanted]
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
        **{f"the {other} key for {wanted}": f"Bearer {keys[other]}" for other in KINDS if other != wanted},
    }


@contextlib.contextmanager
def server(expire_s: float) -> Iterator[Live]:
    """Run a server without models, whose keys live for so many seconds."""
    with tempfile.TemporaryDirectory(prefix="r-") as scratch:
        home = Path(scratch)
        (home / "store").mkdir()
        config, ports = own_config(home)
        text, changed = re.subn(
            r"(?m)^token_expiration_min=.*$", f"token_expiration_min={expire_s / 60:.6f}", config.read_text()
        )
        assert changed == 1
        config.write_text(text)
        live = Live(home, config, home / "store", ports)
        try:
            live.script("serve.sh", "start", "--model-store", str(live.store))
            deadline = time.monotonic() + 30
            while not live.server.key_file.exists() and time.monotonic() < deadline:
                time.sleep(0.1)
            yield live
        finally:
            live.script("serve.sh", "stop", check=False)


def _ways(door: Door) -> int:
    return len(ROUTES[door.wants]) + (door.wants in GRPC)


def _kind(reply: requests.Response) -> str:
    try:
        value = reply.json()
    except ValueError:
        return ""
    return str(value.get("type", "")) if isinstance(value, dict) else ""


def _keys(live: Live) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(live.server.key_file.read_text(encoding="utf-8"))
    return found


def _renewed(live: Live, kind: str, key: str) -> str:
    port = live.ports["management_address"]
    headers = {"Authorization": f"Bearer {key}"}
    reply = requests.get(f"http://127.0.0.1:{port}/token?type={kind}", headers=headers, timeout=30)
    assert reply.status_code == 200, reply.text
    return str(_keys(live)[kind]["key"])
