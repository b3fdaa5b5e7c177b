"""What stands before the page of a blind test: requests that no page of its own sends are refused."""

import re
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MOST_BYTES = 1024
_HOST = re.compile(r"(?P<name>\[[0-9a-f:.]+\]|[a-z0-9._-]+)(:\d{1,5})?", re.IGNORECASE)


class RequestGuard:
    """
    An application of ASGI around another.

    It answers 421 where the Host is none of its own, as after a rebinding of DNS; 403 where another site asks; 413 where
    a body is longer than 1,024 bytes; and it puts the headers of security on each answer.

    Args:
        app (`ASGIApp`): The application inside.
        hosts (`Sequence[str]`): Names under which it is reached, without their ports.
        headers (`Mapping[str, str]`): For each answer, but where it has them itself.
    """

    def __init__(self, app: ASGIApp, hosts: Sequence[str], headers: Mapping[str, str]) -> None:
        self.app = app
        self.hosts = {host.lower() for host in hosts}
        self.headers = [(name.lower().encode(), value.encode()) for name, value in headers.items()]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            raise ValueError(f"This serves HTTP alone; got {scope['type']}.")

        async def send_safely(message: Message) -> None:
            if message["type"] == "http.response.start":
                there = {name.lower() for name, _ in message["headers"]}
                added = [pair for pair in self.headers if pair[0] not in there]
                message = {**message, "headers": [*message["headers"], *added]}
            await send(message)

        refusal = self._refusal(scope)
        if refusal is not None:
            await refusal(scope, receive, send_safely)
            return
        body = await _read_body(receive) if scope["method"] not in ("GET", "HEAD") else b""
        if body is None:
            await refused(413, f"A request has at most {MOST_BYTES} bytes.")(scope, receive, send_safely)
            return
        given = False

        async def receive_again() -> Message:
            nonlocal given
            if given:
                return await receive()
            given = True
            return {"type": "http.request", "body": body, "more_body": False}

        await self.app(scope, receive_again, send_safely)

    def _refusal(self, scope: Scope) -> PlainTextResponse | None:
        """Return what to answer to a request that is refused before its body is read."""
        headers: dict[str, list[str]] = {}
        for name, value in scope["headers"]:
            headers.setdefault(name.decode("latin-1"), []).append(value.decode("latin-1"))
        given = headers.get("host", [])
        match = _HOST.fullmatch(given[0]) if len(given) == 1 else None
        if match is None or match["name"].lower() not in self.hosts:
            return refused(421, "This page is not served under that name. Allow it by --allowed_hosts.")
        origins = headers.get("origin", [])
        if any(urlsplit(origin).netloc.lower() != given[0].lower() for origin in origins):
            return refused(403, "Another site may not ask here.")
        if scope["method"] != "GET" and headers.get("sec-fetch-site", ["same-origin"]) != ["same-origin"]:
            return refused(403, "Another site may not ask here.")
        length = headers.get("content-length", ["0"])[0]
        if not length.isdigit() or int(length) > MOST_BYTES:
            return refused(413, f"A request has at most {MOST_BYTES} bytes.")
        return None


def refused(status: int, why: str, headers: Mapping[str, Any] | None = None) -> PlainTextResponse:
    """
    Return a refusal.

    Args:
        status (`int`): Of HTTP, from 400 on.
        why (`str`): A sentence.
        headers (`Mapping`, *optional*): More of them.

    Returns:
        `PlainTextResponse`
    """
    return PlainTextResponse(f"{why}\n", status, headers)


async def _read_body(receive: Receive) -> bytes | None:
    """Read a body, which need not say its length; `None` if it is too long or breaks off."""
    body = b""
    while len(body) <= MOST_BYTES:
        message = await receive()
        if message["type"] != "http.request":
            return None
        body += message.get("body", b"")
        if not message.get("more_body", False):
            return body if len(body) <= MOST_BYTES else None
    return None
