"""The application: its addresses, and how a request becomes a response."""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from runner.data.loading import evaluation_batch_size
from runner.errors import ConfigError, describe_error, is_out_of_memory
from runner.runs import continuation
from runner.runs.predictor import Predictor
from runner.runs.server.answers import CSV, JSON, Answers, AnyPredictor, csv_body, json_body, to_json
from runner.runs.server.batches import Batches, Work, kind_of
from runner.runs.server.description import ERROR, describe_input, make_example, request_schema, response_schema
from runner.runs.server.limits import Limits
from runner.runs.server.reader import Reader, Samples
from runner.runs.server.refusal import Refusal, not_fitting

log = logging.getLogger("runner")

PAGE = Path(__file__).with_name("page.html")
PATH = "/invocations"
"""Where predictions are asked for: the address of MLflow's server, whose clients may stay as they are."""

INLINE = 1 << 16
"""Smaller bodies, in bytes, are parsed at once; larger ones in a thread, so that other requests go on."""

NO_CONTENT_OF_OTHERS = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; img-src blob: data:"
)
CLOSE = {"connection": "close"}
"""The rest of the body may still be on its way."""


class Server:
    """Predictions of a model over HTTP.

    Args:
        predictor: of the model.
        limits: of a request.
        about: what `/metadata` says about the run.

    Attributes:
        app: the ASGI application.
        served: responses with predictions.
        refused: other responses to requests for predictions.
    """

    def __init__(self, predictor: AnyPredictor, limits: Limits, about: dict[str, Any]) -> None:
        self._predictor, self._limits = predictor, limits
        size = evaluation_batch_size(1, predictor.samples.values, predictor.device)
        self._reader, self._answers = Reader(predictor, limits), Answers(predictor, size)
        self.served = self.refused = 0
        self._working = self._held = 0
        self._parsing = asyncio.Semaphore(1)  # of large bodies; Python's lock lets no more run at a time
        self._names = self._try_example()
        self._batches = Batches(size)
        self._about = {
            **about,
            "input": describe_input(self._reader),
            "output": self._names,
            "limits": {"bytes": limits.body, "rows": limits.max_rows, "seconds": limits.timeout},
        }
        self.app = self._make_app()

    def _try_example(self) -> list[str]:
        """Predict an example, so that the first request is as fast as the others; return the names of what it gives."""
        if self._reader.writes_texts:
            return ["text"]
        try:
            samples = self._reader.read(JSON, to_json(make_example(self._reader)).encode())
            return self._answers.names(samples.chunks[0])
        except Exception:  # the example is made up, and a user's model may not take it
            return []

    def _make_app(self) -> FastAPI:
        app = FastAPI(
            title=f"runner: {self._about['model']} on {self._about['data']}",
            version=str(self._about["run"]),
            docs_url=None,  # these pages load scripts of others
            redoc_url=None,
            exception_handlers={Refusal: _refused, HTTPException: _not_found, Exception: _failed},
        )
        # A plain route, as the body is read by hand: one of FastAPI's takes 0.03 ms more of each request.
        app.router.add_route(PATH, self.invocations, methods=["POST"], include_in_schema=False)
        app.get("/", response_class=HTMLResponse, summary="A page to try the model")(self.page)
        for path in ("/health", "/ping"):
            app.get(path, summary="Whether predictions are computed", response_model=None)(self.health)
        app.get("/metadata", summary="The model, its run, what it takes and returns", response_model=None)(
            self.metadata
        )
        app.openapi_schema = {**(schema := app.openapi()), "paths": {**schema["paths"], PATH: self._described()}}
        return app

    def _described(self) -> dict[str, Any]:
        """Return the address of predictions in OpenAPI's words."""
        answer = {JSON: {"schema": response_schema(self._names)}, CSV: {"schema": {"type": "string"}}}
        refusal = {"description": "What is wrong, and what to send instead", "content": {JSON: {"schema": ERROR}}}
        return {
            "post": {
                "summary": "Predictions",
                "requestBody": request_schema(self._reader, self._limits),
                "responses": {
                    "200": {"description": "An object, or a line, for each sample", "content": answer},
                    **{str(status): refusal for status in (400, 408, 413, 415, 422, 503)},
                },
            }
        }

    def close(self) -> None:
        """Compute nothing more."""
        self._batches.close()

    async def page(self) -> Response:
        """Return the page to try the model by hand."""
        return Response(
            PAGE.read_bytes(), media_type="text/html", headers={"content-security-policy": NO_CONTENT_OF_OTHERS}
        )

    async def health(self) -> Response:
        """Return 200 if predictions are computed, 503 otherwise."""
        ready = self._batches.alive
        return JSONResponse({"status": "ready" if ready else "stopped"}, 200 if ready else 503)

    async def metadata(self) -> Response:
        """Return what the model is, what it takes and what it returns."""
        return Response(to_json(self._about), media_type=JSON)

    async def invocations(self, request: Request) -> Response:
        """Return predictions of the samples in the body."""
        if self._working >= self._limits.max_waiting:
            self.refused += 1
            raise Refusal(503, f"{self._working:,} requests are waiting; send it again later")
        self._working += 1
        try:
            response = await self._predict(request)
        except ClientDisconnect:
            return Response(status_code=400)  # nobody reads it
        except Refusal:
            self.refused += 1
            raise
        finally:
            self._working -= 1
        self.served += 1
        return response

    async def _predict(self, request: Request) -> Response:
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if request.headers.get("content-encoding", "identity") != "identity":
            raise Refusal(415, "the body is compressed; send it as it is")
        form = CSV if CSV in (accepted := request.headers.get("accept", "")) and JSON not in accepted else JSON
        params = dict(request.query_params) if request.url.query else {}
        body = await self._body(request)
        try:
            read = partial(self._reader.read, kind, body, params)
            if len(body) <= INLINE:
                samples = read()
            else:
                async with self._parsing:
                    samples = await asyncio.to_thread(read)
        finally:
            self._held -= len(body)
        try:
            rows = [row for work in self._works(samples, form) for row in await self._batches.compute(work)]
        except ConfigError as error:
            raise not_fitting(error) from error
        except Exception as error:
            if is_out_of_memory(error):
                raise Refusal(503, "not enough memory for these samples now; send fewer at a time") from error
            raise
        if form == JSON:
            return Response(json_body(rows, samples.notes), media_type=JSON)
        header = ["text"] if samples.numbers is not None else self._answers.header
        return Response(csv_body(header, rows), media_type=CSV)

    def _works(self, samples: Samples, form: str) -> Sequence[Work]:
        if samples.numbers is not None:
            return [Work(text, 1, None, partial(self._continue, samples.numbers, form)) for text in samples.chunks[0]]
        compute = self._answers.of_form[form]
        count = samples.count if len(samples.chunks) == 1 else 1
        return [Work(chunk, count, kind_of(chunk, form), compute) for chunk in samples.chunks]

    def _continue(self, numbers: Mapping[str, float], form: str, text: str) -> Sequence[str]:
        assert isinstance(self._predictor, Predictor)
        written = continuation.complete(self._predictor, text, numbers)
        return [to_json({"text": written})] if form == JSON else self._answers.of_texts([written])

    async def _body(self, request: Request) -> bytes:
        """Read a body.

        Raises:
            Refusal: it is too large, or does not arrive in time.
            ClientDisconnect: the client is gone.
        """
        limit, size, chunks = self._limits.body, 0, list[bytes]()
        length = int(request.headers.get("content-length", 0))
        if length > limit and "expect" in request.headers:  # the client asks before it sends
            raise self._too_large(length)
        try:
            async with asyncio.timeout(self._limits.timeout):
                async for chunk in request.stream():
                    size += len(chunk)
                    if size <= limit:
                        chunks.append(chunk)
                        self._held += len(chunk)
                    else:  # read to its end: most clients send all before they read an answer
                        self._held -= sum(map(len, chunks))
                        chunks.clear()
                    if self._held > self._limits.held:
                        raise Refusal(503, "the requests in memory are too large together; send it again later")
            if size > limit:
                raise self._too_large(size)
        except BaseException as error:
            self._held -= sum(map(len, chunks))
            if isinstance(error, TimeoutError):
                text = f"the body did not arrive within {self._limits.timeout} s ({size:,} bytes of it did)"
                raise Refusal(408, text) from error
            raise
        return b"".join(chunks)

    def _too_large(self, size: int) -> Refusal:
        text = f"the body has {size:,} bytes, more than {self._limits.body:,}"
        return Refusal(413, f"{text}; send several requests")


async def _refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, Refusal)
    headers = CLOSE if error.status in (408, 413, 503) else {}
    if error.status == 503:
        headers = {**headers, "retry-after": "1"}
    return JSONResponse(error.content, error.status, headers)


async def _not_found(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    texts = {
        404: f"unknown path {request.url.path}; use POST {PATH}, or GET /, /metadata, /health, /openapi.json",
        405: f"{request.method} {request.url.path}: wrong method; use POST {PATH}, GET for other paths",
    }
    refusal = Refusal(error.status_code, texts.get(error.status_code, str(error.detail)))
    return JSONResponse(refusal.content, refusal.status, error.headers)


async def _failed(_: Request, error: Exception) -> Response:
    text = describe_error(error)
    log.error("failed     %s", text, exc_info=error if log.isEnabledFor(logging.DEBUG) else None)
    return JSONResponse(Refusal(500, f"the model failed: {text}").content, 500)
