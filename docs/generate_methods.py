"""Writes docs/methods/: each page's lower part is made from the method's docstrings, settings, cost and targets.

`python docs/generate_methods.py` writes them anew, and `--check` exits with 1 where one is not what it would write.
What stands above `MARK` in a page is written by hand, and is kept; a method without a page gets one with headings to
fill in. So is docs/comparison.md, from the results of `rupert run defenses-potionworld` in docs/results/.
"""

from __future__ import annotations

import argparse
import inspect
import sys
from pathlib import Path
from typing import Any

from rupert.defenses import DEFENSES
from rupert.report.tables import Estimate, Grid, Measure, attack_title, collect, defense_title, read_csv
from rupert.settings import SettingField, fields_of, read_yaml
from rupert.study.definition.recipes import RECIPES
from rupert.study.evidence.targets import Target, targets
from rupert.training.settings import TrainingSettings

FOLDER = Path(__file__).parent / "methods"
COMPARISON = Path(__file__).parent / "comparison.md"
RESULTS = Path(__file__).parent / "results" / "defenses-potionworld.csv"
COMPARED = ("harm", "ability", "refusal", "answers/degenerate")
INDEX = "README.md"
MARK = "<!-- Below: written by docs/generate_methods.py; edit the method's file instead. -->"
NOT_MEASURED = "Not measured yet."
HEADINGS = ("## The idea", "## What the paper claims", "## What we saw")


def pages() -> dict[Path, str]:
    """Every page as it ought to be, the index among them."""
    made = {FOLDER / f"{name}.md": f"{_by_hand(name)}\n\n{MARK}\n\n{_generated(name)}" for name in DEFENSES}
    compared = f"{_kept(COMPARISON)}\n\n{MARK}\n\n{_comparison(collect(read_csv(RESULTS)))}"
    return made | {FOLDER / INDEX: _index(), COMPARISON: compared}


def _kept(page: Path) -> str:
    """What is written by hand."""
    return page.read_text(encoding="utf-8").partition(MARK)[0].rstrip()


def _comparison(grid: Grid) -> str:
    """A table a metric: a row a defense, a column an attack."""
    return "\n\n".join(_compared(grid, measure) for measure in grid.measures() if measure.metric in COMPARED) + "\n"


def _compared(grid: Grid, measure: Measure) -> str:
    rows = [
        [defense_title(defense), *(_cell(grid.of(defense, attack, measure.metric)) for attack in grid.attacks)]
        for defense in grid.defenses
    ]
    title = f"## {measure.title}, n = {grid.common_n(measure.metric)} a seed"
    lines = [["defense", *map(attack_title, grid.attacks)], ["---", *["---:"] * len(grid.attacks)], *rows]
    return "\n".join([title, "", *(f"| {' | '.join(line)} |" for line in lines)])


def _cell(found: Estimate | None) -> str:
    if found is None or found.low is None or found.high is None:
        return "-"
    return f"{100 * found.value:.0f} ({100 * found.low:.0f} to {100 * found.high:.0f})"


def _by_hand(name: str) -> str:
    page = FOLDER / f"{name}.md"
    if page.exists():
        return _kept(page)
    empty = "\n\n".join(f"{heading}\n\n{NOT_MEASURED if heading == HEADINGS[-1] else '...'}" for heading in HEADINGS)
    return f"# {name}\n\n{empty}"


def _generated(name: str) -> str:
    method = DEFENSES[name]
    module = inspect.getdoc(sys.modules[method.__module__]) or ""
    parts = [
        f"## The method\n\n`src/rupert/{method.__module__.partition('.')[2].replace('.', '/')}.py` says:\n\n"
        f"```text\n{module}\n```",
        f"## Settings\n\n{_settings(name, method)}",
        f"## What a step costs\n\n{_cost(method())}",
        f"## What `rupert verify {name}` holds it against\n\n{_targets(name)}",
    ]
    return "\n\n".join(parts) + "\n"


def _settings(name: str, method: type) -> str:
    """All that are the method's own, and those of training whose defaults are."""
    shared = {field.name: field.default for field in fields_of(TrainingSettings)}
    own = [field for field in fields_of(method) if shared.get(field.name, ...) != field.default]
    recipe = RECIPES / f"{name}-potionworld.yaml"
    here = read_yaml(recipe) if recipe.exists() else {}
    own += [field for field in fields_of(method) if field.name in here and field not in own]
    about = (inspect.getdoc(method) or "").replace("\n\n", " ").replace("\n", " ")
    column = f"`{name}-potionworld`" if here else "no recipe"
    rows = [f"| `{field.name}` | {_value(field.default)} | {_here(field, here)} | {field.help} |" for field in own]
    lines = [f"| setting | default | {column} | what it is |", "|---|---|---|---|", *rows]
    return f"{about}\n\n" + "\n".join(lines) + f"\n\nThose of every training are in `rupert defend {name} --help`."


def _here(field: SettingField, here: dict[str, Any]) -> str:
    return _value(here[field.name]) if field.name in here else ""


def _value(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_value, value))
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, float):
        value = f"{value:g}"
    return "none" if value is None else f"`{value}`" if str(value) else "empty"


def _cost(defense: Any) -> str:
    """What the planner knows of it, for the default settings."""
    cost, rows = defense.cost, defense.batch_size
    work = {
        "forward and backward passes": cost.passes,
        "further backward passes": cost.backwards,
        "second derivatives": cost.products,
        "output heads of hidden states": cost.head_rows,
    }
    held = {
        "copies of the gradient": cost.gradients,
        "copies of the trained weights": cost.weights,
        "sets of an inner optimizer's numbers": cost.states,
        "second-order graphs": cost.graphs,
    }
    lines = [f"| {what}, over a batch of {rows} rows | {number / rows:g} |" for what, number in work.items() if number]
    lines += [f"| {what}, held beside `p.grad` | {number} |" for what, number in held.items() if number]
    table = "\n".join(["| with the default settings | |", "|---|---|", *lines])
    return f"{table}\n\nMeasured in plain fine-tuning steps: `benchmarks/defense_steps.py`, see benchmarks/README.md."


def _targets(name: str) -> str:
    rows = [
        f"| {one.claim}{'' if one.attack == 'none' else f'; {one.attack}'} | {_bound(one)} | {one.source or 'ours'} |"
        for one in targets(name)
    ]
    lines = ["| claim | value | source |", "|---|---|---|", *rows]
    if any(one.source for one in targets(name)):
        return "\n".join(lines)
    none = "No number of the paper's could be confirmed, or none is of a cell that a recipe has."
    return f"{none} What is expected on Potionworld:\n\n" + "\n".join(lines)


def _bound(target: Target) -> str:
    sign, side = {"within": ("", "±"), "at_most": ("at most ", "+"), "at_least": ("at least ", "-")}[target.is_to_be]
    scale, unit = (1, "") if target.metric.startswith("logp_") else (100, " %")
    tolerance = f" {side} {scale * target.tolerance:g}" if target.tolerance else ""
    return f"{sign}{round(scale * target.value, 3):g}{tolerance}{unit}"


def _index() -> str:
    rows = [
        f"| [{name}]({name}.md) | {(inspect.getdoc(method) or '').partition(chr(10))[0]} "
        f"| {method().cost.passes / method().batch_size:g} |"  # type: ignore[attr-defined]
        for name, method in DEFENSES.items()
    ]
    table = "\n".join(["| method | what it does | passes a step |", "|---|---|---|", *rows])
    opening = (
        "# The methods\n\nA page a defense: idea, the paper's claim and what we saw by hand, the rest from the code.\n"
        "`rupert verify METHOD` holds the claims against what comes out.\n"
    )
    return f"{opening}\n{table}\n\n{MARK.replace('Below', 'All of this')}\n"


def main() -> None:
    """Write the pages, or say which are not current."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing, and exit with 1 where a page would change")
    arguments = parser.parse_args()
    stale = [path for path, text in pages().items() if not path.exists() or path.read_text(encoding="utf-8") != text]
    for path in stale:
        print(path)
        if not arguments.check:
            path.write_text(pages()[path], encoding="utf-8")
    raise SystemExit(int(arguments.check and bool(stale)))


if __name__ == "__main__":
    main()
