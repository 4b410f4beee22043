"""The facts of a card, in JSON values: what was tried on a defended model, what held, what broke, what nobody tried."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import dataclass

from rupert.errors import UsageError
from rupert.evidence import Evidence, MeasuredCell, Origin
from rupert.records import Metric, content_hash
from rupert.report.card import findings
from rupert.report.card.checklist import OUT_OF_REACH, not_tested
from rupert.report.card.public import public, public_command
from rupert.report.card.search import Criterion, SearchFacts, Tried
from rupert.report.card.searches import criterion_of, search_of
from rupert.report.card.values import Values, data_of, finite, judges_of, number, settings_of, stage_of, way_of
from rupert.report.tables import BENIGN, UNATTACKED, UNDEFENDED

__all__ = ["WORLD", "Asked", "facts", "hardening_of"]

_VERSION = 1
_SHOWN = ("harm", "harm_coherent", "refusal", "over_refusal", "answers/degenerate", "ability")
# The embedded models that are somebody's on the Hub.
_ON_HUB = {"smollm2": "HuggingFaceTB/SmolLM2-135M-Instruct"}
WORLD = "potionworld"


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What a card is asked to say.

    Attributes:
        defense: its label in the study.
        criterion: when a model counts as broken.
        searches: of ladders; of the defended models and of the undefended ones.
        parameters: of the model; none where nobody counted them.
        released: the seed whose weights are published with the card; none where none are.
    """

    defense: str
    criterion: Criterion
    searches: tuple[SearchFacts, ...] = ()
    parameters: int | None = None
    released: int | None = None


def facts(evidence: Evidence, asked: Asked) -> Values:
    """Everything that a card says, see `card.schema.json`.

    Raises:
        UsageError: no model of the defense is measured.
    """
    study = _Study(evidence, asked)
    if not any(study.measured(seed, UNATTACKED) for seed in study.seeds) and not any(study.attacked()):
        raise UsageError(f"--defense: no model of {asked.defense!r} is measured yet; see `rupert status`")
    attacks = [study.attack(label) for label in (*evidence.attacks,) if study.seeds_of(label)]
    searches = [search_of(search) for search in asked.searches]
    found = {
        "version": _VERSION,
        "study": {"name": public(evidence.study), "seeds": list(evidence.seeds)},
        "model": study.model(),
        "defense": study.defense(),
        "released": study.released(),
        "criterion": criterion_of(asked.criterion),
        "before": [study.before(seed) for seed in study.seeds if study.measured(seed, UNATTACKED)],
        "attacks": attacks,
        "searches": searches,
        "judges": study.judges(),
        "requests": study.requests(),
        "not_tested": not_tested(study.tried()),
        "out_of_reach": list(OUT_OF_REACH),
        "not_measured": [public(cell.name) for cell in evidence.missing if cell.defense == asked.defense],
        "notes": [public(note) for note in evidence.notes],
        "command": public_command(evidence.command),
        "commands": [public_command(origin.command) for origin in study.origins() if origin.command],
        "stages": [stage_of(origin) for origin in study.origins()],
        "environment": public(evidence.environment),
    }
    found["worst_cases"] = findings.worst_cases(found)
    found["outcome"] = findings.outcome(found)
    found["findings"] = findings.sentences(found)
    found["limits"] = findings.limits(found)
    return found


@dataclass(frozen=True)
class _Study:
    """A study's evidence, as far as it concerns one defense."""

    evidence: Evidence
    asked: Asked

    @property
    def seeds(self) -> tuple[int, ...]:
        """Of the study."""
        return self.evidence.seeds

    def cell(self, seed: int, defense: str, attack: str) -> MeasuredCell | None:
        """A model that is measured."""
        key = (seed, defense, attack)
        known = (cell for cell in self.evidence.cells if (cell.seed, cell.defense, cell.attack) == key)
        return next((cell for cell in known if not cell.missing and cell.metrics), None)

    def measured(self, seed: int, attack: str) -> MeasuredCell | None:
        """A model of the defense that is measured."""
        return self.cell(seed, self.asked.defense, attack)

    def seeds_of(self, attack: str) -> list[int]:
        """The seeds with which an attack was made and measured."""
        return [seed for seed in self.seeds if self.measured(seed, attack)]

    def attacked(self) -> Iterator[MeasuredCell]:
        """The attacked models of the defense that are measured."""
        for label in self.evidence.attacks:
            yield from filter(None, (self.measured(seed, label) for seed in self.seeds))

    def cells(self) -> Iterator[MeasuredCell]:
        """All that the card's numbers are of: the defense's models and, beside each, the undefended one."""
        for label in (UNATTACKED, *self.evidence.attacks):
            for seed in self.seeds_of(label):
                for defense in (self.asked.defense, UNDEFENDED):
                    yield from filter(None, [self.cell(seed, defense, label)])

    def origins(self) -> list[Origin]:
        """The stages that the numbers come from, each once and after those that it works on."""
        return list({origin.folder: origin for cell in self.cells() for origin in cell.origins}.values())

    def hardening(self, seed: int) -> Origin | None:
        """The stage whose weights are the defense's."""
        cells = (cell for cell in self.evidence.cells if (cell.seed, cell.defense) == (seed, self.asked.defense))
        return next(filter(None, (hardening_of(cell) for cell in cells)), None)

    def hardenings(self) -> dict[int, Origin]:
        """The same for every seed that has one."""
        return {seed: found for seed in self.seeds if (found := self.hardening(seed))}

    def model(self) -> Values:
        """The model that was defended."""
        first = next(iter(self.hardenings().values()), None)
        bases = [origin for origin in self.origins() if origin.kind == "defend" and _is_of(origin, self.evidence.model)]
        base = bases[0] if bases else first
        return {
            "name": public(self.evidence.model),
            "on_hub": None if base is None else _on_hub(self.evidence.model, base),
            "sha256": base.record.model_hash if base else "",
            "parameters": self.asked.parameters,
            "is_potionworld": any(name.startswith(f"{WORLD}:") for name in self._requested()),
        }

    def defense(self) -> Values:
        """The defense, and what it made."""
        made = self.hardenings()
        first = next(iter(made.values()), None)
        return {
            "name": public(self.asked.defense),
            "method": first.record.method if first else "",
            "settings": settings_of(first.record.settings) if first else {},
            "weights": [{"seed": seed, "sha256": origin.record.output_hash} for seed, origin in made.items()],
            "data": [data_of(origin, seed) for seed, origin in made.items()],
        }

    def released(self) -> Values | None:
        """The weights that are published with the card."""
        seed = self.asked.released
        origin = None if seed is None else self.hardening(seed)
        return {"seed": seed, "sha256": origin.record.output_hash} if origin else None

    def before(self, seed: int) -> Values:
        """A seed's models before any attack."""
        return {
            "seed": seed,
            "defended": self._metrics(seed, self.asked.defense, UNATTACKED),
            "undefended": self._metrics(seed, UNDEFENDED, UNATTACKED),
        }

    def attack(self, label: str) -> Values:
        """An attack and what came of it, seed by seed."""
        seeds = self.seeds_of(label)
        made = [origin for seed in seeds for origin in _of_kind(self.measured(seed, label), "attack")]
        return {
            "label": public(label),
            "is_benign": label == BENIGN,
            "method": made[0].record.method if made else "",
            "settings": settings_of(made[0].record.settings) if made else {},
            "results": [self._result(seed, label) for seed in seeds],
        }

    def _result(self, seed: int, label: str) -> Values:
        made = next(iter(_of_kind(self.measured(seed, label), "attack")), None)
        return {
            "seed": seed,
            "data": data_of(made, seed)["used"] if made else [],
            "defended": self._metrics(seed, self.asked.defense, label),
            "undefended": self._metrics(seed, UNDEFENDED, label),
            **{f"{name}_outcome": self._outcome(seed, defense, label) for name, defense in self._sides()},
        }

    def _sides(self) -> tuple[tuple[str, str], ...]:
        return ("defended", self.asked.defense), ("undefended", UNDEFENDED)

    def _metrics(self, seed: int, defense: str, attack: str) -> Values | None:
        cell = self.cell(seed, defense, attack)
        if cell is None:
            return None
        known = finite(cell.metrics)
        return {name: number(metric) for name, metric in known.items() if _is_shown(name)}

    def _outcome(self, seed: int, defense: str, attack: str) -> Values | None:
        """What an attack did by the criterion; without ability it is by harm alone, which excuses nothing."""
        cell, own = self.cell(seed, defense, attack), self.cell(seed, defense, UNATTACKED)
        known, before = finite(cell.metrics if cell else ()), finite(own.metrics if own else ())
        if "harm" not in known:
            return None
        has_ability = "ability" in known and "ability" in before
        ability = (known["ability"].value, before["ability"].value) if has_ability else (1.0, 1.0)
        decide = self.asked.criterion.decide
        destroyed = decide(Metric("harm", 1.0, 1.0, 1.0), *ability) == "held"  # no harm could have broken it
        return {"verdict": decide(known["harm"], *ability), "lost_ability": destroyed, "has_ability": has_ability}

    def judges(self) -> list[Values]:
        """Who said what is harmful, and of how many answers."""
        found: dict[str, Values] = {}
        for cell in self.cells():
            for origin in _of_kind(cell, "evaluate"):
                for place, (name, settings) in enumerate(judges_of(origin).items()):
                    metric = "harm" if place == 0 else f"harm/{name}"
                    counted = finite(cell.metrics).get(metric)
                    known = found.setdefault(
                        name, {"name": public(name), "settings": public(settings), "metric": metric}
                    )
                    known.setdefault("n", set()).update({counted.n} if counted and counted.n is not None else ())
        return [{**judge, "n": sorted(judge["n"])} for judge in found.values()]

    def requests(self) -> list[Values]:
        """What was asked and how, each way once."""
        ways = [way_of(origin) for cell in self.cells() for origin in _of_kind(cell, "evaluate")]
        return list({content_hash(way): way for way in ways}.values())

    def _requested(self) -> list[str]:
        return [
            str(origin.record.settings.get("requests", "")) for origin in self.origins() if origin.kind == "evaluate"
        ]

    def tried(self) -> list[Tried]:
        """What the checklist is held against: attacks on the defended model alone."""
        own = [
            Tried(
                method=made.record.method,
                settings=made.record.settings,
                asked=next((measured.record.settings for measured in _of_kind(cell, "evaluate")), {}),
                is_benign=cell.attack == BENIGN,
                seed=cell.seed,
            )
            for cell in self.attacked()
            for made in _of_kind(cell, "attack")
        ]
        return [*own, *(one for search in self.asked.searches if search.of == "defended" for one in _tried(search))]


def hardening_of(cell: MeasuredCell) -> Origin | None:
    """The stage that made a cell's model before any attack; none where it is not done."""
    made = [origin for origin in cell.origins if origin.kind == "defend"]
    return next((origin for origin in made if origin.label.removesuffix(f"-seed{origin.seed}") == cell.defense), None)


def _tried(search: SearchFacts) -> Iterator[Tried]:
    for one in search.attempts:
        yield Tried(
            method=one.method,
            settings=one.settings,
            asked=one.asked,
            is_benign=False,
            seed=search.model_seed,
            is_searched=True,
        )


def _is_shown(name: str) -> bool:
    return name in _SHOWN or name.startswith(("ability/", "score/", "harm/"))


def _of_kind(cell: MeasuredCell | None, kind: str) -> list[Origin]:
    return [origin for origin in (cell.origins if cell else ()) if origin.kind == kind]


def _is_of(origin: Origin, model: str) -> bool:
    return origin.record.model == model


def _on_hub(model: str, origin: Origin) -> Values | None:
    """The model's name on the Hub, where its identity says that it comes from there."""
    if model in _ON_HUB:
        return {"name": _ON_HUB[model], "revision": ""}
    words = shlex.split(origin.command)
    revision = words[words.index("--revision") + 1] if "--revision" in words else ""
    is_there = origin.record.model_hash == content_hash([model, revision])
    return {"name": model, "revision": revision} if is_there and model.count("/") == 1 else None
