"""Label and field selectors as the Kubernetes API writes them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

_KEY: Final = r"(?:[A-Za-z0-9](?:[-A-Za-z0-9_.]*[A-Za-z0-9])?/)?[A-Za-z0-9](?:[-A-Za-z0-9_.]*[A-Za-z0-9])?"
_VALUE: Final = r"(?:[A-Za-z0-9](?:[-A-Za-z0-9_.]*[A-Za-z0-9])?)?"
_TERM: Final = re.compile(
    rf"\s*(?:"
    rf"(?P<absent>!)\s*(?P<not_key>{_KEY})"
    rf"|(?P<key>{_KEY})(?:\s*(?P<op>==|=|!=)\s*(?P<value>{_VALUE})|\s+(?P<set>in|notin)\s*\((?P<values>[^()]*)\))?"
    rf")\s*(?:,|$)"
)
_VALUE_ALONE: Final = re.compile(_VALUE)


class BadSelector(ValueError):  # noqa: N818 - what it is
    """A text that is no selector; the message says which part."""


@dataclass(frozen=True, slots=True)
class Term:
    """One condition.

    Attributes:
        key: of a label, or the path of a field.
        values: the values that are meant; None: any.
        negated: whether the condition must not hold.
    """

    key: str
    values: frozenset[str] | None
    negated: bool

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Whether labels fulfil it. As in Kubernetes, `!=` and `notin` are fulfilled by what has no such label."""
        there = self.key in labels and (self.values is None or labels[self.key] in self.values)
        return there != self.negated


@dataclass(frozen=True, slots=True)
class Selector:
    """Conditions that must all hold; without any, everything is selected.

    Attributes:
        terms: the conditions.
    """

    terms: tuple[Term, ...] = ()

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Whether labels fulfil all of it."""
        return all(term.matches(labels) for term in self.terms)

    def exactly(self, key: str) -> str | None:
        """The one value that a key must have; None if it may have others."""
        for term in self.terms:
            if term.key == key and term.values is not None and len(term.values) == 1 and not term.negated:
                return next(iter(term.values))
        return None


def labels_selector(text: str) -> Selector:
    """A label selector: `a=b`, `a==b`, `a!=b`, `a in (b,c)`, `a notin (b,c)`, `a`, `!a`, separated by commas.

    Raises:
        BadSelector: it is none.
    """
    return Selector(tuple(_terms(text)))


def _terms(text: str) -> Iterator[Term]:
    place = 0
    if not text.strip():
        return
    while place < len(text):
        found = _TERM.match(text, place)
        if found is None:
            raise BadSelector(f"unable to parse requirement: {text[place:]!r} is not like `a=b`, `a in (b,c)` or `!a`")
        place = found.end()
        yield _term(found)
    if text.rstrip().endswith(","):
        raise BadSelector("unable to parse requirement: there is nothing after the last comma")


def _term(found: re.Match[str]) -> Term:
    if found["absent"]:
        return Term(found["not_key"], None, negated=True)
    if found["op"]:
        return Term(found["key"], frozenset({found["value"]}), negated=found["op"] == "!=")
    if found["set"]:
        values = [each.strip() for each in found["values"].split(",")]
        if wrong := [each for each in values if not _VALUE_ALONE.fullmatch(each)]:
            raise BadSelector(f"unable to parse requirement: {wrong[0]!r} is no value of a label")
        return Term(found["key"], frozenset(values), negated=found["set"] == "notin")
    return Term(found["key"], None, negated=False)


def fields_selector(text: str, known: Callable[[str], bool]) -> Selector:
    """A field selector: `metadata.name=x`, also with `==` and `!=`, separated by commas.

    Args:
        text: the selector.
        known: whether objects can be selected by a field.

    Raises:
        BadSelector: it is none, or there is no such field.
    """
    terms = []
    for part in text.split(",") if text.strip() else ():
        found = re.fullmatch(r"\s*([^=!,\s]+?)\s*(==|=|!=)(.*)", part)
        if found is None:
            raise BadSelector(f"invalid selector: {part!r}; can't understand it")
        if not known(found[1]):
            raise BadSelector(f"field label not supported: {found[1]}")
        terms.append(Term(found[1], frozenset({found[3].strip()}), negated=found[2] == "!="))
    return Selector(tuple(terms))
