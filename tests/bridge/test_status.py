"""Errors become google.rpc.Status and back."""

from google.longrunning import operations_pb2
from google.rpc import status_pb2
from twisted.trial.unittest import SynchronousTestCase

from bookd.bridge.status import from_call, grpc_code, trailing_metadata
from bookd.contract.status import detail, from_status, to_status
from bookd.errors import BY_CODE, Code, InvalidArgument, NotFound, Unavailable, Unknown, Violation
from bookd.wire.mom.v1 import message_pb2


class StatusTests(SynchronousTestCase):
    """The rich status keeps everything that an error says."""

    def test_every_code_comes_back_as_its_class(self) -> None:
        """Each error class survives the way out and back."""
        for code, kind in BY_CODE.items():
            error = from_status(to_status(kind("what happened")))
            self.assertIs(type(error), kind)
            self.assertEqual((error.code, error.message), (code, "what happened"))

    def test_all_codes_have_a_class(self) -> None:
        """Every canonical code but OK has exactly one class."""
        self.assertEqual(set(BY_CODE), set(Code) - {Code.OK})

    def test_attributes_survive(self) -> None:
        """Violations, reason, info and retry_after survive."""
        violations = [Violation("items[0].quantity", "must be at least 1"), Violation("items", "too many")]
        sent = InvalidArgument("no", violations=violations, reason="BAD", info={"a": "b"}, retry_after=1.5)
        error = from_status(to_status(sent))
        self.assertEqual(error.violations, tuple(violations))
        self.assertEqual((error.reason, error.info, error.retry_after), ("BAD", {"a": "b"}, 1.5))

    def test_details_pass_through_twice(self) -> None:
        """A detail of a type that this room does not know passes through a proxy that raises what it caught."""
        deferred = message_pb2.Deferred(operation=operations_pb2.Operation(name="operations/1"))
        once = from_status(to_status(Unavailable("later", details=[deferred])))
        twice = from_status(to_status(once))
        self.assertEqual(detail(twice, message_pb2.Deferred), deferred)
        self.assertIsNone(detail(twice, operations_pb2.Operation))

    def test_plain_status(self) -> None:
        """A call without rich status keeps code and message."""
        error = from_call(grpc_code(Code.NOT_FOUND), "gone", ())
        self.assertIsInstance(error, NotFound)
        self.assertEqual(error.message, "gone")

    def test_no_metadata_for_a_plain_error(self) -> None:
        """An error that its code and message say whole sends no metadata."""
        self.assertEqual(trailing_metadata(NotFound("gone")), ())

    def test_damaged_rich_status(self) -> None:
        """A rich status that cannot be parsed, or that contradicts the plain one, is ignored."""
        contradiction = status_pb2.Status(code=7, message="other").SerializeToString()
        for value in (b"\xff\xff\xff", contradiction):
            error = from_call(grpc_code(Code.NOT_FOUND), "gone", [("grpc-status-details-bin", value)])
            self.assertIsInstance(error, NotFound)
            self.assertEqual(error.message, "gone")

    def test_code_that_does_not_exist(self) -> None:
        """A code that gRPC does not have is Unknown."""
        self.assertIsInstance(from_status(status_pb2.Status(code=99, message="?")), Unknown)
