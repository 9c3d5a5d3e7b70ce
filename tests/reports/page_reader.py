"""What a browser would make of a page: its text, its attributes, and whether its tags fit together."""

from __future__ import annotations

from html.parser import HTMLParser

_VOID = {"meta", "link", "img", "br"}
_LOADING = {"src", "href", "xlink:href", "action", "data", "poster", "srcset"}


class Page(HTMLParser):
    """A parsed page.

    Attributes:
        tags: names of all elements in order.
        texts: visible texts in order.
        loaded: every address the page would fetch.
        images: ``src`` of every picture.
        titles: tooltips (attributes and SVG title elements).
        handlers: attributes that would run script.
    """

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[str] = []
        self.texts: list[str] = []
        self.loaded: list[str] = []
        self.images: list[str] = []
        self.titles: list[str] = []
        self.handlers: list[str] = []
        self._open: list[str] = []
        self.feed(html)
        self.close()
        if self._open:
            raise ValueError(f"never closed: {self._open}")

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._element(tag, attrs)
        if tag not in _VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._element(tag, attrs)

    def handle_endtag(self, tag: str) -> None:
        opened = self._open.pop() if self._open else None
        if opened != tag:
            raise ValueError(f"</{tag}> closes <{opened}> at {self.getpos()}")

    def handle_data(self, data: str) -> None:
        inside = self._open[-1] if self._open else ""
        if inside == "title" and "svg" in self._open:
            self.titles.append(data)
        elif inside not in ("style", "title") and data.strip():
            self.texts.append(data)

    def _element(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            if name in _LOADING and value is not None:
                self.loaded.append(value)
                if tag == "img":
                    self.images.append(value)
            if name == "title" and value:
                self.titles.append(value)
            if name.startswith("on"):
                self.handlers.append(name)
