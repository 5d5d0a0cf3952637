"""From a request to an rpc, through the real site: routes, who may, what travels with a call."""

from uuid import UUID

from twisted.internet.defer import Deferred

from bookd.contract import metadata as keys
from bookd.contract.binding import bindings
from bookd.contract.descriptors import ContractError
from bookd.errors import Aborted, AlreadyExists, Internal, InvalidArgument, NotFound, Unavailable, Violation
from bookd.gateway.routes import route_table
from bookd.wire.policy.v1 import policy_pb2
from tests.gateway import kites
from tests.gateway.kites import SERVICE
from tests.gateway.serving import HEALTH, GatewayTestCase, bearer

MAKER = ("ada", ("maker",))


class OwnProtoTests(GatewayTestCase):
    """A proto that was never heard of is served: its rules are all there is."""

    async def test_post(self) -> None:
        """A rule with a body makes a route that answers with the rule's success status."""
        self.channel.answers[SERVICE + "CreateKite"] = self.message("Kite", kite_id="7", colour="red")
        answer = await self.ask("POST", "/kites/v1/kites", {"colour": "red"}, bearer(*MAKER))
        self.assertEqual((answer.status, answer.json["kite_id"]), (201, "7"))
        request = self.message("CreateKiteRequest").FromString(self.channel.calls[0].request)
        self.assertEqual(request.kite.colour, "red")

    async def test_path_variable_and_query(self) -> None:
        """Variables of the path and query parameters fill the request."""
        self.channel.answers[SERVICE + "ListKites"] = self.message("ListKitesResponse")
        answer = await self.ask("GET", "/kites/v1/kites?colour=red%26blue&page_size=3")
        self.assertEqual(answer.status, 200)
        request = self.message("ListKitesRequest").FromString(self.channel.calls[0].request)
        self.assertEqual((request.colour, request.page_size), ("red&blue", 3))

    async def test_percent_encoding(self) -> None:
        """An encoded slash is part of an id, never a separator; a raw UTF-8 path is taken as it is meant."""
        self.channel.answers[SERVICE + "GetKite"] = self.message("Kite")
        seen = []
        for path in ("a%2Fb", "%C3%A9%3A", "a%20b%25", "x:y"):
            answer = await self.ask("GET", "/kites/v1/kites/" + path)
            self.assertEqual(answer.status, 200, answer.body)
            seen.append(self.message("GetKiteRequest").FromString(self.channel.calls[-1].request).kite_id)
        self.assertEqual(seen, ["a/b", "é:", "a b%", "x:y"])

    async def test_additional_binding(self) -> None:
        """An additional binding with a wildcard is a route of its own."""
        self.channel.answers[SERVICE + "GetKite"] = self.message("Kite")
        await self.ask("GET", "/kites/v1/hangars/3/kites/a/b")
        request = self.message("GetKiteRequest").FromString(self.channel.calls[0].request)
        self.assertEqual(request.kite_id, "hangars/3/kites/a/b")

    async def test_custom_verb(self) -> None:
        """A custom verb after a colon is a route of its own."""
        self.channel.answers[SERVICE + "TugKite"] = self.message("Kite")
        answer = await self.ask("POST", "/kites/v1/kites/7:tug", {"force": 3})
        self.assertEqual(answer.status, 200)
        request = self.message("TugKiteRequest").FromString(self.channel.calls[0].request)
        self.assertEqual((request.kite_id, request.force), ("7", 3))

    async def test_internal_has_no_route(self) -> None:
        """An rpc for daemons only does not exist over HTTP."""
        answer = await self.ask("POST", "/kites/v1/mendings/7", {})
        self.assert_problem(answer, 404, "NOT_FOUND")

    async def test_no_content(self) -> None:
        """A success status of 204 sends no body."""
        self.channel.answers[SERVICE + "DeleteKite"] = b""
        answer = await self.ask("DELETE", "/kites/v1/kites/7", headers=bearer())
        self.assertEqual((answer.status, answer.body, answer.header("Content-Length")), (204, b"", None))

    def test_client_streaming_is_refused(self) -> None:
        """An rpc that streams its requests and has an HTTP rule is named at start."""
        contract = kites.contract(kites.UPLOADS)
        with self.assertRaisesRegex(ContractError, "/uploads.v1.UploadService/Upload"):
            route_table(bindings(contract))


class VerbTests(GatewayTestCase):
    """HTTP's own verbs and the statuses of paths."""

    async def test_unknown_path(self) -> None:
        """A path without a rule is 404, whatever its form."""
        for path in ("/", "/nothing", "//kites", "/kites/v1/kites/", "/v1/books//", "/%ZZ", "/healthz/"):
            self.assert_problem(await self.ask("GET", path), 404, "NOT_FOUND")

    async def test_wrong_verb(self) -> None:
        """A known path with another verb is 405, and Allow names the right ones."""
        answer = await self.ask("PUT", "/kites/v1/kites")
        self.assert_problem(answer, 405, "UNIMPLEMENTED")
        self.assertEqual(answer.header("Allow"), "GET, HEAD, OPTIONS, POST")

    async def test_wrong_verb_of_infrastructure(self) -> None:
        """The process's own routes are for reading."""
        answer = await self.ask("POST", "/healthz")
        self.assert_problem(answer, 405, "UNIMPLEMENTED")
        self.assertEqual(answer.header("Allow"), "GET, HEAD")

    async def test_options(self) -> None:
        """OPTIONS tells the verbs of a path without a call."""
        answer = await self.ask("OPTIONS", "/kites/v1/kites/7")
        self.assertEqual((answer.status, answer.header("Allow")), (204, "DELETE, GET, HEAD, OPTIONS"))
        self.assertEqual(self.channel.calls, [])

    async def test_head(self) -> None:
        """HEAD answers as GET does, with the length and without the body."""
        self.channel.answers[SERVICE + "GetKite"] = self.message("Kite", kite_id="7")
        whole = await self.ask("GET", "/kites/v1/kites/7")
        head = await self.ask("HEAD", "/kites/v1/kites/7")
        self.assertEqual((head.status, head.body), (200, b""))
        self.assertEqual(head.header("Content-Length"), str(len(whole.body)))
        self.assertEqual(head.header("ETag"), whole.header("ETag"))


class AccessTests(GatewayTestCase):
    """Who may call, by the policy beside the rpc."""

    async def test_no_token(self) -> None:
        """Without a token, an rpc for users is 401 with a challenge, before the body is looked at."""
        answer = await self.ask("POST", "/kites/v1/kites", b"not json", {"Content-Type": "application/json"})
        self.assert_problem(answer, 401, "UNAUTHENTICATED")
        self.assertEqual(answer.header("WWW-Authenticate"), "Bearer")

    async def test_missing_role(self) -> None:
        """With a token that lacks the role it is 403."""
        answer = await self.ask("POST", "/kites/v1/kites", {}, bearer("bob", ("customer",)))
        self.assertIn("ROLE_MISSING", self.assert_problem(answer, 403, "PERMISSION_DENIED")["type"])

    async def test_bad_token_on_public_rpc(self) -> None:
        """A token that is given is verified, also where none is needed."""
        answer = await self.ask("GET", "/kites/v1/kites", headers={"Authorization": "Bearer abc"})
        self.assert_problem(answer, 401, "UNAUTHENTICATED")
        self.assertIn('error="invalid_token"', answer.header("WWW-Authenticate"))

    async def test_owner(self) -> None:
        """Whom the owner field names may call; another may not, unless by role."""
        self.channel.answers[SERVICE + "ListOwn"] = self.message("ListKitesResponse")
        path = "/kites/v1/owners/ada/kites"
        statuses = [
            (await self.ask("GET", path, headers=headers)).status
            for headers in (bearer("ada"), bearer("bob"), bearer("bob", ("maker",)), {})
        ]
        self.assertEqual(statuses, [200, 403, 200, 401])

    async def test_principal_travels(self) -> None:
        """Subject, roles and session of the token travel as metadata."""
        self.channel.answers[SERVICE + "GetKite"] = self.message("Kite")
        await self.ask("GET", "/kites/v1/kites/7", headers=bearer(*MAKER))
        principal = policy_pb2.Principal.FromString(self.channel.calls[0].metadata[keys.PRINCIPAL])
        self.assertEqual(principal, policy_pb2.Principal(subject="ada", roles=["maker"], session_id="s1"))

    async def test_nobody_travels_as_nobody(self) -> None:
        """Without a token no principal travels."""
        self.channel.answers[SERVICE + "GetKite"] = self.message("Kite")
        await self.ask("GET", "/kites/v1/kites/7")
        self.assertNotIn(keys.PRINCIPAL, self.channel.calls[0].metadata)


class MetadataTests(GatewayTestCase):
    """What else travels with a call."""

    async def tug(self, headers: dict[str, str] | None = None) -> dict[str, str | bytes]:
        self.channel.answers[SERVICE + "TugKite"] = self.message("Kite")
        answer = await self.ask("POST", "/kites/v1/kites/7:tug", {}, headers)
        self.assertEqual(answer.status, 200, answer.body)
        return self.channel.calls[-1].metadata

    async def test_request_id_is_taken(self) -> None:
        """A well-formed request id is taken, travels, and is answered."""
        self.channel.answers[SERVICE + "GetKite"] = self.message("Kite")
        answer = await self.ask("GET", "/kites/v1/kites/7", headers={"X-Request-Id": "a.B-1_"})
        self.assertEqual(answer.header("X-Request-Id"), "a.B-1_")
        self.assertEqual(self.channel.calls[0].metadata[keys.REQUEST_ID], "a.B-1_")

    async def test_request_id_is_made(self) -> None:
        """Any other request id is replaced by one of ours."""
        answer = await self.ask("GET", "/healthz", headers={"X-Request-Id": "<script>"})
        self.assertTrue(UUID(answer.header("X-Request-Id")))

    async def test_traceparent(self) -> None:
        """The trace context is passed on."""
        given = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
        self.assertEqual((await self.tug({"traceparent": given}))[keys.TRACEPARENT], given)

    async def test_reads_have_no_message_id(self) -> None:
        """A read is no intent and bears no message id."""
        self.channel.answers[SERVICE + "GetKite"] = self.message("Kite")
        await self.ask("GET", "/kites/v1/kites/7", headers={"Idempotency-Key": "k"})
        self.assertNotIn(keys.MESSAGE_ID, self.channel.calls[0].metadata)

    async def test_writes_without_key(self) -> None:
        """Each write without a key is an intent of its own."""
        first, second = await self.tug(), await self.tug()
        self.assertNotEqual(UUID(first[keys.MESSAGE_ID]), UUID(second[keys.MESSAGE_ID]))

    async def test_same_key(self) -> None:
        """The same key of the same caller names the same intent, quoted or not; of another caller, another."""
        ids = [
            (await self.tug({"Idempotency-Key": key, **headers}))[keys.MESSAGE_ID]
            for key, headers in (("k", bearer("ada")), ('"k"', bearer("ada")), ("k", bearer("bob")), ("k", {}))
        ]
        self.assertEqual(ids[0], ids[1])
        self.assertEqual(len(set(ids)), 3)
        self.assertEqual(UUID(ids[0]).version, 5)

    async def test_strangers_with_one_key(self) -> None:
        """Callers without a token share no key: another request under the same key is another intent, the same request
        is the same one."""
        self.channel.answers[SERVICE + "TugKite"] = self.message("Kite")
        ids = []
        for kite, force in (("7", 1), ("7", 1), ("7", 2), ("8", 1)):
            await self.ask("POST", f"/kites/v1/kites/{kite}:tug", {"force": force}, {"Idempotency-Key": "k"})
            ids.append(self.channel.calls[-1].metadata[keys.MESSAGE_ID])
        self.assertEqual(ids[0], ids[1])
        self.assertEqual(len(set(ids)), 3)

    async def test_malformed_key(self) -> None:
        """A malformed key is refused by name, and nothing is called."""
        answer = await self.ask("POST", "/kites/v1/kites/7:tug", {}, {"Idempotency-Key": "x" * 256})
        problem = self.assert_problem(answer, 400, "INVALID_ARGUMENT")
        self.assertEqual(problem["violations"][0]["field"], "Idempotency-Key")
        self.assertEqual(self.channel.calls, [])

    async def test_deadlines(self) -> None:
        """The default deadline, the client's, and the cap."""
        await self.tug()
        await self.tug({"Grpc-Timeout": "1500m"})
        await self.tug({"Request-Timeout": "3600"})
        self.assertEqual([call.timeout for call in self.channel.calls], [10.0, 1.5, 60.0])

    async def test_malformed_deadline(self) -> None:
        """A deadline that cannot be read is refused."""
        for headers in ({"Grpc-Timeout": "soon"}, {"Request-Timeout": "-1"}):
            answer = await self.ask("POST", "/kites/v1/kites/7:tug", {}, headers)
            self.assert_problem(answer, 400, "INVALID_ARGUMENT")

    async def test_respond_async(self) -> None:
        """respond-async travels with deferrable rpcs only."""
        self.channel.answers[SERVICE + "CreateKite"] = self.message("Kite")
        headers = {"Prefer": "respond-async"}
        await self.ask("POST", "/kites/v1/kites", {}, {**bearer(*MAKER), **headers})
        self.assertEqual(self.channel.calls[0].metadata[keys.RESPOND_ASYNC], "1")
        self.assertNotIn(keys.RESPOND_ASYNC, await self.tug(headers))


class FailureTests(GatewayTestCase):
    """What becomes of a call that fails."""

    async def fail_with(self, error: Exception) -> object:
        self.channel.answers[SERVICE + "GetKite"] = error
        return await self.ask("GET", "/kites/v1/kites/7")

    async def test_not_found(self) -> None:
        """An error of the service is told as it is."""
        problem = self.assert_problem(await self.fail_with(NotFound("no kite 7")), 404, "NOT_FOUND")
        self.assertEqual((problem["title"], problem["detail"]), ("Not Found", "no kite 7"))

    async def test_violations(self) -> None:
        """Field violations are listed."""
        error = InvalidArgument("bad", violations=[Violation("kite.tails", "too many")])
        problem = self.assert_problem(await self.fail_with(error), 400, "INVALID_ARGUMENT")
        self.assertEqual(problem["violations"], [{"field": "kite.tails", "description": "too many"}])

    async def test_reasons(self) -> None:
        """Some reasons have a status of their own."""
        reused = InvalidArgument("another request", reason="IDEMPOTENCY_KEY_REUSED")
        self.assert_problem(await self.fail_with(reused), 422, "INVALID_ARGUMENT")
        self.assert_problem(await self.fail_with(AlreadyExists("taken")), 409, "ALREADY_EXISTS")

    async def test_unavailable(self) -> None:
        """UNAVAILABLE says when to come back."""
        answer = await self.fail_with(Unavailable("inventory does not answer", retry_after=1.2))
        self.assert_problem(answer, 503, "UNAVAILABLE")
        self.assertEqual(answer.header("Retry-After"), "2")

    async def test_addresses_are_not_told(self) -> None:
        """What gRPC itself says of a connection that failed names addresses, and stays inside."""
        answer = await self.fail_with(Unavailable("failed to connect to all addresses; ipv4:10.0.0.7:50055"))
        self.assertNotIn("10.0.0.7", self.assert_problem(answer, 503, "UNAVAILABLE")["detail"])

    async def test_inside_is_not_told(self) -> None:
        """What broke inside is logged under the request id, and the client hears nothing of it."""
        for error in (Internal("SELECT secret"), RuntimeError("secret")):
            answer = await self.fail_with(error)
            self.assert_problem(answer, 500, "INTERNAL")
            self.assertNotIn(b"secret", answer.body)
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)


class InfrastructureTests(GatewayTestCase):
    """The routes for whoever watches the process."""

    async def test_healthz(self) -> None:
        """The process lives, whatever the MOM does."""
        self.assertEqual((await self.ask("GET", "/healthz")).status, 200)
        self.assertEqual(self.channel.calls, [])

    async def test_readyz(self) -> None:
        """Ready means that the MOM answers SERVING."""
        self.assertEqual((await self.ask("GET", "/readyz")).status, 200)
        for answer in (Unavailable("down"), b"\x08\x02"):
            self.channel.answers[HEALTH] = answer
            refused = await self.ask("GET", "/readyz")
            self.assert_problem(refused, 503, "UNAVAILABLE")
            self.assertEqual(refused.header("Retry-After"), "1")

    async def test_common_headers(self) -> None:
        """Every response forbids sniffing, insists on HTTPS, and tells no version."""
        for path in ("/healthz", "/nothing"):
            answer = await self.ask("GET", path)
            self.assertEqual(answer.header("X-Content-Type-Options"), "nosniff")
            self.assertEqual(answer.header("Strict-Transport-Security"), "max-age=31536000")
            self.assertEqual(answer.header("Server"), "bookd")


class CachingTests(GatewayTestCase):
    """Validators on reads."""

    async def get(self, path: str, **headers: str) -> object:
        return await self.ask("GET", path, headers={name.replace("_", "-"): v for name, v in headers.items()})

    async def test_own_etag(self) -> None:
        """The message's etag is the validator."""
        self.channel.answers[SERVICE + "GetKite"] = self.message("Kite", etag="v5")
        answer = await self.get("/kites/v1/kites/7")
        self.assertEqual((answer.header("ETag"), answer.header("Cache-Control")), ('"v5"', "no-cache"))
        again = await self.get("/kites/v1/kites/7", If_None_Match='"v4", W/"v5"')
        self.assertEqual((again.status, again.body, again.header("ETag")), (304, b"", '"v5"'))

    async def test_weak_etag(self) -> None:
        """A cacheable answer without an etag gets a weak one that changes with the body."""
        tags = []
        for tails in (1, 1, 2):
            kite = self.message("Kite", tails=tails)
            self.channel.answers[SERVICE + "ListKites"] = self.message("ListKitesResponse", kites=[kite])
            tags.append((await self.get("/kites/v1/kites")).header("ETag"))
        self.assertEqual(tags[0], tags[1])
        self.assertNotEqual(tags[1], tags[2])
        self.assertEqual((await self.get("/kites/v1/kites", If_None_Match=tags[2])).status, 304)

    async def test_no_store(self) -> None:
        """Everything else is not to be stored."""
        self.channel.answers[SERVICE + "ListOwn"] = self.message("ListKitesResponse")
        answer = await self.ask("GET", "/kites/v1/owners/ada/kites", headers=bearer("ada"))
        self.assertEqual((answer.header("Cache-Control"), answer.header("ETag")), ("no-store", None))


class PreconditionTests(GatewayTestCase):
    """If-Match on writes."""

    async def test_reaches_the_service(self) -> None:
        """The tag goes into the etag of the resource that the request holds."""
        self.channel.answers[SERVICE + "CreateKite"] = self.message("Kite")
        headers = {**bearer(*MAKER), "If-Match": '"v1"'}
        self.assertEqual((await self.ask("POST", "/kites/v1/kites", {"colour": "red"}, headers)).status, 201)
        request = self.message("CreateKiteRequest").FromString(self.channel.calls[0].request)
        self.assertEqual(request.kite.etag, '"v1"')

    async def test_mismatch(self) -> None:
        """A mismatch is 412."""
        self.channel.answers[SERVICE + "CreateKite"] = Aborted("it has changed", reason="ETAG_MISMATCH")
        answer = await self.ask("POST", "/kites/v1/kites", {}, {**bearer(*MAKER), "If-Match": '"v1"'})
        self.assert_problem(answer, 412, "ABORTED")

    async def test_no_place_for_it(self) -> None:
        """A write that cannot be conditional does not pretend to be."""
        answer = await self.ask("POST", "/kites/v1/kites/7:tug", {}, {"If-Match": '"v1"'})
        self.assert_problem(answer, 400, "INVALID_ARGUMENT")


class HangUpTests(GatewayTestCase):
    """Clients that leave before they have their answer."""

    async def test_read_is_cancelled(self) -> None:
        """A read dies with its client."""
        cancelled: list[object] = []
        self.channel.answers[SERVICE + "GetKite"] = Deferred(cancelled.append)
        client = await self.raw(b"GET /kites/v1/kites/7 HTTP/1.1\r\nHost: x\r\n\r\n")
        await self.until(lambda: self.channel.calls)
        client.transport.abortConnection()
        await self.until(lambda: cancelled)

    async def test_write_goes_on(self) -> None:
        """A write does not, and the gateway waits for it when it stops."""
        cancelled: list[object] = []
        answer: Deferred[bytes] = Deferred(cancelled.append)
        self.channel.answers[SERVICE + "TugKite"] = answer
        client = await self.raw(b"POST /kites/v1/kites/7:tug HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}")
        await self.until(lambda: self.channel.calls)
        client.transport.abortConnection()
        await self.until(lambda: not self.site.connections)
        stopped = self.calls.stopService()
        self.assertNoResult(stopped)
        self.assertEqual(cancelled, [])
        answer.callback(b"")
        await stopped


class DocumentTests(GatewayTestCase):
    """GET /openapi.json."""

    async def test_served(self) -> None:
        """The document describes this gateway's routes, may be kept for a while, and is asked for again by its tag."""
        answer = await self.ask("GET", "/openapi.json")
        self.assertEqual((answer.status, answer.header("Content-Type")), (200, "application/json"))
        self.assertIn("/kites/v1/kites", answer.json["paths"])
        self.assertRegex(answer.header("Cache-Control") or "", "^public, max-age=")
        tag = answer.header("ETag")
        again = await self.ask("GET", "/openapi.json", headers={"If-None-Match": tag})
        self.assertEqual((again.status, again.body, again.header("ETag")), (304, b"", tag))
        self.assertEqual((await self.ask("HEAD", "/openapi.json")).body, b"")

    async def test_read_only(self) -> None:
        """It is only read."""
        answer = await self.ask("POST", "/openapi.json", {})
        self.assert_problem(answer, 405, "UNIMPLEMENTED")
        self.assertEqual(answer.header("Allow"), "GET, HEAD")

    async def test_problems_fit(self) -> None:
        """A problem has the members that the document says, all of them."""
        schema = (await self.ask("GET", "/openapi.json")).json["components"]["schemas"]["problem"]
        body = {"force": "x", "colour": 1}
        problem = (await self.ask("POST", "/kites/v1/kites/7:tug", body)).json
        self.assertEqual(sorted(problem), sorted(schema["properties"]))
        self.assertEqual([*problem], schema["required"])
        self.assertIn(problem["code"], schema["properties"]["code"]["enum"])
