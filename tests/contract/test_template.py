"""Path templates: what is one, what it matches, which of several wins, and what a hostile path gets."""

import re
from urllib.parse import quote

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from bookd.contract.template import Router, TemplateError, compile

NAMES = st.sampled_from(["a", "b", "books"])


@st.composite
def templates(draw: st.DrawFn) -> str:
    """A template over few literals, so that paths often match."""
    made = [
        draw(st.one_of(NAMES, st.sampled_from(["*", f"{{v{number}}}", f"{{v{number}=a/*}}"])))
        for number in range(draw(st.integers(0, 4)))
    ]
    made += draw(st.sampled_from([[], ["**"], ["{rest=**}"], ["{rest=a/**}"]]))
    verb = draw(st.sampled_from(["", ":go"])) if made else ""
    return "/" + "/".join(made) + verb


PATHS = st.lists(st.one_of(NAMES, st.just(""), st.just("x")), max_size=6).flatmap(
    lambda pieces: st.sampled_from(["/" + "/".join(pieces), "/" + "/".join(pieces) + ":go"])
)


class GrammarTests(SynchronousTestCase):
    """The language of google/api/http.proto, and nothing beside it."""

    def test_refused(self) -> None:
        """What is no template is refused with the place of the fault."""
        for text in (
            "", "v1", "/v1/", "//", "/v1//b", "/{", "/{a", "/{a=", "/{a=}", "/{}", "/{1}", "/{a.}", "/{.a}", "/{a=b",
            "/**/b", "/{a=**}/b", "/{a=**/b}", "/{a={b}}", "/{a}/{a}", "/{a}/{a.b}", "/{a.b}/{a}", "/a:", "/a:b:c",
            "/a:b/c", "/a%zz", "/a%ff", "/é", "/a?b", "/a b", "/a#b", "/a{b}", "/{a}b", "/***", "/a*", "/" + "a" * 2000,
        ):  # fmt: skip
            with self.subTest(text=text[:40]):
                error = self.assertRaises(TemplateError, compile, text)
                self.assertRegex(str(error), r"position \d+|longer than")

    def test_nested_field_paths(self) -> None:
        """A variable names a field of a field, and variables keep their order."""
        made = compile("/v1/{book.shelf.name=shelves/*}/{page}:read")
        self.assertEqual(made.variables, ("book.shelf.name", "page"))
        self.assertEqual(made.match("/v1/shelves/7/3:read"), {"book.shelf.name": "shelves/7", "page": "3"})

    def test_verb(self) -> None:
        """A custom verb has to be there when the template has one; an encoded colon is none."""
        made = compile("/v1/{id}:cancel")
        self.assertEqual(made.match("/v1/7:cancel"), {"id": "7"})
        self.assertEqual(made.match("/v1/a:b:cancel"), {"id": "a:b"})
        for path in ("/v1/7", "/v1/7:Cancel", "/v1/7%3Acancel", "/v1/7:cancel/", "/v1/:cancel"):
            self.assertIsNone(made.match(path), path)

    def test_rest(self) -> None:
        """`**` takes what is left, nothing included."""
        made = compile("/v1/{name=files/**}")
        self.assertEqual(made.match("/v1/files"), {"name": "files"})
        self.assertEqual(made.match("/v1/files/a/b"), {"name": "files/a/b"})
        self.assertEqual(made.match("/v1/files/a//b/"), {"name": "files/a//b/"})
        self.assertIsNone(made.match("/v1/filesystem"))
        self.assertTrue(made.takes_rest)


class DecodingTests(SynchronousTestCase):
    """Percent-encoding: cut first, decoded afterwards, once."""

    def test_one_segment(self) -> None:
        """A variable of one segment is decoded fully, and never twice."""
        made = compile("/v1/{id}")
        self.assertEqual(made.match("/v1/a%2Fb"), {"id": "a/b"})
        self.assertEqual(made.match("/v1/a%252Fb"), {"id": "a%2Fb"})
        self.assertEqual(made.match("/v1/caf%C3%A9"), {"id": "café"})
        self.assertEqual(made.match("/v1/a+b"), {"id": "a+b"})

    def test_several_segments(self) -> None:
        """In a variable of several segments an encoded slash stays encoded."""
        made = compile("/v1/{name=a/**}")
        self.assertEqual(made.match("/v1/a/b%2Fc/%64"), {"name": "a/b%2Fc/d"})
        self.assertEqual(made.match("/v1/a/b%2fc"), {"name": "a/b%2fc"})

    def test_literal(self) -> None:
        """A literal is met in any spelling."""
        self.assertEqual(compile("/b%6Foks").match("/%62ooks"), {})

    def test_broken(self) -> None:
        """Broken encoding, and bytes that are not UTF-8, match nothing and raise nothing."""
        router: Router[int] = Router()
        router.add("GET", compile("/v1/{id}"), 1)
        router.add("GET", compile("/v1/{id}:go"), 2)
        for path in (
            "/v1/%",
            "/v1/%4",
            "/v1/%zz",
            "/v1/%ff",
            "/v1/%C3",
            "/v1/%ED%A0%80",
            "/v1/%u0041",
            "v1/a",
            "",
            "*",
        ):
            self.assertIsNone(compile("/v1/{id}").match(path), path)
            self.assertIsNone(router.match("GET", path), path)
        self.assertEqual(router.allowed("/v1/%zz"), ())

    @given(st.text(min_size=1, max_size=30).filter(lambda text: text.isprintable()))
    def test_any_text(self, text: str) -> None:
        """Any text that is encoded comes out as it was."""
        self.assertEqual(compile("/v1/{id}").match("/v1/" + quote(text, safe="")), {"id": text})

    @given(st.text(max_size=60))
    def test_any_path(self, path: str) -> None:
        """No path raises."""
        router: Router[int] = Router()
        for index, text in enumerate(("/", "/**", "/{a}", "/{a}:b", "/a/{b=**}:c")):
            router.add("GET", compile(text), index)
        for each in (path, "/" + path, "/a/" + path + ":c"):
            router.match("GET", each)
            router.allowed(each)


class PropertyTests(SynchronousTestCase):
    """The three ways to match agree."""

    @given(templates(), PATHS)
    def test_regex(self, text: str, path: str) -> None:
        """The regular expression of a template matches what the template matches, with the same values."""
        made = compile(text)
        values, found = made.match(path), re.fullmatch(made.regex, path)
        if not made.verb and path.endswith(":go"):
            return  # a path with a verb is decided by the router
        self.assertEqual(values is None, found is None, made.regex)
        if found is not None and values is not None:
            self.assertEqual([group or "" for group in found.groups()], list(values.values()))

    @given(st.lists(templates(), max_size=8), PATHS)
    def test_router(self, texts: list[str], path: str) -> None:
        """The router finds the most specific of the templates that match, whatever the order they were added in."""
        router: Router[str] = Router()
        added = {}
        for text in texts:
            made = compile(text)
            if made.shape in added:
                self.assertRaises(TemplateError, router.add, "GET", made, text)
            else:
                added[made.shape] = made
                router.add("GET", made, text)
        fitting = [made for made in added.values() if made.match(path) is not None]
        found = router.match("GET", path)
        if not fitting:
            self.assertIsNone(found)
            self.assertEqual(router.allowed(path), ())
        else:
            best = max(fitting, key=lambda made: made.specificity)
            self.assertEqual(found, (best.text, best.match(path)))
            self.assertEqual(router.allowed(path), ("GET",))


class RouterTests(SynchronousTestCase):
    """Which template answers."""

    def test_specificity(self) -> None:
        """A literal wins over one segment, one segment over the rest, and the verb falls back to the next that has it."""
        router: Router[str] = Router()
        for verb, text in (
            ("GET", "/v1/**"),
            ("GET", "/v1/{id}"),
            ("GET", "/v1/mine"),
            ("POST", "/v1/{id}"),
            ("*", "/v1/any/{id}"),
            ("POST", "/v1/any/{id}"),
        ):
            router.add(verb, compile(text), f"{verb} {text}")

        def winner(verb: str, path: str) -> str | None:
            found = router.match(verb, path)
            return None if found is None else found[0]

        self.assertEqual(winner("GET", "/v1/mine"), "GET /v1/mine")
        self.assertEqual(winner("GET", "/v1/other"), "GET /v1/{id}")
        self.assertEqual(winner("GET", "/v1/other/deep"), "GET /v1/**")
        self.assertEqual(winner("GET", "/v1/"), "GET /v1/**")
        self.assertEqual(winner("POST", "/v1/mine"), "POST /v1/{id}")
        self.assertEqual(winner("POST", "/v1/any/1"), "POST /v1/any/{id}")
        self.assertEqual(winner("DELETE", "/v1/any/1"), "* /v1/any/{id}")
        self.assertIsNone(winner("DELETE", "/v1/mine"))
        self.assertEqual(router.allowed("/v1/mine"), ("GET", "POST"))

    def test_unknown_verb_is_text(self) -> None:
        """A colon that begins no known custom verb belongs to the value."""
        router: Router[str] = Router()
        router.add("GET", compile("/v1/{id}"), "get")
        router.add("POST", compile("/v1/{id}:cancel"), "cancel")
        self.assertEqual(router.match("GET", "/v1/urn:isbn:1"), ("get", {"id": "urn:isbn:1"}))
        self.assertIsNone(router.match("GET", "/v1/7:cancel"))
        self.assertEqual(router.match("GET", "/v1/7%3Acancel"), ("get", {"id": "7:cancel"}))

    def test_hostile_paths(self) -> None:
        """Long paths, and paths that nearly match many templates, are answered in steps that add up, not multiply."""
        router: Router[int] = Router()
        deep = 12
        for number in range(2**8):
            bits = f"{number:08b}" + "0" * (deep - 8)
            router.add("GET", compile("/" + "/".join("*" if bit == "1" else "a" for bit in bits)), number)
        router.add("GET", compile("/" + "/".join(["*"] * 500)), -1)
        self.assertIsNone(router.match("GET", "/a" * 499 + "/"))
        self.assertIsNone(router.match("GET", "/a" * 100_000))
        self.assertIsNone(router.match("GET", "/" * 100_000))
        self.assertIsNone(router.match("GET", "/" + "%" * 100_000))
        self.assertIsNone(re.fullmatch(compile("/{a=*/*/*/*}/{b=*/*/**}:x").regex, "/a" * 10_000))
        self.assertIsNone(compile("/{a=*/*/**}:x").match("/a" + ":" * 100_000))
