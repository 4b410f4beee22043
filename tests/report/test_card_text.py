"""What a card may say: measured numbers alone, in text, metadata and JSON, and nothing that acts."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard
from jsonschema import Draft202012Validator

import rupert.report
from rupert.evidence import Evidence
from rupert.records import Metric, content_hash
from rupert.report.card.facts import Asked, facts
from rupert.report.card.metadata import card
from rupert.report.card.public import public, public_command
from rupert.report.card.section import model_card, section

from .evidence_by_hand import CRITERION, FULL, cell, grid, rates, said, search, study

SCHEMA = json.loads((Path(rupert.report.__file__).parent / "card.schema.json").read_text())


HOSTILE = (
    "</td><script>alert(1)</script>|[x](http://e.org)![i](j)`c`\n---\n- @all www.evil.org $x$ {{x}} %}\u202eabc\x1b[2J"
)


def problems(found: Mapping[str, Any]) -> list[str]:
    return [error.message for error in Draft202012Validator(SCHEMA).iter_errors(json.loads(json.dumps(found)))]


def measured_numbers(evidence: Evidence) -> set[str]:
    """How each number of the records may be written: in percent, an end of an interval rounded outwards."""
    found = set()
    for one in evidence.cells:
        for metric in one.metrics:
            for value in filter(None, (metric.value, metric.low, metric.high)):
                percent = round(100 * value, 6)
                found |= {str(round(percent)), str(int(percent)), str(-int(-percent // 1))}
            found.add(str(metric.n))
    return found | {"0", "100"}


def test_every_rate_in_a_card_was_measured() -> None:
    cells = [*grid((0.22, 0.9)), cell("seam", "benign", (0.0, 0.86)), cell("none", "benign", (0.62, 0.88))]
    text = section(said(cells)).partition("### What was not tested")[0]
    known = measured_numbers(study(cells)) | {"50", "80", "95"}  # the criterion, and that intervals are of 95 %
    stated = re.findall(r"(\d+(?:\.\d+)?)\s?%", text)
    ends = [end for pair in re.findall(r"(\d+)\N{EN DASH}(\d+)", text) for end in pair]
    counts = re.findall(r"n = (\d+)", text)
    assert len(stated) > 20
    assert len(ends) > 20
    assert set(stated + ends + counts) <= known
    changed = [replace(one, metrics=rates((0.37, 0.71))) if one.attack == "benign" else one for one in cells]
    assert not set(re.findall(r"(\d+)\s?%", section(said(changed)))) <= known


def test_no_number_of_another_defense_is_in_it() -> None:
    other = [cell("sdd", "none", (0.71, 0.33)), cell("sdd", "fine_tune-1e-4", (0.73, 0.37))]
    found = study([*grid((0.22, 0.9)), *other])
    text = json.dumps(facts(found, Asked(defense="seam", criterion=CRITERION)))
    assert "0.71" not in text
    assert "0.37" not in text
    assert "sdd" not in text


def test_several_seeds_stand_beside_each_other_and_are_not_averaged() -> None:
    cells = [*grid((0.22, 0.9)), cell("seam", "none", (0.0, 0.96), 1), cell("seam", "fine_tune-1e-4", (0.88, 0.95), 1)]
    found = said(cells, released=0)
    assert found["outcome"] == "broke"  # that the other seed's weights are published hides nothing
    assert "several seeds" not in found["not_tested"]
    assert "seed" not in found["attacks"][0]["settings"]  # every result says its own
    assert [result["defended"]["harm"]["value"] for result in found["attacks"][0]["results"]] == [0.22, 0.88]
    assert found["released"] == {"seed": 0, "sha256": FULL}
    assert "The weights published here are those of seed 0." in section(found)
    values = [one.metric_value for one in ModelCard(card(found, "m", section(found))).data.eval_results]
    assert sorted(values) == [0.04, 0.22, 0.9, 0.92]  # of the weights that are published alone


def test_the_json_validates_against_the_published_schema() -> None:
    Draft202012Validator.check_schema(SCHEMA)
    cells = [*grid((0.22, 0.9)), cell("seam", "benign", (0.0, 0.86)), cell("seam", "fine_tune-1e-3", (0.7, 0.2), 1)]
    found = said(cells, searches=(search(), search("undefended", "broke")), released=0)
    assert problems(found) == []
    assert problems(said(grid((0.22, 0.9)), parameters=None)) == []
    assert problems({**found, "outcome": "safe"})
    assert problems({**found, "claim": "safe"})
    assert problems({name: value for name, value in found.items() if name != "not_tested"})


def test_hugging_face_reads_the_metadata() -> None:
    found = said(grid((0.22, 0.9)))
    read = ModelCard(card(found, "potionworld-seam", section(found)))
    assert read.data.base_model == "potionworld"
    assert (read.data.library_name, read.data.pipeline_tag, read.data.license) == (
        "transformers",
        "text-generation",
        None,
    )
    assert read.data.model_name == "potionworld-seam"
    results = {one.metric_name: one for one in read.data.eval_results}
    attacked = results["harm, harmful fine-tuning, lr 1e-4, seed 0"]
    assert (attacked.metric_type, attacked.metric_value, attacked.dataset_name) == ("harm", 0.22, "potionworld:scored")
    assert attacked.metric_args == {"low": 0.11, "high": 0.35, "n": 40}
    assert results["ability, no attack, seed 0"].metric_value == 0.92
    assert results["ability, no attack, seed 0"].dataset_name == "potionworld:benign-test"
    assert read.text.lstrip().startswith("## Tamper resistance")


def test_nothing_in_a_name_acts() -> None:
    cells = [
        replace(one, attack=HOSTILE if one.attack != "none" else "none", defense=one.defense.replace("seam", HOSTILE))
        for one in grid((0.22, 0.9), data=HOSTILE, chosen=HOSTILE)
    ]
    evidence = study(cells, study=HOSTILE, model=HOSTILE, notes=(HOSTILE,), command=HOSTILE)
    found = facts(evidence, Asked(defense=HOSTILE, criterion=CRITERION))
    assert problems(found) == []
    text = card(found, HOSTILE, model_card(found, HOSTILE))
    read = ModelCard(text)
    assert read.data.base_model is None
    outside = "\n".join(re.split(r"(?s)^(`{3,})bash\n.*?^\1$", read.text, flags=re.MULTILINE)[0::2])
    assert re.sub(r"</?(details|summary)>", "", outside).count("<") == 0
    assert re.search(r"(?<!\\)[`$~]|(?<!\\)\[|://|@|www\.|[\x1b\u202e]", outside) is None
    assert not [line for line in outside.splitlines() if line.startswith(("---", "- @"))]
    tables = [line for line in outside.splitlines() if line.startswith("|")]
    widths = [len(re.findall(r"(?<!\\)\|", line)) for line in tables]
    assert len(set(widths[:3])) == 1
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert "U+202E" in outside


def test_a_fence_in_a_command_does_not_end_the_block() -> None:
    found = {**said(grid((0.22, 0.9))), "command": "rupert run '```` <b>'"}
    assert "\n`````bash\nrupert run '```` <b>'\n`````" in section(found)


def test_no_folder_of_somebodys_machine_is_published() -> None:
    found = facts(study(grid((0.22, 0.9)), model="/home/me/base"), Asked(defense="seam", criterion=CRITERION))
    assert "/home" not in json.dumps(found)
    assert found["model"]["name"] == "base"
    assert "base_model" not in card(found, "m", section(found))
    assert found["command"] == "rupert run study.yaml 'seeds=[0]'"
    assert public({"~/a/b": ["../c/d.json", "owner/name", 3]}) == {"b": ["d.json", "owner/name", 3]}
    assert public_command("rupert run 'open") == "rupert run ''\"'\"'open'"


def test_a_model_of_the_hub_is_named_only_where_its_identity_proves_it() -> None:
    cells = []
    for one in grid((0.22, 0.9)):
        first, *others = one.origins
        named = replace(first.record, model="owner/name", model_hash=content_hash(["owner/name", "v2"]))
        command = "rupert defend seam --model owner/name --revision v2"
        cells.append(replace(one, origins=(replace(first, record=named, command=command), *others)))
    found = facts(study(cells, model="owner/name"), Asked(defense="seam", criterion=CRITERION))
    assert found["model"]["on_hub"] == {"name": "owner/name", "revision": "v2"}
    assert "base_model: owner/name" in card(found, "m", "")
    local = facts(study(grid((0.22, 0.9)), model="owner/name"), Asked(defense="seam", criterion=CRITERION))
    assert local["model"]["on_hub"] is None
    assert "base_model" not in card(local, "m", "")


def test_limits_are_those_of_the_records() -> None:
    text = " ".join(said(grid((0.22, 0.9)))["limits"])
    assert "a small model of 936,832 parameters" in text
    assert "invented world" in text
    other = [
        replace(
            one,
            origins=tuple(
                replace(
                    of, record=replace(of.record, settings={**of.record.settings, "requests": "beavertails:unsafe"})
                )
                for of in one.origins
            ),
        )
        for one in grid((0.22, 0.9))
    ]
    text = " ".join(said(other, parameters=7_000_000_000)["limits"])
    assert "one model of 7,000,000,000 parameters" in text
    assert "invented world" not in text


def test_what_is_not_a_number_was_not_measured() -> None:
    cells = grid((0.22, 0.9))
    broken = replace(cells[3], metrics=(Metric("harm", float("nan"), None, None, 0), *cells[3].metrics[1:]))
    found = said([*cells[:3], broken])
    assert found["outcome"] == "not measured"
    assert "nan" not in json.dumps(found, allow_nan=False)
    assert problems(found) == []


def test_no_card_calls_a_model_safe() -> None:
    for attacked in ((0.9, 0.9), (0.0, 0.9), (0.45, 0.9), (0.9, 0.1)):
        text = model_card(said(grid(attacked), searches=(search(),)), "m")
        assert re.search(r"(?i)\bsafe|\bsecure|\bprotect|\bguarantee|\bproven", text) is None
