"""One network in several number formats: files that lie beside each other and are named after their format."""

from pathlib import Path

from foretrain.compression import CompressedModel
from foretrain.deployment._builder import NUMBER_FORMATS
from foretrain.deployment._package import Package, write_model


def format_path(model: str | Path, number_format: str) -> Path:
    """model.onnx, "int8 weights" -> model.int8-weights.onnx, in the same folder."""
    path = Path(model)
    return path.with_name(f"{path.stem}.{number_format.replace(' ', '-')}{path.suffix}")


def formats_beside(model: str | Path) -> dict[str, Path]:
    """Number format -> file, of those that lie beside a model."""
    paths = {number_format: format_path(model, number_format) for number_format in NUMBER_FORMATS}
    return {number_format: path for number_format, path in paths.items() if path.is_file()}


def write_formats(small: CompressedModel, model: str | Path) -> dict[str, Path]:
    """Writes the chosen network in every format that was packaged, beside the model; a failure leaves no partial file.

    These are for comparison: they carry no trust, and whether they keep the budget is in the table of candidates.

    Returns:
        number format -> file; nothing where nothing was chosen.
    """
    chosen = small.chosen
    packages = {
        candidate.format: candidate.package
        for candidate in small.candidates
        if chosen is not None and candidate.name == chosen.name and isinstance(candidate.package, Package)
    }
    return {name: write_model(package, format_path(model, name)) for name, package in packages.items()}
