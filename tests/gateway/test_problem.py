"""The table of errors, and the shape of a problem."""

import json

from twisted.trial.unittest import SynchronousTestCase

from bookd.errors import (
    BY_CODE,
    Code,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
    Unauthenticated,
    Unavailable,
    Violation,
)
from bookd.gateway import problem

# HTTP status of each canonical code; the wrong ones to get wrong are a client's retries.
TABLE = """
CANCELLED 499, UNKNOWN 500, INVALID_ARGUMENT 400, DEADLINE_EXCEEDED 504, NOT_FOUND 404, ALREADY_EXISTS 409,
PERMISSION_DENIED 403, RESOURCE_EXHAUSTED 429, FAILED_PRECONDITION 400, ABORTED 409, OUT_OF_RANGE 400,
UNIMPLEMENTED 501, INTERNAL 500, UNAVAILABLE 503, DATA_LOSS 500, UNAUTHENTICATED 401
"""


class ProblemTests(SynchronousTestCase):
    """Errors as HTTP."""

    def test_every_code(self) -> None:
        """Each code has its status, and its name in the body."""
        expected = dict(entry.split() for entry in TABLE.replace("\n", " ").split(", "))
        self.assertEqual(set(expected), {code.name for code in Code} - {"OK"})
        for name, status in expected.items():
            answer = problem.response(BY_CODE[Code[name]]("said"), "r1")
            body = json.loads(answer.body)
            self.assertEqual((answer.code, body["status"], body["code"]), (int(status), int(status), name))
            self.assertTrue(body["title"])

    def test_every_reason(self) -> None:
        """Each reason with a status of its own has it whatever the code, and a title."""
        for reason, status in problem.BY_REASON.items():
            fields = problem.fields(InvalidArgument("said", reason=reason), "r1")
            self.assertEqual((fields["status"], fields["type"]), (status, f"urn:bookd:problem:{reason}"))
            self.assertTrue(fields["title"])

    def test_shape(self) -> None:
        """The members are these, in this order."""
        error = InvalidArgument("bad, très", violations=[Violation("a.b[0]", "too long")])
        answer = problem.response(error, "r1")
        self.assertEqual(
            json.loads(answer.body),
            {
                "type": "about:blank",
                "title": "Bad Request",
                "status": 400,
                "detail": "bad, très",
                "code": "INVALID_ARGUMENT",
                "request_id": "r1",
                "violations": [{"field": "a.b[0]", "description": "too long"}],
            },
        )
        self.assertEqual(answer.headers["Content-Type"], "application/problem+json")
        self.assertEqual(answer.headers["Content-Length"], str(len(answer.body)))

    def test_hidden(self) -> None:
        """Of what broke inside neither message nor reason is told."""
        for code in (Code.INTERNAL, Code.UNKNOWN, Code.DATA_LOSS):
            body = problem.response(BY_CODE[code]("secret", reason="SECRET"), "r1").body
            self.assertNotIn(b"secret", body.lower())

    def test_retry_after(self) -> None:
        """Whole seconds, rounded up, at least one; on 503 always, on 429 when it is known."""
        self.assertEqual(problem.response(Unavailable("x"), "").headers["Retry-After"], "1")
        self.assertEqual(problem.response(Unavailable("x", retry_after=0.1), "").headers["Retry-After"], "1")
        self.assertEqual(problem.response(ResourceExhausted("x", retry_after=2.1), "").headers["Retry-After"], "3")
        self.assertNotIn("Retry-After", problem.response(ResourceExhausted("x"), "").headers)
        self.assertNotIn("Retry-After", problem.response(NotFound("x", retry_after=2.1), "").headers)

    def test_challenge(self) -> None:
        """401 bears a challenge, which says when the token was the fault."""
        plain = problem.response(Unauthenticated("wrong password"), "").headers["WWW-Authenticate"]
        self.assertEqual(plain, "Bearer")
        expired = problem.response(Unauthenticated("it has expired", reason="TOKEN_EXPIRED"), "")
        self.assertEqual(
            expired.headers["WWW-Authenticate"], 'Bearer error="invalid_token", error_description="it has expired"'
        )
        odd = problem.response(Unauthenticated('"é\r\n', reason="TOKEN_INVALID"), "").headers["WWW-Authenticate"]
        self.assertEqual(odd, 'Bearer error="invalid_token", error_description="????"')
