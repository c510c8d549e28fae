"""The status page as a test reads it: its words and its elements."""

from html.parser import HTMLParser

from api.migrations.core.status import Status
from api.migrations.web.status_page.page import render

NOW = 1700000105.0
VOID = {"meta", "link"}


class Document(HTMLParser):
    """Parses a page into words and elements, and checks that every element is closed in order."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.words: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self._inside: list[str] = []
        self.feed(page)
        assert self._inside == []
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Open an element."""
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._inside.append(tag)

    def handle_endtag(self, tag: str) -> None:
        """Close the element, which must be the open one."""
        assert self._inside.pop() == tag

    def handle_data(self, data: str) -> None:
        """Keep the text, unescaped."""
        if "style" not in self._inside:
            self.words.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        """Return the attributes of the elements of that name."""
        return [attributes for name, attributes in self.elements if name == tag]


def drawn(status: Status) -> Document:
    """Return the parsed page of a status."""
    return Document(render(status, NOW))
