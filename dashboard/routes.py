"""The HTTP routes beside Streamlit's, and who may use any of them.

    /review/static/NAME             scripts and styles of the viewer
    /review/volumes/KEY/first.nii   the middle slice
    /review/volumes/KEY.nii         the whole volume

Loopback alone is no protection from a web page in the same browser: a name that resolves to 127.0.0.1 would reach the
server, so only requests that name this host are answered. Beyond loopback a shared token is asked for, once in the
address and from then on in a cookie that scripts cannot read.
"""

from __future__ import annotations

import hmac
from http.cookies import SimpleCookie
from pathlib import Path
from urllib.parse import parse_qs

from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, PlainTextResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dashboard import state
from dashboard.settings import LOOPBACK, Review
from medidiff.errors import MedidiffError

STATIC = Path(__file__).parent / "viewer"
TYPES = {".js": "text/javascript", ".css": "text/css"}
COOKIE = "medidiff_review"
PRIVATE = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}  # patients' images stay out of caches
HEALTH = "/_stcore/health"


def static(request: Request) -> Response:
    path = STATIC / Path(request.path_params["name"]).name
    if path.suffix not in TYPES or not path.is_file():
        return PlainTextResponse("not found", 404)
    return FileResponse(path, media_type=TYPES[path.suffix], headers={"Cache-Control": "no-cache"})


def first(request: Request) -> Response:
    return _volume(request.path_params["key"], is_whole=False)


def whole(request: Request) -> Response:
    return _volume(request.path_params["key"], is_whole=True)


def _volume(key: str, *, is_whole: bool) -> Response:
    volumes = state.volumes()
    try:
        path = volumes.whole(key) if is_whole else volumes.middle(key)
    except MedidiffError:
        return PlainTextResponse("this image cannot be read", 404, PRIVATE)  # the reason may name a path
    return FileResponse(path, media_type="application/octet-stream", headers=PRIVATE)


def routes() -> list[BaseRoute]:
    """All of them; functions that block run in threads."""
    return [
        Route("/review/static/{name}", static),
        Route("/review/volumes/{key}/first.nii", first),
        Route("/review/volumes/{key}.nii", whole),
    ]


def middleware(review: Review) -> list[Middleware]:
    """In front of Streamlit's pages, its websocket and our routes alike."""
    if review.token is not None:
        return [Middleware(Token, token=review.token)]
    if review.host not in LOOPBACK:
        raise ValueError(f"host {review.host} is no loopback address: a token is needed")
    return [Middleware(TrustedHostMiddleware, allowed_hosts=[*LOOPBACK, "[::1]"])]


class Token:
    """Answers 403 to whoever does not show the token; health, which tells nothing, is for everybody."""

    def __init__(self, app: ASGIApp, token: str) -> None:
        self.app, self.token = app, token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket") or scope["path"] == HEALTH or self._shown(_cookie(scope)):
            await self.app(scope, receive, send)
        elif scope["type"] == "http" and self._shown(parse_qs(scope["query_string"].decode()).get("token", [""])[0]):
            await self.app(scope, receive, self._remembering(send))
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            await PlainTextResponse("open the address that medidiff review printed", 403)(scope, receive, send)

    def _shown(self, found: str) -> bool:
        return hmac.compare_digest(found.encode(), self.token.encode())

    def _remembering(self, send: Send) -> Send:
        cookie = f"{COOKIE}={self.token}; Path=/; HttpOnly; SameSite=Strict".encode()

        async def with_cookie(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"set-cookie", cookie)]
            await send(message)

        return with_cookie


def _cookie(scope: Scope) -> str:
    text = "; ".join(value.decode("latin-1") for name, value in scope["headers"] if name == b"cookie")
    found = SimpleCookie(text).get(COOKIE)
    return "" if found is None else found.value
