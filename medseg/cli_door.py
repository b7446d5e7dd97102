"""The door of the command line: errors become one sentence and an exit code; --debug shows the traceback."""

from __future__ import annotations

import json
import os
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from medseg.core.errors import UserError

USER_MISTAKE, SOME_FAILED, OURS, STOPPED, REQUEUE = 2, 3, 1, 130, 75


def run_safely(cli: click.Command, arguments: list[str]) -> int:
    """Runs the verbs; whatever goes wrong becomes one sentence and an exit code."""
    from medseg.core.errors import Interrupted, UserError

    debug, as_json = "--debug" in arguments, "--json" in arguments
    try:
        cli.main(args=arguments, prog_name="medseg", standalone_mode=False)
        return 0
    except click.exceptions.Exit as err:
        return err.exit_code
    except click.ClickException as err:
        err.show()
        _error_object(UserError(err.format_message(), "command line"), as_json)
        return USER_MISTAKE
    except BrokenPipeError:  # `medseg list | head`: who reads has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (UserError, OSError) as err:
        return _mistake(err, as_json, debug)
    except Interrupted as err:
        return _stopped(STOPPED if "SIGINT" in str(err) else REQUEUE, as_json)
    except (KeyboardInterrupt, click.exceptions.Abort):
        click.echo(err=True)
        return _stopped(STOPPED, as_json)
    except SystemExit as err:
        return int(err.code or 0) if not isinstance(err.code, str) else OURS
    except Exception as err:
        return _our_fault(err, as_json)


def _error_object(err: UserError, as_json: bool) -> None:
    """With --json also an error is one object on standard output."""
    if as_json:
        click.echo(json.dumps({"error": err.as_json()}))


def _stopped(code: int, as_json: bool) -> int:
    from medseg.core.errors import UserError

    err = UserError(
        "stopped; what was finished is kept",
        hint="the same command goes on (`medseg run` and `medseg train` without --out: with --resume)",
    )
    click.echo(f"{err.what}. {err.hint[0].upper()}{err.hint[1:]}", err=True)
    _error_object(err, as_json)
    return code


def _mistake(err: Exception, as_json: bool, debug: bool) -> int:
    from medseg.core.atomic import writing_failed
    from medseg.core.errors import UserError

    if isinstance(err, PermissionError) and err.filename and _unreadable(Path(str(err.filename))):
        err = UserError(
            "no permission to read this", str(err.filename), "ask its owner for the right to read it"
        )
    elif isinstance(err, OSError):
        err = writing_failed(err, Path(err.filename or "."))
    if debug:
        traceback.print_exc()
    click.echo(f"medseg: {err}", err=True)
    _error_object(err if isinstance(err, UserError) else UserError(str(err)), as_json)
    return USER_MISTAKE


def _unreadable(path: Path) -> bool:
    """Whether reading was refused; a path that is not there in a folder that can be looked into was to be made."""
    to_be_made = not os.path.lexists(path) and os.access(path.parent, os.X_OK)
    return not to_be_made and not os.access(path, os.R_OK)


def _our_fault(err: Exception, as_json: bool) -> int:
    """The text of a foreign error may hold a name or a path: it goes to the screen, the log gets places only."""
    from medseg.core.errors import UserError
    from medseg.core.progress import note

    frames = traceback.extract_tb(err.__traceback__)
    note(
        f"{type(err).__name__} at "
        + " < ".join(f"{Path(f.filename).name}:{f.lineno}" for f in reversed(frames[-8:]))
    )
    traceback.print_exc()
    said = UserError(
        "this is a fault of medseg, not yours; what was finished is kept (RUN/run.log)",
        hint=f"report the lines above ({type(err).__name__})",
    )
    click.echo(f"medseg: {said.what}", err=True)
    _error_object(said, as_json)
    return OURS
