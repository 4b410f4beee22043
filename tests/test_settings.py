"""Settings are read strictly: every mistake in a mapping is named at once, with its field, value and remedy."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal

import pytest

from rupert.errors import InvalidValue, UnknownName, UsageError
from rupert.settings import (
    as_mapping,
    check_choices,
    check_not_negative,
    check_positive,
    check_range,
    defining,
    fields_of,
    parse,
    read_yaml,
    setting,
)


@dataclass(frozen=True, kw_only=True)
class Glaze:
    """Made-up settings with a field of every type."""

    streams: ClassVar[tuple[str, ...]] = ("harmful",)

    learning_rate: float = setting(5e-7, "peak learning rate")
    max_steps: int = setting(500, "optimizer steps")
    threshold: float = setting(0.25, "highest cosine")
    full: bool = setting(True, "train every weight")
    reject_prefix: str = setting("", "text before each answer")
    gradient: Literal["exact", "hessian_free"] = setting("exact", "how the gradient is taken")
    layers: tuple[int, ...] | None = setting(None, "layers to change; none for all")
    modules: tuple[str, ...] = setting((), "modules to adapt")
    rates: tuple[float, ...] = setting((1e-5, 1e-4), "learning rates to try")
    rank: int | None = setting(None, "rank of the adapter; none for full fine-tuning")

    def __post_init__(self) -> None:
        check_positive(self, "learning_rate", "rates", "rank")
        check_not_negative(self, "max_steps")
        check_range(self, "threshold", -1, 1)
        check_choices(self)


def refusal(mapping: dict[str, object], where: str = "") -> str:
    with pytest.raises(UsageError) as caught:
        parse(Glaze, mapping, where)
    return str(caught.value)


def test_fields_carry_name_resolved_type_default_and_help_in_order() -> None:
    fields = fields_of(Glaze)
    assert [field.name for field in fields][:3] == ["learning_rate", "max_steps", "threshold"]
    assert (fields[0].annotation, fields[0].default, fields[0].help) == (float, 5e-7, "peak learning rate")
    assert "streams" not in {field.name for field in fields}


def test_an_empty_mapping_gives_the_defaults() -> None:
    assert parse(Glaze, {}) == Glaze()


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("learning_rate", "1e-4", 1e-4),
        ("learning_rate", 1, 1.0),
        ("max_steps", "20", 20),
        ("layers", [1, 2], (1, 2)),
        ("layers", "none", None),
        ("layers", None, None),
        ("rank", 8, 8),
        ("rank", "none", None),
        ("rates", ["1e-3", 2], (1e-3, 2.0)),
        ("modules", ["q", "none"], ("q", "none")),
        ("gradient", "hessian_free", "hessian_free"),
        ("full", False, False),
    ],
)
def test_a_value_takes_the_type_of_its_field(name: str, value: object, expected: object) -> None:
    found = getattr(parse(Glaze, {name: value}), name)
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ({"learning_rat": 1}, "setting: 'learning_rat' is unknown; did you mean 'learning_rate'?"),
        ({"learning_rate": "fast"}, "learning_rate: 'fast' is not valid; give a finite number"),
        ({"learning_rate": True}, "learning_rate: True is not valid; give a finite number"),
        ({"learning_rate": float("nan")}, "learning_rate: nan is not valid; give a finite number"),
        ({"learning_rate": 10**400}, f"learning_rate: {10**400} is not valid; give a finite number"),
        ({"learning_rate": None}, "learning_rate: None is not valid; give a finite number"),
        ({"max_steps": 2.5}, "max_steps: 2.5 is not valid; give a whole number"),
        ({"max_steps": True}, "max_steps: True is not valid; give a whole number"),
        ({"rank": "low"}, "rank: 'low' is not valid; give a whole number or none"),
        ({"full": "yes"}, "full: 'yes' is not valid; give true or false"),
        ({"full": 1}, "full: 1 is not valid; give true or false"),
        ({"reject_prefix": 3}, "reject_prefix: 3 is not valid; give text"),
        ({"layers": 3}, "layers: 3 is not valid; give a list or none"),
        ({"modules": "q_proj"}, "modules: 'q_proj' is not valid; give a list"),
        ({"rates": [1e-4, "x"]}, "rates: 'x' is not valid; give a finite number"),
        ({"gradient": "exat"}, "gradient: 'exat' is unknown; did you mean 'exact'?"),
        ({"gradient": 3}, "gradient: 3 is not valid; give one of exact, hessian_free"),
        ({"threshold": 1.5}, "threshold: 1.5 is not valid; must be from -1 to 1"),
        ({"learning_rate": 0}, "learning_rate: 0.0 is not valid; must be above 0"),
        ({"rates": [1e-4, -1]}, "rates: -1.0 is not valid; must be above 0"),
        ({"max_steps": -1}, "max_steps: -1 is not valid; must be 0 or above"),
    ],
)
def test_a_mistake_is_one_line_with_field_value_and_remedy(mapping: dict[str, object], message: str) -> None:
    assert refusal(mapping) == message
    assert refusal(mapping, where="glaze.yaml") == f"glaze.yaml: {message}"


def test_all_mistakes_of_a_mapping_are_named_at_once() -> None:
    lines = refusal({"max_steps": "many", "full": 0, "colour": 1, "rank": 4}, where="glaze.yaml").splitlines()
    assert [line.split("; ")[0] for line in lines] == [
        "glaze.yaml: max_steps: 'many' is not valid",
        "glaze.yaml: full: 0 is not valid",
        "glaze.yaml: setting: 'colour' is unknown",
    ]


def test_a_single_mistake_keeps_the_class_of_its_error() -> None:
    with pytest.raises(UnknownName):
        parse(Glaze, {"gradient": "exat"}, "glaze.yaml")
    with pytest.raises(InvalidValue):
        parse(Glaze, {"threshold": 7}, "glaze.yaml")


@pytest.mark.parametrize(("value", "is_fine"), [(-1.0, True), (1.0, True), (-1.01, False), (1.01, False)])
def test_the_ends_of_a_range_belong_to_it(value: float, is_fine: bool) -> None:
    if is_fine:
        assert Glaze(threshold=value).threshold == value
    else:
        with pytest.raises(InvalidValue, match="must be from -1 to 1"):
            Glaze(threshold=value)


def test_settings_made_in_python_are_checked_too() -> None:
    with pytest.raises(InvalidValue, match="rank: 0 is not valid; must be above 0"):
        Glaze(rank=0)
    with pytest.raises(UnknownName, match="gradient: 'exat' is unknown; did you mean 'exact'"):
        Glaze(gradient="exat")  # type: ignore[arg-type]


def test_as_mapping_is_the_inverse_of_parse_through_json() -> None:
    settings = Glaze(learning_rate=1e-3, layers=(1, 2), modules=("q",), rank=4, full=False)
    assert parse(Glaze, json.loads(json.dumps(as_mapping(settings)))) == settings
    assert parse(Glaze, as_mapping(Glaze())) == Glaze()


def test_equal_settings_give_the_same_json() -> None:
    assert json.dumps(as_mapping(Glaze(learning_rate=1))) == json.dumps(as_mapping(Glaze(learning_rate=1.0)))


def test_a_field_without_help_or_of_another_type_is_our_own_mistake() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Plain:
        size: int = 3

    @dataclass(frozen=True, kw_only=True)
    class Odd:
        image: bytes = setting(b"", "an image")

    @dataclass(frozen=True, kw_only=True)
    class Pair:
        pair: tuple[int, int] = setting((1, 2), "two numbers")

    with pytest.raises(TypeError, match=r"Plain\.size must be made by"):
        fields_of(Plain)
    with pytest.raises(TypeError, match=r"Odd\.image: settings cannot be of type"):
        fields_of(Odd)
    with pytest.raises(TypeError, match=r"Pair\.pair: settings cannot be of type"):
        fields_of(Pair)


def test_a_field_that_is_no_argument_is_no_setting() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Derived:
        size: int = setting(3, "a size")
        square: int = field(default=9, init=False)

    assert [field.name for field in fields_of(Derived)] == ["size"]


def yaml_file(folder: Path, text: str) -> Path:
    path = folder / "glaze.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_yaml_is_read_and_parsed(tmp_path: Path) -> None:
    path = yaml_file(tmp_path, "learning_rate: 1e-4\nlayers: [1, 2]\nrank: null\n")
    assert parse(Glaze, read_yaml(path)) == Glaze(learning_rate=1e-4, layers=(1, 2))


def test_an_empty_yaml_file_is_an_empty_mapping(tmp_path: Path) -> None:
    assert read_yaml(yaml_file(tmp_path, "# nothing yet\n")) == {}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: [1, 2\nc: 3\n", "line 3: expected ',' or ']', but got ':'"),
        ("a: 1\nb: 2\na: 3\n", "line 3: 'a' is given twice; correct the YAML"),
        ("a:\n  b: 1\n  b: 2\n", "line 3: 'b' is given twice"),
        ("? [1]\n: 2\n", "line 1: found unhashable key"),
        ("- a\n- b\n", "holds list ['a', 'b']; write one `name: value` a line"),
        ("SDD", "holds str 'SDD'; write one `name: value` a line"),
        ("a: !!python/object/apply:os.getcwd []\n", "line 1: could not determine a constructor for the tag"),
        ("a: \x00", "is not YAML text in UTF-8"),
    ],
)
def test_bad_yaml_is_one_line_with_the_place(tmp_path: Path, text: str, message: str) -> None:
    path = yaml_file(tmp_path, text)
    with pytest.raises(UsageError) as caught:
        read_yaml(path)
    assert str(path) in str(caught.value)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_yaml_file_that_is_not_there_a_folder_or_not_text(tmp_path: Path) -> None:
    binary = tmp_path / "model.yaml"
    binary.write_bytes(b"\xff\xfe\x81\x00")
    with pytest.raises(UsageError, match=r"missing\.yaml' does not exist; name a YAML file"):
        read_yaml(tmp_path / "missing.yaml")
    with pytest.raises(UsageError, match="is a folder; name a YAML file"):
        read_yaml(tmp_path)
    with pytest.raises(UsageError, match="is not YAML text in UTF-8"):
        read_yaml(binary)


def test_what_came_later_defines_nothing_at_its_default() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Grown:
        rate: float = setting(1.0, "known from the start")
        clipped: bool = setting(False, "came later", later=True)

    assert defining(Grown()) == {"rate": 1.0}
    assert defining(Grown(clipped=True)) == {"rate": 1.0, "clipped": True}
    assert as_mapping(Grown()) == {"rate": 1.0, "clipped": False}
