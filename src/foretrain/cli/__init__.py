"""The command line: one file for each command."""

from foretrain.cli._app import main

__all__ = ["main"]
