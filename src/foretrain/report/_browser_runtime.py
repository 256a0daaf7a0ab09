"""ONNX Runtime Web for a page: inside it, from a folder, or by the public address of one pinned version."""

import base64
import gzip
import json
from dataclasses import dataclass
from pathlib import Path

from foretrain._foundation import ForetrainError

PACKAGE, VERSION = "onnxruntime-web", "1.30.0"
FILES = {"script": "ort.wasm.bundle.min.mjs", "program": "ort-wasm-simd-threaded.wasm"}
ADDRESS = f"https://cdn.jsdelivr.net/npm/{PACKAGE}@{VERSION}/dist/"
# Of that version's files: what a network delivers is run only if it is these.
INTEGRITY = {
    "script": "sha384-PLWz+nHEVHpjwBsO0YVdvQj6n5814Iv8E3b8FG0Rp/uIAtjFMCKOpP66iPzedrIG",
    "program": "sha384-vjBJ1z7qrhkTyYsNqKeF6c7N+nOJSU94czEo+tvZcu8G75JparGq9kB+kTnEUNVM",
}


@dataclass(frozen=True)
class BrowserRuntime:
    """The runtime of a page.

    Attributes:
        version: of onnxruntime-web; "" where a folder does not tell.
        inside: its files, compressed, in base64, by what they are; empty if the page loads them.
    """

    version: str
    inside: dict[str, str]

    @property
    def where(self) -> dict[str, dict[str, str]]:
        """For the page's script: addresses and what must come from them; empty if the files are inside."""
        if self.inside:
            return {}
        return {part: {"address": ADDRESS + name, "integrity": INTEGRITY[part]} for part, name in FILES.items()}


def browser_runtime(folder: str | Path | None) -> BrowserRuntime:
    """The runtime in that folder, or without one the pinned version at its public address.

    Raises:
        ForetrainError: a folder without the runtime's two files.
    """
    if folder is None:
        return BrowserRuntime(VERSION, {})
    places = (Path(folder), Path(folder) / "dist", Path(folder) / "package" / "dist")
    place = next((place for place in places if all((place / name).is_file() for name in FILES.values())), None)
    if place is None:
        raise ForetrainError(
            f"{folder}: expected a folder with {' and '.join(FILES.values())}, came one without; make it by "
            f"`make browser-runtime`, or unpack what `npm pack {PACKAGE}@{VERSION}` fetches"
        )
    # Without a time stamp, so that the same files give the same page.
    packed = {part: gzip.compress((place / name).read_bytes(), 9, mtime=0) for part, name in FILES.items()}
    return BrowserRuntime(
        _version(place), {part: base64.b64encode(content).decode() for part, content in packed.items()}
    )


def _version(place: Path) -> str:
    for description in (place / "package.json", place.parent / "package.json"):
        try:
            told = json.loads(description.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if isinstance(told, dict) and told.get("name") == PACKAGE:
            return str(told.get("version", ""))
    return ""
