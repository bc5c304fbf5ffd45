"""Run `conceptevo` as a user types it, in this process: a new one would load torch for seconds."""

from typer.testing import CliRunner

from conceptevo import cli


def say(*words: object, error: type[Exception] | None = None) -> str:
    """Return what a command prints, or the message of its `error` if it fails."""
    result = CliRunner().invoke(cli.app, [str(word) for word in words], env={"COLUMNS": "200"})
    if error is not None:
        assert isinstance(result.exception, error), (result.output, result.exception)
        return str(result.exception)
    if result.exit_code:
        raise AssertionError(result.output) from result.exception
    return result.output
