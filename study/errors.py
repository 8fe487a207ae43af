"""Errors that a person can act on; each family has its exit code.

Fields are positional and stay in ``args``: Ray pickles exceptions and loses keyword-only fields.
"""

from typing import ClassVar

EXIT_DONE = 0
EXIT_FAILED = 1
EXIT_BAD_INPUT = 2
EXIT_ENVIRONMENT = 3
EXIT_INTERRUPTED = 130


class StudyError(Exception):
    """Something went wrong: what was found and expected, and one thing to do about it (exit code 1)."""

    exit_code: ClassVar[int] = EXIT_FAILED

    def __init__(self, message: str, fix: str = "") -> None:
        super().__init__(message, fix)

    @property
    def message(self) -> str:
        """What was found and what was expected."""
        return str(self.args[0])

    @property
    def fix(self) -> str:
        """One thing to do; empty when the message already says it."""
        return str(self.args[1])

    def __str__(self) -> str:
        return f"{self.message}\n  fix: {self.fix}" if self.fix else self.message


class InputError(StudyError):
    """A file, table or argument that the user gave cannot be used (exit code 2)."""

    exit_code = EXIT_BAD_INPUT


class ConfigError(InputError):
    """The study file has faults; ``message`` lists all of them, one a line (exit code 2)."""


class DicomError(InputError):
    """An image file cannot be used; ``message`` is the reason, free of identifiers (exit code 2)."""


class EnvironmentFault(StudyError):
    """The machine or cluster lacks something that is needed (exit code 3)."""

    exit_code = EXIT_ENVIRONMENT


class InterruptedStudy(StudyError):
    """The user stopped the study; ``fix`` is the command that resumes it (exit code 130)."""

    exit_code = EXIT_INTERRUPTED


class LostCluster(StudyError):
    """The Ray cluster that this process had started has died under it; whatever asks Ray now waits or aborts."""


class TrainingFault(StudyError):
    """A training run cannot go on (a loss that is not finite, for example); the study does."""
