"""Flags made from settings classes, and a parser whose complaints are one line with the nearest valid name."""

from __future__ import annotations

import argparse
import difflib
import inspect
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NoReturn, TypeVar, get_args, get_origin

from rupert.errors import UnknownName, UsageError
from rupert.settings import SettingField, convert_all, fields_of, read_yaml, required_type

if TYPE_CHECKING:
    from rupert.training.tracking import Tracking

T = TypeVar("T")

OVERRIDE = re.compile(r"\w[\w.+-]*=")
_PLACEHOLDERS = {int: "INTEGER", float: "NUMBER", str: "TEXT"}


class Parser(argparse.ArgumentParser):
    """An argument parser that raises `UsageError` with one line where argparse prints its usage and exits.

    Names may be written with underscores too (`--learning_rate`), and never abbreviated: an abbreviation changes its
    meaning when a flag is added.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"allow_abbrev": False, **options})
        self.takes_overrides = False
        self.families: dict[str, Mapping[str, type]] = {}  # what is chosen from, by the name of the argument
        # As in Python 3.14; earlier ones take -5e-1 for a flag.
        self._negative_number_matcher = re.compile(r"-\.?\d")

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> tuple[Any, list[str]]:
        """As argparse, but with nothing left over: what is unknown is an error of the parser that met it."""
        given = [_with_hyphens(argument) for argument in (sys.argv[1:] if args is None else args)]
        self._refuse_unknown_flags(given)
        overrides = [word for word in given if self.takes_overrides and OVERRIDE.match(word)]
        parsed, unknown = super().parse_known_args([word for word in given if word not in overrides], namespace)
        if unknown:
            raise self._unknown_argument(unknown[0])
        parsed.given = given
        if self.takes_overrides:
            parsed.overrides += overrides
        return parsed, []

    def error(self, message: str) -> NoReturn:
        """Raise the message as a `UsageError`."""
        raise UsageError(f"{message.removeprefix('argument ')}; see {self.prog} --help")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            if action.dest in self.families and value in self.families[action.dest]:
                _ = self.families[action.dest][value]  # it is there and cannot be used: says why
            name = action.option_strings[0] if action.option_strings else str(action.metavar or action.dest)
            raise UnknownName(name, str(value), map(str, action.choices))

    def _refuse_unknown_flags(self, given: Sequence[str]) -> None:
        """Done before argparse looks, which would first miss the flag that was misspelt."""
        for argument in given:
            flag = argument.partition("=")[0]
            rest_is_another_parsers = self._subparsers is not None and not argument.startswith("-")
            if argument == "--" or rest_is_another_parsers:
                return
            if flag.startswith("--") and " " not in flag and flag not in self._option_string_actions:
                raise self._unknown_argument(flag)

    def _unknown_argument(self, argument: str) -> UsageError:
        if not argument.startswith("-"):
            return UsageError(f"unexpected argument {argument!r}; see {self.prog} --help")
        flags = {flag.strip("-"): flag for flag in self._option_string_actions}
        near = difflib.get_close_matches(argument.strip("-"), flags, n=1, cutoff=0.5)
        hint = f"did you mean {flags[near[0]]}?" if near else f"see {self.prog} --help"
        return UsageError(f"unknown option {argument}; {hint}")


def _with_hyphens(argument: str) -> str:
    flag, equals, value = argument.partition("=")
    if not flag.startswith("--") or " " in flag:
        return argument
    return flag.replace("_", "-") + equals + value


def add_settings(parser: argparse.ArgumentParser, cls: type[T], defaults: T | None = None) -> None:
    """Give `parser` one flag for each field of a settings class.

    A flag that is not used leaves nothing in the namespace, so that `collect` can tell it from a default.

    Args:
        parser: the command's parser.
        cls: the settings class.
        defaults: settings whose values the help shows instead of the class's; pass them to `collect` too.
    """
    group = parser.add_argument_group(f"settings of {cls.__name__}")
    for field in fields_of(cls):
        default = field.default if defaults is None else getattr(defaults, field.name)
        text = f"{field.help} (default: {_as_typed(default)})".replace("%", "%%")
        group.add_argument(
            flag_of(field.name), dest=field.name, default=argparse.SUPPRESS, help=text, **_reading(field)
        )


def add_study(parser: Parser) -> None:
    """Give `parser` a study and words that override it, which may stand anywhere."""
    parser.add_argument("study", help="YAML file, or name of a recipe: `rupert ls recipes`")
    add_overrides(parser)


def add_overrides(parser: Parser) -> None:
    """Give `parser` words that override a study's settings."""
    about = "settings of the study, such as seeds=[0,1] or attacks.LABEL.learning_rate=1e-4"
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help=about)
    parser.takes_overrides = True


def flag_of(name: str) -> str:
    """The flag of a field: `--learning-rate` for `learning_rate`."""
    return "--" + name.replace("_", "-")


def about(cls: type) -> str:
    """The first line of a class's docstring: what listings and help say of a method."""
    return (inspect.getdoc(cls) or "").partition("\n")[0]


def _reading(field: SettingField) -> dict[str, Any]:
    """How argparse reads the field. Values stay text: `collect` converts them as it does those from YAML."""
    wanted = required_type(field.annotation)
    if wanted is bool:
        return {"action": argparse.BooleanOptionalAction}
    if get_origin(wanted) is tuple:
        return {"nargs": "+", "metavar": _placeholder(get_args(wanted)[0])}
    return {"metavar": _placeholder(wanted)}


def _placeholder(wanted: Any) -> str:
    if get_origin(wanted) is Literal:
        return "{" + ",".join(map(str, get_args(wanted))) + "}"
    return _PLACEHOLDERS[wanted]


def _as_typed(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, tuple):
        return " ".join(map(str, value)) or "empty"
    return "none" if value is None else str(value) or "empty"


def collect(
    arguments: argparse.Namespace, cls: type[T], config_path: str | Path | None = None, defaults: T | None = None
) -> T:
    """The settings that a command was given: the command line beats YAML, which beats the defaults.

    Args:
        arguments: what a parser with the flags of `add_settings` returned.
        cls: the settings class.
        config_path: a YAML file with some of its fields.
        defaults: settings to start from instead of the class's own defaults.

    Raises:
        UsageError: an unknown field or a value of the wrong type, with the file's or the flag's name.
        InvalidValue: a value outside its domain, as found by the class itself.
    """
    fields = fields_of(cls)
    values = {} if defaults is None else {field.name: getattr(defaults, field.name) for field in fields}
    if config_path is not None:
        values |= convert_all(cls, read_yaml(Path(config_path)), lambda name: f"{config_path}: {name}")
    given = {field.name: _given(arguments, field) for field in fields if hasattr(arguments, field.name)}
    values |= convert_all(cls, given, flag_of)
    return cls(**values)


def add_stage(parser: argparse.ArgumentParser, output: str) -> None:
    """Give `parser` the flags of every command that runs a stage; `output` says what goes into its folder."""
    parser.add_argument("--output-dir", required=True, type=Path, help=f"new or empty folder for {output}")
    parser.add_argument("--config", help="YAML file, or name of a recipe, with settings")
    parser.add_argument("--resume", action="store_true", help="go on with what an interrupted run left there")
    parser.set_defaults(to_go_on="repeat the command with --resume to go on from here")


def add_tracking(parser: argparse.ArgumentParser) -> None:
    """Give `parser` the flag that names trackers."""
    text = "tell them of every step of a training: tensorboard, wandb, trackio, mlflow"
    parser.add_argument("--report-to", nargs="+", default=[], metavar="TRACKER", help=text)


def tracking(arguments: argparse.Namespace) -> Tracking:
    """The trackers that a command was given; the run is called as its folder is."""
    from rupert.training.tracking import Tracking

    return Tracking(report_to=tuple(divided(arguments.report_to)), run_name=arguments.output_dir.name)


def add_launching(parser: argparse.ArgumentParser) -> None:
    """Give `parser` the flags of a command that can be split over several devices."""
    group = parser.add_argument_group("several devices")
    text = "how to split it: fsdp2, replicas, zero3 (attacks only), or a file that `accelerate config` wrote"
    group.add_argument("--accelerate-config", metavar="NAME", help=text)
    text = "processes to start (default: one for each accelerator)"
    group.add_argument("--num-processes", type=int, metavar="INTEGER", help=text)


def launched(arguments: argparse.Namespace, command: str) -> int | None:
    """Run a command again in several processes, where --accelerate-config asks for it and this is none of them.

    Returns:
        the exit code, or None where the command is to be run here.
    """
    from rupert.training import launching

    if arguments.accelerate_config is None and arguments.num_processes is not None:
        raise UsageError("--num-processes: needs --accelerate-config, such as fsdp2")
    if arguments.accelerate_config is None or launching.is_launched():
        return None
    return launching.launch(arguments.accelerate_config, [command, *arguments.given], arguments.num_processes)


def add_methods(
    parser: argparse.ArgumentParser, methods: Mapping[str, type], shared: type, output: str
) -> list[argparse.ArgumentParser]:
    """Give `parser` one subcommand for each method, with the flags of its settings, of `shared`, and of a stage."""
    commands = parser.add_subparsers(dest="method", required=True, metavar="METHOD")
    if isinstance(parser, Parser):
        parser.families["method"] = methods
    added = []
    for name, method in methods.items():
        text = about(method).replace("%", "%%")
        command = commands.add_parser(name, help=text, description=about(method))
        add_stage(command, output)
        add_settings(command, shared)
        add_settings(command, method)
        added.append(command)
    return added


def config_path(arguments: argparse.Namespace) -> Path | None:
    """The file that `--config` means: a path, or a recipe that ships with rupert."""
    from rupert.study.definition.recipes import find_recipe

    return find_recipe(arguments.config, "--config") if arguments.config else None


def divided(values: Sequence[str]) -> list[str]:
    """The items of a list flag, which are divided by spaces or by commas: `--tasks mmlu,hellaswag`.

    A comma divides nothing in the name of a file, nor in a text with a question mark, whose settings may be lists.
    """
    return [
        item
        for value in values
        for item in ([value] if "?" in value or Path(value).exists() else value.split(","))
        if item
    ]


def _given(arguments: argparse.Namespace, field: SettingField) -> Any:
    value = getattr(arguments, field.name)
    is_optional = required_type(field.annotation) is not field.annotation
    if is_optional and value == ["none"]:
        return None
    return divided(value) if isinstance(value, list) else value
