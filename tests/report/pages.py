"""The page of a run, read back with an HTML parser of its own, and the files of the run it is held against."""

import json
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

Write = Callable[..., Path]
VOID = {"meta", "link", "br", "input", "circle", "path", "rect"}


class Page(HTMLParser):
    """Elements, their text, and whether every element is closed where it should be."""

    def __init__(self, path: Path) -> None:
        super().__init__(convert_charrefs=True)
        self.source = path.read_text(encoding="utf-8")
        self.open: list[dict[str, Any]] = []
        self.elements: list[dict[str, Any]] = []
        self.feed(self.source)
        self.close()
        assert not self.open, f"left open: {self.open[-1]['tag']}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        element = {"tag": tag, "text": "", **dict(attrs)}
        self.elements.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append({"tag": tag, "text": "", **dict(attrs)})

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop()["tag"] == tag, f"</{tag}> does not close the element it stands in"

    def handle_data(self, data: str) -> None:
        for element in self.open:
            element["text"] += data

    def all(self, tag: str | None = None, kind: str | None = None) -> list[dict[str, Any]]:
        """Elements by tag and by class."""
        of_tag = [element for element in self.elements if tag in (None, element["tag"])]
        return [element for element in of_tag if kind is None or kind in (element.get("class") or "").split()]

    @property
    def sentences(self) -> list[str]:
        return [plain(element["text"]) for element in self.all("dd", "sentence")]

    @property
    def charts(self) -> dict[str, dict[str, Any]]:
        (script,) = [element for element in self.all("script") if element.get("id") == "charts"]
        return {chart["id"]: chart for chart in json.loads(script["text"])}

    @property
    def text(self) -> str:
        return plain(self.all("body")[0]["text"])


def plain(text: str) -> str:
    return " ".join(text.replace("\u202f", " ").replace("\u2212", "-").replace("\u00d7", "x").split())


def read(folder: Path, name: str) -> dict[str, Any]:
    return json.loads((folder / name).read_text())


def edit(folder: Path, name: str, change: Callable[[dict[str, Any]], object]) -> None:
    """Lets `change` edit one JSON file of a run folder in place."""
    record = read(folder, name)
    change(record)
    (folder / name).write_text(json.dumps(record))
