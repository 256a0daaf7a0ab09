"""A run folder, read whole: what is there, and None for what is not."""

import json
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from foretrain._foundation import ForetrainError

Record = dict[str, Any]

_FIELDS_NEEDED = ("inputs", "truth", "prediction", "query_points", "sensor_points")


@dataclass(frozen=True)
class RunFolder:
    """The files of one run; every attribute but `name` and `environment` may be None."""

    name: str
    environment: Record
    config: str | None
    data: Record | None
    plan: Record | None
    forecast: Record | None
    metrics: list[Record] | None
    certificate: Record | None
    exact: Record | None
    compression: Record | None
    fields: dict[str, np.ndarray] | None


def read_run_folder(folder: Path) -> RunFolder:
    """Reads every file of a run; raises ForetrainError if `folder` is not a run folder or a file is damaged."""
    if not (folder / "environment.json").is_file():
        raise ForetrainError(
            f"{folder} is not a run folder: expected a folder with an environment.json, as `foretrain run` writes it"
        )
    return RunFolder(
        name=folder.resolve().name,
        environment=_read_record(folder / "environment.json") or {},
        config=_read_text(folder / "config.toml"),
        data=_read_record(folder / "data.json"),
        plan=_read_record(folder / "plan.json"),
        forecast=_read_record(folder / "forecast.json"),
        metrics=_read_lines(folder / "metrics.jsonl"),
        certificate=_read_record(folder / "certificate.json"),
        exact=_read_record(folder / "exact.json"),
        compression=_read_record(folder / "compression.json"),
        fields=_read_fields(folder / "fields.npz"),
    )


def _read_text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8") if path.is_file() else None
    except UnicodeDecodeError as error:
        raise ForetrainError(f"{path} is not UTF-8 text ({error.reason}); write it again or remove it") from error


def _read_record(path: Path) -> Record | None:
    text = _read_text(path)
    return None if text is None else _parse(text, path)


def _read_lines(path: Path) -> list[Record] | None:
    text = _read_text(path)
    if text is None:
        return None
    lines = text.split("\n")
    # A run that is still going, or was killed, may have left its last line half written: only whole lines count.
    return [_parse(line, path) for line in lines[:-1] if line.strip()]


def _parse(text: str, path: Path) -> Record:
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise ForetrainError(f"{path} is not valid JSON ({error}); write it again or remove it") from error
    if not isinstance(value, dict):
        raise ForetrainError(f"{path} should hold a JSON object, not a {type(value).__name__}")
    return value


def _read_fields(path: Path) -> dict[str, np.ndarray] | None:
    if not path.is_file():
        return None
    try:
        with np.load(path, allow_pickle=False) as archive:
            fields = {name: archive[name] for name in archive.files}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise ForetrainError(f"{path} cannot be read as plain NumPy arrays; write it again or remove it") from error
    missing = [name for name in _FIELDS_NEEDED if name not in fields]
    if missing:
        raise ForetrainError(f"{path} lacks the array {missing[0]!r}; write it again or remove it")
    _check_shapes(fields, path)
    return fields


def _check_shapes(fields: dict[str, np.ndarray], path: Path) -> None:
    functions = len(fields["truth"])
    expected = {
        "inputs": (functions, len(fields["sensor_points"])),
        "truth": (functions, len(fields["query_points"])),
        "prediction": (functions, len(fields["query_points"])),
        "compressed": (functions, len(fields["query_points"])),
        "errors": (functions,),
        "labels": (functions,),
    }
    for name, shape in expected.items():
        if name in fields and fields[name].shape != shape:
            raise ForetrainError(f"{path}: array {name!r} should have shape {shape}, not {fields[name].shape}")
