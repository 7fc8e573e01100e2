"""Errors a user can mend, each with the exit code it ends in. Nothing else may reach the user as a traceback."""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum


class ExitCode(IntEnum):
    """The fixed exit codes of every command."""

    PASSED = 0
    FAILED = 1
    USAGE = 2
    INFRASTRUCTURE = 3
    CANCELLED = 130


class MltiersError(Exception):
    """Base of every expected failure: a sentence for the user, a remedy where there is one, an exit code."""

    exit_code: ExitCode = ExitCode.INFRASTRUCTURE

    def __init__(self, message: str, *, remedy: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.message}\n  {self.remedy}" if self.remedy else self.message

    @property
    def line(self) -> str:
        """All of it in one line, for a place among others."""
        return f"{self.message} ({self.remedy})" if self.remedy else self.message


class UsageError(MltiersError):
    """The command line, the environment or a file the user gave is wrong."""

    exit_code = ExitCode.USAGE


class ConfigError(UsageError):
    """ml-tiers.yml is wrong; carries every problem found, each formatted as ``file:line:col: path: sentence``."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)


class InfrastructureError(MltiersError):
    """Something outside the tests failed: git, GitHub, the machine."""

    exit_code = ExitCode.INFRASTRUCTURE


class Cancelled(MltiersError):  # noqa: N818 -- it is not an error of anybody's
    """Somebody stopped us (SIGINT, SIGTERM)."""

    exit_code = ExitCode.CANCELLED
