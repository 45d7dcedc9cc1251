"""The web server of the page: loopback unless told otherwise, nothing kept, nothing fetched from elsewhere.

Gradio by itself reports its use to its makers, keeps the inputs of every call in the storage of the browser, lets
anybody who knows the address see how often it was called, and names fonts of a content network. All of that is switched
off here, and a Content-Security-Policy keeps the browser from asking any other host.
"""

from __future__ import annotations

import ipaddress
import os
from pathlib import Path
from typing import TYPE_CHECKING

from starlette.datastructures import MutableHeaders
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware

from scripts.cli.console import ScriptError, say

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from scripts.explorer.explorer import Explorer

FONTS = ["system-ui", "sans-serif"]
MONOSPACE = ["ui-monospace", "monospace"]
POLICY = "; ".join(
    (
        "default-src 'self'",
        "script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:",
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data: blob:",
        "font-src 'self' data:",
        "connect-src 'self'",
        "frame-ancestors 'none'",
        "form-action 'none'",
    )
)


class PrivatePage:
    """Adds to each response what keeps a page to itself: no other host, no copy in a cache, no referrer."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers["Content-Security-Policy"] = POLICY
                headers["Referrer-Policy"] = "no-referrer"
                headers["X-Content-Type-Options"] = "nosniff"
                if not scope["path"].startswith("/assets/"):  # the page's own code, without a text
                    headers["Cache-Control"] = "no-store"
            await send(message)

        await self.app(scope, receive, send_with_headers)


def is_loopback(host: str) -> bool:
    """Tell whether only this machine reaches an address.

    >>> is_loopback("127.0.0.1"), is_loopback("localhost"), is_loopback("0.0.0.0")
    (True, True, False)
    """
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def middleware(host: str) -> list[Middleware]:
    """Return what stands before the page.

    On the loopback a request must name the loopback: a page of another site whose name was made to lead here
    (DNS rebinding) does not.
    """
    private = Middleware(PrivatePage)
    if not is_loopback(host):
        return [private]
    return [Middleware(TrustedHostMiddleware, allowed_hosts=["127.0.0.1", "localhost", "[::1]", host]), private]


def serve(explorer: Explorer, host: str, port: int) -> None:
    """Show the page until Ctrl-C.

    Raises:
        ScriptError: Gradio is not installed, or the port is taken.
    """
    os.environ |= {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_DISABLE_TELEMETRY": "1"}
    try:
        import gradio

        from scripts.explorer.page import build
    except ImportError as error:
        raise ScriptError(
            f"the playground needs {error.name}: .venv/bin/python -m pip install -r requirements/playground.txt"
        ) from None
    page = build(explorer)
    page.queue(default_concurrency_limit=8)
    if not is_loopback(host):
        say(f"anybody who reaches {host}:{port} can ask the models, with this server's key")
    try:
        page.launch(
            server_name=host,
            server_port=port,
            share=False,
            quiet=True,
            footer_links=[],
            run_history=False,
            enable_monitoring=False,
            ssr_mode=False,
            pwa=False,
            mcp_server=False,
            prevent_thread_lock=True,
            app_kwargs={"middleware": middleware(host), "docs_url": None, "redoc_url": None, "openapi_url": None},
            theme=gradio.themes.Default(font=FONTS, font_mono=MONOSPACE),
            css_paths=[Path(__file__).with_name("answers.css")],
        )
    except OSError as error:
        raise ScriptError(f"port {port} of {host} is taken: choose another one with --port ({error})") from None
    say(f"playground at http://{host}:{port} (Ctrl-C ends)")
    page.block_thread()
