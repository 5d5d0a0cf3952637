"""Kept calls: 202 and the operation, or the outcome that the client waits for."""

from typing import Any

from google.longrunning import operations_pb2
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2, status_pb2

from bookd.contract import metadata as keys
from bookd.errors import Code, Unavailable
from bookd.gateway.operations import WAIT
from bookd.wire.mom.v1 import message_pb2
from tests.gateway.kites import SERVICE
from tests.gateway.serving import Answer, Call, GatewayTestCase, bearer

CREATE = SERVICE + "CreateKite"


def kept(**fields: Any) -> Unavailable:
    """What the MOM answers when it has kept a call."""
    operation = operations_pb2.Operation(name="operations/op-1", **fields)
    operation.metadata.Pack(message_pb2.OperationMetadata(message_id="op-1", method=CREATE))
    deferred = message_pb2.Deferred(operation=operation, retry_after=Duration(seconds=2))
    return Unavailable("kept for later", details=[deferred])


class OperationTests(GatewayTestCase):
    """A call that the MOM has kept."""

    async def create(self, **headers: str) -> Answer:
        return await self.ask("POST", "/kites/v1/kites", {"colour": "red"}, {**bearer("ada", ("maker",)), **headers})

    def done(self) -> operations_pb2.Operation:
        operation = operations_pb2.Operation(name="operations/op-1", done=True)
        operation.response.Pack(self.message("Kite", kite_id="7"))
        return operation

    async def test_accepted(self) -> None:
        """It is 202 with the operation, where to find it, and when to ask."""
        self.channel.answers[CREATE] = kept()
        answer = await self.create()
        self.assertEqual((answer.status, answer.header("Location")), (202, "/v1/operations/op-1"))
        self.assertEqual((answer.header("Retry-After"), answer.header("Cache-Control")), ("2", "no-store"))
        self.assertEqual(answer.header("Preference-Applied"), None)
        self.assertEqual((answer.json["name"], answer.json.get("done", False)), ("operations/op-1", False))
        self.assertEqual(answer.json["metadata"]["message_id"], "op-1")

    async def test_unavailable_without_detail(self) -> None:
        """Without the MOM's word that the call was kept it is 503: nothing is acknowledged that is not durable."""
        self.channel.answers[CREATE] = Unavailable("the disk is full")
        self.assert_problem(await self.create(), 503, "UNAVAILABLE")

    async def test_already_done(self) -> None:
        """The operation in the answer may hold a response of any type in the contract."""
        operation = self.done()
        self.channel.answers[CREATE] = kept(done=True, response=operation.response)
        answer = await self.create()
        self.assertEqual((answer.status, answer.json["response"]["kite_id"]), (202, "7"))

    async def test_refused(self) -> None:
        """The error of an operation is told with its details: a program reads the reason, not base64."""
        error = status_pb2.Status(code=Code.FAILED_PRECONDITION, message="no wind")
        error.details.add().Pack(error_details_pb2.ErrorInfo(reason="NO_WIND", domain="kites"))
        error.details.add().Pack(error_details_pb2.RetryInfo(retry_delay=Duration(seconds=3)))
        self.channel.answers[CREATE] = kept(done=True, error=error)
        reason, pause = (await self.create()).json["error"]["details"]
        self.assertEqual((reason["reason"], pause["retry_delay"]), ("NO_WIND", "3s"))

    async def test_respond_async(self) -> None:
        """The preference is passed on, and told when it was honoured."""
        self.channel.answers[CREATE] = kept()
        answer = await self.create(Prefer="respond-async")
        self.assertEqual((answer.status, answer.header("Preference-Applied")), (202, "respond-async"))
        self.assertEqual(self.channel.calls[0].metadata[keys.RESPOND_ASYNC], "1")

    async def test_wait_for_the_outcome(self) -> None:
        """Prefer: wait gets the response as if it had come directly."""
        self.channel.answers.update({CREATE: kept(), WAIT: self.done()})
        answer = await self.create(Prefer="wait=5")
        self.assertEqual((answer.status, answer.json["kite_id"]), (201, "7"))
        self.assertEqual(answer.header("Preference-Applied"), "wait=5")
        call = self.channel.calls[1]
        request = operations_pb2.WaitOperationRequest.FromString(call.request)
        self.assertEqual(request.name, "operations/op-1")
        self.assertTrue(4 < request.timeout.ToNanoseconds() / 1e9 <= 5)
        self.assertIn(keys.PRINCIPAL, call.metadata)
        self.assertNotIn(keys.MESSAGE_ID, call.metadata)

    async def test_wait_for_a_failure(self) -> None:
        """A final error of the operation is the problem that it would have been."""
        error = status_pb2.Status(code=Code.ALREADY_EXISTS, message="there is a kite 7")
        self.channel.answers.update(
            {CREATE: kept(), WAIT: operations_pb2.Operation(name="operations/op-1", done=True, error=error)}
        )
        self.assert_problem(await self.create(Prefer="wait=5"), 409, "ALREADY_EXISTS")

    async def test_wait_in_vain(self) -> None:
        """When the time is over it is 202 all the same."""
        self.channel.answers.update({CREATE: kept(), WAIT: operations_pb2.Operation(name="operations/op-1")})
        answer = await self.create(Prefer="respond-async, wait=1")
        self.assertEqual((answer.status, answer.header("Preference-Applied")), (202, "wait=1, respond-async"))
        self.assertNotIn(keys.RESPOND_ASYNC, self.channel.calls[0].metadata)

    async def test_wait_and_nobody_can_say(self) -> None:
        """A wait that fails leaves the operation as it was: the call is kept."""
        self.channel.answers.update({CREATE: kept(), WAIT: Unavailable("the MOM went away")})
        self.assertEqual((await self.create(Prefer="wait=1")).status, 202)

    async def test_wait_is_capped(self) -> None:
        """Nobody waits longer than the longest deadline."""
        waits: list[float] = []

        def wait(call: Call) -> operations_pb2.Operation:
            request = operations_pb2.WaitOperationRequest.FromString(call.request)
            waits.append(request.timeout.ToNanoseconds() / 1e9)
            return self.done()

        self.channel.answers.update({CREATE: kept(), WAIT: wait})
        await self.create(Prefer="wait=99999")
        self.assertLessEqual(waits[0], 60)
