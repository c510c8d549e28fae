"""HTML that cannot forget to escape: what is not an element already becomes text."""

from __future__ import annotations

from html import escape

from ...text.printable import printable


class Html(str):
    """Markup made by this module; every other string is foreign and is escaped where it is put in."""

    __slots__ = ()


def element(name: str, /, *children: object, **attributes: object) -> Html:
    """`<name …>children</name>`; None among children and attributes is left out.

    `class_` is `class`, `aria_label` is `aria-label`.
    """
    return Html(f"<{name}{_attributes(attributes)}>{joined(*children)}</{name}>")


def void(name: str, /, **attributes: object) -> Html:
    """An element that has no content, as `<meta>`."""
    return Html(f"<{name}{_attributes(attributes)}>")


def joined(*children: object) -> Html:
    """One after the other; None is left out."""
    return Html("".join(_text(child) for child in children if child is not None))


def _text(value: object) -> str:
    return value if isinstance(value, Html) else escape(printable(str(value), keep="\n\t"))


def _attributes(attributes: dict[str, object]) -> str:
    given = {name.rstrip("_").replace("_", "-"): value for name, value in attributes.items() if value is not None}
    return "".join(f' {name}="{escape(printable(str(value)))}"' for name, value in given.items())
