"""Minimal GraphQL for a test server: parse a document and execute it against a graph of plain objects.

A node of the graph is a mapping whose values are plain values, further nodes, lists, or functions of the field's
arguments. What a document asks for is what it gets back; a field that the node does not have is null.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

_TOKEN = re.compile(
    r"""[\s,\ufeff]+ | \#[^\n]* | (?P<token> \.\.\. | [!$()\[\]{}:=@|&] | "(?:[^"\\\n]|\\.)*" |
        -?[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)? | [_A-Za-z][_0-9A-Za-z]* )""",
    re.VERBOSE,
)

Node = Mapping[str, Any]
Value = Callable[[Mapping[str, Any]], Any]
"""A value that is known once the variables are."""


@dataclass
class Selection:
    """One field asked for, or a fragment (``spread`` names it, inline ones have fields only)."""

    key: str = ""
    name: str = ""
    arguments: dict[str, Value] = field(default_factory=dict)
    conditions: list[Value] = field(default_factory=list)
    children: list[Selection] = field(default_factory=list)
    spread: str | None = None


@dataclass
class Document:
    """One operation and the fragments that it uses."""

    kind: str
    name: str
    defaults: dict[str, Value]
    selections: list[Selection]
    fragments: dict[str, list[Selection]]

    def execute(self, root: Node, variables: Mapping[str, Any]) -> dict[str, Any]:
        """The ``data`` of the reply."""
        known = {name: value({}) for name, value in self.defaults.items()} | dict(variables)
        return self._select(root, self.selections, known)

    def _select(self, node: Node, selections: list[Selection], variables: Mapping[str, Any]) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for chosen in selections:
            if not all(condition(variables) for condition in chosen.conditions):
                continue
            if chosen.name:
                value = node.get(chosen.name)
                if callable(value):
                    value = value(**{name: argument(variables) for name, argument in chosen.arguments.items()})
                result[chosen.key] = self._complete(value, chosen.children, variables)
            else:
                children = self.fragments[chosen.spread] if chosen.spread else chosen.children
                result |= self._select(node, children, variables)
        return result

    def _complete(self, value: Any, children: list[Selection], variables: Mapping[str, Any]) -> Any:
        if isinstance(value, list):
            return [self._complete(item, children, variables) for item in value]
        return self._select(value, children, variables) if isinstance(value, Mapping) and children else value


def parse(text: str) -> Document:
    """The document's operation; raises ``ValueError`` for what is not GraphQL."""
    return _Parser(text).document()


class _Parser:
    def __init__(self, text: str) -> None:
        self._tokens = list(_tokens(text))
        self._at = 0

    def document(self) -> Document:
        operations: list[tuple[str, str, dict[str, Value], list[Selection]]] = []
        fragments: dict[str, list[Selection]] = {}
        while self._peek():
            if self._peek() == "fragment":
                self._next()
                name = self._next()
                self._expect("on")
                self._next()
                fragments[name] = self._selections()
            else:
                operations.append(self._operation())
        if len(operations) != 1:
            raise ValueError(f"{len(operations)} operations; needed: one")
        return Document(*operations[0], fragments)

    def _operation(self) -> tuple[str, str, dict[str, Value], list[Selection]]:
        if self._peek() == "{":
            return "query", "", {}, self._selections()
        kind = self._next()
        name = self._next() if self._peek() not in ("(", "{", "@") else ""
        defaults: dict[str, Value] = {}
        if self._accept("("):
            while not self._accept(")"):
                self._expect("$")
                variable = self._next()
                self._expect(":")
                while self._peek() not in ("=", "$", ")"):
                    self._next()
                if self._accept("="):
                    defaults[variable] = self._value()
        return kind, name, defaults, self._selections()

    def _selections(self) -> list[Selection]:
        self._expect("{")
        found = []
        while not self._accept("}"):
            found.append(self._fragment() if self._accept("...") else self._field())
        return found

    def _fragment(self) -> Selection:
        if self._peek() not in ("on", "@", "{"):
            spread = self._next()
            return Selection(spread=spread, conditions=self._conditions())
        if self._accept("on"):
            self._next()
        conditions = self._conditions()
        return Selection(conditions=conditions, children=self._selections())

    def _field(self) -> Selection:
        key = name = self._next()
        if self._accept(":"):
            name = self._next()
        arguments = self._arguments()
        conditions = self._conditions()
        children = self._selections() if self._peek() == "{" else []
        return Selection(key, name, arguments, conditions, children)

    def _arguments(self) -> dict[str, Value]:
        arguments: dict[str, Value] = {}
        if self._accept("("):
            while not self._accept(")"):
                name = self._next()
                self._expect(":")
                arguments[name] = self._value()
        return arguments

    def _conditions(self) -> list[Value]:
        conditions: list[Value] = []
        while self._accept("@"):
            kind, arguments = self._next(), self._arguments()
            if kind in ("include", "skip"):
                conditions.append(_condition(kind == "include", arguments["if"]))
        return conditions

    def _value(self) -> Value:
        token = self._next()
        if token == "$":
            name = self._next()
            return lambda known: known.get(name)
        if token == "[":
            items: list[Value] = []
            while not self._accept("]"):
                items.append(self._value())
            return lambda known: [item(known) for item in items]
        if token == "{":
            self._at -= 1
            inner = self._object()
            return lambda known: {key: value(known) for key, value in inner.items()}
        constants = {"true": True, "false": False, "null": None}
        literal = constants[token] if token in constants else json.loads(token) if token[0] in '"-0123456789' else token
        return lambda known: literal

    def _object(self) -> dict[str, Value]:
        self._expect("{")
        inner: dict[str, Value] = {}
        while not self._accept("}"):
            key = self._next()
            self._expect(":")
            inner[key] = self._value()
        return inner

    def _peek(self) -> str:
        return self._tokens[self._at] if self._at < len(self._tokens) else ""

    def _next(self) -> str:
        token = self._peek()
        if not token:
            raise ValueError("the document ends too early")
        self._at += 1
        return token

    def _accept(self, token: str) -> bool:
        if self._peek() == token:
            self._at += 1
            return True
        return False

    def _expect(self, token: str) -> None:
        if not self._accept(token):
            raise ValueError(f"{self._peek()!r} found, {token!r} needed")


def _condition(wanted: bool, value: Value) -> Value:
    return lambda known: bool(value(known)) is wanted


def _tokens(text: str) -> Iterator[str]:
    at = 0
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            raise ValueError(f"not GraphQL: {text[at : at + 20]!r}")
        at = match.end()
        if match["token"]:
            yield match["token"]
