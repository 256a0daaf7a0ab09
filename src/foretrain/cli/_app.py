"""Finds the command, runs it, and turns failures a user can act on into one line and exit code 2."""

import contextlib
import io
import re
import sys
from collections.abc import Sequence
from typing import Annotated, NoReturn

import tyro

from foretrain._foundation import ForetrainError
from foretrain.cli._bench import Bench
from foretrain.cli._compress import Compress
from foretrain.cli._convert import Convert
from foretrain.cli._demo import Demo
from foretrain.cli._fit import Fit
from foretrain.cli._forecast import ForecastCommand
from foretrain.cli._inspect import Inspect
from foretrain.cli._page import PageCommand
from foretrain.cli._plan import PlanCommand
from foretrain.cli._predict import Predict
from foretrain.cli._problem import ProblemCommand
from foretrain.cli._report import Report
from foretrain.cli._reproduce import Reproduce
from foretrain.cli._run import RunCommand
from foretrain.cli._train import Train

Command = (
    Annotated[Demo, tyro.conf.subcommand("demo")]
    | Annotated[RunCommand, tyro.conf.subcommand("run")]
    | Annotated[Inspect, tyro.conf.subcommand("inspect")]
    | Annotated[Convert, tyro.conf.subcommand("convert")]
    | Annotated[ProblemCommand, tyro.conf.subcommand("problem")]
    | Annotated[PlanCommand, tyro.conf.subcommand("plan")]
    | Annotated[ForecastCommand, tyro.conf.subcommand("forecast")]
    | Annotated[Train, tyro.conf.subcommand("train")]
    | Annotated[Fit, tyro.conf.subcommand("fit")]
    | Annotated[Compress, tyro.conf.subcommand("compress")]
    | Annotated[Predict, tyro.conf.subcommand("predict")]
    | Annotated[Bench, tyro.conf.subcommand("bench")]
    | Annotated[PageCommand, tyro.conf.subcommand("page")]
    | Annotated[Report, tyro.conf.subcommand("report")]
    | Annotated[Reproduce, tyro.conf.subcommand("reproduce")]
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of `foretrain`."""
    try:
        parsed(arguments).execute()
    except ForetrainError as error:
        fail(str(error))
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        fail(f"{place}{error.strerror or error}; check the path, its permissions and the space left")
    except MemoryError as error:
        fail(f"out of memory ({error}); use fewer functions or points, or smaller widths")
    except KeyboardInterrupt:
        print("foretrain: interrupted; what was finished is in the run folder", file=sys.stderr)
        raise SystemExit(130) from None


def parsed(arguments: Sequence[str] | None) -> Command:
    """The command of these arguments.

    Raises:
        ForetrainError: arguments that are no command.
        SystemExit: after --help.
    """
    told = io.StringIO()
    try:
        with contextlib.redirect_stderr(told):
            return tyro.cli(
                Command,
                prog="foretrain",
                description="Forecast how a neural operator will train, train it with a certificate, ship it small.",
                args=arguments,
                config=(tyro.conf.OmitArgPrefixes, tyro.conf.OmitSubcommandPrefixes, tyro.conf.FlagCreatePairsOff),
            )
    except SystemExit:
        # Help goes to standard output and leaves nothing here.
        if told.getvalue().strip():
            raise ForetrainError(one_line(told.getvalue())) from None
        raise


def one_line(box: str) -> str:
    """What the parser says in a frame, as one line: what is wrong, the likeliest correction, where to read on."""
    inside = [line.strip("│ ") for line in box.splitlines() if not line.lstrip().startswith(("╭", "╰"))]
    sections: list[list[str]] = [[]]
    for line in inside:
        if line and not line.strip("─-"):
            sections.append([])
        elif line:
            sections[-1].append(line)
    sections = [section for section in sections if section]
    if "╭" not in box and len(sections) > 1:
        # Without characters for a frame, its title is the first section.
        del sections[0]
    wrong = " ".join(sections[0]).rstrip(".")
    wrong += next(("; " + " ".join(part) for part in sections[1:] if part[0].startswith("Available")), "")
    meant = next((part[1] for part in sections[1:] if part[0].startswith("Perhaps") and part[1:]), "")
    name = re.match(r"--\S+", meant)
    helps = re.search(r"foretrain( \S+)? --help", " ".join(inside))
    where = helps.group() if helps else "foretrain --help"
    return wrong + (f"; perhaps {name.group()}" if name else "") + f"; see {where}"


def fail(message: str) -> NoReturn:
    """Ends the program with one line on standard error and exit code 2."""
    print(f"foretrain: {' '.join(message.split())}", file=sys.stderr)
    raise SystemExit(2) from None


if __name__ == "__main__":
    main()
