"""Requests to one repository of a registry, signed in as the registry says.

Registries differ in how they sign clients in (Basic, tokens with scopes, identity tokens), in where blobs lie (another
host, to which a redirect leads) and in when they ask to wait. Credentials go to the registry and to the token service
that it names, never to a host that a redirect or an upload leads to.
"""

from __future__ import annotations

import base64
import re
import time
from collections.abc import Iterable, Mapping
from email.utils import parsedate_to_datetime
from io import BufferedIOBase
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin, urlsplit

from scripts.cli.console import ScriptError, say
from scripts.pretrained.registry_credentials import Credentials, is_hub, read_credentials

if TYPE_CHECKING:
    import requests

TIMEOUT_S = (30, 300)  # to connect; between bytes: a registry hashes a large blob before it answers
MAX_TRIES, MAX_WAIT_S = 4, 60
MAX_REDIRECTS = 5
BUSY = (429, 502, 503, 504)
HUB_ENDPOINT = "registry-1.docker.io"  # docker.io itself is a web site
CLIENT = "bert-on-torchserve"
PARAMETER_OR_SCHEME = re.compile(r'([\w-]+)\s*=\s*(?:"([^"]*)"|([^\s,"]+))|([A-Za-z][\w-]*)(?=[\s,]|$)')


class RegistrySession:
    """What is sent to one repository: with the credentials of its host, and again after a challenge or a wait."""

    def __init__(self, host: str, repository: str, actions: str) -> None:
        """Open a session.

        Args:
            actions: for which a token is asked from the start, "pull" or "pull,push": registries name in a challenge
                what one request needs, or less (quay.io), and some refuse more than the user may (ghcr.io).
        """
        import requests

        self.host, self.repository = host, repository
        self.root = f"{'http' if is_loopback(host) else 'https'}://{HUB_ENDPOINT if is_hub(host) else host}"
        self.url = f"{self.root}/v2/{repository}"
        self.scope = f"repository:{repository}:{actions}"
        self.authorization = ""
        self.http = requests.Session()
        self.http.headers["User-Agent"] = CLIENT

    def ask(
        self,
        method: str,
        url: str,
        *,
        body: bytes | BufferedIOBase | None = None,
        headers: Mapping[str, str] | None = None,
        stream: bool = False,
    ) -> requests.Response:
        """Send one request and return the answer, whatever its status.

        Only GET follows redirects: a body would be lost on the way, and where a HEAD leads is often for GET alone.
        """

        def send(url: str) -> requests.Response:
            signed = self.authorization if self.is_own(url) else ""
            return self._send(method, url, signed, data=body, headers=headers, stream=stream)

        answer = send(url)
        if answer.status_code == 401 and self.is_own(url):
            answer.close()
            if authorization := self.sign_in(answer.headers.get("WWW-Authenticate", "")):
                self.authorization = authorization
                answer = send(url)
        for _ in range(MAX_REDIRECTS if method == "GET" else 0):
            if not answer.is_redirect:
                break
            answer.close()
            answer = send(urljoin(answer.url, answer.headers["Location"]))
        return answer

    def is_own(self, url: str) -> bool:
        """Return whether an address is this registry's, scheme and port included."""
        return _origin(url) == _origin(self.root)

    def sign_in(self, challenge: str) -> str:
        """Return the Authorization that a challenge asks for, nothing where it asks for none that is known here.

        Raises:
            ScriptError: there are no credentials, the token service refuses them, or it would get them without TLS.
        """
        schemes = dict(reversed(parse_challenges(challenge)))
        own = read_credentials(self.host)
        if "bearer" in schemes:
            return f"Bearer {self._token(schemes['bearer'], own)}"
        if "basic" not in schemes:
            return ""
        if own is None or not own.password:
            raise ScriptError(f"oci://{self.host} asks who you are: {self.login_hint()}")
        return f"Basic {base64.b64encode(f'{own.user}:{own.password}'.encode()).decode()}"

    def login_hint(self) -> str:
        """Return how to write the credentials that are read."""
        return f"docker login {self.host} (or oras login, skopeo login --authfile ~/.docker/config.json)"

    def _token(self, parameters: Mapping[str, str], own: Credentials | None) -> str:
        """Ask the token service of a challenge, for what it names and for the whole of this session."""
        realm = urljoin(f"{self.root}/v2/", parameters.get("realm", ""))
        if urlsplit(realm).scheme != "https" and not is_loopback(self.host):
            raise ScriptError(
                f"oci://{self.host} signs clients in at {realm[:200]}, which has no TLS: nothing was sent"
            )
        scopes = merged_scopes([self.scope, *parameters.get("scope", "").split()])
        query: dict[str, Any] = {"service": parameters.get("service") or None}
        if own is not None and own.identity_token:  # OAuth 2, as Azure's registry does
            form = {**query, "scope": " ".join(scopes), "client_id": CLIENT}
            form |= {"grant_type": "refresh_token", "refresh_token": own.identity_token}
            answer = self._send("POST", realm, "", data=form)
        else:
            pair = f"{own.user}:{own.password}".encode() if own else b""
            signed = f"Basic {base64.b64encode(pair).decode()}" if own else ""
            answer = self._send("GET", realm, signed, params={**query, "scope": scopes})
        if not answer.ok:
            raise ScriptError(f"oci://{self.host}: {refusal(answer)}: {self.login_hint()}")
        try:
            content = answer.json()
            token = content.get("token") or content.get("access_token")
        except (ValueError, AttributeError):
            token = None
        if not token:
            raise ScriptError(f"oci://{self.host}: {realm[:200]} answered without a token")
        return str(token)

    def _send(self, method: str, url: str, authorization: str, **options: Any) -> requests.Response:
        """Send a request; where the server asks to wait a while, wait and send it again."""
        for tries in range(1, MAX_TRIES + 1):
            if isinstance(body := options.get("data"), BufferedIOBase):
                body.seek(0)
            answer = self.http.request(
                method,
                url,
                auth=_Authorization(authorization),
                timeout=TIMEOUT_S,
                allow_redirects=False,  # requests would send what ~/.netrc has to where they lead
                **options,
            )
            wait_s = _wait_s(answer.headers.get("Retry-After", ""), tries)
            if answer.status_code not in BUSY or tries == MAX_TRIES or wait_s > MAX_WAIT_S:
                break
            answer.close()
            say(f"{urlsplit(url).netloc} is busy ({answer.status_code}): the request is sent again in {wait_s:.0f} s")
            time.sleep(wait_s)
        return answer


class _Authorization:
    """The header of one request: without it requests would send what ~/.netrc has for the host instead."""

    def __init__(self, value: str) -> None:
        self.value = value

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if self.value:
            request.headers["Authorization"] = self.value
        return request


def parse_challenges(header: str) -> list[tuple[str, dict[str, str]]]:
    """Return scheme and parameters of each challenge of WWW-Authenticate; several headers arrive joined by commas.

    >>> parse_challenges('Basic realm="a, b", Bearer realm="https://a/token",service=s')
    [('basic', {'realm': 'a, b'}), ('bearer', {'realm': 'https://a/token', 'service': 's'})]
    """
    challenges: list[tuple[str, dict[str, str]]] = []
    for name, quoted, bare, scheme in PARAMETER_OR_SCHEME.findall(header):
        if scheme:
            challenges.append((scheme.lower(), {}))
        elif challenges:
            challenges[-1][1][name.lower()] = quoted or bare
    return challenges


def merged_scopes(scopes: Iterable[str]) -> list[str]:
    """Return scopes with the actions of each resource together.

    >>> merged_scopes(["repository:a:pull,push", "repository:a:pull", "repository:b:pull", "*"])
    ['repository:a:pull,push', 'repository:b:pull', '*']
    """
    actions: dict[str, dict[str, None]] = {}
    for scope in scopes:
        resource, _, names = scope.rpartition(":")
        actions.setdefault(resource, {}).update(dict.fromkeys(names.split(",")))
    return [f"{resource}:{','.join(names)}" if resource else ",".join(names) for resource, names in actions.items()]


def is_loopback(host: str) -> bool:
    """Return whether a registry is on this machine, where no TLS is expected, as by docker and oras.

    >>> is_loopback("localhost:5000"), is_loopback("127.0.0.1:5000"), is_loopback("registry:5000")
    (True, True, False)
    """
    name = host.rpartition(":")[0] or host
    return name in ("localhost", "[::1]") or name.startswith("127.")


def refusal(answer: requests.Response) -> str:
    """Return status and reason of a refused request, in the server's own words where it has some."""
    try:
        errors: Iterable[Mapping[str, Any]] = answer.json()["errors"]
        words = "; ".join(str(error.get("message") or error.get("code")) for error in errors)
    except (KeyError, TypeError, ValueError, AttributeError):
        words = answer.reason
    return f"{urlsplit(answer.url).netloc} refused ({answer.status_code}): {words[:300]}"


def _origin(url: str) -> tuple[str, str, int]:
    """Return scheme, host and port of an address."""
    parts = urlsplit(url)
    return parts.scheme, parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)


def _wait_s(retry_after: str, tries: int) -> float:
    """Return how long to wait: what the server says, in seconds or as a date, else 1, 2, 4 seconds."""
    if retry_after.strip().isdigit():
        return float(retry_after)
    try:
        return max(0.0, parsedate_to_datetime(retry_after).timestamp() - time.time())
    except (TypeError, ValueError):
        return float(2 ** (tries - 1))
