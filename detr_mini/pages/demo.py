"""`detr-mini demo`: one page in the browser to try detectors on. Pictures are never written to disk."""

from __future__ import annotations

import json
import threading
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from importlib.resources import files
from typing import Any

import anyio
import torch
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from detr_mini.errors import DataError, UserError, printable
from detr_mini.inference.detector import Detector
from detr_mini.inference.explain import trace_query
from detr_mini.inference.requests import MANY, at_most
from detr_mini.pages.guard import Door, Guard
from detr_mini.pages.labels import labels
from detr_mini.pages.uploads import LARGEST_BYTES, decode, too_many_bytes

LEAST_SCORE = 0.05
"""Detections with less are not sent; the page's slider begins there."""
AT_ONCE = 4
"""Uploads that are in memory at the same time; others wait before they are read."""
PATIENCE = 30.0
"""Seconds that an upload may take."""
LONGEST_CAPTION = 500
STATIC = {"/": ("page.html", "text/html"), "/page.js": ("page.js", "text/javascript"),
          "/page.css": ("page.css", "text/css")}  # fmt: skip


class Demo:
    """The detectors of a page and what it asks of them. One image goes through a detector at a time."""

    def __init__(self, detectors: Sequence[tuple[str, Any]]) -> None:
        """`detectors`: each with the name that the page shows."""
        self.detectors = list(detectors)
        self._working = threading.Lock()

    def about(self) -> list[dict[str, Any]]:
        """What the page must know of each detector."""
        return [
            {"name": name, "categories": list(detector.categories.names), "threshold": detector.least_score(),
             "captions": getattr(detector, "tokenizer", None) is not None,
             "explains": isinstance(detector, Detector)}
            for name, detector in self.detectors
        ]  # fmt: skip

    def detect(self, content: bytes, number: int, caption: str | None) -> dict[str, Any]:
        """The detections in a picture, from LEAST_SCORE on, and warnings about the caption."""
        detector = self._detector(number)
        with self._working, warnings.catch_warnings(record=True) as noticed:
            warnings.simplefilter("always")
            pixels = decode(content)
            found = detector.detect(pixels, caption, threshold=LEAST_SCORE, limit=at_most(detector, MANY))
        queries = [None] * len(found) if found.queries is None else found.queries.tolist()
        rows = [
            {**record, "label": label, "query": query}
            for record, label, query in zip(found.records(), found.labels.tolist(), queries, strict=True)
        ]
        notes = [str(one.message) for one in noticed if issubclass(one.category, UserWarning)]
        return {"width": pixels.shape[2], "height": pixels.shape[1], "detections": rows, "notes": notes}

    def explain(self, content: bytes, number: int, caption: str | None, query: int) -> dict[str, Any]:
        """Where a query looked, layer by layer (0 to 255 of each layer's largest weight), and its boxes."""
        detector = self._detector(number)
        if not isinstance(detector, Detector):
            raise UserError("an exported file does not say where its queries look; open the checkpoint instead")
        with self._working:
            trace = trace_query(detector, decode(content), query, caption)
        top = trace.maps.flatten(1).amax(1).clamp(min=1e-12)
        bytes_of = (trace.maps / top[:, None, None] * 255).round().to(torch.uint8)
        return {"rows": bytes_of.shape[1], "columns": bytes_of.shape[2], "maps": bytes_of.flatten(1).tolist(),
                "boxes": [[round(v, 2) for v in box] for box in trace.boxes.tolist()]}  # fmt: skip

    def _detector(self, number: int) -> Any:
        if not 0 <= number < len(self.detectors):
            raise UserError(f"there is no detector {number}; the page has {len(self.detectors)}")
        return self.detectors[number][1]


def make_app(demo: Demo, door: Door) -> Starlette:
    """The page and its requests, guarded by `door`."""
    reading = anyio.Semaphore(AT_ONCE)

    async def about(_: Request) -> Response:
        return JSONResponse({"detectors": demo.about(), "least": LEAST_SCORE})

    async def detect(request: Request) -> Response:
        ask = partial(demo.detect, number=_number(request, "detector"), caption=_caption(request))
        return await _of_upload(request, reading, ask)

    async def explain(request: Request) -> Response:
        ask = partial(demo.explain, number=_number(request, "detector"), caption=_caption(request),
                      query=_number(request, "query"))  # fmt: skip
        return await _of_upload(request, reading, ask)

    async def download(request: Request) -> Response:
        async with reading:
            body = await _body(request)
            content, media, name = await run_in_threadpool(_labels, request.query_params.get("format", ""), body)
        return Response(content, media_type=media, headers={"Content-Disposition": f'attachment; filename="{name}"'})

    static = [Route(path, partial(_static, *file)) for path, file in STATIC.items()]
    routes = [
        *static, Route("/api/about", about), Route("/api/detect", detect, methods=["POST"]),
        Route("/api/explain", explain, methods=["POST"]), Route("/api/labels", download, methods=["POST"]),
    ]  # fmt: skip
    return Starlette(routes=routes, middleware=[Middleware(Guard, door=door)],
                     exception_handlers={UserError: _refused})  # fmt: skip


async def _static(name: str, media: str, _: Request) -> Response:
    return Response((files("detr_mini.pages") / "static" / name).read_bytes(), media_type=media)


async def _refused(_: Request, error: Exception) -> Response:
    status = error.status if isinstance(error, UploadError) else 400
    return JSONResponse({"error": printable(str(error))}, status)


class UploadError(DataError):
    """An upload that is not read to its end."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


async def _of_upload(request: Request, reading: anyio.Semaphore, ask: Callable[[bytes], dict[str, Any]]) -> Response:
    _check_length(request)
    async with reading:
        body = await _body(request)
        return JSONResponse(await run_in_threadpool(ask, body))


def _check_length(request: Request) -> None:
    """Refuse by the stated length, before anything is read."""
    stated = request.headers.get("content-length", "0")
    if not stated.isdecimal() or int(stated) > LARGEST_BYTES:
        raise UploadError(too_many_bytes(), 413)


async def _body(request: Request) -> bytes:
    """The body, whatever length it states, up to the limit and for PATIENCE seconds."""
    _check_length(request)
    parts, size = [], 0
    try:
        with anyio.fail_after(PATIENCE):
            async for part in request.stream():
                size += len(part)
                if size > LARGEST_BYTES:
                    raise UploadError(too_many_bytes(), 413)
                parts.append(part)
    except TimeoutError:
        raise UploadError(f"the upload took more than {PATIENCE:.0f} seconds; try again", 408) from None
    except ClientDisconnect:
        raise UploadError("the upload broke off", 400) from None
    return b"".join(parts)


def _labels(kind: str, body: bytes) -> tuple[bytes, str, str]:
    try:
        content = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise DataError("the request is not JSON") from error
    return labels(kind, content)


def _number(request: Request, key: str) -> int:
    text = request.query_params.get(key, "0")
    if not text.isdecimal() or len(text) > 6:
        raise DataError(f"{key} is '{text[:40]}'; it must be a whole number")
    return int(text)


def _caption(request: Request) -> str | None:
    caption = request.query_params.get("caption", "").strip()
    if len(caption) > LONGEST_CAPTION:
        raise DataError(f"the caption has {len(caption)} characters, and at most {LONGEST_CAPTION} are taken")
    return caption or None
