"""The page of a blind test, as a local server. Needs starlette and uvicorn: the extra `judge`."""

import asyncio
import base64
import hashlib
import json
import re
import secrets
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import jinja2
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from .request_guard import RequestGuard, refused
from .trial import MEDIA_FOLDER, PICTURE, REAL, SOUND, Trial, media_name
from .votes import VOTES_FILE, Votes, name_of_judge

LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
COOKIE = "judge"
_TEMPLATE = Path(__file__).parent / "templates" / "judge.html"
_TOKEN = re.compile(r"[\w-]{43}", re.ASCII)
_A_YEAR = 365 * 24 * 3600
_INLINE = re.compile(r"<(style|script)>(.*?)</\1>", re.DOTALL)


@dataclass(frozen=True)
class Place:
    """
    Where a page is served.

    Args:
        hosts (`Sequence[str]`): Names under which it is reached, without their ports.
        frame (`str`, *optional*): The site that shows it in a frame. The cookie is then one that a frame gets, over
            https alone.
        votes_token (`str`, *optional*): Whoever knows it may read all votes at `/votes.csv`. `None`: nobody may.
    """

    hosts: Sequence[str] = field(default=LOOPBACK)
    frame: str | None = None
    votes_token: str | None = None


def judge_app(trial: Trial, folder: str | Path, votes: Votes, place: Place) -> ASGIApp:
    """
    Make the application: a page, `GET /item` (what to judge next), `POST /vote` and `GET /media/<item>.wav`.

    Until a judge has judged all items no answer tells where an item comes from. Each vote is on disk before it is
    answered, and nothing else is kept, so that a judge goes on from there after any reload or restart.

    Args:
        trial (`Trial`): What is judged. If it is blind, judges are not told at the end how often they were right.
        folder (`str` or `Path`): Where the folder of its media is.
        votes (`Votes`): Where votes go.
        place (`Place`): Where it is served.

    Returns:
        `ASGIApp`
    """
    page = _TEMPLATE.read_text(encoding="utf-8")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    page = environment.from_string(page).render(kind=trial.kind, total=len(trial.items))
    files = _media_files(trial, Path(folder))
    desk = _Desk(trial, votes, page, files, place)
    routes = [
        Route("/", desk.page, methods=["GET"]),
        Route("/item", desk.item, methods=["GET"]),
        Route("/vote", desk.vote, methods=["POST"]),
        Route("/media/{name}", desk.media, methods=["GET"]),
        Route("/votes.csv", desk.all_votes, methods=["GET"]),
    ]
    app = Starlette(routes=routes, exception_handlers={OSError: _not_stored, 404: _not_here, 405: _not_so})
    headers = {
        "Content-Security-Policy": _policy(page, place.frame),
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cross-Origin-Resource-Policy": "same-origin",
        "Cache-Control": "no-store",
    }
    return RequestGuard(app, place.hosts, headers)


class _Desk:
    """Answers each kind of request."""

    def __init__(self, trial: Trial, votes: Votes, page: str, files: Mapping[str, Path], place: Place) -> None:
        self.order_for = lru_cache(maxsize=4096)(trial.order_for)
        self.trial, self.votes, self.html, self.files, self.place = trial, votes, page, files, place

    async def page(self, request: Request) -> Response:
        response = HTMLResponse(self.html)
        if self._judge(request) is None:
            is_framed = self.place.frame is not None
            response.set_cookie(
                COOKIE,
                secrets.token_urlsafe(32),
                max_age=_A_YEAR,
                httponly=True,
                secure=is_framed,
                samesite="none" if is_framed else "strict",
            )
            if is_framed:  # Python before 3.14 knows no such attribute
                response.headers["set-cookie"] += "; Partitioned"
        return response

    async def item(self, request: Request) -> Response:
        judge = self._judge(request)
        if judge is None:
            return _no_judge()
        said = await asyncio.wrap_future(self.votes.of_judge(judge))
        return self._next(judge, said)

    async def vote(self, request: Request) -> Response:
        judge = self._judge(request)
        if judge is None:
            return _no_judge()
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            return refused(415, "A vote is JSON, with the Content-Type application/json.")
        try:
            vote = json.loads(await request.body())
        except (ValueError, RecursionError):
            return refused(400, 'A vote is JSON, such as {"item": "...", "real": true}; this is none.')
        if (
            not isinstance(vote, dict)
            or not isinstance(vote.get("real"), bool)
            or not isinstance(vote.get("item"), str)
        ):
            return refused(400, "A vote names an `item` and says `real`, true or false.")
        if vote["item"] not in self.trial.items:
            return refused(404, "There is no such item.")
        said = await asyncio.wrap_future(self.votes.cast(judge, vote["item"], vote["real"]))
        return self._next(judge, said)

    async def media(self, request: Request) -> Response:
        path = self.files.get(request.path_params["name"])
        return refused(404, "There is no such file.") if path is None else FileResponse(path)

    async def all_votes(self, request: Request) -> Response:
        given = request.headers.get("authorization", "").encode()
        token = self.place.votes_token
        if token is None or not secrets.compare_digest(given, f"Bearer {token}".encode()):
            return refused(404, "There is nothing here.")
        return Response(await asyncio.to_thread(self.votes.as_csv), media_type="text/csv")

    def _judge(self, request: Request) -> str | None:
        token = request.cookies.get(COOKIE, "")
        return name_of_judge(token) if _TOKEN.fullmatch(token) else None

    def _next(self, judge: str, said: Mapping[str, bool]) -> Response:
        open_items = [id for id in self.order_for(judge) if id not in said]
        total = len(self.trial.items)
        answer: dict[str, Any] = {"done": total - len(open_items), "total": total, "item": None}
        if open_items:
            answer["item"] = self._shown(open_items[0])
        elif self.trial.models:
            answer["hits"] = hits(self.trial, said)
        return JSONResponse(answer)

    def _shown(self, id: str) -> dict[str, Any]:
        item = self.trial.items[id]
        shown: dict[str, Any] = {"id": id, "text": item.text, "prompt": item.prompt}
        for name, ending in (("sound", SOUND), ("picture", PICTURE)):
            if media_name(id, ending) in self.files:
                shown[name] = f"media/{media_name(id, ending)}"
        return shown


def hits(trial: Trial, said: Mapping[str, bool]) -> dict[str, list[int]]:
    """
    Count how often a judge was right.

    Args:
        trial (`Trial`): With its sources.
        said (`Mapping[str, bool]`): By item, whether it was judged real.

    Returns:
        `dict`: for each source the number of right answers, and of answers.
    """
    return {
        source: [sum(said[id] == (source == REAL) for id in of_source), len(of_source)]
        for source in trial.sources
        if (of_source := [id for id in said if trial.items[id].source == source])
    }


def place_at(host: str, allowed_hosts: Sequence[str] = ()) -> Place:
    """
    Return under which names a page is reached that listens at an address, and warn where others than this machine may.

    Args:
        host (`str`): The address.
        allowed_hosts (`Sequence[str]`): More names.

    Returns:
        `Place`
    """
    names = [*LOOPBACK, f"[{host}]" if ":" in host else host, *allowed_hosts]
    if host not in ("127.0.0.1", "localhost", "::1"):
        names.append(socket.gethostname())
        print(
            f"Warning: at {host} everybody in the network may judge, without encryption. Leave --host out to serve this "
            f"machine alone. The page answers to {', '.join(dict.fromkeys(names))}; allow more names by --allowed_hosts."
        )
    return Place(names)


def serve(
    trial: Trial, folder: str | Path, host: str, port: int, place: Place, votes_folder: str | Path | None = None
) -> None:
    """
    Serve a trial until Ctrl-C.

    Args:
        trial (`Trial`): What is judged.
        folder (`str` or `Path`): That of the trial.
        host (`str`): The address to listen at.
        port (`int`): The port; 0 takes a free one.
        place (`Place`): Under which names, and in which frame, it is reached.
        votes_folder (`str` or `Path`, *optional*): Where votes go; by default that of the trial.

    Raises:
        OSError: If the address cannot be had, or the votes not be stored.
    """
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
            listener.listen()  # who comes from here on waits to be served
        except OSError as error:
            raise OSError(f"{host}:{port} cannot be had: {error.strerror}. Choose another one by --port.") from error
        with Votes(Path(votes_folder or folder) / VOTES_FILE) as votes:
            name = f"[{host}]" if ":" in host else host
            print(f"Judge at http://{name}:{listener.getsockname()[1]}/ (Ctrl-C ends)", flush=True)
            config = uvicorn.Config(
                judge_app(trial, folder, votes, place),
                log_level="warning",
                access_log=False,
                server_header=False,
                date_header=False,
                ws="none",
                lifespan="off",
                timeout_graceful_shutdown=3,
            )
            try:
                uvicorn.Server(config).run(sockets=[listener])
            except KeyboardInterrupt:
                pass  # uvicorn has finished what was begun
    print("Ended. All votes are kept.")


def _media_files(trial: Trial, folder: Path) -> dict[str, Path]:
    names = (media_name(id, ending) for id in trial.items for ending in (SOUND, PICTURE))
    return {name: path for name in names if (path := folder / MEDIA_FOLDER / name).is_file()}


def _policy(page: str, frame: str | None) -> str:
    """Return the Content-Security-Policy of a page, which lets nothing run but what stands in it."""
    hashes: dict[str, list[str]] = {"style": [], "script": []}
    for tag, text in _INLINE.findall(page):
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        hashes[tag].append(f"'sha256-{digest}'")
    return (
        f"default-src 'none'; script-src {' '.join(hashes['script'])}; style-src {' '.join(hashes['style'])}; "
        "connect-src 'self'; img-src 'self' data:; media-src 'self'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors " + (frame or "'none'")
    )


def _no_judge() -> Response:
    return refused(401, "A vote needs the cookie that the page brings. Open the page, and allow its cookie.")


async def _not_stored(request: Request, error: Exception) -> Response:
    return refused(503, "The vote could not be stored. It will be sent again.")


async def _not_here(request: Request, error: Exception) -> Response:
    return refused(404, "There is nothing here.")


async def _not_so(request: Request, error: Exception) -> Response:
    return refused(405, "That cannot be asked here.", getattr(error, "headers", None))
