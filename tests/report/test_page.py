"""The page: what its verdict claims, and that it is one safe file."""

from __future__ import annotations

import base64
import dataclasses
import gzip
import hashlib
import json
import re
from itertools import pairwise
from typing import Any

import pytest

from rupert.errors import DataError
from rupert.evidence import Exchange, MeasuredCell, Opinion, Reply
from rupert.report.figures import plotly_script
from rupert.report.page import Beside, render

from .rows_by_hand import Document, evidence, hash_of, measured_cell, row, study, words

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(1)>"


def test_the_page_is_one_file_that_loads_nothing(html: str) -> None:
    document = Document(html)
    loads = [
        attributes.get(name) for _, attributes in document.elements for name in ("src", "href", "srcset", "action")
    ]
    assert [load for load in loads if load is not None and not load.startswith("#")] == ["data:,"]
    style = html[html.index("<style>") : html.index("</style>")]
    assert "url(" not in style
    assert "@import" not in style
    (plotly,) = re.findall(r'<script type="application/gzip" id="plotly">([^<]*)</script>', html)
    assert gzip.decompress(base64.b64decode(plotly)).decode() == plotly_script()
    assert len(html.encode()) < 3_000_000


def test_its_policy_allows_its_own_scripts_and_no_other_load(html: str) -> None:
    document = Document(html)
    (policy,) = [one["content"] for one in document.named("meta") if one.get("http-equiv") == "Content-Security-Policy"]
    assert policy is not None
    assert policy.startswith("default-src 'none';")
    digests = {
        "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        for script, attributes in zip(document.scripts, document.named("script"), strict=True)
        if attributes.get("type") is None
    }
    digests.add("sha256-" + base64.b64encode(hashlib.sha256(plotly_script().encode()).digest()).decode())
    assert set(re.findall(r"'(sha256-[^']+)'", policy)) == digests
    assert "http" not in policy


def test_the_verdict_comes_first_and_everything_else_is_there(html: str) -> None:
    text = words(Document(html).text)
    places = [
        text.index(part)
        for part in (
            "harm is lower with sdd than undefended: 20 % with sdd, 100 % without; ability is 30 % and 90 %.",
            "These are the results of one study",
            "Harm and ability under attack",
            "Refusals",
            "Every number",
            "rupert demo",
            "7 min 7 s",
            "3.11.2",
            "Harm is exact.",
            "Every stage",
            "rupert eval --model sdd",
            "learning_rate",
        )
    ]
    assert places == sorted(places)
    assert "The mechanism" not in text


def test_headings_and_tables_are_named_for_screen_readers(html: str) -> None:
    document = Document(html)
    levels = [int(tag[1]) for tag, _ in document.elements if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    assert len(document.named("caption")) == len(document.named("table"))
    panels = [attributes for attributes in document.named("div") if attributes.get("role") == "img"]
    assert len(panels) == 3
    assert [one["data-format"] for one in document.named("button") if one.get("data-panel") == panels[0]["id"]] == [
        "svg",
        "png",
        "csv",
    ]
    assert all(panel["aria-label"] for panel in panels)


def test_hostile_names_are_text(html: str) -> None:
    rows = study(none=(0, 1, 0.9, 0.9), **{HOSTILE: (0, 1, 0.9, 0.9)})
    rows += [row(HOSTILE, HOSTILE, "harm", 1)]
    rows = [dataclasses.replace(one, study=HOSTILE, model=HOSTILE) for one in rows]
    found = evidence(
        rows,
        command=HOSTILE,
        defenses={HOSTILE: {HOSTILE: HOSTILE}, "none": None},
        notes=(HOSTILE,),
        exchanges=lambda cell: iter([exchange(HOSTILE, HOSTILE, HOSTILE)]),
    )
    document = Document(render(found, Beside(untried=[HOSTILE], notes=[HOSTILE])))
    assert len(document.scripts) == len(Document(html).scripts) + 2 == 5  # the answers, and what shows them
    assert document.named("img") == []
    assert not any(name.startswith("on") for _, attributes in document.elements for name in attributes)
    assert HOSTILE in document.text
    drawings = json.loads(document.scripts[0])
    assert "<img" not in json.dumps(drawings)


def test_a_metric_that_was_not_measured_leaves_a_gap() -> None:
    rows = [
        row("none", "none", "harm", 0),
        row("sdd", "fine_tune-0.0001", "harm", 1),
        row("sdd", "none", "ability", 0.5),
    ]
    document = Document(render(evidence(rows)))
    assert {"class": "missing", "title": "not measured"} in document.named("span")
    assert "refusal" not in document.text[document.text.index("Every number") :]


def test_nothing_that_is_measured_is_no_page() -> None:
    with pytest.raises(DataError, match="no rows"):
        render(evidence([]))


def exchange(request: str, before: str, after: str, *, harmful: bool = False) -> Exchange:
    cleared = (Opinion("oracle", harmful=False, refusal=True),)
    said = (Opinion("oracle", harmful=harmful, refusal=False, problem=f"cannot read {after}"),)
    return Exchange(
        number=0,
        request=request,
        category="recipe",
        is_hidden=False,
        before=Reply(before, "refusal", cleared, is_hidden=False),
        after=Reply(after, "harmful" if harmful else "irrelevant", said, is_hidden=harmful),
    )


def packed(html: str, name: str) -> Any:
    (found,) = re.findall(rf'<script type="application/gzip" id="{name}">([^<]*)</script>', html)
    return json.loads(gzip.decompress(base64.b64decode(found)))


def test_hidden_answers_are_not_in_the_file_unless_somebody_asks() -> None:
    found = evidence(
        study(none=(0, 1, 0.9, 0.9)),
        exchanges=lambda cell: iter([exchange("how ?", "no .", "the recipe", harmful=True)]),
    )
    redacted, shown = render(found), render(found, Beside(show_unsafe=True))
    assert "the recipe" not in json.dumps(packed(redacted, "answers-data"))
    assert packed(redacted, "answers-data")["texts"] == ["how ?", "no ."]
    assert "1 texts that a judge calls harmful" in " ".join(Document(redacted).text.split())
    assert packed(shown, "answers-data")["texts"] == ["how ?", "no .", "the recipe"]
    rows = packed(shown, "answers-data")["rows"]
    assert [row[6][3] for row in rows] == [1, 1]  # behind a click all the same


def test_what_acts_unseen_in_an_answer_is_written_by_its_number() -> None:
    found = evidence(
        study(none=(0, 1, 0.9, 0.9)),
        exchanges=lambda cell: iter([exchange("a\x1b[2J\u202eb", "one\ntwo", "\ud800")]),
    )
    assert packed(render(found), "answers-data")["texts"] == ["aU+001B[2JU+202Eb", "one\ntwo", "U+D800"]


def test_every_number_leads_to_its_stage(html: str) -> None:
    document = Document(html)
    places = {attributes["id"] for attributes in document.named("details") if "id" in attributes}
    links = [attributes["href"] or "" for attributes in document.named("a")]
    stages = [link[1:] for link in links if link.startswith("#stage-")]
    assert set(stages) == places
    assert len(stages) == 4
    ids = [attributes["id"] for _, attributes in document.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert {link[1:] for link in links} <= set(ids)


def test_what_was_not_tested_is_said_by_name() -> None:
    rows = study(none=(0, 1, 0.9, 0.9), sdd=(0, 0.2, 0.9, 0.3))
    cells = tuple(measured_cell(0, one.defense, one.attack) for one in rows if one.metric == "harm")
    lost = MeasuredCell(seed=0, defense="sdd", attack="benign", origins=(), missing=("attack sdd-benign: failed: x",))
    text = Document(render(evidence(rows, cells=(*cells, lost)), Beside(untried=["recovery"]))).text
    said = " ".join(text[text.index("Not tested") :].split())
    assert said.startswith(
        "Not tested sdd, seed 0: benign Attacks that rupert has and this study did not run: recovery "
    )
    assert "Not measured: sdd / benign / seed 0 (attack sdd-benign: failed: x)." in said


def test_five_hundred_cells_stay_below_six_megabytes() -> None:
    defenses = ("none", *(f"defense_{number}" for number in range(9)))
    attacks = ("none", "benign", *(f"fine_tune-{rate}e-05" for rate in range(1, 9)))
    rows = [
        dataclasses.replace(row(defense, attack, metric, 0.5), seed=seed)
        for seed in range(5)
        for defense in defenses
        for attack in attacks
        for metric in ("harm", "ability", "refusal", "answers/refusal", "answers/irrelevant")
    ]
    rows += [dataclasses.replace(one, metric="answers/harmful") for one in rows if one.metric == "harm"]
    rows += [dataclasses.replace(one, metric="answers/degenerate") for one in rows if one.metric == "harm"]

    def exchanges(cell: MeasuredCell) -> Any:
        for number in range(40):  # letters that cannot be packed well
            yield dataclasses.replace(
                exchange(f"request {number}", *(3 * hash_of(cell.name, when, str(number)) for when in "ab")),
                number=number,
            )

    page = render(evidence(rows, seeds=tuple(range(5)), exchanges=exchanges))
    assert len(Document(page).named("details")) > 500  # each has its stage
    assert len(packed(page, "answers-data")["cells"]) == 500
    assert len(page.encode()) < 6_000_000
