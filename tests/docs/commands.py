"""Runs what a page tells its reader to type: rupert in this process, small where that is asked for, others in bash."""

from __future__ import annotations

import argparse
import glob
import io
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import urllib.request
from contextlib import redirect_stderr, redirect_stdout
from importlib import import_module
from pathlib import Path

import pytest

from rupert.attacks import ATTACKS
from rupert.cli.arguments import Parser, collect, config_path, flag_of
from rupert.cli.main import COMMANDS, main
from rupert.defenses import DEFENSES
from rupert.models.loading import ModelSettings
from rupert.settings import fields_of, read_yaml
from rupert.study.definition.reading import read_study
from rupert.study.definition.recipes import find_recipe

FEW = {  # flags that make a command small, by its name; the last value of a flag counts
    "eval": "--limit 4",
    "fidelity": "--max-length 32",
    "geometry": "--num-batches 3",
    "ladder": f"--budget 1 --config {Path(__file__).with_name('small-ladder.yaml')}",
    "score": "--max-steps 2 --limit 4",
    "sensitivity": "--limit 4",
}
SIZES = {"max_steps": 2, "num_examples": 16, "num_pairs": 16}
STUDIES = ("run", "demo", "plan", "validate", "verify")
Outcome = tuple[int, str]  # exit code, and all that was printed


def lines(text: str) -> list[str]:
    """The commands of a block, one each, comments left out."""
    whole = text.replace("\\\n", " ").splitlines()
    return [line for line in map(str.strip, whole) if line and not line.startswith("#")]


def run(line: str, *, small: bool = False, added: str = "") -> Outcome:
    """Run a line in the current folder."""
    words = shlex.split(line, comments=True)
    if words[0] != "rupert" or {"|", "||", "&&", "&"} & set(words):
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        done = subprocess.run(
            ["bash", "-c", line], env={**os.environ, "PATH": path}, capture_output=True, text=True, check=False
        )
        return done.returncode, done.stdout + done.stderr
    words = [found for word in words[1:] for found in sorted(glob.glob(word)) or [word]]  # noqa: PTH207
    words += _smaller(words) if small else []
    return _served(words) if words[0] == "view" else _called(words + shlex.split(added))


def parse(line: str) -> None:
    """Go as far as a command can without beginning its work: its arguments, its settings, and its study."""
    name, *words = shlex.split(line, comments=True)[1:]
    arguments = parser_of(name).parse_args(words)
    families = {"defend": DEFENSES, "attack": ATTACKS}
    if name in families:
        collect(arguments, families[name][arguments.method], config_path(arguments))
        collect(arguments, ModelSettings)
    elif name in ("run", "plan", "validate"):
        read_study(find_recipe(arguments.study, "study"), arguments.overrides)


def unknown_flags(line: str) -> set[str]:
    """The flags of a line that its command does not have; where no method is named, that none of its methods has."""
    name, *words = shlex.split(line)[1:]
    parsers = [parser_of(name)]
    for action in parsers[0]._actions:
        if isinstance(action, argparse._SubParsersAction):
            parsers += [action.choices[words[0]]] if words[0] in action.choices else action.choices.values()
    known = {flag for parser in parsers for flag in parser._option_string_actions}
    return {word.partition("=")[0] for word in words if word.startswith("--")} - known


def parser_of(name: str) -> Parser:
    """The parser of a command."""
    parser = Parser(prog=f"rupert {name}")
    import_module(COMMANDS[name].module).configure(parser)
    return parser


def _called(words: list[str], said: io.StringIO | None = None) -> Outcome:
    """In this process, where everything is imported already."""
    said = said or io.StringIO()
    with redirect_stdout(said), redirect_stderr(said):
        try:
            code = main(words)
        except SystemExit as done:  # --help
            code = int(done.code or 0)
    return code, said.getvalue()


def _served(words: list[str]) -> Outcome:
    """`rupert view`: its page is asked for once, and it is ended as Ctrl-C ends it."""
    said, ended, pages = io.StringIO(), threading.Event(), []

    def visit() -> None:
        while not ended.wait(0.05):
            if address := re.search(r"http://\S+", said.getvalue()):
                try:
                    with urllib.request.urlopen(address.group()) as page:
                        pages.append(page.read())
                finally:
                    os.kill(os.getpid(), signal.SIGINT)
                return

    visitor = threading.Thread(target=visit)
    visitor.start()
    try:
        code = _called([*words, "--no-browser"], said)[0]
    finally:
        ended.set()
        visitor.join()
    assert code or (pages and b"<html" in pages[0]), said.getvalue()
    return code, said.getvalue()


def _smaller(words: list[str]) -> list[str]:
    """Words that make a command small."""
    name = words[0]
    if name in STUDIES:
        return [] if "--results" in words else small_study(words)
    flags = shlex.split(FEW.get(name, ""))
    families = {"attack": ATTACKS, "defend": DEFENSES}
    if name in families:
        flags += [f"{flag_of(field)}={SIZES[field]}" for field in sizes(families[name][words[1]])]
    return flags


def small_study(given: list[str]) -> list[str]:
    """Words that make a study small: one seed, a few steps and rows of everything, one learning rate, four requests."""
    own = given[0] in ("demo", "verify")
    sections = labels(find_recipe("demo" if own else given[1], "study"))
    words = ["seeds=[0]", "evaluation.limit=4"]
    words += [] if "--executor" in given or given[0] in ("plan", "validate") else ["--executor", "in_process"]
    for section, family in (("defenses", DEFENSES), ("attacks", ATTACKS)):
        for label, settings in sections[section].items():
            if label == "none" or (section == "defenses" and given[0] == "verify" and label != given[1]):
                continue
            method = family[str(settings.get("method", label))]
            words += [f"{section}.{label}.{field}={SIZES[field]}" for field in sizes(method)]
            if isinstance(settings.get("learning_rate"), list):
                words.append(f"{section}.{label}.learning_rate=[1e-4]")
    set_already = {word.partition("=")[0] for word in given if "=" in word}
    return [word for word in words if word.partition("=")[0] not in set_already]


def sizes(method: type) -> list[str]:
    """Those settings of a method that say how large it is."""
    return [field.name for field in fields_of(method) if field.name in SIZES]


def labels(path: Path) -> dict[str, dict[str, dict[str, object]]]:
    """The settings of each defense and attack of a study's file and of those that it extends."""
    said = read_yaml(path)
    found = labels(find_recipe(str(said["extends"]), "study")) if "extends" in said else {"defenses": {}, "attacks": {}}
    for section, entries in found.items():
        for label, settings in (said.get(section) or {}).items():
            if settings == "drop":
                entries.pop(label, None)
            else:
                entries[label] = entries.get(label, {}) | (settings or {})
    return found


def fail(place: str, line: str, outcome: Outcome) -> None:
    """Say which command of which page did not work."""
    pytest.fail(f"{place}: `{line}` ended with {outcome[0]}:\n{outcome[1][-3000:]}", pytrace=False)
