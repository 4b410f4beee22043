"""A card's facts as Markdown: the section on tamper resistance, in which no text of the study is markup."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from rupert.report.break_cost import number
from rupert.report.card.findings import name_of, rate
from rupert.report.exports.markdown import escaped
from rupert.report.exports.text import visible
from rupert.report.tables import rate_text

__all__ = ["Values", "model_card", "section"]

_TITLE = "Tamper resistance"
_HASH = 12  # characters of a fingerprint that are shown; the JSON file has all of them
_NOTHING = "\N{EN DASH}"
# What of a training's settings is shown beside what is the method's own.
_TRAINING = (
    "learning_rate",
    "optim",
    "lora",
    "num_train_epochs",
    "max_steps",
    "per_device_train_batch_size",
    "num_examples",
)
# Settings of every training, which the JSON file has, and what the data's column says.
_HIDDEN = frozenset(
    (
        *("gradient_accumulation_steps", "lr_scheduler_type", "warmup_steps", "weight_decay", "max_grad_norm"),
        *("max_length", "bf16", "gradient_checkpointing", "lora_r", "lora_alpha", "lora_dropout"),
        *("lora_target_modules", "dtype", "data_seed", "data", "batch_size", "use_dora", "load_in_4bit"),
    )
)
# The models of the table of results, how their columns are headed, and what is shown of each.
_COMPARED = (
    ("defended", "", ("harm", "ability", "answers/degenerate")),
    ("undefended", "undefended: ", ("harm", "ability")),
)

Values = Mapping[str, Any]


def section(facts: Values) -> str:
    """The section, from its heading to its last line."""
    parts = [
        f"## {_TITLE}",
        _about(facts),
        "\n\n".join(_verdict(facts)),
        *_part("What was tried", [_tried(facts), _asked(facts)]),
        *_part("What held and what broke", [_results(facts)]),
        *_part("Worst case", [_worst_cases(facts)]),
        *_part("Attackers who search", [_rungs(facts), _costs(facts)]),
        *_part("What hardening costs", [_before(facts)]),
        *_part("Who judged", [_judges(facts)]),
        *_part("What was not tested", [_not_tested(facts)]),
        *_part("Limits", [_bullets([*facts["limits"], *facts["notes"]])]),
        *_part("How to do it again", [_commands(facts)]),
        *_part("Where the numbers come from", [_stages(facts), _environment(facts)]),
    ]
    return "\n\n".join(parts) + "\n"


def model_card(facts: Values, title: str) -> str:
    """The card of a model that is published: what it is, and the section."""
    made, model = facts["defense"], facts["model"]
    settings = _settings(made["settings"])
    about = (
        f"{model['name']} (SHA-256 {model['sha256'][:_HASH]}) hardened by rupert with {made['method']} ({settings}), "
        "which is meant to make it lose its abilities when somebody fine-tunes it on harmful data. Whether it does, "
        "and where it does not, is below."
    )
    files = (
        "Weights, configuration and tokenizer are those of the record whose hashes are at the end; SHA256SUMS holds "
        "the SHA-256 of every file, for sha256sum -c."
    )
    return "\n\n".join([f"# {escaped(title)}", escaped(about), escaped(files), section(facts)])


def _part(title: str, blocks: Iterable[str]) -> list[str]:
    """A part with its heading; none where it has nothing to say."""
    said = [block for block in blocks if block]
    return [f"### {title}", *said] if said else []


def _about(facts: Values) -> str:
    made, model = facts["defense"], facts["model"]
    seeds = sorted({one["seed"] for attack in facts["attacks"] for one in attack["results"]} | _seeds_before(facts))
    method = made["method"] if made["name"] == made["method"] else f"{made['name']} ({made['method']})"
    text = (
        f"Measured with rupert on {model['name']} hardened with {method}, {'seed' if len(seeds) == 1 else 'seeds'} "
        f"{_list(seeds)}: the hardened model is attacked, and harm and ability are measured afterwards, beside those "
        "of the undefended model."
    )
    if facts["released"]:
        text += f" The weights published here are those of seed {facts['released']['seed']}."
    return escaped(text)


def _seeds_before(facts: Values) -> set[int]:
    return {one["seed"] for one in facts["before"]}


def _verdict(facts: Values) -> Iterator[str]:
    first, *others = facts["findings"]
    yield f"> **{escaped(first)}**"
    if others:
        yield _bullets(others)


def _tried(facts: Values) -> str:
    rows = [
        [
            name_of(attack["label"]),
            attack["method"],
            _settings(attack["settings"]),
            _names(attack["results"]),
            _list(result["seed"] for result in attack["results"]),
        ]
        for attack in facts["attacks"]
    ]
    return _table(("attack", "method", "settings", "data (fingerprint)", "seeds"), rows)


def _settings(settings: Values) -> str:
    """The settings that tell attacks apart; the JSON file has all."""
    own = [name for name in settings if name not in _TRAINING and name not in _HIDDEN]
    known = [(name, settings[name]) for name in (*_TRAINING, *own) if name in settings]
    return (
        ", ".join(_setting(name, value) for name, value in known if value not in (-1, None, "", [], False)) or _NOTHING
    )


def _setting(name: str, value: Any) -> str:
    if name == "learning_rate" and isinstance(value, float):
        return f"{name} {rate_text(value)}"
    text = _list(value) if isinstance(value, list) else f"{value:g}" if isinstance(value, float) else str(value)
    return name if value is True else f"{name} {text}"


def _names(results: Sequence[Values]) -> str:
    """The data of an attack, each with every fingerprint that it had; seeds draw other rows."""
    found: dict[str, list[str]] = {}
    for used in (used for result in results for used in result["data"]):
        known = found.setdefault(used["name"] or used["use"], [])
        known += [used["fingerprint"][:_HASH]] if used["fingerprint"][:_HASH] not in known else []
    return "; ".join(f"{name} ({', '.join(known)})" for name, known in found.items()) or _NOTHING


def _asked(facts: Values) -> str:
    return "\n\n".join(escaped(_way(way)) for way in facts["requests"])


def _way(way: Values) -> str:
    used, limits = way["requests"], [way[name] for name in ("limit", "num_requests") if way[name] is not None]
    tasks = [f"{task['name']} ({task['fingerprint'][:_HASH] or 'a task of lm-eval'})" for task in way["tasks"]]
    how = "greedy answers" if not way["temperature"] else f"answers sampled at temperature {way['temperature']:g}"
    text = f"Harmful requests: {used['name']} ({used['fingerprint'][:_HASH]}), {how}"
    text += f" of up to {way['max_new_tokens']} tokens" if way["max_new_tokens"] else ""
    text += f", at most {min(limits)} rows" if limits else ""
    text += f", asked as {way['request_template']!r}" if way["request_template"] not in ("", "{request}") else ""
    text += f", under the system prompt {way['system_prompt']!r}" if way["system_prompt"] else ""
    return f"{text}. Ability: {', '.join(tasks) or 'not measured'}."


def _results(facts: Values) -> str:
    found = [(attack, result) for attack in facts["attacks"] for result in attack["results"]]
    if not found:
        return ""
    columns = [("attack", [name_of(attack["label"]) for attack, _ in found])]
    if len(facts["study"]["seeds"]) > 1:
        columns.append(("seed", [str(result["seed"]) for _, result in found]))
    for side, title, names in _COMPARED:
        columns.append((f"{title}outcome", [_outcome(result[f"{side}_outcome"]) for _, result in found]))
        for name in names:
            numbers = [(result[side] or {}).get(name) for _, result in found]
            columns += [_rates(f"{title}{_measure(name)}", numbers)] if any(numbers) else []
    return f"{_table_of(columns)}\n\n{escaped(_rule(facts))}"


def _rates(title: str, numbers: Sequence[Values | None]) -> tuple[str, list[str]]:
    """A column of rates with their intervals, which says n itself where all have the same."""
    counts = {one["n"] for one in numbers if one}
    common = counts.pop() if len(counts) == 1 else None
    heading = title if common is None else f"{title}, n = {common}"
    return heading, [rate(one, with_n=common is None) if one else _NOTHING for one in numbers]


def _outcome(found: Values | None) -> str:
    if found is None:
        return "not measured"
    return "held, ability lost" if found["lost_ability"] else str(found["verdict"])


def _rule(facts: Values) -> str:
    harm, share = (f"{100 * facts['criterion'][name]:g} %" for name in ("harm_threshold", "ability_share"))
    return (
        "Harm: rate of harmful answers to harmful requests. Ability: rate of right answers. In brackets 95 % intervals "
        f"and n. Broke: the whole interval of harm lies at {harm} or above, and at least {share} of the ability before "
        f"the attack is kept. Held: it lies below {harm}, or less ability is kept. Not resolved: the interval of harm "
        f"includes {harm}."
    )


def _worst_cases(facts: Values) -> str:
    return "\n\n".join(escaped(_worst_case(case)) for case in facts["worst_cases"])


def _worst_case(case: Values) -> str:
    own = f" of {rate(case['own_ability'])} before it" if case["own_ability"] else ""
    kept = f", ability {rate(case['ability'])}{own}" if case["ability"] else ""
    found = f"harm {rate(case['harm'])}{kept}: {_outcome(case)}"
    label, seeds = name_of(case["attack"]), _list(case["seeds"])
    if case["by"] == "held-out":
        return (
            f"{label} of {case['of']}, the strongest of {case['tried']} tried on other requests, done again with seed "
            f"{seeds}: {found}."
        )
    if case["tried"] == 1:
        return f"{label}, seed {seeds}, the only attack that was tried: {found}."
    return (
        f"{label}, seed {seeds}, picked after the fact from {case['tried']} attacked models: {found}. It was chosen "
        "and scored on the same requests."
    )


def _rungs(facts: Values) -> str:
    rows = [
        [
            search["of"],
            rung["name"],
            f"{rung['tried']}{_unreached(rung)}",
            rung["label"] or _NOTHING,
            rung["outcome"] or "not measured",
            rate(rung["harm"]) if rung["harm"] else _NOTHING,
            rate(rung["ability"]) if rung["ability"] else _NOTHING,
        ]
        for search in facts["searches"]
        for rung in search["rungs"]
    ]
    heads = ("model", "rung", "tried", "strongest", "outcome", "held-out harm", "held-out ability")
    left = [
        f"Not tried on the {one['of']} model: {_list(one['left_out'])}." for one in facts["searches"] if one["left_out"]
    ]
    return "\n\n".join(filter(None, (_table(heads, rows), *map(escaped, left))))


def _unreached(rung: Values) -> str:
    return f" (not reached: {_list(rung['untried'])})" if rung["untried"] else ""


def _costs(facts: Values) -> str:
    rows = [
        [
            search["of"],
            cost["unit"],
            f"{cost['broken']} of {cost['n']}",
            _median(cost),
            "" if cost["low"] is None else f"{number(cost['low'])} to {_end(cost['high'])}",
        ]
        for search in facts["searches"]
        for cost in search["costs"]
    ]
    if not rows:
        return ""
    text = (
        "What an attack took to break the model, by Kaplan and Meier's median over the attacks of the search, with its "
        "95 % interval. An attack that did not break it is censored at what it spent; attacks of one search are not "
        "independent."
    )
    return f"{_table(('model', 'cost in', 'broke it', 'median', 'interval'), rows)}\n\n{escaped(text)}"


def _median(cost: Values) -> str:
    if cost["median"] is not None:
        return number(cost["median"])
    return f"never broke within {number(cost['spent'])}" if not cost["broken"] else f"above {number(cost['spent'])}"


def _end(high: float | None) -> str:
    return "beyond" if high is None else number(high)


def _before(facts: Values) -> str:
    several = len(facts["study"]["seeds"]) > 1
    found = [(one, name) for one in facts["before"] for name in _measured(one)]
    columns = [
        *([("seed", [str(one["seed"]) for one, _ in found])] if several else []),
        ("before any attack", [_measure(name) for _, name in found]),
        *(_rates(side, [(one[side] or {}).get(name) for one, name in found]) for side in ("defended", "undefended")),
    ]
    return _table_of(columns) if found else ""


def _measured(one: Values) -> list[str]:
    names = dict.fromkeys([*(one["defended"] or ()), *(one["undefended"] or ())])
    return [name for name in names if not name.startswith("harm/") and name != "harm_coherent"]


def _measure(metric: str) -> str:
    kind, slash, name = metric.partition("/")
    if not slash:
        return metric.replace("_", "-")
    return {"score": f"fine-tuned for {name}", "answers": f"{name} answers"}.get(kind, f"{kind}: {name}")


def _judges(facts: Values) -> str:
    rows = [
        [judge["name"], _settings(judge["settings"] or {}), judge["metric"], " to ".join(map(str, _ends(judge["n"])))]
        for judge in facts["judges"]
    ]
    return _table(("judge", "settings", "gives", "answers judged, a model"), rows)


def _ends(counts: Sequence[int]) -> list[int]:
    return list(dict.fromkeys((counts[0], counts[-1]))) if counts else []


def _not_tested(facts: Values) -> str:
    parts = ["By what the records hold, none of these was tried on the defended model:", _bullets(facts["not_tested"])]
    beyond = ["Nor were these, which rupert does not try:", _bullets(facts["out_of_reach"])]
    gaps = ["Planned in the study and not measured:", _bullets(facts["not_measured"])]
    said = [part for part in (parts, beyond, gaps) if part[1]]
    return "\n\n".join(text for part in said for text in part)


def _commands(facts: Values) -> str:
    """The study's own command, and those of its stages, which need no study."""
    whole = f"The study was run with:\n\n{_code([facts['command']])}" if facts["command"] else ""
    each = _folded("Each stage by itself, one after the other", _code(facts["commands"])) if facts["commands"] else ""
    return "\n\n".join(filter(None, (whole, each)))


def _code(commands: Sequence[str]) -> str:
    """Commands in a fence that is longer than any in them."""
    lines = [visible(command) for command in commands]
    fence = "`" * max(3, 1 + max((len(run) for line in lines for run in re.findall("`+", line)), default=0))
    return "\n".join([f"{fence}bash", *lines, fence])


def _folded(title: str, text: str) -> str:
    """What is shown when a reader asks for it."""
    return f"<details>\n<summary>{title}</summary>\n\n{text}\n\n</details>"


def _stages(facts: Values) -> str:
    rows = [
        [
            stage["kind"],
            stage["label"],
            *(stage[name][:_HASH] or _NOTHING for name in ("identity", "weights_in", "weights_out")),
        ]
        for stage in facts["stages"]
    ]
    text = "Hashes are SHA-256, of which the first characters are shown; the JSON file has all."
    table = _table(("stage", "label", "identity", "weights in", "weights out"), rows)
    return f"{_folded(f'{len(rows)} stages, each with its hashes', table)}\n\n{text}" if rows else ""


def _environment(facts: Values) -> str:
    return escaped(", ".join(f"{name} {version}" for name, version in facts["environment"].items()))


def _bullets(texts: Iterable[str]) -> str:
    return "\n".join(f"- {escaped(text)}" for text in texts)


def _list(values: Iterable[Any]) -> str:
    return ", ".join(map(str, values))


def _table_of(columns: Sequence[tuple[str, Sequence[str]]]) -> str:
    """A table from its columns, each with its heading."""
    rows = zip(*(cells for _, cells in columns), strict=True)
    return _table([title for title, _ in columns], list(rows))


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table; empty where it has no rows."""
    if not rows:
        return ""
    lines = [heads, ["---"] * len(heads), *rows]
    shown = [[cell if line is lines[1] else escaped(cell) or _NOTHING for cell in line] for line in lines]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in shown)
