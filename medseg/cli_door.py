"""The door of the command line: errors become one sentence and an exit code; --debug shows the traceback."""

from __future__ import annotations

import json
import traceback
from pathlib import Path

import click

USER_MISTAKE, SOME_FAILED, OURS, STOPPED, REQUEUE = 2, 3, 1, 130, 75


def run_safely(cli: click.Command, arguments: list[str]) -> int:
    """Runs the verbs; whatever goes wrong becomes one sentence and an exit code."""
    from medseg.core.errors import Interrupted, UserError

    debug = "--debug" in arguments
    try:
        cli.main(args=arguments, prog_name="medseg", standalone_mode=False)
        return 0
    except click.exceptions.Exit as err:
        return err.exit_code
    except click.ClickException as err:
        err.show()
        return USER_MISTAKE
    except (UserError, OSError) as err:
        return _mistake(err, "--json" in arguments, debug)
    except Interrupted as err:
        stopped = STOPPED if "SIGINT" in str(err) else REQUEUE
        click.echo(
            "stopped; what was finished is kept. Continue with the same command and --resume (or --out RUN)",
            err=True,
        )
        return stopped
    except (KeyboardInterrupt, click.exceptions.Abort):
        click.echo(
            "\nstopped; what was finished is kept. Continue with the same command and --resume (or --out RUN)",
            err=True,
        )
        return STOPPED
    except SystemExit as err:
        return int(err.code or 0) if not isinstance(err.code, str) else OURS
    except Exception as err:
        return _our_fault(err, debug)


def _mistake(err: Exception, as_json: bool, debug: bool) -> int:
    from medseg.core.atomic import writing_failed
    from medseg.core.errors import UserError

    if isinstance(err, OSError):
        err = writing_failed(err, Path(err.filename or "."))
    if debug:
        traceback.print_exc()
    click.echo(f"medseg: {err}", err=True)
    if as_json and isinstance(err, UserError):
        click.echo(json.dumps({"error": err.as_json()}))
    return USER_MISTAKE


def _our_fault(err: Exception, debug: bool) -> int:
    """The text of a foreign error may hold a name or a path: it goes to the screen, the log gets places only."""
    from medseg.core.progress import note

    frames = traceback.extract_tb(err.__traceback__)
    note(
        f"{type(err).__name__} at "
        + " < ".join(f"{Path(f.filename).name}:{f.lineno}" for f in reversed(frames[-8:]))
    )
    traceback.print_exc()
    click.echo(
        "medseg: this is a fault of medseg, not yours; what was finished is kept (RUN/run.log)", err=True
    )
    return OURS
