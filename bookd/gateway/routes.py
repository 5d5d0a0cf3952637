"""What the gateway answers: routes made of the descriptors' HTTP rules, and the way from a request to its response.

Three routes are a Klein app's, for whoever watches the process or wants to know what there is. All others are found by
the router of `bookd.contract.template`, since werkzeug's rules see a path only after it was decoded, when `%2F` in an id
and a slash between segments are the same. They are asked without Klein, whose own routing would cost each of them a tenth.
"""

from collections.abc import Callable, Iterable
from typing import Any

from google.protobuf.message import Message
from klein import Klein, Response
from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from bookd.contract import metadata as keys
from bookd.contract.binding import Binding
from bookd.contract.descriptors import ContractError
from bookd.contract.template import ANY_VERB, Router
from bookd.errors import (
    BookdError,
    Cancelled,
    Code,
    Internal,
    NotFound,
    ResourceExhausted,
    Unavailable,
    Unimplemented,
)
from bookd.gateway import answers, headers, operations, problem, streams
from bookd.gateway.cache import Cache, Kept
from bookd.gateway.calls import Calls
from bookd.gateway.intake import READS, Asked, Intake
from bookd.gateway.rates import Rates
from bookd.gateway.refusals import Refusals
from bookd.gateway.request import VERBS, Request
from bookd.gateway.streams import Streams
from bookd.wire.policy.v1 import policy_pb2


def route_table(bindings: Iterable[Binding]) -> Router[Binding]:
    """A router over the HTTP rules of the contract. Raises `ContractError` naming an rpc that HTTP cannot carry.

    Rpcs for daemons only get no route.
    """
    router: Router[Binding] = Router()
    for binding in bindings:
        if binding.method.access.audience == policy_pb2.AUDIENCE_INTERNAL:
            continue
        if binding.method.client_streaming:
            raise ContractError(f"{binding.method.path} streams its requests and cannot have an HTTP rule")
        router.add(binding.verb, binding.template, binding)
    return router


# A service that says these does not answer, rather than having decided (RFC 5861, section 4).
_AWAY = frozenset({Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED, Code.INTERNAL, Code.UNKNOWN})


class Gateway:
    """Answers requests. `encode` makes the JSON of an operation; `openapi` is the document that describes the routes; `seconds` is
    the clock that requests are timed by.

    `max_wait` bounds `Prefer: wait`, in seconds.
    """

    app = Klein()
    # The paths of the app.
    own = frozenset({b"/healthz", b"/readyz", b"/openapi.json"})
    log = Logger()

    def __init__(
        self,
        router: Router[Binding],
        intake: Intake,
        calls: Calls,
        streams: Streams,
        rates: Rates,
        encode: Callable[[Message], bytes],
        openapi: bytes,
        cache: Cache,
        refusals: Refusals,
        *,
        max_wait: float,
        seconds: Callable[[], float],
    ) -> None:
        self._router = router
        self._intake = intake
        self._calls = calls
        self._streams = streams
        self._rates = rates
        self._encode = encode
        self._openapi = openapi
        self._cache = cache
        self._refusals = refusals
        self._max_wait = max_wait
        self._seconds = seconds

    # What Klein calls. Its types know neither our requests nor its own responses.

    @app.route("/healthz")
    def healthz(self, request: Any) -> Any:
        """The process lives."""
        _only_reads(request)
        return answers.json(200, b'{"status": "alive"}', {"Cache-Control": "no-store"})

    @app.route("/readyz")
    async def readyz(self, request: Any) -> Any:
        """The MOM answers, so that requests have somewhere to go."""
        _only_reads(request)
        if not await self._calls.ready():
            raise Unavailable("the MOM does not answer", reason="MOM_UNREACHABLE", retry_after=1.0)
        return answers.json(200, b'{"status": "ready"}', {"Cache-Control": "no-store"})

    @app.route("/openapi.json")
    def openapi(self, request: Any) -> Any:
        """What the gateway serves, for programs."""
        _only_reads(request)
        return answers.document(self._openapi, request.every("if-none-match"))

    @app.handle_errors(Exception)
    def broken(self, request: Any, failure: Failure) -> Any:
        """Any failure of these, as a problem."""
        return self._failed(request, failure)

    def serve(self, request: Request) -> Response | Deferred[Response | None]:
        """Answer what the contract has a route for; None when the response has been sent already."""
        kept = self._cache.find(request)
        if kept is None:
            return Deferred.fromCoroutine(self._answered(request))
        try:
            return self._again(request, kept)
        except ResourceExhausted as error:
            return Deferred.fromCoroutine(self._late(request, error))
        except Exception:
            return self._failed(request, Failure())

    def _again(self, request: Request, kept: Kept) -> Response:
        """A kept answer, for whoever may ask for it now."""
        request.route = kept.route
        self._rates.arrived(request)
        self._intake.identify(request, "GET", kept.reading.method)
        return self._given_again(request, kept, "bookd; hit")

    def _given_again(self, request: Request, kept: Kept, how: str) -> Response:
        request.setHeader("Age", str(self._cache.age(kept)))
        request.setHeader("Cache-Status", how)
        known = request.every("if-none-match")
        if known and kept.etag and headers.matches(known, kept.etag):
            return answers.unchanged(kept.response)
        return kept.response

    async def _late(self, request: Request, error: ResourceExhausted) -> Response:
        await self._refusals.hold()
        return self._failed(request, Failure(error))

    async def _answered(self, request: Request) -> Response | None:
        try:
            return await self._serve(request)
        except Exception:
            return self._failed(request, Failure())

    def _failed(self, request: Request, failure: Failure) -> Response:
        told = self._told(failure, request)
        request.reason = told.reason
        return problem.response(told, request.request_id)

    async def _serve(self, request: Request) -> Response | None:
        started = self._seconds()
        verb, path = request.method.decode("ascii"), request.path.decode("utf-8")
        self._rates.arrived(request)
        if verb == "OPTIONS":
            allowed = self._allowed(path)
            request.channel.site.cors.allow(request, allowed)
            return Response(204, {"Allow": allowed, "Cache-Control": "no-store"}, b"")
        found = self._router.match("GET" if verb == "HEAD" else verb, path)
        if found is None:
            raise _not_allowed(verb, self._allowed(path))
        try:
            asked = self._intake.understand(request, verb, *found)
        except ResourceExhausted as error:
            return await self._late(request, error)
        if asked.method.server_streaming:
            if verb == "HEAD":
                return Response(200, {"Content-Type": streams.NDJSON, "Cache-Control": "no-store"}, b"")
            await self._stream(request, asked)
            return None
        if asked.read:
            return await self._read(request, asked)
        self._cache.wrote(asked.method.service)
        return await self._write(request, asked, started)

    async def _read(self, request: Request, asked: Asked) -> Response:
        method, message = asked.method, asked.message
        reading = self._cache.reading(request.uri, method, message)
        try:
            answer = await self._calls.read(method.path, message.SerializeToString(), asked.seconds, asked.metadata)
        except BookdError as error:
            kept = self._cache.last_resort(request) if reading and error.code in _AWAY else None
            if kept is not None:
                return self._given_again(request, kept, "bookd; hit; detail=stale-if-error")
            raise asked.binding.spelled(error) from None
        response = self._success(request, asked, answer)
        if reading is not None and response.code == 200:
            self._cache.keep(reading, request.route, response, str(response.headers.get("ETag", "")))
        elif operations.tells(method.path):
            self._cache.clear()  # the client may know now that a kept write has taken effect
        return response

    async def _write(self, request: Request, asked: Asked, started: float) -> Response:
        method, message = asked.method, asked.message
        try:
            answer = await self._calls.write(
                method.path,
                message.SerializeToString(),
                asked.seconds,
                asked.metadata,
                lambda: self._cache.wrote(method.service),
            )
        except BookdError as error:
            deferred = operations.kept(error)
            if deferred is None:
                raise asked.binding.spelled(error) from None
            return await self._kept(request, asked, deferred, started)
        return self._success(request, asked, answer)

    def _allowed(self, path: str) -> str:
        """The value of Allow for a path. Raises `NotFound` for one that nothing answers."""
        verbs = set(self._router.allowed(path))
        if not verbs:
            raise NotFound("there is nothing at this path")
        if ANY_VERB in verbs:
            verbs = set(VERBS)
        elif "GET" in verbs:
            verbs.add("HEAD")
        return ", ".join(sorted(verbs | {"OPTIONS"}))

    def _success(self, request: Request, asked: Asked, answer: bytes) -> Response:
        message = asked.method.response.FromString(answer)
        body = asked.binding.encode(message)
        known = request.every("if-none-match")
        return answers.success(asked.method, message, body, read=asked.read, if_none_match=known)

    async def _kept(self, request: Request, asked: Asked, deferred: Any, started: float) -> Response:
        """202 and the operation; its outcome when the client waits for it and it comes in time."""
        operation, preferences, applied = deferred.operation, asked.preferences, []
        if preferences.wait is not None:
            applied.append(f"wait={preferences.wait}")
            left = min(preferences.wait, self._max_wait) - (self._seconds() - started)
            if left > 0 and not operation.done:
                carried = [(key, value) for key, value in asked.metadata if key != keys.MESSAGE_ID]
                operation = await operations.wait(self._calls, operation, left, carried)
            if operation.done:
                self._cache.wrote(asked.method.service)
                request.setHeader("Preference-Applied", applied[0])
                try:
                    return self._success(request, asked, operations.outcome(operation))
                except BookdError as error:
                    raise asked.binding.spelled(error) from None
        if preferences.respond_async:
            applied.append("respond-async")
        more: problem.Headers = {
            "Location": operations.PREFIX + operation.name,
            "Retry-After": problem.retry_after(deferred.retry_after.ToNanoseconds() / 1e9),
            "Cache-Control": "no-store",
        }
        if applied:
            more["Preference-Applied"] = ", ".join(applied)
        return answers.json(202, self._encode(operation), more)

    async def _stream(self, request: Request, asked: Asked) -> None:
        """Send what a streaming rpc yields; it ends when the client leaves or may not any more, or at the deadline that
        the client named."""
        path, kind = asked.method.path, asked.method.response
        named = asked.method.rest.event_id_field
        events = headers.wants_events(request.every("accept"))
        request.vary.add("Accept")

        def frame(raw: bytes) -> bytes:
            message = kind.FromString(raw)
            text = asked.binding.encode(message)
            return streams.event(text, str(getattr(message, named)) if named else "") if events else streams.line(text)

        await self._streams.pour(
            request,
            self._calls.stream(path, asked.message.SerializeToString(), asked.named, asked.metadata),
            frame,
            lambda error: self._told(Failure(error), request),
            asked.allowed,
            events=events,
        )

    def _told(self, failure: Failure, request: Request) -> BookdError:
        """What the client may hear of a failure. What broke inside goes to the log."""
        error = failure.value
        if isinstance(error, CancelledError):
            return Cancelled("the request was given up")
        if not isinstance(error, BookdError):
            self.log.failure("request {request_id} failed", failure, request_id=request.request_id)
            return Internal("unexpected")
        if error.code is Code.UNAVAILABLE and not error.reason and error.retry_after is None:
            # gRPC's own words, which name addresses that are nobody's business.
            self.log.info("request {request_id}: {why}", request_id=request.request_id, why=error.message)
            return Unavailable("the service does not answer; try again later", reason="UNREACHABLE")
        if error.code in problem.HIDDEN:
            self.log.error(
                "request {request_id} failed: {code} {message}",
                request_id=request.request_id,
                code=error.code.name,
                message=error.message,
            )
        return error


def _not_allowed(verb: str, allowed: str) -> Unimplemented:
    return Unimplemented(f"{verb} is not answered here", reason=problem.METHOD_NOT_ALLOWED, info={"allow": allowed})


def _only_reads(request: Request) -> None:
    request.route = request.path.decode("ascii")
    verb = request.method.decode("ascii")
    if verb not in READS:
        raise _not_allowed(verb, ", ".join(sorted(READS)))
