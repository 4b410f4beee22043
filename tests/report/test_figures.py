"""The figures: what they show, in which order, and how it looks."""

from __future__ import annotations

import pytest

from rupert.evidence import Curve
from rupert.records import ResultRow
from rupert.report.figures import COLOURS, MANY, SYMBOLS, styles, template
from rupert.report.plots.attack_grid import attack_grid
from rupert.report.plots.over_rates import axis_attacks, harm_and_ability, mechanism, refusal
from rupert.report.plots.shares import safe_or_broken
from rupert.report.plots.training import POINTS, thinned
from rupert.report.plots.volume import data_volume, families
from rupert.report.tables import Grid, collect

ATTACKS = ("none", "benign", "fine_tune-2e-05", "fine_tune-0.001")


def grid(*metrics: str, defenses: tuple[str, ...] = ("none", "sdd"), attacks: tuple[str, ...] = ATTACKS) -> Grid:
    return collect(
        [
            ResultRow(
                study="demo",
                model="potionworld",
                defense=defense,
                attack=attack,
                seed=0,
                metric=metric,
                value=number / 10,
                low=number / 10 - 0.05,
                high=number / 10 + 0.05,
                n=66,
            )
            for defense in defenses
            for number, attack in enumerate(attacks)
            for metric in metrics
        ]
    )


def test_each_defense_is_a_line_over_the_learning_rates_with_error_bars() -> None:
    figure = harm_and_ability(grid("harm", "ability"))
    assert figure is not None
    assert len(figure.panels) == 2
    harm = figure.panels[0]
    lines = [trace for trace in harm.data if trace.mode == "lines+markers"]
    assert [line.name for line in lines] == ["undefended", "sdd"]
    assert list(lines[1].y) == [0.2, 0.3]
    assert list(lines[1].error_y.array) == pytest.approx([0.05, 0.05])
    assert list(lines[1].error_y.arrayminus) == pytest.approx([0.05, 0.05])
    assert list(lines[1].x) == pytest.approx([2e-5, 1e-3], rel=0.15)
    assert harm.layout.xaxis.type == "log"
    assert list(harm.layout.xaxis.ticktext) == ["no<br>attack", "benign", "2e-5", "1e-3"]


def test_the_unattacked_and_the_benign_model_lie_left_of_the_learning_rates() -> None:
    figure = harm_and_ability(grid("harm"))
    assert figure is not None
    beside = [trace for trace in figure.panels[0].data if trace.mode == "markers"]
    assert all(trace.marker.symbol.endswith("-open") for trace in beside)
    assert all(place < 1.5e-5 for trace in beside for place in trace.x)
    dotted = [trace for trace in figure.panels[0].data if trace.mode == "lines"]
    assert [list(trace.y) for trace in dotted] == [[0.0, 0.0], [0.0, 0.0]]


def test_hover_shows_interval_and_n() -> None:
    figure = refusal(grid("refusal"))
    assert figure is not None
    line = next(trace for trace in figure.panels[0].data if trace.mode == "lines+markers")
    assert "refusal: 20" in line.text[0]
    assert "95 % interval: 15\N{EN DASH}25" in line.text[0]
    assert line.text[0].endswith("n = 66")  # of one seed, nothing is said of seeds


def test_the_mechanism_is_the_change_from_before_the_attack() -> None:
    figure = mechanism(grid("logp_paired", "logp_benign"))
    assert figure is not None
    line = next(trace for trace in figure.panels[0].data if trace.mode == "lines+markers" and trace.name == "sdd")
    assert list(line.y) == pytest.approx([0.2, 0.3])
    assert "no<br>attack" not in figure.panels[0].layout.xaxis.ticktext


def test_what_was_not_measured_is_not_drawn() -> None:
    assert refusal(grid("harm")) is None
    assert harm_and_ability(grid("refusal")) is None
    assert attack_grid(grid("logp_paired", attacks=(*ATTACKS, "recovery"))) is None
    only_harm = harm_and_ability(grid("harm"))
    assert only_harm is not None
    assert len(only_harm.panels) == 1
    assert mechanism(grid("logp_paired", attacks=("fine_tune-2e-05",))) is None
    assert mechanism(grid("logp_paired", attacks=("none",))) is None


def test_a_study_without_learning_rates_is_drawn_too() -> None:
    figure = harm_and_ability(grid("harm", attacks=("none", "benign")))
    assert figure is not None
    shown = [trace.name for trace in figure.panels[0].data if trace.showlegend]
    assert shown == ["undefended", "sdd"]


def test_each_defense_looks_its_own_way_in_colour_and_in_symbol() -> None:
    defenses = ("none", *(f"defense-{number}" for number in range(len(COLOURS))))
    looks = styles(grid("harm", defenses=defenses))
    assert len({look.colour for look in looks.values()}) == len(defenses)
    assert len({look.symbol for look in looks.values()}) == len(defenses)
    assert len(COLOURS) == len(SYMBOLS)


@pytest.mark.parametrize("ground", ["#ffffff", "#1b2027"])
@pytest.mark.parametrize("colour", COLOURS)
def test_colours_stand_out_from_both_grounds(colour: str, ground: str) -> None:
    darker, lighter = sorted((luminance(colour), luminance(ground)))
    assert (lighter + 0.05) / (darker + 0.05) >= 3


def luminance(colour: str) -> float:
    """Relative luminance as WCAG 2 defines it."""
    shares = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [share / 12.92 if share <= 0.03928 else ((share + 0.055) / 1.055) ** 2.4 for share in shares]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_the_themes_differ_in_colours_alone() -> None:
    light, dark = template("light")["layout"], template("dark")["layout"]
    assert light["font"]["color"] != dark["font"]["color"]
    assert light["font"]["size"] == dark["font"]["size"]
    assert light.keys() == dark.keys()


def test_names_are_text_and_never_markup() -> None:
    figure = harm_and_ability(grid("harm", defenses=("<b>bold</b>",), attacks=("none", "<i>odd</i>")))
    assert figure is not None
    text = figure.panels[0].to_json()
    assert "<b>bold" not in text.replace(r"\u003c", "<")
    assert "<i>" not in text.replace(r"\u003c", "<")


def test_safe_or_broken_stacks_the_kinds_of_answers_of_each_defense() -> None:
    kinds = ("answers/refusal", "answers/irrelevant", "answers/harmful", "answers/degenerate")
    figure = safe_or_broken(grid("harm", *kinds))
    assert figure is not None
    assert [panel.layout.title.text for panel in figure.panels] == ["undefended", "sdd"]
    first = figure.panels[0]
    assert first.layout.barmode == "stack"
    assert [trace.name for trace in first.data] == [
        "refusal",
        "coherent, not harmful",
        "coherent and harmful",
        "degenerate",
    ]
    assert list(first.data[3].y) == pytest.approx([0.0, 0.1, 0.2, 0.3])
    assert list(first.data[0].x) == ["no<br>attack", "benign", "2e-5", "1e-3"]
    assert len({trace.marker.pattern.shape for trace in first.data}) == 4
    assert safe_or_broken(grid("harm")) is None


def test_many_defenses_are_given_a_panel_each_with_the_undefended_model_behind() -> None:
    defenses = ("none", *(f"d{number}" for number in range(MANY)))
    figure = harm_and_ability(grid("harm", "ability", defenses=defenses))
    assert figure is not None
    assert figure.of == defenses[1:]
    assert [panel.layout.title.text for panel in figure.panels] == list(defenses[1:])
    lines = [trace for trace in figure.panels[0].data if trace.mode == "lines+markers"]
    names = ["harm, undefended", "ability, undefended", "harm, d0", "ability, d0"]
    assert [line.name for line in lines] == names
    assert [line.line.dash for line in lines] == ["solid", "dash", "solid", "dash"]
    assert [key.name for key in figure.key][:2] == ["harm, with the defense", "ability, with the defense"]
    assert figure.panels[0].layout.showlegend is None  # in a paper, each panel stands alone
    assert figure.panels[0].layout.meta["screen"]["showlegend"] is False
    assert refusal(grid("refusal", defenses=defenses)) is None


def test_panels_of_many_defenses_share_one_scale() -> None:
    defenses = ("none", *(f"d{number}" for number in range(MANY)))
    figure = mechanism(grid("logp_paired", "logp_benign", defenses=defenses))
    assert figure is not None
    assert len({tuple(panel.layout.yaxis.range) for panel in figure.panels}) == 1


def test_attacks_that_differ_in_more_than_the_rate_stand_in_a_grid() -> None:
    attacks = ("none", "1k-2e-05", "1k-5e-05", "10k-5e-05", "recovery")
    found = grid("harm", "ability", attacks=attacks)
    assert axis_attacks(found) == ["1k-2e-05", "1k-5e-05"]
    rates = harm_and_ability(found)
    assert rates is not None
    assert list(rates.panels[0].layout.xaxis.ticktext) == ["no<br>attack", "2e-5", "5e-5"]
    assert rates.caption.endswith("Attacks that differ in more than the learning rate are in the attack grid.")
    figure = attack_grid(found)
    assert figure is not None
    (cells,) = figure.panels[0].data
    assert len(set(cells.x)) == len(attacks)
    assert list(cells.y) == ["undefended", "sdd"]
    order = [found.attacks.index(attack) for attack in found.attacks]
    assert len(cells.z[0]) == len(order)
    assert "n = 66" in cells.hovertext[0][1]
    assert cells.text[1][cells.x.index("recovery")] == "40"
    assert attack_grid(grid("harm", "ability")) is None  # one axis of rates, few defenses: lines show it


def test_a_cell_that_was_not_measured_is_empty() -> None:
    rows = grid("harm", attacks=("none", "recovery", "early_stopping"))
    estimates = {key: found for key, found in rows.estimates.items() if key != ("sdd", "recovery", "harm")}
    figure = attack_grid(Grid(rows.defenses, rows.attacks, rows.seeds, estimates, {}))
    assert figure is not None
    (cells,) = figure.panels[0].data
    assert cells.z[1][1] is None
    assert cells.text[1][1] == ""


def test_the_volume_of_data_is_an_axis_where_nothing_else_differs() -> None:
    settings = {
        "fine_tune-16": {"num_examples": 16, "optim": "adamw"},
        "fine_tune-320": {"num_examples": 320, "optim": "adamw"},
        "sgd": {"num_examples": 80, "optim": "sgd"},
        "benign": {"num_examples": 16, "optim": "adamw", "data": "other"},
    }
    assert families(settings) == [{"fine_tune-16": 16, "fine_tune-320": 320}]
    assert families({"none": None, "sdd": {"num_pairs": 8}}) == []
    found = grid("harm", "ability", attacks=("none", "fine_tune-16", "fine_tune-320"))
    figure = data_volume(found, settings, {"none": None, "sdd": {"num_pairs": 8}})
    assert figure is not None
    harm = figure.panels[0]
    assert harm.layout.title.text == "Harm by the attacker's data (fine_tune)"
    assert [line.name for line in harm.data] == ["undefended", "sdd"]
    assert list(harm.data[0].x) == [16, 320]
    assert list(harm.data[0].y) == [0.1, 0.2]
    assert "320 rows of data" in harm.data[0].text[1]
    assert data_volume(found, {}, {}) is None


def test_a_long_curve_is_thinned_to_means_of_its_runs() -> None:
    steps = tuple(range(1, 2 * POINTS + 1))
    last, means = thinned(Curve("loss", steps, tuple(float(step % 2) for step in steps)))
    assert last == list(range(2, 2 * POINTS + 1, 2))
    assert means == [0.5] * POINTS
    assert thinned(Curve("loss", (1, 5), (0.12345, 2.0))) == ([1, 5], [0.123, 2.0])
