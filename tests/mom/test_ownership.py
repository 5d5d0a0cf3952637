"""Whose an operation is: its owner and administrators see it and end it, to all others it is not there. And where a call
came from, which is passed on."""

from typing import Any
from uuid import uuid4

from google.longrunning.operations_pb2 import (
    CancelOperationRequest,
    DeleteOperationRequest,
    GetOperationRequest,
    WaitOperationRequest,
)

from bookd.contract import metadata
from bookd.errors import NotFound, Unauthenticated
from bookd.wire.mom.v1 import mom_pb2
from bookd.wire.mom.v1.mom_pb2_grpc import MomServiceStub
from tests.mom.running import RunningTestCase, who

REQUESTS = {
    "GetOperation": GetOperationRequest,
    "WaitOperation": WaitOperationRequest,
    "CancelOperation": CancelOperationRequest,
    "DeleteOperation": DeleteOperationRequest,
}
ADA, BEN = who("ada", "customer"), who("ben", "customer")


class OwnershipTests(RunningTestCase):
    """Operations of two people."""

    async def ask(self, verb: str, request: Any, *carried: Any) -> Any:
        """Call an rpc for somebody, or for nobody."""
        return await getattr(MomServiceStub(self.client), verb)(request, timeout=5, metadata=list(carried))

    async def test_others_do_not_see_it(self) -> None:
        """To another customer, and to staff, it is not there, whatever they try; nobody is told to log in; its owner
        still has it then."""
        await self.close_post()
        operation = await self.kept(self.call("a", "box", message_id=str(uuid4()), carried=[ADA]))
        for verb, request in REQUESTS.items():
            for other in (BEN, who("sam", "staff"), who("ada ", "customer"), who("Ada", "customer")):
                with self.assertRaises(NotFound, msg=verb):
                    await self.ask(verb, request(name=operation.name), other)
            with self.assertRaises(Unauthenticated, msg=verb):
                await self.ask(verb, request(name=operation.name))
        found = await self.ask("GetOperation", GetOperationRequest(name=operation.name), ADA)
        self.assertEqual((found.name, found.done), (operation.name, False))

    async def test_lists(self) -> None:
        """Everybody's list has what is one's own, an administrator's has all."""
        await self.close_post()
        mine = await self.kept(self.call("a", "box", message_id=str(uuid4()), carried=[ADA]))
        other = await self.kept(self.call("b", "box", message_id=str(uuid4()), carried=[BEN]))
        for person, names in (
            (ADA, {mine.name}),
            (BEN, {other.name}),
            (who("sam", "staff"), set()),
            (who("boss", "admin"), {mine.name, other.name}),
        ):
            found = await self.ask("ListOperations", mom_pb2.ListOperationsRequest(), person)
            self.assertEqual({each.name for each in found.operations}, names)
            self.assertEqual(found.total_size, len(names))
        with self.assertRaises(Unauthenticated):
            await self.ask("ListOperations", mom_pb2.ListOperationsRequest())

    async def test_owner_and_administrator(self) -> None:
        """The owner cancels, and an administrator may, too."""
        await self.close_post()
        for person in (ADA, who("boss", "admin")):
            operation = await self.kept(self.call("a", "box", message_id=str(uuid4()), carried=[ADA]))
            await self.ask("CancelOperation", CancelOperationRequest(name=operation.name), person)
            found = await self.ask("GetOperation", GetOperationRequest(name=operation.name), person)
            self.assertEqual(found.error.code, 1)

    async def test_client_address(self) -> None:
        """The client's address is passed on with a call, at once or later."""
        carried: list[Any] = [ADA, (metadata.CLIENT_ADDRESS, "192.0.2.1")]
        await self.call("a", "box", message_id=str(uuid4()), carried=carried)
        self.assertEqual([context.client_address for context in self.post.came], ["192.0.2.1"])
        await self.close_post()
        await self.kept(self.call("b", "box", message_id=str(uuid4()), carried=carried))
        await self.reopen_post()
        await self.until(lambda: "b" in self.post.texts)
        self.assertEqual(self.post.came[-1].client_address, "192.0.2.1")
