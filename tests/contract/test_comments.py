"""Comments of protos, found again by name."""

from twisted.trial.unittest import SynchronousTestCase

from bookd.contract import comments
from bookd.contract.descriptors import load, shipped


class CommentsTests(SynchronousTestCase):
    """What the shipped protos say."""

    def test_names(self) -> None:
        """Messages, nested ones, fields, enums, values, services and rpcs are found under their full names."""
        found = load([shipped()]).comments
        for name, text in {
            "bookd.inventory.v1.Book": "A book of the catalogue.",
            "bookd.inventory.v1.Book.price": "Price of one copy.",
            "bookd.mom.v1.SubscribeRequest.Open.credit": "Most events",
            "bookd.orders.v1.OrderStatus": "Where an order stands.",
            "bookd.orders.v1.OrderStatus.ORDER_STATUS_PENDING": "Accepted",
            "bookd.users.v1.UsersService": "Users and their sessions.",
            "bookd.users.v1.UsersService.GetUser": "One user by its id.",
        }.items():
            self.assertTrue(found[name].startswith(text), name)

    def test_sentence(self) -> None:
        """The first sentence is what stands before the first stop, whatever the line breaks."""
        self.assertEqual(comments.sentence("Adds a\n book. Twice."), "Adds a book")
        self.assertEqual(comments.sentence("Says 1.5 at once."), "Says 1.5 at once")
        self.assertEqual(comments.sentence(""), "")

    def test_prose(self) -> None:
        """Lines are joined, paragraphs are kept, and no comment is no text."""
        self.assertEqual(comments.prose({"a": " one\n two\n\n three"}, "a"), "one two\n\nthree")
        self.assertEqual(comments.prose({}, "a"), "")
