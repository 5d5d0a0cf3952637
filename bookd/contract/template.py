"""Path templates of google/api/http.proto, and the table that finds the rule of a request.

    Template  = "/" Segments [ Verb ] ;
    Segments  = Segment { "/" Segment } ;
    Segment   = "*" | "**" | LITERAL | Variable ;
    Variable  = "{" FieldPath [ "=" Segments ] "}" ;
    FieldPath = IDENT { "." IDENT } ;
    Verb      = ":" LITERAL ;

`*` matches one segment that is not empty, `**` the rest of the path, which may be empty; it stands last. A template
matches the path as it came, percent-encoded: the path is cut at its slashes first and decoded afterwards, so that an
encoded slash or colon is never taken for a separator. What a variable of one segment matched is decoded fully; of
several segments, everything but %2F is, for there it tells a slash inside a name from one between names.

Nothing here backtracks: a template looks at each segment once, the router at each segment once for every template that
still fits. A path whose percent-encoding is broken or is not UTF-8 matches nothing.
"""

import re
from collections.abc import Iterator
from typing import Final, Generic, TypeVar
from urllib.parse import quote, unquote

from attrs import Factory, define, field, frozen

from bookd.contract.descriptors import ContractError

_MAX_LENGTH: Final = 1024

_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
# pchar of RFC 3986 without the characters that mean something here: ":" and "*".
_LITERAL = re.compile(r"(?:[A-Za-z0-9\-._~!$&'()+,;=@]|%[0-9A-Fa-f]{2})+")
_BROKEN_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_ENCODED_SLASH = re.compile(r"(%2[Ff])")

# What a segment of a template is matched by, and how it ranks: a literal wins over one segment over the rest.
_REST, _ONE, _LITERALLY, _END = range(4)


class TemplateError(ContractError):
    """A path template cannot be used; the message names the template and the position, counted from 1."""


@frozen
class Variable:
    """A field path, and the segments of the path that it takes: from `start` up to `stop`, or all that are left."""

    name: str
    start: int
    stop: int | None
    several: bool  # its pattern has, or may match, more than one segment

    def value(self, segments: list[str]) -> str:
        """What it matched, decoded. Raises UnicodeDecodeError when that is not UTF-8."""
        text = "/".join(segments[self.start : self.stop])
        if "%" not in text:
            return text
        if not self.several:
            return unquote(text, errors="strict")
        return "".join(
            part if _ENCODED_SLASH.fullmatch(part) else unquote(part, errors="strict")
            for part in _ENCODED_SLASH.split(text)
        )


@frozen
class Template:
    """A compiled path template. Make one with `compile`."""

    text: str
    # (kind, literal text decoded, or "")
    segments: tuple[tuple[int, str], ...]
    verb: str  # the custom verb after the colon, decoded; "" when there is none
    bound: tuple[Variable, ...]

    @property
    def variables(self) -> tuple[str, ...]:
        """The field paths that the template binds, in the order in which they stand."""
        return tuple(variable.name for variable in self.bound)

    @property
    def pieces(self) -> tuple[tuple[bool, str], ...]:
        """The segments: whether it is a wildcard, and else the text of the literal, decoded."""
        return tuple((kind != _LITERALLY, literal) for kind, literal in self.segments)

    @property
    def takes_rest(self) -> bool:
        """Whether the last segment is `**`."""
        return bool(self.segments) and self.segments[-1][0] == _REST

    @property
    def shape(self) -> tuple[object, ...]:
        """Equal for two templates that match the same paths."""
        return self.segments, self.verb

    @property
    def specificity(self) -> tuple[bool, tuple[int, ...]]:
        """Sorts templates: of two that match one path, the greater one is the more specific."""
        return bool(self.verb), (*(kind for kind, _ in self.segments), _END)

    @property
    def regex(self) -> str:
        """A regular expression for a whole path, with one group for each variable, in their order; no group has a name.

        It has no nested repetition. It matches the percent-encoded path, literals as the template spells them, and
        what a group matched is still encoded.
        """
        starts = {variable.start for variable in self.bound}
        stops = {variable.stop or len(self.segments) for variable in self.bound}
        pattern = ""
        for index, (kind, literal) in enumerate(self.segments):
            opened, closed = index in starts, index + 1 in stops
            if kind == _REST and opened:
                pattern += "(?:/(.*))?"  # what is left may be nothing, and then has no slash
                continue
            piece = re.escape(_encoded(literal)) if kind == _LITERALLY else "[^/]+"
            pattern += "(?:/.*)?" if kind == _REST else "/" + "(" * opened + piece
            pattern += ")" * closed
        return (pattern or "/") + (":" + re.escape(_encoded(self.verb)) if self.verb else "")

    def match(self, path: str) -> dict[str, str] | None:
        """The values of the variables by field path when `path` (percent-encoded, no query) matches, else None."""
        segments = _split(path)
        if segments is None:
            return None
        if self.verb:
            segments, verb = _cut_verb(segments)
            if verb != self.verb:
                return None
        if not self._fits(segments):
            return None
        return self.extract(segments)

    def extract(self, segments: list[str]) -> dict[str, str] | None:
        """The values of the variables in a path that fits, cut into `segments`; None when they are not UTF-8."""
        try:
            return {variable.name: variable.value(segments) for variable in self.bound}
        except UnicodeDecodeError:
            return None

    def _fits(self, segments: list[str]) -> bool:
        rest = bool(self.segments) and self.segments[-1][0] == _REST
        fixed = self.segments[:-1] if rest else self.segments
        if len(segments) < len(fixed) or (len(segments) > len(fixed) and not rest):
            return False
        return all(
            bool(segment) if kind == _ONE else _decoded(segment) == literal
            for (kind, literal), segment in zip(fixed, segments, strict=False)
        )


def compile(template: str) -> Template:  # noqa: A001 - the verb that `re` has for this
    """The compiled `template`. Raises `TemplateError` for one that is not in the language above."""
    return _Parser(template).parse()


class _Parser:
    def __init__(self, text: str) -> None:
        self.text = text
        self.position = 0
        self.segments: list[tuple[int, str]] = []
        self.bound: list[Variable] = []

    def parse(self) -> Template:
        if len(self.text) > _MAX_LENGTH:
            raise TemplateError(f"{self.text[:40]!r}…: longer than {_MAX_LENGTH} characters")
        if not self._take("/"):
            raise self._error('must start with "/"')
        if self.position < len(self.text):
            self._read_segments(inside=False)
        verb = ""
        if self._take(":"):
            verb = self._literal("the verb")
        if self.position < len(self.text):
            raise self._error(f"{self.text[self.position]!r} is not expected here")
        return Template(self.text, tuple(self.segments), verb, tuple(self.bound))

    def _read_segments(self, *, inside: bool) -> None:
        self._read_segment(inside=inside)
        while self._take("/"):
            self._read_segment(inside=inside)

    def _read_segment(self, *, inside: bool) -> None:
        if self.segments and self.segments[-1][0] == _REST:
            raise self._error("** must be the last segment")
        if self._take("**"):
            self.segments.append((_REST, ""))
        elif self._take("*"):
            self.segments.append((_ONE, ""))
        elif self._peek("{"):
            if inside:
                raise self._error("a variable must not contain another one")
            self._read_variable()
        else:
            self.segments.append((_LITERALLY, self._literal("a segment")))

    def _read_variable(self) -> None:
        opened = self.position
        self._take("{")
        start = len(self.segments)
        name = self._field_path()
        if self._take("="):
            self._read_segments(inside=True)
        else:
            self.segments.append((_ONE, ""))
        if not self._take("}"):
            raise self._error('"}" is expected here')
        taken = self.segments[start:]
        rest = taken[-1][0] == _REST
        for other in self.bound:
            if f"{other.name}.".startswith(f"{name}.") or f"{name}.".startswith(f"{other.name}."):
                raise self._error(f"{name} is bound twice", opened)
        self.bound.append(Variable(name, start, None if rest else len(self.segments), rest or len(taken) > 1))

    def _field_path(self) -> str:
        start = self.position
        while found := _IDENTIFIER.match(self.text, self.position):
            self.position = found.end()
            if not self._take("."):
                return self.text[start : self.position]
        raise self._error("a field name is expected here")

    def _literal(self, what: str) -> str:
        found = _LITERAL.match(self.text, self.position)
        if found is None:
            raise self._error(f"{what} is expected here")
        decoded = _decoded(found.group())
        if decoded is None:
            raise self._error("the percent-encoding is not UTF-8")
        self.position = found.end()
        return decoded

    def _peek(self, token: str) -> bool:
        return self.text.startswith(token, self.position)

    def _take(self, token: str) -> bool:
        if not self._peek(token):
            return False
        self.position += len(token)
        return True

    def _error(self, problem: str, position: int | None = None) -> TemplateError:
        return TemplateError(
            f"{self.text!r}, position {(self.position if position is None else position) + 1}: {problem}"
        )


def _split(path: str) -> list[str] | None:
    if not path.startswith("/") or _BROKEN_ESCAPE.search(path):
        return None
    return [] if path == "/" else path[1:].split("/")


def _cut_verb(segments: list[str]) -> tuple[list[str], str]:
    """The segments without the last one's custom verb, and that verb; "" when there is none."""
    if not segments:
        return segments, ""
    name, colon, verb = segments[-1].rpartition(":")
    if not colon:
        return segments, ""
    return [*segments[:-1], name], _decoded(verb) or ""


def _decoded(segment: str) -> str | None:
    if "%" not in segment:
        return segment
    try:
        return unquote(segment, errors="strict")
    except UnicodeDecodeError:
        return None


def _encoded(literal: str) -> str:
    return quote(literal, safe="!$&'()+,;=@")


Target = TypeVar("Target")


@define
class _Node(Generic[Target]):
    """The templates that begin with the same segments."""

    literals: "dict[str, _Node[Target]]" = Factory(dict)
    one: "_Node[Target] | None" = None
    # By custom verb ("" for none): what ends here, and what takes the rest of the path from here.
    ends: "dict[str, _Verbs[Target]]" = Factory(dict)
    rests: "dict[str, _Verbs[Target]]" = Factory(dict)


# The rules of one template shape by HTTP verb.
_Verbs = dict[str, tuple[Template, Target]]

ANY_VERB: Final = "*"


@define
class Router(Generic[Target]):
    """A table from HTTP verb and path to what was added for them.

    The most specific template that was added for the verb wins. When the last segment ends with a custom verb that some
    template knows (`:cancel`), templates without it are not considered: an id with a colon needs it encoded there. The
    verb "*" stands for every verb.
    """

    _root: _Node[Target] = field(init=False, factory=_Node)

    def add(self, verb: str, template: Template, target: Target) -> None:
        """Let `target` answer `verb` on the paths of `template`. Raises `TemplateError` when they are taken."""
        node, last = self._root, self._root.ends
        for kind, literal in template.segments:
            if kind == _REST:
                last = node.rests
                break
            if kind == _ONE:
                node.one = node = node.one or _Node()
            else:
                node = node.literals.setdefault(literal, _Node())
            last = node.ends
        verbs = last.setdefault(template.verb, {})
        if verb in verbs:
            raise TemplateError(f"{verb} {template.text} matches the same paths as {verb} {verbs[verb][0].text}")
        verbs[verb] = (template, target)

    def match(self, verb: str, path: str) -> tuple[Target, dict[str, str]] | None:
        """What answers `verb` on the percent-encoded `path`, and the values of its template's variables."""
        for segments, verbs in self._candidates(path):
            found = verbs.get(verb) or verbs.get(ANY_VERB)
            if found is None:
                continue
            template, target = found
            variables = template.extract(segments)
            if variables is not None:
                return target, variables
        return None

    def allowed(self, path: str) -> tuple[str, ...]:
        """The verbs that are answered on `path`, sorted. Nothing there: 404; another verb asked for: 405."""
        return tuple(sorted({verb for _, verbs in self._candidates(path) for verb in verbs}))

    def _candidates(self, path: str) -> "Iterator[tuple[list[str], _Verbs[Target]]]":
        """All templates that fit, the most specific first, by the verbs that they were added for."""
        segments = _split(path)
        if segments is None:
            return
        cut, verb = _cut_verb(segments)
        found = False
        if verb:
            for verbs in self._walk(cut, verb):
                found = True
                yield cut, verbs
        if not found:
            for verbs in self._walk(segments, ""):
                yield segments, verbs

    def _walk(self, segments: list[str], verb: str) -> "Iterator[_Verbs[Target]]":
        waiting: list[tuple[int, _Node[Target] | _Verbs[Target]]] = [(0, self._root)]
        while waiting:
            index, node = waiting.pop()
            if isinstance(node, dict):
                yield node
                continue
            # Pushed from the least specific to the most specific.
            if rest := node.rests.get(verb):
                waiting.append((index, rest))
            if index == len(segments):
                if end := node.ends.get(verb):
                    yield end
                continue
            segment = segments[index]
            if node.one is not None and segment:
                waiting.append((index + 1, node.one))
            if (literal := node.literals.get(_decoded(segment) or "")) is not None:
                waiting.append((index + 1, literal))
