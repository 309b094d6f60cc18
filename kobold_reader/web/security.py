"""Who may see the archive through the browser, and who may change it.

Any web page that is open in the same browser can send requests to this machine, and a foreign name can be made to
resolve to it (DNS rebinding). So every request must name this very host, come from our own pages, and know the secret
in the printed address. A content security policy lets pages load and run nothing but our own files.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import secrets
import socket
from dataclasses import dataclass, field
from html import escape
from urllib.parse import quote, urlencode, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from kobold_reader.html.pages import templates

POLICY = (
    "default-src 'none'; img-src 'self'; style-src 'self'; script-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    # With `no-referrer` a browser would send our own forms with `Origin: null`.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    # Keeps the archive out of the browser's cache on disk.
    "Cache-Control": "no-store",
}
_OWN_SITE = ("same-origin", "none")
_LOOPBACK = ("127.0.0.1", "::1", "localhost")


def _ip_address(name: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(name)
    except ValueError:
        return None


def is_same(given: str | None, expected: str) -> bool:
    """Compare a secret in a time that does not depend on where it differs."""
    return hmac.compare_digest((given or "").encode(), expected.encode())


@dataclass(frozen=True)
class Access:
    """The secret of one run, and the names under which it may be reached."""

    host: str = "127.0.0.1"
    """What the server listens on."""
    port: int = 0
    """Part of the cookie's name, as all ports of a host share their cookies."""
    token: str = field(default_factory=lambda: secrets.token_urlsafe(32), repr=False)
    """The secret in the printed address."""

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach it."""
        address = _ip_address(self.host)
        return address.is_loopback if address else self.host.lower() in _LOOPBACK

    def url(self, name: str) -> str:
        """Return the address to open, under one of this machine's names."""
        return f"http://{f'[{name}]' if ':' in name else name}:{self.port}/?token={self.token}"

    @property
    def cookie(self) -> str:
        """Name of the cookie that a browser gets in exchange for the token."""
        return f"kobold-reader-{self.port}"

    @property
    def session(self) -> str:
        """Value of the cookie."""
        return self._derived("session")

    @property
    def change_token(self) -> str:
        """A secret in every form that changes something: another site could send the form, but not read this."""
        return self._derived("change")

    def _derived(self, purpose: str) -> str:
        return hmac.new(self.token.encode(), purpose.encode(), hashlib.sha256).hexdigest()

    def knows(self, name: str) -> bool:
        """Tell whether a request to this host name can be meant for us, and is no foreign name that resolves here."""
        if name in {*_LOOPBACK, self.host.lower()}:
            return True
        if self.is_loopback:
            return False
        own = socket.gethostname().lower()
        return name in {own, f"{own}.local"} or _ip_address(name) is not None


class Guard:
    """Middleware: answers requests that `Access` does not allow, and adds our headers to every answer."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app = app
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        await (self._answer(Request(scope)) or self._app)(scope, receive, send_with_headers)

    def _answer(self, request: Request) -> Response | None:
        """Return a refusal, or the redirect that sets the cookie; None where the request may pass."""
        headers = request.headers
        is_reading = request.method in {"GET", "HEAD"}
        if not self._access.knows(_host_name(headers)):
            return _refusal(421, "This address is not one of this server’s own.")
        if not is_reading and not _is_own_origin(headers):
            return _refusal(403, "This change was asked for by another web page.")
        if is_same(headers.get("authorization"), f"Bearer {self._access.token}"):
            return None  # a program; only our own pages could make a browser send this header
        if is_reading and is_same(request.query_params.get("token"), self._access.token):
            return self._let_in(request)
        if headers.get("sec-fetch-site", "none") not in _OWN_SITE:
            return _refusal(403, "This was asked for by another web page.")
        is_static = is_reading and request.scope["path"].startswith("/static/")
        if not is_static and not is_same(request.cookies.get(self._access.cookie), self._access.session):
            return _refusal(403, "Open the address that `kobold-reader web` printed: it carries the key.")
        return None

    def _let_in(self, request: Request) -> Response:
        """Give the browser its cookie, and send it on to the address without the token."""
        site = request.headers.get("sec-fetch-site", "none")
        mode = request.headers.get("sec-fetch-mode", "navigate")
        if site not in _OWN_SITE and mode != "navigate":
            return _refusal(403, "This was asked for by another web page.")
        rest = urlencode([(name, value) for name, value in request.query_params.multi_items() if name != "token"])
        target = "/" + quote(request.scope["path"].lstrip("/")) + (f"?{rest}" if rest else "")
        response: Response = RedirectResponse(target, 303)
        if site not in _OWN_SITE:
            # The link was opened from another site, such as a terminal in a web page. A redirect would still count as
            # that site's request; a page of ours that sends the browser on does not.
            onward = f'<meta http-equiv="refresh" content="0;url={escape(target)}">'
            response = HTMLResponse(f"<!DOCTYPE html>{onward}<title>kobold-reader</title>")
        response.set_cookie(self._access.cookie, self._access.session, path="/", httponly=True, samesite="strict")
        return response


def _host_name(headers: Headers) -> str:
    try:
        return (urlsplit(f"//{headers.get('host', '')}").hostname or "").lower()
    except ValueError:
        return ""


def _is_own_origin(headers: Headers) -> bool:
    """Tell whether a change comes from our own page; a program that is no browser sends no origin."""
    if headers.get("sec-fetch-site", "same-origin") != "same-origin":
        return False
    origin = headers.get("origin")
    if origin is None:
        return True
    try:
        parts = urlsplit(origin)
    except ValueError:
        return False
    return parts.scheme in {"http", "https"} and parts.netloc.lower() == headers.get("host", "").lower()


def _refusal(status: int, sentence: str) -> Response:
    page = templates("kobold_reader.web").get_template("refused.html")
    return HTMLResponse(page.render(sentence=sentence), status)
