"""What fuzzed inputs are made of, and the rule that every refusal is held against."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st

from rupert.errors import RupertError

T = TypeVar("T")

# Values that YAML, JSON or a command line can hold, and that readers are seldom given.
ODD_VALUES = (
    *("", "~", "[]", "{}", "[[]]", "{a: {b: c}}", "[1, a, null]", "-1", "0", "1e400", "1e-400", ".nan", "-.inf", "NaN"),
    *(
        "1e-4",
        "0x10",
        "0b_",
        "._",
        "1_000",
        "07",
        "1:30",
        "2026-13-45",
        "2026-01-01",
        "yes",
        "none",
        "true",
        "a.b",
        "a b",
    ),
    *(
        "!!bool x",
        "!!int ''",
        "!!timestamp x",
        "!!float x",
        "!!binary x",
        "!!map [[a, b]]",
        "!!map x",
        "!!set {a}",
        "!!seq x",
    ),
    *("!!omap [a]", "!!pairs [a]", "!!python/object:os.system {}", "!x y", "&a [*a]", "&a {b: *a}", "*a", "? [a]\n: b"),
    *(
        "'\\0'",
        '"a\\0.yaml"',
        '"\\0"',
        '"\\e[31m"',
        '"\\ud800"',
        '"a\\nb"',
        "'../../x.yaml'",
        "x.yaml",
        ".yaml",
        "'.'",
        "/",
        "drop",
    ),
    *(
        "potionworld",
        "sdd",
        "fine_tune",
        "demo",
        "sdd-potionworld",
        "|-\n  a\n  b",
        "- a",
        "<<",
        "{<<: 3}",
        "{<<: [a]}",
    ),
    *(
        "'" + "x" * 300 + ".yaml'",
        "x" * 400,
        "9" * 5000,
        "0x" + "f" * 5000,
        "[" * 3000,
        "{a: " * 400,
        "\ufeff",
        "é",
        "٣",
    ),
)
# Pieces of text that mean something to a parser.
PIECES = (
    *"[]{}:,'\"#&*!|>%@`-?~=.\\/\n\r\t \0\x1b\x85\u2028\ufeffé",
    "\n\n",
    "---\n",
    "...\n",
    ": ",
    "null",
    "\\ud800",
    "\\u0000",
)

some_text = st.text(max_size=12)
odd_text = st.one_of(st.sampled_from(ODD_VALUES), some_text)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | some_text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(some_text, inner, max_size=3),
    max_leaves=6,
)


def cases(number: int) -> settings:
    """The profile of every test here: the same cases each time, as many as said, and nothing kept."""
    return settings(
        max_examples=number,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate],  # a case that fails is shown as it is: making it small can take minutes
        report_multiple_bugs=False,
    )


@st.composite
def changed_bytes(draw: st.DrawFn, whole: bytes) -> bytes:
    """A file's bytes, cut somewhere, or with some of them replaced, left out or added."""
    data = bytearray(whole)
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.integers(0, max(len(data) - 1, 0)))
        match draw(st.sampled_from(["cut", "replace", "leave out", "add"])):
            case "cut":
                del data[place:]
            case "replace":
                data[place : place + 1] = bytes([draw(st.integers(0, 255))])
            case "leave out":
                del data[place : place + draw(st.integers(1, 20))]
            case "add":
                data[place:place] = draw(st.sampled_from(PIECES)).encode("utf-8", "surrogatepass")
    return bytes(data)


@st.composite
def changed_values(draw: st.DrawFn, whole: str) -> str:
    """The text of a YAML file of `key: value` lines, with some values or keys replaced, or lines moved."""
    lines = whole.splitlines()
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.integers(0, len(lines) - 1))
        key, colon, value = lines[place].partition(":")
        indent = key[: len(key) - len(key.lstrip())]
        lines[place] = draw(
            st.sampled_from(
                [
                    f"{key}{colon} {draw(odd_text)}",
                    f"{indent}{draw(odd_text)}{colon}{value}",
                    f"{indent}{draw(odd_text)}",
                    f"{lines[place]}\n{lines[draw(st.integers(0, len(lines) - 1))]}",
                    f"  {lines[place]}",
                ]
            )
        )
    return "\n".join(lines)


def told(read: Callable[[], T], names: Sequence[str] = ()) -> T | str:
    """What `read` gives, or the message that it is refused by, if a person can read that.

    Args:
        read: what is tried; any other exception than a `RupertError` fails the test.
        names: of which every line of the message has one; empty where any will do.
    """
    try:
        return read()
    except RupertError as error:
        message = str(error)
    assert message.strip()
    for line in message.split("\n"):
        assert line.strip(), f"an empty line in {message!r}"
        assert line.isprintable(), f"what no terminal should be given: {line!r}"
        assert not names or any(name in line for name in names), f"it does not say where: {line!r}"
    return message


def is_same(left: Any, right: Any) -> bool:
    """Whether two JSON values are equal; NaN is equal to itself."""
    match left, right:
        case float(), float():
            return left == right or (math.isnan(left) and math.isnan(right))
        case dict(), dict():
            return left.keys() == right.keys() and all(is_same(left[key], right[key]) for key in left)
        case (list(), list()):
            return len(left) == len(right) and all(map(is_same, left, right))
    return bool(left == right)
