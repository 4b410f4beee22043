"""The geometry page and table: what they say, and that the page is one safe file."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from io import StringIO
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from rupert.errors import DataError
from rupert.records import Metric, Record
from rupert.report.geometry import Point, measurements, read_points, render, summary_table, write_page

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(1)>"
COMMAND = "rupert geometry --model base=potionworld"


def made(cosines: dict[tuple[str, int], float], **changes: Any) -> Record:
    """A record with these cosines between the groups, each 0.05 up and down."""
    metrics = []
    for (model, step), value in cosines.items():
        metrics += [
            Metric(f"{name}/{model}/{step}", value + shift, value + shift - 0.05, value + shift + 0.05, 6)
            for name, shift in (
                ("cosine_between", 0.0),
                ("cosine_within_harmful", 0.25),
                ("cosine_within_benign", 0.125),
                ("cosine_of_means", 0.5),
                ("norm_harmful", 2.0),
                ("norm_benign", 3.0),
            )
        ]
    models = list(dict.fromkeys(model for model, _ in cosines))
    steps = sorted({step for _, step in cosines})
    along = {"attack": {"learning_rate": 1e-4}, "at": steps} if len(steps) > 1 else {}
    fields: dict[str, Any] = {
        "stage": "geometry",
        "method": "gram",
        "model": ", ".join(models),
        "model_hash": "",
        "metrics": tuple(metrics),
        "seconds": 61.0,
        "environment": {"python": "3.11.7"},
        "settings": {
            "num_batches": 3,
            "batch_size": 4,
            "components": [2, 3],
            "harmful": "potionworld:attacker",
            "dtypes": dict.fromkeys(models, "float32"),
            **along,
        },
        "report": {
            "models": dict.fromkeys(models, "potionworld"),
            "measurements": [
                {"model": model, "attack_step": step, "explained": [0.125, 0.0625]} for model, step in cosines
            ],
        },
    }
    return Record(**fields | changes)


def points(record: Record) -> list[Point]:
    return [
        Point(one.model, one.attack_step, group, batch, batch + 0.5, -batch)
        for one in measurements(record)
        for group in ("harmful", "benign")
        for batch in range(3)
    ]


class Document(HTMLParser):
    """What a browser would see: elements, text outside of scripts, and the drawings."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.drawings = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.cdata_elem != "script":
            self.text += data
        elif self.elements[-1] == ("script", {"type": "application/json", "id": "drawings"}):
            self.drawings += data

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    def panels(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(self.drawings)["panels"]
        return found


def document(cosines: dict[tuple[str, int], float]) -> Document:
    record = made(cosines)
    return Document(render(record, points(record), COMMAND))


def words(text: str) -> str:
    return " ".join(text.replace("\N{NARROW NO-BREAK SPACE}", " ").replace("\N{MINUS SIGN}", "-").split())


@pytest.mark.parametrize(
    ("cosine", "said"),
    [
        (-0.3, "base: harmful and benign gradients lean against each other, mean cosine -0.300 (-0.350 to -0.250)."),
        (0.3, "base: harmful and benign gradients lean the same way, mean cosine 0.300 (0.250 to 0.350)."),
        (0.02, "base: harmful and benign gradients show no common direction, mean cosine 0.020 (-0.030 to 0.070)."),
        (-0.02, "base: harmful and benign gradients show no common direction, mean cosine -0.020"),
    ],
)
def test_the_verdict_claims_what_the_interval_shows(cosine: float, said: str) -> None:
    assert said in words(document({("base", 0): cosine}).text)


def test_each_model_is_a_panel_with_its_cosine_and_its_variance() -> None:
    first, second = document({("base", 0): 0.3, ("seam", 0): -0.3}).panels()
    assert [words(panel["layout"]["title"]["text"]) for panel in (first, second)] == [
        "base: mean cosine 0.300",
        "seam: mean cosine -0.300",
    ]
    assert words(second["layout"]["xaxis"]["title"]["text"]) == "component 2 (12.5 % of the variance)"
    assert words(second["layout"]["yaxis"]["title"]["text"]) == "component 3 (6.2 % of the variance)"
    assert [trace["name"] for trace in first["data"]] == ["harmful", "benign"]
    assert first["data"][0]["marker"]["symbol"] != first["data"][1]["marker"]["symbol"]
    assert first["data"][1]["x"] == [0.5, 1.5, 2.5]
    assert first["data"][1]["y"] == [0, -1, -2]


def test_an_attack_adds_its_end_and_the_way_there() -> None:
    cosines = {
        ("base", 0): 0.3,
        ("base", 10): 0.2,
        ("base", 30): -0.1,
        ("seam", 0): 0,
        ("seam", 10): 0,
        ("seam", 30): 0,
    }
    page = document(cosines)
    assert "base after 30 attack steps: harmful and benign gradients lean against each other" in words(page.text)
    assert [re.sub(r"-\d$", "", panel["id"]) for panel in page.panels()] == [
        *["scatter-0"] * 2,
        *["scatter-30"] * 2,
        *["along"] * 4,
    ]
    curve = page.panels()[4]["data"][0]
    assert (curve["name"], curve["x"], curve["y"]) == ("base", [0, 10, 30], [0.3, 0.2, -0.1])
    assert curve["error_y"]["array"] == pytest.approx([0.05] * 3)
    assert "learning_rate" in page.text


def test_it_is_one_file_that_loads_nothing_and_is_named_for_screen_readers() -> None:
    page = document({("base", 0): 0.3, ("base", 5): 0.1})
    loads = [attributes.get(name) for _, attributes in page.elements for name in ("src", "href", "srcset", "action")]
    assert [load for load in loads if load is not None] == ["data:,"]
    (policy,) = [one["content"] or "" for one in page.named("meta") if "http-equiv" in one]
    assert policy.startswith("default-src 'none';")
    assert "http" not in policy
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch("h[1-6]", tag)]
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    assert len(page.named("caption")) == len(page.named("table"))
    assert all(panel["aria-label"] for panel in page.named("div") if panel.get("role") == "img")


def test_every_number_and_where_it_comes_from_are_there() -> None:
    text = words(document({("base", 0): 0.3}).text)
    for part in ("0.300", "0.550", "0.425", "0.800", "2.300", "12.5 %", "6.2 %", COMMAND, "1 min 1 s", "3.11.7"):
        assert part in text
    assert "potionworld, float32" in text
    assert "of the attack" not in text


def test_hostile_labels_are_text() -> None:
    record = made({(HOSTILE, 0): 0.1, (HOSTILE, 3): 0.1}, environment={HOSTILE: HOSTILE})
    page = Document(render(record, points(record), HOSTILE))
    assert len(page.named("script")) == 3
    assert page.named("img") == []
    assert not any(name.startswith("on") for _, attributes in page.elements for name in attributes)
    assert "onerror" in page.text
    for panel in page.panels():
        assert "<img" not in json.dumps(panel)


def test_the_table_fits_into_80_columns() -> None:
    console = Console(width=80, record=True, file=StringIO())
    console.print(summary_table(made({("base", 0): -0.3, ("base", 10): 0.25, ("a name of a model", 0): 0})))
    text = words(console.export_text())
    assert "base 0 -0.300 -0.050 -0.175 0.200" in text
    assert "-0.350, -0.250" in text
    assert "a name of a model 0 0.000" in text
    assert "…" not in text


def test_points_that_cannot_be_read_are_one_line(tmp_path: Path) -> None:
    path = tmp_path / "geometry.csv"
    with pytest.raises(DataError, match="there is no such file"):
        read_points(path)
    for damaged in ("", "model\nbase,0\n", "a,b,c,d,e,f\nbase,0,harmful,1,0.5,x\n"):
        path.write_text(damaged)
        with pytest.raises(DataError, match="damaged"):
            read_points(path)
    path.write_text("a,b,c,d,e,f\nbase,0,harmful,1,0.5,-2\n")
    assert read_points(path) == [Point("base", 0, "harmful", 1, 0.5, -2.0)]


def test_the_page_is_written_whole(tmp_path: Path) -> None:
    record = made({("base", 0): 0.3})
    write_page(record, points(record), COMMAND, tmp_path / "geometry.html")
    assert (tmp_path / "geometry.html").read_text().endswith("</html>")
    assert len(list(tmp_path.iterdir())) == 1
