"""Reads the request header `Accept`."""

from __future__ import annotations


def prefers_html(accept: str) -> bool:
    """Whether an `Accept` header names `text/html`, and before it nothing that matches JSON.

    A greater weight comes first, then the order: browsers name HTML first, other clients never do.
    """
    offers = sorted(map(_offer, accept.lower().split(",")), key=lambda offer: -offer[1])
    known = {"text/html", "application/json", "application/*", "*/*"}
    return next((kind for kind, weight in offers if weight > 0 and kind in known), None) == "text/html"


def _offer(text: str) -> tuple[str, float]:
    kind, *parameters = (part.strip() for part in text.split(";"))
    try:
        return kind, float(next((one[2:] for one in parameters if one.startswith("q=")), "1"))
    except ValueError:
        return kind, 0.0
