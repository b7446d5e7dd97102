"""A worker process: does what it is asked by name, one thing after the other, until nothing more is asked.

Run as a program by `processes`, so that nobody's script is started again for a worker. Asked: one line of JSON,
{"call": "medseg.room.module:function", "arguments": [...]}. Answered: {"value": ...} or {"error": ...}.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
import traceback
from collections.abc import Mapping
from typing import IO, Any

from medseg.core.errors import UserError
from medseg.core.progress import be_quiet


def answer_to(asked: Mapping[str, Any]) -> dict[str, Any]:
    """Calls the function and returns its value, or what went wrong, as JSON can hold it."""
    try:
        return {"value": function_named(asked["call"])(*asked["arguments"])}
    except UserError as err:
        return {"error": err.as_json()}
    except Exception as err:
        # The traceback is for the log of the worker; its text may hold a path, so that it does not go further.
        traceback.print_exc()
        return {"error": {"what": f"{type(err).__name__} in a worker", "hint": "its log has the traceback"}}


def function_named(name: str) -> Any:
    """The function behind "medseg.room.module:function"; nothing outside this package can be named."""
    module, _, function = name.partition(":")
    if not module.startswith("medseg."):
        raise UserError(f"{name!r} is no function of medseg")
    return getattr(importlib.import_module(module), function)


def serve(asked: IO[bytes], answers: IO[bytes]) -> None:
    """Answers line by line."""
    for line in iter(asked.readline, b""):
        answers.write(json.dumps(answer_to(json.loads(line))).encode() + b"\n")
        answers.flush()


def main() -> None:
    """Answers on what standard output was; whatever a library prints goes to standard error."""
    be_quiet()
    # Ctrl-C reaches all processes of a terminal; who asked decides what becomes of it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    serve(sys.stdin.buffer, answers)


if __name__ == "__main__":
    main()
