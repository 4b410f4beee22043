"""The live page's server: what it tells while a study goes on, and everything that it refuses."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from rupert.cli.viewing.server import Server
from rupert.cli.viewing.state import Viewer
from rupert.study.running.progress import file_listener
from rupert.study.survey.stages import survey
from rupert.terminal import Progress

from .view_by_hand import STUDY, ByHand, Listener, ask, served, stage

pytestmark = pytest.mark.usefixtures("at_once")

HOSTILE = "</script><img src=x onerror=alert(1)>\x1b[2J\u202e"


WRITTEN_OUT = "</script><img src=x onerror=alert(1)>\\x1b[2J\\u202e"


def cell(state: dict[str, Any], defense: str, attack: str) -> dict[str, Any]:
    return next(one for one in state["cells"] if (one["defense"], one["attack"]) == (defense, attack))


def test_a_study_is_followed_from_before_its_beginning_to_its_end(server: Server, by_hand: ByHand) -> None:
    with Listener(server) as page:
        assert page.response.headers["Content-Type"] == "text/event-stream"
        assert page.state()["phase"] == "waiting"
        by_hand.begin()
        state = page.state(lambda state: state["phase"] != "waiting")
        assert (state["phase"], state["study"], state["model"]) == ("paused", "watched", "potionworld")
        assert [attack["title"] for attack in state["attacks"]] == ["no attack", "lr 1e-4", "lr 1e-3"]
        assert [defense["title"] for defense in state["defenses"]] == ["undefended", "seam"]
        # Two seeds of the undefended model are one stage, and so are their evaluations.
        assert [(kind["kind"], sum(kind[name] for name in state["states"])) for kind in state["kinds"]] == [
            ("defend", 3),
            ("attack", 8),
            ("evaluate", 11),
        ]
        for node in by_hand.graph.nodes:
            by_hand.finish(node)
            state = page.state(lambda state, node=node: stage(state, node.kind, node.label)["state"] == "done")
            assert stage(state, node.kind, node.label)["seconds"] == pytest.approx(2, abs=0.2)
        assert state["phase"] == "ended"
        assert {one["state"] for one in state["cells"]} == {"done"}
        assert state["seconds"] == pytest.approx(2 * 22, abs=1)


def test_work_on_a_stage_is_shown_as_it_goes_on(server: Server, by_hand: ByHand) -> None:
    by_hand.begin()
    hardening = by_hand.node("defend", "seam-seed1")
    with Listener(server) as page:
        with by_hand.at_work(hardening, Progress("hardening", 3, 20, "loss 1.25")):
            found = page.state(lambda state: stage(state, "defend", "seam-seed1")["progress"])
            assert found["phase"] == "running"
            progress = {"title": "hardening", "done": 3.0, "total": 20.0, "note": "loss 1.25"}
            assert stage(found, "defend", "seam-seed1")["progress"] == progress
            assert cell(found, "seam", "none")["state"] == "running"
            assert found["stages"][cell(found, "seam", "none")["stage"]]["label"] == "seam-seed1"
            assert cell(found, "seam", "fine_tune-1e-4")["state"] == "waiting"
            file_listener(by_hand.task(hardening).progress)(Progress("hardening", 4, 20, ""))
            page.state(lambda state: stage(state, "defend", "seam-seed1")["progress"]["done"] == 4)
        state = page.state(lambda state: stage(state, "defend", "seam-seed1")["state"] != "running")
        assert state["phase"] == "running"  # between two stages nobody works, and that is no pause


def test_numbers_of_seeds_are_taken_together_as_the_report_does(by_hand: ByHand) -> None:
    by_hand.begin()
    viewer = Viewer(by_hand.store.folder)
    for label in ("seam-seed0", "seam-seed1"):
        by_hand.finish(by_hand.node("defend", label))
    by_hand.finish(by_hand.node("evaluate", "seam-none-seed0"), harm=0.2)
    half = cell(viewer.look(), "seam", "none")
    assert (half["state"], half["done"], half["seeds"]) == ("waiting", 1, 2)
    assert half["harm"] == {
        "value": 0.2,
        "text": "20\N{NARROW NO-BREAK SPACE}%",
        "interval": "10\N{EN DASH}40",
        "n": 60,
    }
    by_hand.finish(by_hand.node("evaluate", "seam-none-seed1"), harm=0.4)
    both = cell(viewer.look(), "seam", "none")
    assert (both["state"], both["done"], both["harm"]["value"]) == ("done", 2, pytest.approx(0.3))
    assert both["seconds"] == pytest.approx(8, abs=0.5)
    assert cell(viewer.look(), "none", "none")["harm"] is None
    # What both seeds share was done once, and took its time once.
    by_hand.finish(by_hand.node("defend", "none"))
    by_hand.finish(by_hand.node("evaluate", "none-none"))
    assert cell(viewer.look(), "none", "none")["seconds"] == pytest.approx(4, abs=0.5)


def test_a_failure_takes_with_it_what_builds_on_it_and_is_over_when_it_is_done(by_hand: ByHand) -> None:
    by_hand.begin()
    viewer = Viewer(by_hand.store.folder)
    hardening = by_hand.node("defend", "seam-seed0")
    by_hand.fail(hardening, "out of memory")
    state = viewer.look()
    assert stage(state, "defend", "seam-seed0")["message"] == "RuntimeError: out of memory"
    assert [cell(state, "seam", attack["name"])["state"] for attack in state["attacks"]] == ["failed"] * 3
    assert [cell(state, "none", attack["name"])["state"] for attack in state["attacks"]] == ["waiting"] * 3
    by_hand.finish(hardening)
    assert cell(viewer.look(), "seam", "none")["state"] == "waiting"


def test_a_look_finds_what_a_whole_survey_finds(by_hand: ByHand) -> None:
    by_hand.begin()
    viewer = Viewer(by_hand.store.folder)

    def both() -> tuple[list[str], list[str]]:
        surveyed = [found.node.label for found in survey(by_hand.study, by_hand.store) if found.place]
        return surveyed, [one["label"] for one in viewer.look()["stages"] if one["state"] == "done"]

    for node in by_hand.graph.nodes[:12]:
        by_hand.finish(node)
    whole, seen = both()
    assert whole == seen
    assert len(seen) == 12
    # A hardening is set aside: nothing that was made from it counts any more.
    by_hand.store.set_aside(by_hand.done[by_hand.node("defend", "seam-seed0")])
    whole, seen = both()
    assert whole == seen
    assert len(seen) < 11


def test_a_damaged_stage_is_said_to_be_damaged(by_hand: ByHand) -> None:
    by_hand.begin()
    viewer = Viewer(by_hand.store.folder)
    hardening = by_hand.node("defend", "seam-seed0")
    by_hand.finish(hardening)
    assert stage(viewer.look(), "defend", "seam-seed0")["state"] == "done"
    (by_hand.done[hardening] / "result.json").write_text("{")
    state = viewer.look()
    assert stage(state, "defend", "seam-seed0")["state"] == "damaged"
    assert (state["others"], "trouble" in state) == (0, False)
    assert cell(state, "seam", "none")["state"] == "waiting"


def test_another_study_in_the_folder_is_shown_in_its_place(by_hand: ByHand) -> None:
    by_hand.begin()
    viewer = Viewer(by_hand.store.folder)
    assert viewer.look()["seeds"] == [0, 1]
    by_hand.finish(by_hand.node("defend", "none"))
    by_hand.finish(by_hand.node("defend", "seam-seed0"))
    assert viewer.look()["others"] == 0
    ByHand(by_hand.store.folder, STUDY.replace("[0, 1]", "[7]")).begin()
    state = viewer.look()
    assert state["seeds"] == [7]
    assert stage(state, "defend", "none")["state"] == "done"  # which both studies share
    assert state["others"] == 1


def test_what_is_damaged_is_said_and_the_last_state_stays(by_hand: ByHand) -> None:
    by_hand.begin()
    viewer = Viewer(by_hand.store.folder)
    before = viewer.look()
    (by_hand.store.folder / "study.json").write_text("{")
    assert viewer.look() == before  # once may be a moment at which it was written
    assert re.match(r".*study\.json: damaged", viewer.look()["trouble"])
    assert viewer.look()["stages"] == before["stages"]
    by_hand.begin()
    assert viewer.look() == before


@pytest.mark.parametrize("content", ["[]", '{"study": 1}', '{"stage": ' * 9999, "\ud800", "null"])
def test_a_study_that_is_something_else_ends_nothing(by_hand: ByHand, content: str) -> None:
    by_hand.begin()
    (by_hand.store.folder / "study.json").write_text(content, errors="surrogatepass")
    viewer = Viewer(by_hand.store.folder)
    viewer.look()
    assert viewer.look()["trouble"]


def test_hostile_text_comes_out_as_data(server: Server, by_hand: ByHand) -> None:
    by_hand.begin()
    path = by_hand.store.folder / "study.json"
    described = json.loads(path.read_text())
    described["study"] = HOSTILE
    path.write_text(json.dumps(described))
    by_hand.fail(by_hand.node("defend", "seam-seed0"), f"{HOSTILE}\n\ndata: {{}}\n\n{HOSTILE}{'x' * 900}")
    with (
        by_hand.at_work(by_hand.node("defend", "seam-seed1"), Progress(HOSTILE, float("nan"), float("inf"), HOSTILE)),
        Listener(server) as page,
    ):
        lines = page.lines()
        assert next(lines) == "retry: 2000"
        assert next(lines) == ""
        state = page.state(lambda state: state.get("stages"))
    assert state["study"] == WRITTEN_OUT
    assert stage(state, "defend", "seam-seed0")["message"].startswith(WRITTEN_OUT)
    assert len(stage(state, "defend", "seam-seed0")["message"]) <= 501
    progress = {"title": WRITTEN_OUT, "done": None, "total": None, "note": WRITTEN_OUT}
    assert stage(state, "defend", "seam-seed1")["progress"] == progress


@pytest.mark.parametrize("value", [HOSTILE, None, [1], {"a": 1}])
def test_what_should_be_a_number_and_is_none_damages_its_stage(by_hand: ByHand, value: Any) -> None:
    by_hand.begin()
    by_hand.finish(by_hand.node("defend", "none"))
    by_hand.finish(by_hand.node("evaluate", "none-none"), harm=value)
    state = Viewer(by_hand.store.folder).look()
    assert stage(state, "evaluate", "none-none")["state"] == "damaged"
    assert cell(state, "none", "none")["done"] == 0
    assert cell(state, "none", "none")["harm"] is None


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_no_finite_number_is_left_out(by_hand: ByHand, value: Any) -> None:
    by_hand.begin()
    by_hand.finish(by_hand.node("defend", "none"))
    by_hand.finish(by_hand.node("evaluate", "none-none"), harm=value)
    found = cell(Viewer(by_hand.store.folder).look(), "none", "none")
    assert found["harm"] is None
    assert found["ability"]["value"] == 0.5


def test_nothing_is_written(by_hand: ByHand) -> None:
    by_hand.begin()
    for node in by_hand.graph.nodes[:6]:
        by_hand.finish(node)
    folder = by_hand.store.folder
    paths = [folder, *folder.rglob("*")]
    before = {path: path.lstat().st_mtime_ns for path in paths}
    modes = {path: path.lstat().st_mode for path in paths}
    for path in paths:
        path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        with served(folder) as server, Listener(server) as page:
            state = page.state(lambda state: state.get("stages"))
            assert "trouble" not in state
            assert sum(one["state"] == "done" for one in state["stages"]) == 6
            ask(server, "GET /report")
        assert {path: path.lstat().st_mtime_ns for path in [folder, *folder.rglob("*")]} == before
    finally:
        for path, mode in modes.items():
            path.chmod(mode)
