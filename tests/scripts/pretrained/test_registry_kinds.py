"""What differs between registries: GHCR, ECR, Harbor, Docker Hub, quay.io, Azure's and others behind a proxy."""

from __future__ import annotations

import base64
import json
import ssl
import stat
from pathlib import Path

import pytest
import trustme

from scripts.cli.console import ScriptError
from scripts.pretrained.oci_registry import fetch, push
from scripts.pretrained.registry_credentials import Credentials, read_credentials
from scripts.pretrained.registry_session import RegistrySession, parse_challenges
from tests.support.fake_registry import (
    IDENTITY,
    PASSWORD,
    USER,
    FakeRegistry,
    fake_registry,
    fake_storage,
)

AUTH = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
FILES: dict[str, Path | bytes] = {"config.json": b"{1}", "1_Pooling/config.json": b"{2}", "weights": b"w" * 100_000}


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Take the credentials of a folder that is empty."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("DOCKER_CONFIG", raising=False)
    return tmp_path / "home"


def write_config(home: Path, config: dict[str, object]) -> None:
    """Write ~/.docker/config.json."""
    (home / ".docker").mkdir(parents=True, exist_ok=True)
    (home / ".docker" / "config.json").write_text(json.dumps(config))


def sign_in(home: Path, registry: FakeRegistry) -> None:
    """Write what `docker login` writes."""
    write_config(home, {"auths": {registry.host: {"auth": AUTH}}})


def push_and_fetch(registry: FakeRegistry, target: Path) -> None:
    """Push files and fetch them again."""
    fetch(push(FILES, f"oci://{registry.host}/team/mine:1"), target)
    assert {path: (target / path).read_bytes() for path in FILES} == FILES


def test_a_push_asks_for_both_actions_at_once(home: Path, tmp_path: Path) -> None:
    """quay.io names pull alone where a blob is looked for; ghcr.io refuses more than pull to who may not push."""
    with fake_registry("token") as registry:
        sign_in(home, registry)
        registry.challenged_actions = "pull"
        push_and_fetch(registry, tmp_path)
        assert registry.scopes == [["repository:team/mine:pull,push"], ["repository:team/mine:pull"]]


def test_a_token_that_ends_is_replaced(home: Path, tmp_path: Path) -> None:
    """Those of ghcr.io and Docker Hub live for minutes; a body that was refused is sent again from its start."""
    with fake_registry("token") as registry:
        sign_in(home, registry)
        registry.token_uses = 1
        push_and_fetch(registry, tmp_path)
        assert len(registry.tokens) > len(FILES)


def test_a_registry_that_takes_both_ways_to_sign_in(home: Path, tmp_path: Path) -> None:
    """Gitea and Artifactory name Basic and Bearer in one answer, in any order."""
    with fake_registry("both") as registry:
        sign_in(home, registry)
        push_and_fetch(registry, tmp_path)
        assert registry.scopes, "it signed in by password, which some of them refuse to robots"
    for header in ('Bearer realm="r",scope="a,b", Basic realm="x"', 'BASIC realm=x, bearer realm=r , scope="a,b"'):
        assert dict(parse_challenges(header))["bearer"] == {"realm": "r", "scope": "a,b"}
    assert parse_challenges("Negotiate, Basic") == [("negotiate", {}), ("basic", {})]


@pytest.mark.parametrize("by_helper", [False, True])
def test_identity_tokens_are_exchanged(
    by_helper: bool, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`az acr login` writes one, and docker-credential-acr gives one as the secret of the user <token>."""
    with fake_registry("token") as registry:
        if by_helper:
            write_helper(tmp_path, monkeypatch, "acr", {"Username": "<token>", "Secret": IDENTITY}, registry.host)
            write_config(home, {"credHelpers": {registry.host: "acr"}})
        else:
            nobody = base64.b64encode(b"00000000-0000-0000-0000-000000000000:").decode()
            write_config(home, {"auths": {registry.host: {"auth": nobody, "identitytoken": IDENTITY}}})
        push_and_fetch(registry, tmp_path / "target")
        assert {path for method, path in registry.requests if method == "POST" and "token" in path} == {"/token"}


def write_helper(folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, answer: dict[str, str], server: str) -> None:
    """Put docker-credential-NAME on the path, which knows one server."""
    script = folder / f"docker-credential-{name}"
    missing = "credentials not found in native keychain"
    script.write_text(
        f"#!/bin/sh\nread -r server\n[ \"$1 $server\" = 'get {server}' ] || {{ echo '{missing}'; exit 1; }}\n"
        f"cat <<'END'\n{json.dumps(answer)}\nEND\n"
    )
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(folder), prepend=":")


def test_credentials_are_where_their_writers_put_them(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """By host, by address, by helper, in the folder DOCKER_CONFIG; Docker Hub under a name of its own."""
    mine = Credentials(USER, PASSWORD)
    assert read_credentials("a.example") is None
    write_config(
        home, {"auths": {"https://a.example/v1/": {"auth": AUTH}, "https://index.docker.io/v1/": {"auth": AUTH}}}
    )
    assert [read_credentials(host) for host in ("a.example", "docker.io", "b.example")] == [mine, mine, None]
    write_helper(tmp_path, monkeypatch, "test", {"Username": "of", "Secret": "helper"}, "https://index.docker.io/v1/")
    write_config(home, {"credsStore": "test", "auths": {"docker.io": {}, "a.example": {"auth": AUTH}}})
    assert read_credentials("docker.io") == Credentials("of", "helper")
    assert read_credentials("a.example") == mine
    assert not capsys.readouterr().err
    write_config(home, {"credHelpers": {"a.example": "absent"}})
    assert read_credentials("a.example") is None
    assert "docker-credential-absent" in capsys.readouterr().err
    (tmp_path / "other").mkdir()
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "other"))
    assert read_credentials("a.example") is None
    for text in (
        "not JSON",
        "[]",
        '{"auths": []}',
        '{"auths": {"a.example": 1}}',
        '{"auths": {"a.example": {"auth": "?"}}}',
    ):
        (tmp_path / "other" / "config.json").write_text(text)
        assert read_credentials("a.example") is None


def test_docker_hub_is_asked_where_its_registry_is() -> None:
    """docker.io is a web site; others are asked by their names."""
    assert RegistrySession("docker.io", "mia/mine", "pull").url == "https://registry-1.docker.io/v2/mia/mine"
    assert RegistrySession("ghcr.io", "mia/mine", "pull").url == "https://ghcr.io/v2/mia/mine"


@pytest.mark.parametrize("sign_in_by", ["basic", "token"])
def test_no_credentials_follow_a_redirect(sign_in_by: str, home: Path, tmp_path: Path) -> None:
    """ECR and others send blobs by S3, which refuses a second way to sign in, and HEAD of an address signed for GET."""
    with fake_registry(sign_in_by) as registry, fake_storage(registry.blobs) as storage:
        sign_in(home, registry)
        registry.storage = storage.root
        (home / ".netrc").write_text("default login mia password secret\n")
        (home / ".netrc").chmod(0o600)
        uri = push(FILES, f"oci://{registry.host}/team/mine:1")
        fetch(uri, tmp_path)
        assert storage.methods.count("GET") == len(FILES)
        assert not any("Bearer" in str(each) for each in storage.authorizations)
        registry.requests.clear()
        assert push(FILES, f"oci://{registry.host}/team/mine:1") == uri
        assert not [method for method, _ in registry.requests if method == "POST"], "a blob was sent twice"
        storage.status = 401
        with pytest.raises(ScriptError, match=rf"{storage.root.removeprefix('http://')} refused \(401\)"):
            fetch(uri, tmp_path)
        assert "POST" not in storage.methods


@pytest.mark.parametrize("form", ["relative", "absolute", "elsewhere"])
def test_uploads_go_where_the_registry_says(form: str, home: Path, tmp_path: Path) -> None:
    """Relative addresses (GHCR, Harbor), absolute ones (Docker Hub, ECR), and other hosts, which get no credentials."""
    with fake_registry("token") as registry, fake_storage(registry.blobs) as storage:
        sign_in(home, registry)
        roots = {"relative": "", "absolute": f"http://{registry.host}", "elsewhere": storage.root}
        registry.upload_root = roots[form]
        push_and_fetch(registry, tmp_path)
        assert storage.authorizations == [None] * (4 if form == "elsewhere" else 0)


def test_a_registry_that_does_not_say_what_it_holds(home: Path, tmp_path: Path) -> None:
    """public.ecr.aws answers 401 to each HEAD of a blob; some answer 405. No digest is named: it is computed."""
    with fake_registry("token") as registry:
        sign_in(home, registry)
        registry.has_digest_header = False
        for status in (401, 405):
            registry.head_status = status
            push_and_fetch(registry, tmp_path)


def test_a_busy_registry_is_asked_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As it says, in seconds or by a date; not where the wait is long, and not for ever."""
    with fake_registry() as registry:
        registry.busy = [(429, "0"), (503, "Wed, 21 Oct 2015 07:28:00 GMT"), (429, "0")]
        push_and_fetch(registry, tmp_path)
        assert "is busy (429): the request is sent again in 0 s" in capsys.readouterr().err
        for busy in ([(429, "3600")], [(429, "0")] * 4):
            registry.busy = list(busy)
            with pytest.raises(ScriptError, match=r"refused \(429\): pull rate limit"):
                fetch(f"oci://{registry.host}/team/mine:1", tmp_path)
            assert not registry.busy


def test_nothing_is_sent_without_tls(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """To a registry with TLS: neither to a token service nor to an upload whose address lost it behind a proxy."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "ca.pem"))
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("0.0.0.0").configure_cert(tls)  # noqa: S104 - the address of the registry
    for scheme in ("basic", "token"):
        with fake_registry(scheme, tls) as registry, fake_registry("token") as plain:
            sign_in(home, registry)
            registry.realm = f"https://{registry.host}/token"
            registry.upload_root = f"http://{registry.host.partition(':')[0]}:1"  # without TLS, of the port inside
            push_and_fetch(registry, tmp_path / scheme)
            registry.realm = f"http://{plain.host}/token"
            if scheme == "token":
                with pytest.raises(ScriptError, match="which has no TLS: nothing was sent"):
                    push(FILES, f"oci://{registry.host}/team/mine:1")
            assert plain.requests == []


def test_a_registry_elsewhere_is_named() -> None:
    """A push that is redirected would lose its body: the message says where the registry is."""
    with fake_registry() as registry:
        registry.moved_to = "https://new.example"
        with pytest.raises(
            ScriptError, match=r"the registry sends clients to https://new\.example/v2/mine/manifests/1"
        ):
            push({"a": b"a"}, f"oci://{registry.host}/mine:1")
