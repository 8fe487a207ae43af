"""The command line: parses, prints, exits; every verb imports what it needs inside its function."""

from study.cli.app import app, main

__all__ = ["app", "main"]
