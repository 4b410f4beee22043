"""The command `rupert`: what it prints, what it returns, and that no mistake ends in a traceback."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import rupert
from rupert.cli.arguments import Parser
from rupert.cli.main import COMMANDS, main, quieten_libraries

# A command module whose behaviour is its argument: what the real ones raise, without their work.
MADE_UP = '''
"""A made-up command."""
import errno, os, signal, sys, time
from rupert.cli.arguments import add_stage
from rupert.errors import NonFiniteError, UsageError

def configure(parser):
    parser.add_argument("--raise-it")
    if "--resume" in sys.argv:
        add_stage(parser, "anything")

def run(arguments):
    match arguments.raise_it:
        case "usage":
            raise UsageError("first line\\nsecond line")
        case "run":
            raise NonFiniteError("step 3: loss nan; lower the learning rate")
        case "disk":
            with open("/dev/full", "w") as file:
                file.write("weights" * 10_000)
        case "permission":
            raise PermissionError(errno.EACCES, "Permission denied", "/locked/model")
        case "own":
            raise FileNotFoundError(errno.ENOENT, "No such file", "forgotten")
        case "print":
            print("a line", flush=True)
        case "wait":
            # Jobs in the background ignore Ctrl-C, and so does what they start, such as these tests.
            signal.signal(signal.SIGINT, signal.default_int_handler)
            print("waiting", flush=True)
            time.sleep(60)
    return 3
'''
RUN_MADE_UP = """
import sys
from rupert.cli.main import COMMANDS, Command, main
COMMANDS["shatter"] = Command("shattering", "a made-up command")
sys.exit(main())
"""


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "rupert", *words], capture_output=True, text=True, check=False)


@pytest.fixture
def shatter(tmp_path: Path) -> tuple[list[str], dict[str, str]]:
    """The start of a command line that runs the made-up command, and its environment."""
    (tmp_path / "shattering.py").write_text(MADE_UP, encoding="utf-8")
    return [sys.executable, "-c", RUN_MADE_UP, "shatter"], {**os.environ, "PYTHONPATH": str(tmp_path)}


def shattered(shatter: tuple[list[str], dict[str, str]], *words: str) -> tuple[int, str]:
    command, environment = shatter
    done = subprocess.run([*command, *words], env=environment, capture_output=True, text=True, check=False)
    return done.returncode, done.stderr


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"]])
def test_help_names_every_command(words: list[str]) -> None:
    done = run(*words)
    assert (done.returncode, done.stderr) == (0, "")
    for name, command in COMMANDS.items():
        assert f"  {name} " in done.stdout
        assert command.about in done.stdout


def test_version() -> None:
    assert run("--version").stdout == f"rupert {rupert.__version__}\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["defnd"], "command: 'defnd' is unknown; did you mean 'defend'?"),
        (["--versoin"], "unknown option --versoin; did you mean --version?"),
        (["env", "--jsn"], "unknown option --jsn; did you mean --json?"),
        (["env", "stray"], "unexpected argument 'stray'; see rupert env --help"),
        (["ls"], "the following arguments are required: kind; see rupert ls --help"),
        (["ls", "model"], "kind: 'model' is unknown; did you mean 'models'?"),
    ],
)
def test_a_wrong_request_is_one_line_and_exit_code_2(words: list[str], message: str) -> None:
    done = run(*words)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"rupert: {message}\n")


def test_an_exit_code_is_the_command_s_own(shatter: tuple[list[str], dict[str, str]]) -> None:
    assert shattered(shatter) == (3, "")


@pytest.mark.parametrize(
    ("what", "code", "message"),
    [
        ("usage", 2, "rupert: first line\nrupert: second line\n"),
        ("run", 1, "rupert: step 3: loss nan; lower the learning rate\n"),
        ("disk", 1, "rupert: no space left on the disk; free some and repeat the command\n"),
        (
            "permission",
            2,
            "rupert: no permission for '/locked/model'; name another place or change its permissions\n",
        ),
    ],
)
def test_an_error_is_a_line_without_traceback(
    shatter: tuple[list[str], dict[str, str]], what: str, code: int, message: str
) -> None:
    assert shattered(shatter, "--raise-it", what) == (code, message)


def test_our_own_mistakes_keep_their_traceback(shatter: tuple[list[str], dict[str, str]]) -> None:
    code, errors = shattered(shatter, "--raise-it", "own")
    assert code == 1
    assert errors.startswith("Traceback")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--resume", "--output-dir", "d"],
            "rupert: interrupted; repeat the command with --resume to go on from here\n",
        ),
        ([], "rupert: interrupted\n"),
    ],
)
def test_ctrl_c_is_one_line_and_exit_code_130(
    shatter: tuple[list[str], dict[str, str]], words: list[str], message: str
) -> None:
    command, environment = shatter
    with subprocess.Popen(
        [*command, "--raise-it", "wait", *words],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "waiting\n"
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
    assert (process.returncode, errors) == (130, message)


def test_a_closed_pipe_is_quiet(shatter: tuple[list[str], dict[str, str]]) -> None:
    command, environment = shatter
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [*command, "--raise-it", "print"],
        env=environment,
        stdout=writing,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (1, "")


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_can_be_imported_configured_and_run(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    module = import_module(COMMANDS[name].module)
    parser = Parser(prog=f"rupert {name}")
    module.configure(parser)
    assert callable(module.run)
    with pytest.raises(SystemExit) as finished:
        parser.parse_args(["--help"])
    assert finished.value.code == 0
    assert f"usage: rupert {name}" in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["datasets", "models", "defenses", "attacks", "judges"])
def test_ls_prints_the_same_rows_as_json_and_as_a_table(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ls", kind, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert rows
    assert all(row["name"] for row in rows)
    assert main(["ls", kind]) == 0
    table = capsys.readouterr().out
    assert all(row["name"] in table for row in rows)


def test_the_user_s_own_variables_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRANSFORMERS_VERBOSITY", "info")
    monkeypatch.delenv("DATASETS_VERBOSITY", raising=False)
    quieten_libraries()
    assert os.environ["TRANSFORMERS_VERBOSITY"] == "info"
    assert os.environ["DATASETS_VERBOSITY"] == "error"
