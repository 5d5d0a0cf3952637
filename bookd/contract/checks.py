"""Collects what is wrong with a request, so that the caller hears of all of it at once."""

from unicodedata import category

from bookd.errors import InvalidArgument, Violation


class Checks:
    """The violations found so far. Field names are paths as the client sees them: `items[0].quantity`."""

    def __init__(self) -> None:
        self._violations: list[Violation] = []

    def require(self, holds: bool, field: str, description: str) -> bool:
        """Note a violation of `field` unless `holds`; answers `holds`."""
        if not holds:
            self._violations.append(Violation(field, description))
        return holds

    def text(self, field: str, value: str, minimum: int, maximum: int) -> bool:
        """Require `minimum` to `maximum` characters, none of them a control character other than newline and tab."""
        if minimum and not value.strip():
            return self.require(False, field, "must not be empty")
        if not minimum <= len(value) <= maximum:
            return self.require(False, field, f"must have {minimum} to {maximum} characters, has {len(value)}")
        # What joins letters is no control character: Persian and Hindi need U+200C and U+200D. What is printable has none.
        return self.require(
            value.isprintable()
            or not any(category(character) in ("Cc", "Cs") and character not in "\n\t" for character in value),
            field,
            "must not contain control characters",
        )

    def done(self) -> None:
        """Raise `InvalidArgument` with all violations, if there are any."""
        if self._violations:
            first = self._violations[0]
            raise InvalidArgument(f"{first.field}: {first.description}", violations=self._violations)
