"""Help with an example that works, for every command."""

import re
import shlex

import pytest
import tyro

from foretrain.cli._app import Command

COMMANDS = (
    "demo",
    "run",
    "inspect",
    "convert",
    "problem",
    "plan",
    "forecast",
    "train",
    "fit",
    "compress",
    "predict",
    "bench",
    "page",
    "report",
    "reproduce",
)


def words(text):
    """Text as one line, without the frames around it."""
    return " ".join(re.sub(r"[│╭╮╰╯─•|]", " ", text).split())


def test_the_help_lists_every_command(call):
    outcome = call("--help")
    assert outcome.code == 0
    for command in COMMANDS:
        assert f"Example: foretrain {command}" in words(outcome.output)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_a_command_shows_an_example_and_how_to_get_json(call, command):
    outcome = call(f"{command} --help")
    assert outcome.code == 0
    assert outcome.errors == ""
    assert f"Example: foretrain {command}" in words(outcome.output)
    assert "--json" in outcome.output


@pytest.mark.parametrize("command", COMMANDS)
def test_the_examples_are_commands_that_can_be_typed(command):
    types = {kind.__metadata__[0].name: kind.__origin__ for kind in Command.__args__}
    examples = re.findall(r"Example: foretrain (.*)", types[command].__doc__)
    assert examples
    for example in examples:
        name, *options = shlex.split(example)
        assert name == command
        assert isinstance(tyro.cli(types[command], args=options, config=(tyro.conf.OmitArgPrefixes,)), types[command])


@pytest.mark.parametrize(
    "line", ["", "trian data.npz", "run", "run data.npz --steps many", "run data.npz --colour red"]
)
def test_what_cannot_be_understood_is_explained_with_code_two(call, line):
    outcome = call(line)
    assert outcome.code == 2
    assert "foretrain" in outcome.output + outcome.errors
    assert "Traceback" not in outcome.output + outcome.errors
