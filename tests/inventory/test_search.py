"""What a search finds, in which order, page by page."""

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import text

from bookd.errors import InvalidArgument
from bookd.inventory import store
from bookd.inventory.rules import Change
from tests.inventory.room import NOW, InventoryTestCase, draft

SHELF = (
    draft("solitude", "One Hundred Years of Solitude", "Gabriel García Márquez, Gregory Rabassa", "9780060531041"),
    draft("hp3", "Harry Potter and the Prisoner of Azkaban (Harry Potter, #3)", "J.K. Rowling, Mary GrandPré"),
    draft("biography", "The Harry Potter Biography", "Marc Shapiro"),
    draft("hp1", "Harry Potter and the Sorcerer's Stone (Harry Potter, #1)", "J.K. Rowling", "9780439554930"),
    draft("potters", "The Potter and Harry", "Clay Worker"),
    draft("by-harry", "Vases", "Harry Potter"),
    draft("mixed", "Potter Field", "Harry Brown"),
    draft("hp", "Harry Potter (A Guide)", "Somebody"),
    draft("snowman", "The Snowman (Harry Hole, #7)", "Jo Nesbø, Don Bartlett"),
    draft("wrinkle", "A Wrinkle in Time", "Madeleine L'Engle"),
    draft("cat", "The Catcher in the Rye", "J.D. Salinger"),
    draft("cats", "Cat\u2019s Cradle", "Kurt Vonnegut"),
)


class SearchTests(InventoryTestCase):
    """A small shelf."""

    def setUp(self) -> None:
        """Put the books on it."""
        super().setUp()
        self.add(*SHELF)

    def test_accents_and_case(self) -> None:
        """Accents, case and the order of words do not matter."""
        for query in ("garcia marquez", "MÁRQUEZ García", "marquez solitude", "gabriel garci\u0301a"):
            self.assertEqual(self.ids(query), ["solitude"], query)
        self.assertEqual(self.ids("nesbo"), ["snowman"])

    def test_ranks(self) -> None:
        """The title itself, then titles that begin so, have the phrase, have the words; then authors; then both mixed."""
        self.assertEqual(
            self.ids("harry potter"),
            ["hp", "hp3", "hp1", "biography", "potters", "by-harry", "mixed"],
        )

    def test_every_word(self) -> None:
        """A book that lacks a word is not found."""
        self.assertEqual(self.ids("harry solitude"), [])
        self.assertEqual(self.ids("potter azkaban rowling"), ["hp3"])

    def test_unfinished_word(self) -> None:
        """The last word may be unfinished, the others not; whole words rank first."""
        self.assertEqual(self.ids("harry pot")[:3], ["hp3", "biography", "hp1"])
        self.assertEqual(self.ids("harr potter"), [])
        self.assertEqual(self.ids("cat"), ["cats", "cat"])

    def test_spellings(self) -> None:
        """Names are found as people write them."""
        for query, found in (
            ("jk rowling", ["hp3", "hp1"]),
            ("j.k. rowling", ["hp3", "hp1"]),
            ("engle", ["wrinkle"]),
            ("l'engle", ["wrinkle"]),
            ("sorcerers stone", ["hp1"]),
            ("sorcerer's stone", ["hp1"]),
        ):
            self.assertEqual(self.ids(query), found, query)

    def test_isbn(self) -> None:
        """An ISBN finds its book in any form, and so does its beginning."""
        for query in (
            "9780439554930",
            "978-0-439-55493-0",
            "0-439-55493-4",
            "0439554934",
            "978043955",
            "potter 978-0-439-55493-0",
        ):
            self.assertEqual(self.ids(query), ["hp1"], query)

    def test_hostile(self) -> None:
        """Nothing that is typed is syntax."""
        for query in (
            '"',
            '"" OR 1=1 --',
            "harry NEAR/2 (potter",
            "title:harry",
            "harry AND",
            "NOT harry potter",
            "(harry",
            "harry*potter*",
            "^harry {title}:",
            "'; DROP TABLE books; --",
            "-potter +harry",
            "%_\\",
            "\x00\x01harry",
            "\ufffd\u202e",
            "😀",
            "AND OR NOT NEAR",
        ):
            self.page(query)
        self.assertEqual(self.ids("harry*potter*"), self.ids("harry potter"))
        self.assertEqual(self.ids("harry AND potter"), ["hp3", "hp1", "potters"])
        self.assertEqual(len(self.ids()), len(SHELF))

    @given(st.text(max_size=40))
    @settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.differing_executors])
    def test_any_query(self, query: str) -> None:
        """Any text gives an answer, or a refusal that names the query."""
        try:
            page = self.page(query)
        except InvalidArgument as error:
            self.assertEqual(error.violations[0].field, "query")
        else:
            self.assertEqual(page.total_size, len(page.books))

    def test_only_punctuation(self) -> None:
        """Characters without words find nothing; spaces alone are no query."""
        self.assertEqual(self.ids("!?"), [])
        self.assertEqual(len(self.ids("  ")), len(SHELF))

    def test_index_follows(self) -> None:
        """Changed books are found by their new words only, deleted ones not at all."""
        with self.engine.begin() as connection:
            store.update_book(connection, Change("solitude", "", title="Cien años de soledad"), NOW)
            store.update_book(connection, Change("hp1", "", isbn=""), NOW)
            store.delete_book(connection, "hp3", NOW)
        self.assertEqual(self.ids("anos soledad"), ["solitude"])
        self.assertEqual(self.ids("hundred"), [])
        self.assertEqual(self.ids("9780439554930"), [])
        self.assertEqual(self.ids("azkaban"), [])
        with self.engine.begin() as connection:
            connection.execute(text("INSERT INTO book_words (book_words) VALUES ('integrity-check')"))
            indexed = list(connection.execute(text("SELECT rowid FROM book_words ORDER BY rowid")).scalars())
            kept = list(connection.execute(text("SELECT seq FROM books ORDER BY seq")).scalars())
        self.assertEqual(indexed, kept)


class PageTests(InventoryTestCase):
    """Lists page by page while the catalogue changes."""

    def walk(self, query: str, size: int, between: object = None) -> list[str]:
        """All pages, with something done between any two."""
        seen: list[str] = []
        token = ""
        while True:
            page = self.page(query, size, token)
            self.assertLessEqual(len(page.books), size)
            seen += [book.book_id for book in page.books]
            token = page.next_page_token
            if not token:
                return seen
            if callable(between):
                between(len(seen))

    def shelf(self) -> list[str]:
        """Books of all ranks for "red fox", 60 in all."""
        kinds = ("Red Fox", "The Red Fox", "Fox, Red", "Red foxes", "Other")
        ids = []
        for number in range(60):
            title = kinds[number % 5]
            self.add(draft(f"b{number}", title, "Red Fox" if title == "Other" else "Somebody"))
            ids.append(f"b{number}")
        return ids

    def test_whole(self) -> None:
        """Pages of any size together are the whole list, each book once, in one order."""
        ids = self.shelf()
        for query in ("", "red fox"):
            whole = self.ids(query)
            self.assertEqual(sorted(whole), sorted(ids))
            for size in (1, 7, 12, 59, 60, 61):
                self.assertEqual(self.walk(query, size), whole, (query, size))

    def test_while_books_are_added(self) -> None:
        """Books that come and go meanwhile make nothing repeat, and nothing that stays is skipped."""
        ids = self.shelf()
        for query in ("", "red fox"):
            number = 0

            def disturb(_seen: int, query: str = query) -> None:
                nonlocal number
                number += 1
                # Floods the catalogue with the rarer of the two words: under bm25 every score would move.
                self.add(
                    *(
                        draft(f"{query}{number}-{each}"[-60:].replace(" ", "_"), "Fox Tales " * each, "X")
                        for each in range(1, 6)
                    )
                )
                self.add(draft(f"{query}new{number}".replace(" ", "_"), "Red Fox"))

            seen = self.walk(query, 7, disturb)
            self.assertEqual(len(seen), len(set(seen)))
            self.assertEqual(set(ids) - set(seen), set())

    def test_while_books_are_deleted(self) -> None:
        """The book that a page ended with may go: the next page goes on behind it."""
        ids = self.shelf()
        order = self.ids("red fox")

        def delete(seen: int) -> None:
            with self.engine.begin() as connection:
                store.delete_book(connection, order[seen - 1], NOW)

        self.assertEqual(self.walk("red fox", 7, delete), order)
        self.assertLess(len(self.ids()), len(ids))

    def test_total(self) -> None:
        """The total counts all that match, on each page."""
        self.shelf()
        page = self.page("red fox", 7)
        self.assertEqual((page.total_size, self.page("red fox", 7, page.next_page_token).total_size), (60, 60))
        self.assertEqual((self.page().total_size, self.page("nothing like it").total_size), (60, 0))

    def test_token_of_another_query(self) -> None:
        """A token is good for its query only; spelling it differently is the same query."""
        self.shelf()
        token = self.page("red fox", 7).next_page_token
        self.assertEqual(len(self.page(" RED  fóx", 7, token).books), 7)
        for query in ("", "red", "!!"):
            error = self.assertRaises(InvalidArgument, self.page, query, 7, token)
            self.assertEqual(error.violations[0].field, "page_token")

    def test_heavy_books(self) -> None:
        """A page that would not fit into one message is cut short, and the next one goes on."""
        self.add(*(draft(f"b{n:03}", "\U0001f600" * 1000, "\U0001f600" * 1000) for n in range(600)))
        page = self.page("", 1000)
        self.assertLess(page.ByteSize(), 2_100_000)
        self.assertGreater(len(page.books), 100)
        self.assertEqual(self.walk("", 1000), [f"b{n:03}" for n in range(600)])
