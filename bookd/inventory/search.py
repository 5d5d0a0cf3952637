"""Finds books by their words, with SQLite's full-text index (FTS5).

Every word of the query must be in title, author or ISBN; the last one may be the beginning of a word. Better matches come
first, in the ranks below, and within a rank the book that was added first.

The ranks look at the book alone. FTS5's own bm25() weighs words by how rare they are in the whole catalogue: each book
that is added moves all the scores, so a list that is read page by page would show books twice and leave others out.
A pair (rank, seq) stays what it is until the book itself is changed, and pages continue exactly behind it. Little is lost,
as all the words are required anyway: their rarity would weigh the same for each book found.

The index is written by the functions here, in the transaction that writes the book, and holds words as `words.fold` makes
them. Its tokenizer only splits at spaces. This is the one module that knows FTS5; PostgreSQL's tsvector gets functions of
the same names, which answer the same columns.
"""

from enum import IntEnum

from sqlalchemy import BigInteger, Connection, Integer, Subquery, column, text

from bookd.inventory.words import Query, fold, spellings

# `name` is the title up to its first bracket, `also` has further spellings of words of title and author.
CREATE = """
CREATE VIRTUAL TABLE book_words USING fts5(
    title, author, isbn, also, name UNINDEXED, tokenize = 'ascii', prefix = '2 3'
)
"""

_INSERT = text(
    "INSERT INTO book_words (rowid, title, author, isbn, also, name) VALUES (:seq, :title, :author, :isbn, :also, :name)"
)
_DELETE = text("DELETE FROM book_words WHERE rowid = :seq")


class Rank(IntEnum):
    """How well a book matches, the best first."""

    # The words are the title; what follows it in brackets, a series as a rule, does not count.
    TITLE = 0
    # The title begins with them.
    TITLE_BEGINS = 1
    # They follow each other in the title.
    PHRASE_IN_TITLE = 2
    # All are in the title.
    ALL_IN_TITLE = 3
    # All are in the author, or are other spellings.
    ALL_IN_AUTHOR = 4
    # All are there, some in the title, others in the author.
    ALL = 5
    # The last is the beginning of a word, and the title has them in sequence.
    UNFINISHED_PHRASE = 6
    # The last is the beginning of a word.
    UNFINISHED = 7


_FOUND = text(
    f"""
    SELECT rowid AS seq, CASE
        WHEN rowid IN (SELECT rowid FROM book_words WHERE book_words MATCH :begins)
            THEN CASE WHEN name = :phrase THEN {Rank.TITLE} ELSE {Rank.TITLE_BEGINS} END
        WHEN rowid IN (SELECT rowid FROM book_words WHERE book_words MATCH :in_sequence) THEN {Rank.PHRASE_IN_TITLE}
        WHEN rowid IN (SELECT rowid FROM book_words WHERE book_words MATCH :in_title) THEN {Rank.ALL_IN_TITLE}
        WHEN rowid IN (SELECT rowid FROM book_words WHERE book_words MATCH :in_author) THEN {Rank.ALL_IN_AUTHOR}
        WHEN rowid IN (SELECT rowid FROM book_words WHERE book_words MATCH :whole) THEN {Rank.ALL}
        WHEN rowid IN (SELECT rowid FROM book_words WHERE book_words MATCH :unfinished) THEN {Rank.UNFINISHED_PHRASE}
        ELSE {Rank.UNFINISHED} END AS rank
    FROM book_words WHERE book_words MATCH :any
    """  # noqa: S608 - the ranks are numbers of this module
)
_MATCHING = text("SELECT rowid AS seq FROM book_words WHERE book_words MATCH :any")


def add(connection: Connection, seq: int, title: str, author: str, isbn: str) -> None:
    """Let the book with that seq be found."""
    connection.execute(
        _INSERT,
        {
            "seq": seq,
            "title": " ".join(fold(title)),
            "author": " ".join(fold(author)),
            "isbn": isbn,
            "also": " ".join(spellings(author) + spellings(title)),
            "name": " ".join(fold(title.partition("(")[0])),
        },
    )


def remove(connection: Connection, seq: int) -> None:
    """Let the book not be found any more."""
    connection.execute(_DELETE, {"seq": seq})


def found(query: Query) -> Subquery:
    """The books that match, as columns `seq` and `rank`. The query must have words."""
    phrase = " ".join(query.words)
    whole = " AND ".join(f'"{word}"' for word in query.words)
    return (
        _FOUND.bindparams(
            any=_any(query),
            whole=whole,
            phrase=phrase,
            begins=f'title : ^ "{phrase}"',
            in_sequence=f'title : "{phrase}"',
            in_title=f"title : ({whole})",
            in_author=f"{{author also}} : ({whole})",
            unfinished=f'title : "{phrase}" *',
        )
        .columns(column("seq", BigInteger), column("rank", Integer))
        .subquery("found")
    )


def matching(query: Query) -> Subquery:
    """The books that match, as column `seq`: cheaper than `found`, to count them."""
    return _MATCHING.bindparams(any=_any(query)).columns(column("seq", BigInteger)).subquery("matching")


def _any(query: Query) -> str:
    # Words hold letters and digits only; in double quotes none of them is an operator ("NOT", "NEAR").
    return " AND ".join(f'"{word}"' for word in query.words) + " *"
