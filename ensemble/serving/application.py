"""What the server answers over HTTP; who judges, and where, is not its concern.

    GET  /              a page to drop photographs on
    POST /photographs   bytes of a photograph in; JSON, an overlay or a page out
    GET  /health        whether there is somebody to judge
    GET  /metrics       counts and times, for Prometheus
    GET  /docs          the page of all this, and /openapi.json for programs

Nothing of a photograph is kept.
"""

import secrets
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from typing import Annotated, Any

import prometheus_client
import swagger_ui_bundle
from fastapi import Depends, FastAPI, HTTPException, Query, Request, Response
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse, JSONResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect
from starlette.staticfiles import StaticFiles

from ensemble.base.options import OVERLAPS, OVERLAPS_IN_WORDS
from ensemble.base.version import __version__
from ensemble.serving.pages import POLICY, make_front
from ensemble.serving.photographs import Answer, Form, Photograph

SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)  # bounds of the histogram
MEDIA_TYPES: dict[Form, str] = {
    "json": "application/json",
    "png": "image/png",
    "html": "text/html",
}
RETRY_AFTER_SECONDS = 2
LONGEST_NAME = 200

Judge = Callable[[Photograph], Awaitable[Answer]]
CountReplicas = Callable[[], Awaitable[tuple[int, int]]]


class BusyError(Exception):
    """There is no room in the queue, or nobody to judge."""


@dataclass(frozen=True)
class Limits:
    """What a server takes.

    Attributes:
        max_bytes: Largest file.
        max_pixels: Most pixels of a photograph.
        max_queued: Most photographs that wait, beside those that are being judged.
    """

    max_bytes: int
    max_pixels: int
    max_queued: int


def make_application(
    judge: Judge,
    count_replicas: CountReplicas,
    *,
    about: Mapping[str, Any],
    limits: Limits,
    token: str | None,
    hosts: list[str],
) -> FastAPI:
    """The application of a server.

    Args:
        judge: Judges a photograph; raises BusyError where there is no room for it.
        count_replicas: Says how many replicas are running, and how many there should be.
        about: What /health says of the ensemble.
        limits: What is taken.
        token: Bearer token that is asked for; None asks for none.
        hosts: Names that the server may be called by; `*` takes all.
    """
    app = FastAPI(
        title="crack-ensemble",
        version=__version__,
        description=f"Looks for cracks in photographs of concrete: {about['run']}.",
        docs_url=None,  # FastAPI's page loads its script from elsewhere
        redoc_url=None,
    )
    app.openapi_version = "3.0.3"  # the newest that the page of swagger_ui_bundle shows
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=hosts)
    guarded = [Depends(_make_guard(token))]
    counts = _Counts()
    _add_judging(app, judge, counts, guarded, about=about, limits=limits)
    _add_watching(app, count_replicas, counts, guarded, about=about)
    _add_pages(app, make_front(str(about["run"]), needs_token=token is not None))
    return app


def _add_judging(
    app: FastAPI,
    judge: Judge,
    counts: "_Counts",
    guarded: list[Any],
    *,
    about: Mapping[str, Any],
    limits: Limits,
) -> None:
    """Add what photographs are sent to."""

    @app.post(
        "/photographs",
        dependencies=[Depends(_refuse_strangers), *guarded],
        summary="Judge a photograph",
        openapi_extra={
            "requestBody": {
                "required": True,
                "content": {"image/*": {"schema": {"type": "string", "format": "binary"}}},
            }
        },
        responses=RESPONSES,
    )
    async def post_photograph(
        request: Request,
        name: Annotated[str, Query(max_length=LONGEST_NAME, description="name for the answer")] = (
            "photograph"
        ),
        overlap: Annotated[float, Query(description=f"overlap of tiles: {OVERLAPS_IN_WORDS}")] = 0,
    ) -> Response:
        """Tiles with their probabilities; by `Accept` as JSON, image/png or text/html."""
        with counts.watch() as seen:
            if reason := _find_fault(request, overlap):
                raise HTTPException(HTTPStatus.UNPROCESSABLE_ENTITY, reason)
            content = await read_body(request, limits.max_bytes)
            form = _choose_form(request.headers.get("accept", ""))
            answer = await _ask(judge, Photograph(name, content, overlap, form))
            seen(answer)
            if form == "json":
                return JSONResponse({**about, **answer.figures})
            headers = {"Content-Security-Policy": POLICY}
            return Response(answer.document, headers=headers, media_type=MEDIA_TYPES[form])


def _add_watching(
    app: FastAPI,
    count_replicas: CountReplicas,
    counts: "_Counts",
    guarded: list[Any],
    *,
    about: Mapping[str, Any],
) -> None:
    """Add what tells how the server is."""

    @app.get("/health", summary="Whether there is somebody to judge")
    async def get_health() -> Response:
        """200 where a replica is running, 503 where none is."""
        running, wanted = await count_replicas()
        status = HTTPStatus.OK if running else HTTPStatus.SERVICE_UNAVAILABLE
        body = {"status": "ok" if running else "nobody to judge", **about}
        return JSONResponse({**body, "replicas": running, "wanted_replicas": wanted}, status)

    @app.get("/metrics", dependencies=guarded, summary="Counts and times for Prometheus")
    async def get_metrics() -> Response:
        """Prometheus' text format."""
        return Response(counts.export(), media_type=prometheus_client.CONTENT_TYPE_LATEST)


class _Counts:
    """Counts and times of one server, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = prometheus_client.CollectorRegistry()
        here: Any = {"registry": self.registry}
        self._answered = prometheus_client.Counter(
            "crack_ensemble_photographs", "Photographs by HTTP status", ["status"], **here
        )
        self._tiles = prometheus_client.Counter(
            "crack_ensemble_tiles", "Judged tiles by verdict", ["verdict"], **here
        )
        self._seconds = prometheus_client.Histogram(
            "crack_ensemble_seconds", "Time to the answer", buckets=SECONDS, **here
        )
        self._waiting = prometheus_client.Gauge(
            "crack_ensemble_in_progress", "Photographs that wait or are judged", **here
        )

    @contextmanager
    def watch(self) -> Iterator[Callable[[Answer], None]]:
        """Within, a photograph is answered; the function that is yielded takes the answer."""
        began, status = time.perf_counter(), HTTPStatus.INTERNAL_SERVER_ERROR
        try:
            with self._waiting.track_inprogress():
                yield self._count_tiles
            status = HTTPStatus.OK
        except HTTPException as error:
            status = HTTPStatus(error.status_code)
            raise
        finally:
            self._answered.labels(status.value).inc()
            self._seconds.observe(time.perf_counter() - began)

    def _count_tiles(self, answer: Answer) -> None:
        for tile in answer.figures["tiles"]:
            self._tiles.labels(tile["verdict"]).inc()

    def export(self) -> bytes:
        """All of them in Prometheus' text format."""
        return prometheus_client.generate_latest(self.registry)


RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The verdicts; with `Accept: image/png` the photograph with its cracked "
        "tiles outlined, with `Accept: text/html` a page to look at them",
        "content": {"image/png": {}, "text/html": {}},
    },
    401: {"description": "No token, or another one"},
    403: {"description": "A browser sent it for a page of another site"},
    413: {"description": "The file or the photograph is too large"},
    422: {"description": "The file cannot be read as a picture, or a parameter is wrong"},
    503: {"description": "The queue is full, or nobody is there to judge; try again"},
}


def _make_guard(token: str | None) -> Callable[..., None]:
    """A dependency that lets those in who know the token."""
    bearer = HTTPBearer(auto_error=False, description="the token that `serve` printed")

    def check(given: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)]) -> None:
        if given is None or not secrets.compare_digest(
            given.credentials.encode(), str(token).encode()
        ):
            raise HTTPException(
                HTTPStatus.UNAUTHORIZED,
                "a token is needed: Authorization: Bearer TOKEN",
                headers={"WWW-Authenticate": "Bearer"},
            )

    return check if token is not None else lambda: None


def _refuse_strangers(request: Request) -> None:
    """Refuse what a browser sends for a page of another site; the loopback asks for no token."""
    if request.headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
        raise HTTPException(HTTPStatus.FORBIDDEN, "a page of another site sent this")


async def read_body(request: Request, most: int) -> bytes:
    """The body of a request, of which no more is taken in than allowed.

    Args:
        request: The request.
        most: Largest number of bytes.

    Raises:
        HTTPException: It is larger, empty, or ends early.
    """
    too_large = HTTPException(
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"the file has more than {most / 2**20:g} MiB"
    )
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length) > most:
        raise too_large
    content = bytearray()
    try:
        async for chunk in request.stream():
            content += chunk
            if len(content) > most:
                raise too_large
    except ClientDisconnect:
        raise HTTPException(
            HTTPStatus.BAD_REQUEST, "the connection ended before the body did"
        ) from None
    if not content:
        reason = "the request has no body: send the bytes of a picture, as with curl --data-binary"
        raise HTTPException(HTTPStatus.UNPROCESSABLE_ENTITY, reason)
    return bytes(content)


async def _ask(judge: Judge, photograph: Photograph) -> Answer:
    """What was judged; everything else is raised as what HTTP says of it."""
    try:
        answer = await judge(photograph)
    except BusyError as error:
        headers = {"Retry-After": str(RETRY_AFTER_SECONDS)}
        raise HTTPException(HTTPStatus.SERVICE_UNAVAILABLE, str(error), headers) from None
    if answer.status != HTTPStatus.OK:
        raise HTTPException(answer.status, answer.reason)
    return answer


def _find_fault(request: Request, overlap: float) -> str:
    """What is wrong with a request before its body is read; nothing is passed over in silence."""
    unknown = sorted(set(request.query_params) - {"name", "overlap"})
    if unknown:
        return f"{unknown[0][:40]}: no such parameter; there are name and overlap"
    if overlap not in OVERLAPS:
        return f"overlap={overlap:g}: must be {OVERLAPS_IN_WORDS}"
    if "multipart/form-data" in request.headers.get("content-type", ""):
        return "a form was sent: send the bytes of the picture alone, as with curl --data-binary"
    return ""


def _choose_form(accepted: str) -> Form:
    """The form that is asked for: of those that are named the first one, else JSON."""
    places = {form: accepted.find(kind) for form, kind in MEDIA_TYPES.items()}
    named = [form for form in places if places[form] >= 0]
    return min(named, key=lambda form: places[form], default="json")


def _add_pages(app: FastAPI, front: str) -> None:
    """Add the page for people, and the one that shows the interface; scripts come from here."""

    @app.get("/", include_in_schema=False)
    async def get_front() -> HTMLResponse:
        return HTMLResponse(front, headers={"Content-Security-Policy": POLICY})

    assets = "/swagger"
    app.mount(assets, StaticFiles(directory=swagger_ui_bundle.swagger_ui_path))

    @app.get("/docs", include_in_schema=False)
    async def get_docs() -> HTMLResponse:
        return get_swagger_ui_html(
            openapi_url="/openapi.json",
            title="crack-ensemble",
            swagger_js_url=f"{assets}/swagger-ui-bundle.js",
            swagger_css_url=f"{assets}/swagger-ui.css",
            swagger_favicon_url=f"{assets}/favicon-32x32.png",
        )
