"""Datasets kept on disk: made once, verified whenever they are read."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from foretrain._foundation import DataError, Progress, ignore_progress
from foretrain.data import OperatorDataset, load
from foretrain.problems._catalogue import Problem, problem

CHARACTERS_OF_THE_KEY = 16


def cached(
    name: str, folder: str | Path | None, *, progress: Progress = ignore_progress, **parameters: Any
) -> OperatorDataset:
    """The data of a problem, read from a folder if they are there, else made and left there.

    The file's name has a digest of the problem's name, of the version of its code and of every parameter, those not
    given at their defaults. The file is written under another name first, so that it is whole or absent; it holds the
    digest of what was asked for and of its own numbers, and **both are compared before it is trusted.** A file that
    does not pass is made again; `description["cache"]` says so: "made", "read", or "made again" and why.

    Arguments:
        name: of the problem, as in `PROBLEMS`.
        folder: where files lie; made if it is not there. None makes the data without keeping them.
        progress: told how far the simulation is.
        parameters: of the problem.

    Raises:
        ForetrainError: no such problem or parameter; whatever the problem itself refuses.
        OSError: if the folder cannot be written to.
    """
    chosen = problem(name)
    if folder is None:
        return chosen.data(parameters, progress)
    request = _request(chosen, parameters)
    path = cache_file(name, folder, **parameters)
    note = "made"
    if path.exists():
        try:
            return _noted(_verified(path, request), "read")
        except DataError as error:
            note = f"made again: {' '.join(str(error).split())}"
    data = chosen.data(parameters, progress)
    proof = {"cache_request": request, "fingerprint": data.fingerprint}
    data = replace(data, description=dict(data.description) | proof)
    data.save(path)
    return _noted(data, note)


def cache_file(name: str, folder: str | Path, **parameters: Any) -> Path:
    """Where `cached` keeps the data of these parameters.

    Raises:
        ForetrainError: no such problem or parameter.
    """
    chosen = problem(name)
    digest = hashlib.sha256(_request(chosen, parameters).encode()).hexdigest()
    return Path(folder) / f"{chosen.name}-{digest[:CHARACTERS_OF_THE_KEY]}.npz"


def _request(chosen: Problem, parameters: dict[str, Any]) -> str:
    asked = {"problem": chosen.name, "version": chosen.version, "parameters": chosen.parameters(parameters)}
    return json.dumps(asked, sort_keys=True)


def _verified(path: Path, request: str) -> OperatorDataset:
    """The file's data, if they are what was asked for and what was written."""
    data = load(path)
    if data.description.get("cache_request") != request:
        raise DataError(f"{path}: expected the data that were asked for, came others")
    if data.description.get("fingerprint") != data.fingerprint:
        raise DataError(f"{path}: expected the numbers that were written, came others")
    return data


def _noted(data: OperatorDataset, note: str) -> OperatorDataset:
    return replace(data, description=dict(data.description) | {"cache": note})
