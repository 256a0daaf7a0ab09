"""foretrain compress."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from foretrain._foundation import ForetrainError, write_json
from foretrain.cli._checks import require_file, require_values
from foretrain.cli._display import Display
from foretrain.cli._main_job import command_line
from foretrain.cli._quantities import DurationOrNone, ShareOrNone, SizeOrNone
from foretrain.cli._run import read_config
from foretrain.cli._tables import show_compressed
from foretrain.cli._user_functions import functions_in
from foretrain.cli._user_teacher import load_teacher, teacher_name
from foretrain.compression import Budget, CompressedModel, unlabelled_inputs
from foretrain.data import OperatorDataset, load_split
from foretrain.deployment import (
    OnnxPackager,
    compress_with_trust,
    write_formats,
    write_numpy_predictor,
    write_stablehlo,
)
from foretrain.tangent import InfiniteWidthOperator


@dataclass(frozen=True)
class Compress:
    """Shrink a run's closed-form operator, or a model of your own, to a small ONNX file within a budget.

    The file carries a band around its answers and a score that flags unusual inputs, as far as the budget has room.
    Half of the test functions choose the file, the other half calibrate the band.

    Example: foretrain compress runs/demo --max-error 2% --max-bytes 200kB --max-latency 1ms

    Example: foretrain compress data.npz --teacher my_module.py:net --unlabelled inputs.npz
    """

    run: Annotated[Path, tyro.conf.Positional]
    """Run folder; with --teacher the npz file of the data."""
    teacher: str | None = None
    """Your own model as FILE.py:NAME: a trained Equinox or torch module, a function that makes one, or a function of
    the inputs. Runs the file."""
    unlabelled: Path | None = None
    """npz file with the key inputs: your own input functions, for the teacher to label and the student to learn."""
    fresh: int | None = None
    """Inputs to draw beside them from a Gaussian model of the training inputs (default: 1500 less your own)."""
    max_error: ShareOrNone = 0.02
    """Mean relative L2 error: 2% or 0.02."""
    max_numbers: int | None = None
    """Numbers in the file."""
    max_bytes: SizeOrNone = None
    """Size of the file: 200kB, 1MiB or a number of bytes."""
    max_latency: DurationOrNone = None
    """Of one sample on one core: 1ms, 500us or seconds."""
    query_points: Literal["fixed", "input"] = "fixed"
    """Answer at the training query points, or at points that are a second input of the file."""
    test: int | None = None
    """With --teacher: functions to hold out for testing."""
    key: int | None = None
    """With --teacher: seed of the split and of what is drawn (default 0)."""
    out: Path | None = None
    """File to write (default: RUN/model.onnx; with --teacher model.onnx)."""
    numpy: Path | None = None
    """Also write a predictor that needs only NumPy, one .py file."""
    stablehlo: Path | None = None
    """Also write the chosen network, in float32, as StableHLO for jax.export and XLA; outside the budget."""
    all_formats: bool = False
    """Also write the same network in every number format beside it, for foretrain bench to compare."""
    json: bool = False
    """Print as JSON."""

    def execute(self) -> None:
        """Runs the command."""
        display = Display(self.json)
        self._check()
        budget = Budget(self.max_error, self.max_numbers, self.max_bytes, self.max_latency)
        learn, test, key = self._data()
        unlabelled = None
        if self.unlabelled is not None:
            unlabelled = unlabelled_inputs(functions_in(self.unlabelled), learn.inputs.shape[1])
        teacher: Any
        if self.teacher is None:
            teacher = InfiniteWidthOperator(key=key, progress=display).fit(learn)
        else:
            teacher = load_teacher(self.teacher, learn, key)
        small, trust = compress_with_trust(
            teacher,
            budget,
            learn,
            test,
            package=OnnxPackager(query_points=learn.query_points if self.query_points == "input" else None),
            unlabelled=unlabelled,
            fresh=self.fresh,
            key=key,
            card=self._card(learn),
            progress=display,
        )
        show_compressed(display, small)
        files = self._write(small)
        record = {**small.as_dict(), "trust": trust}
        write_json(
            files["model"].with_name("compression.json") if self.teacher else self.run / "compression.json", record
        )
        display.line(trust)
        for name, file in files.items():
            display.line(f"{name}: {file}")
        display.result({**record, **{name: str(file) for name, file in files.items()}})

    def _check(self) -> None:
        """What can be told to be wrong before anything is computed."""
        require_values(vars(self))
        for file in (self.out, self.numpy, self.stablehlo):
            require_file(file)
        if self.query_points == "input" and self.numpy is not None:
            raise ForetrainError(
                "--numpy: expected fixed query points, came --query-points input; the NumPy predictor answers at fixed "
                "points only"
            )
        if self.teacher is None and (self.test is not None or self.key is not None):
            raise ForetrainError("--test, --key: expected beside --teacher only, a run brings its own; leave them away")
        if self.teacher is not None and self.run.is_dir():
            raise ForetrainError(
                f"{self.run}: expected an npz file beside --teacher, came a folder; name the data file"
            )

    def _data(self) -> tuple[OperatorDataset, OperatorDataset, int]:
        """(training functions, test functions, key)."""
        if self.teacher is not None:
            key = self.key or 0
            return *load_split(self.run, self.test, key), key
        source, settings = read_config(self.run / "config.toml")
        return *load_split(source["path"], source.get("test"), source.get("key", 0)), settings.key

    def _card(self, learn: OperatorDataset) -> dict[str, object]:
        teacher = "infinite width" if self.teacher is None else teacher_name(self.teacher)
        card: dict[str, object] = {
            "data_fingerprint": learn.fingerprint,
            "teacher": teacher,
            "command": command_line(),
        }
        return card | ({"name": learn.name} if learn.name else {})

    def _write(self, small: CompressedModel) -> dict[str, Path]:
        usual = Path("model.onnx") if self.teacher is not None else self.run / "model.onnx"
        files = {"model": small.export(self.out or usual)}
        if small.chosen is None or small.chosen.package is None:
            raise ForetrainError("nothing keeps the budget, so there is no model to write; relax a limit")
        if self.numpy is not None:
            files["numpy"] = write_numpy_predictor(small.chosen.package.file, self.numpy)
        if self.stablehlo is not None:
            files["stablehlo"] = write_stablehlo(small, self.stablehlo)
        if self.all_formats:
            for number_format, file in write_formats(small, files["model"]).items():
                files[f"model in {number_format}"] = file
        return files
