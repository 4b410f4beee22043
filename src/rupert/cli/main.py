"""The command `rupert`: finds the command that is named, imports it, runs it, and turns errors into one line."""

from __future__ import annotations

import argparse
import errno
import os
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module

import rupert
from rupert.cli.arguments import Parser
from rupert.errors import DiskFullError, RupertError, UnknownName, UsageError

INTERRUPTED = 130  # as shells report a process that Ctrl-C ended


@dataclass(frozen=True, slots=True)
class Command:
    """A command: a module with `configure(parser) -> None` and `run(arguments) -> int`, and its line of help."""

    module: str
    about: str


COMMANDS = {
    "ls": Command("rupert.cli.ls", "list datasets, models, defenses, attacks, judges, scores or recipes"),
    "pair": Command("rupert.cli.pair", "give harmful instructions irrelevant responses, as SDD trains on"),
    "build": Command("rupert.cli.build", "make an embedded model again from nothing"),
    "defend": Command("rupert.cli.defend", "harden a model with a defense"),
    "attack": Command("rupert.cli.attack", "attack a model, or fine-tune it benignly"),
    "ladder": Command("rupert.cli.ladder", "climb a ladder of attackers, and say which rungs a model survives"),
    "break-cost": Command("rupert.cli.break_cost", "what breaking models costs, from ladders, as curves on one page"),
    "eval": Command("rupert.cli.eval", "measure a model's harm, ability and mechanism"),
    "judge": Command("rupert.cli.judge", "judge an evaluation's answers again, without generating them again"),
    "samples": Command("rupert.cli.samples", "read an evaluation's answers and verdicts, harmful text hidden"),
    "compare": Command("rupert.cli.compare", "compare two models on the same requests and questions"),
    "score": Command("rupert.cli.score", "fine-tune a model for an honest task and score it"),
    "sensitivity": Command("rupert.cli.sensitivity", "vary details around an attack, and see what flips its verdict"),
    "geometry": Command("rupert.cli.geometry", "compare a model's gradients on harmful and benign data"),
    "fidelity": Command("rupert.cli.fidelity", "compare the ways of estimating SEAM's gradient with the exact one"),
    "validate": Command("rupert.cli.validate", "find every mistake in a study, and say what it is"),
    "plan": Command("rupert.cli.plan", "say what a study takes before it is run: time, memory, disk, judge tokens"),
    "run": Command("rupert.cli.run", "run a study: a grid of defenses and attacks, measured, on one page"),
    "verify": Command("rupert.cli.verify", "hold what a paper claims of a defense against what comes out here"),
    "status": Command("rupert.cli.status", "show how far a study is, and what stopped it"),
    "report": Command("rupert.cli.report", "write a study's page, and its tables and figures for papers"),
    "card": Command("rupert.cli.card", "write a section on tamper resistance for a model card, and the same as JSON"),
    "release": Command("rupert.cli.release", "put hardened weights, card and hashes into a folder to publish"),
    "view": Command("rupert.cli.view", "show a study while it runs, as a page on this machine"),
    "gc": Command("rupert.cli.gc", "find what a study's folder holds and the study does not need, and delete it"),
    "diff": Command("rupert.cli.diff", "show where two studies or two stages differ, in settings and in numbers"),
    "demo": Command("rupert.cli.demo", "attack an undefended and a defended model, and show both on one page"),
    "env": Command("rupert.cli.env", "show what a bug report needs: versions, hardware, extras, settings"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return the exit code: 0 done, 1 the run failed, 2 the request was wrong, 130 interrupted."""
    try:
        try:
            return _dispatch(list(sys.argv[1:] if argv is None else argv))
        finally:
            sys.stdout.flush()  # here, where a closed pipe is still caught
    except RupertError as error:
        return _complain(str(error), error.exit_code)
    except KeyboardInterrupt:
        return _complain("interrupted", INTERRUPTED)
    except BrokenPipeError:
        # The interpreter flushes once more when it ends, and would complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        problem = _place_problem(error)
        if problem is None:
            raise
        return _complain(str(problem), problem.exit_code)


def _dispatch(words: list[str]) -> int:
    if not words or words[0].startswith("-"):
        parser = _top_parser()
        parser.parse_args(words)
        parser.print_help()
        return 0
    name, *rest = words
    if name not in COMMANDS:
        raise UnknownName("command", name, COMMANDS)
    quieten_libraries()
    module = import_module(COMMANDS[name].module)
    parser = Parser(prog=f"rupert {name}", description=COMMANDS[name].about)
    module.configure(parser)
    arguments = parser.parse_args(rest)
    try:
        return int(module.run(arguments))
    except KeyboardInterrupt:
        hint = getattr(arguments, "to_go_on", "")
        return _complain(f"interrupted; {hint}" if hint else "interrupted", INTERRUPTED)


def _top_parser() -> Parser:
    width = max(map(len, COMMANDS))
    commands = "\n".join(f"  {name:<{width}}  {command.about}" for name, command in COMMANDS.items())
    parser = Parser(
        prog="rupert",
        usage="rupert COMMAND ...",
        description=rupert.__doc__,
        epilog=f"commands:\n{commands}\n\n`rupert COMMAND --help` says more.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"rupert {rupert.__version__}")
    return parser


def quieten_libraries() -> None:
    """Keep the libraries' own notices out of a command's output; variables that the user has set stay as they are.

    They are environment variables because they must be set before the libraries are imported. Errors are still shown,
    and so are the Hub's download bars: the first download of a model takes minutes.
    """
    for name, value in {
        "TRANSFORMERS_VERBOSITY": "error",
        "DATASETS_VERBOSITY": "error",
        "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",  # one bar for each small map() of a data set
        "LMEVAL_LOG_LEVEL": "ERROR",
        "TOKENIZERS_PARALLELISM": "false",  # otherwise warns at each fork
        "HF_HUB_DISABLE_TELEMETRY": "1",  # TRL reports each training run to the Hub
    }.items():
        os.environ.setdefault(name, value)
    if not sys.warnoptions:
        for category in (DeprecationWarning, FutureWarning, UserWarning):
            warnings.filterwarnings("ignore", category=category, module=r"(?!rupert)")


def _place_problem(error: OSError) -> RupertError | None:
    """What to say of an error that is the disk's or the folder's rather than ours."""
    place = f" {error.filename!r}" if error.filename else ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DiskFullError(f"no space left on the disk{place and f' for{place}'}; free some and repeat the command")
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return UsageError(f"no permission for{place or ' a file'}; name another place or change its permissions")
    return None


def _complain(message: str, exit_code: int) -> int:
    for line in message.splitlines():
        print(f"rupert: {line}", file=sys.stderr)
    return exit_code
