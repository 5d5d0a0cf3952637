"""What a contract may say about when its reads are stale."""

from twisted.trial.unittest import SynchronousTestCase

from bookd.contract.descriptors import ContractError, load, shipped
from tests.gateway import kites

GET = "kites.v1.KiteService/GetKite"


class StalenessTests(SynchronousTestCase):
    """The options `stale_after` and `stale_after_subject`."""

    def refused(self, before: str, after: str) -> str:
        """Why the kites are refused with something in their proto replaced."""
        assert before in kites.KITES
        with self.assertRaises(ContractError) as caught:
            kites.contract(kites.KITES.replace(before, after))
        return str(caught.exception)

    def test_refused(self) -> None:
        """What names no topic, no field, or a read that nobody keeps, is refused by name."""
        topic, subject = 'stale_after: ["kites.v1.KiteChanged"]\n', 'stale_after_subject: "kite_id"'
        said = self.refused(topic, 'stale_after: ["kites.v1.Kite"]\n')
        self.assertEqual(said, f"/{GET} is stale after kites.v1.Kite, which is no topic")
        said = self.refused(subject, 'stale_after_subject: "colour"')
        self.assertIn("stale_after_subject colour names no", said)
        said = self.refused(f"cacheable: true\n      {topic}", topic)
        self.assertEqual(said, f"/{GET} says when it is stale, but is not cacheable")

    def test_bookstore(self) -> None:
        """The reads of the catalogue, and no others, may be given again."""
        methods = load([shipped()]).methods.values()
        self.assertEqual({method.name for method in methods if method.rest.stale_after}, {"GetBook", "ListBooks"})
