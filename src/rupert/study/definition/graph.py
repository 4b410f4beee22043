"""The graph of a study's stages: what each works on, and which of them several models share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from rupert.evaluation.suite import Evaluation
from rupert.models.loading import ModelSettings
from rupert.records import content_hash
from rupert.settings import as_mapping
from rupert.study.definition.study import with_seed

if TYPE_CHECKING:
    from rupert.study.definition.study import Study

Kind = Literal["defend", "attack", "evaluate", "score"]
UNATTACKED = "none"


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Node:
    """One stage of a study, before it is run.

    Attributes:
        kind: of stage.
        name: defense, attack or task by the labels of the study, such as "seam-fine_tune-1e-4".
        seed: none where it is the same for every seed.
        settings: a defense, an attack, an evaluation or a task; none for a model that is kept undefended.
        model: the stage whose model it works on; none for the study's own model.
        pairs: the hardening whose pairs an evaluation measures.
        signature: the hash of all this and of its parents; equal stages of a study are one node.
    """

    kind: Kind
    name: str
    seed: int | None
    settings: Any
    model: Node | None = None
    pairs: Node | None = None
    signature: str

    @property
    def label(self) -> str:
        """The name with its seed; its folder is called so."""
        return self.name if self.seed is None else f"{self.name}-seed{self.seed}"

    @property
    def parents(self) -> tuple[Node, ...]:
        """What has to be done first, each once."""
        return tuple(dict.fromkeys(parent for parent in (self.model, self.pairs) if parent))


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """One model of a study's grid, and the stages that make and measure it.

    Attributes:
        seed, defense, attack: where in the grid it stands; `UNATTACKED` is the attack that changes nothing.
        made: its hardening or its attack.
        evaluation: what measures it.
        scores: label of an honest task -> the stage that fine-tunes for it.
    """

    seed: int
    defense: str
    attack: str
    made: Node
    evaluation: Node
    scores: Mapping[str, Node]

    @property
    def stages(self) -> tuple[Node, ...]:
        """All that has to be done for its numbers, but for what it was made from."""
        return (self.made, self.evaluation, *self.scores.values())


@dataclass(frozen=True, slots=True)
class Graph:
    """A study as stages.

    Attributes:
        nodes: each after those that it works on.
        models: the grid, in the order of the study.
    """

    nodes: tuple[Node, ...]
    models: tuple[Model, ...]


def graph(study: Study) -> Graph:
    """All stages of a study, those that several models share once."""
    builder = _Builder(study.model)
    models = [model for seed in study.seeds for model in builder.seed(with_seed(study, seed), seed)]
    return Graph(tuple(builder.nodes.values()), tuple(models))


class _Builder:
    """Makes nodes, each once."""

    def __init__(self, model: ModelSettings) -> None:
        self.nodes: dict[str, Node] = {}
        self._model = as_mapping(model)

    def seed(self, study: Study, seed: int) -> list[Model]:
        """Every model of one seed: all defenses first, because each is measured on the pairs of one of them."""
        hardened: dict[str, Node] = {}
        for label in study.defenses:
            self._harden(study, label, seed, hardened)
        pairs = hardened[study.pairs_of] if study.pairs_of else None
        return [
            model
            for defense in study.defenses
            for model in [
                self._unattacked(study, defense, hardened[defense], pairs),
                *(self._attacked(study, defense, attack, hardened[defense], pairs) for attack in study.attacks),
            ]
        ]

    def _harden(self, study: Study, label: str, seed: int, hardened: dict[str, Node]) -> Node:
        """Add a hardening, behind the one that it goes on from."""
        if label not in hardened:
            earlier = study.after.get(label)
            model = self._harden(study, earlier, seed, hardened) if earlier else None
            hardened[label] = self._add("defend", label, study.defenses[label], seed, model=model)
        return hardened[label]

    def _unattacked(self, study: Study, defense: str, hardened: Node, pairs: Node | None) -> Model:
        [seed] = study.seeds
        scores = {
            label: self._add("score", f"{defense}-{label}", task, seed, model=hardened)
            for label, task in study.scores.items()
        }
        evaluation = self._evaluate(f"{defense}-{UNATTACKED}", study.evaluation, hardened, pairs, seed)
        return Model(seed=seed, defense=defense, attack=UNATTACKED, made=hardened, evaluation=evaluation, scores=scores)

    def _attacked(self, study: Study, defense: str, attack: str, hardened: Node, pairs: Node | None) -> Model:
        [seed] = study.seeds
        name = f"{defense}-{attack}"
        attacked = self._add("attack", name, study.attacks[attack], seed, model=hardened)
        evaluation = self._evaluate(name, study.evaluation, attacked, pairs, seed)
        return Model(seed=seed, defense=defense, attack=attack, made=attacked, evaluation=evaluation, scores={})

    def _evaluate(self, name: str, evaluation: Evaluation, model: Node, pairs: Node | None, seed: int) -> Node:
        return self._add("evaluate", name, evaluation, seed, model=model, pairs=pairs)

    def _add(
        self,
        kind: Kind,
        name: str,
        settings: Any,
        seed: int,
        *,
        model: Node | None = None,
        pairs: Node | None = None,
    ) -> Node:
        parents = [parent.signature if parent else None for parent in (model, pairs)]
        described = [kind, type(settings).__name__, as_mapping(settings) if settings else None]
        signature = content_hash([*described, self._model, *parents])
        seeded = hasattr(settings, "seed") or any(parent and parent.seed is not None for parent in (model, pairs))
        return self.nodes.setdefault(
            signature,
            Node(
                kind=kind,
                name=name,
                seed=seed if seeded else None,
                settings=settings,
                model=model,
                pairs=pairs,
                signature=signature,
            ),
        )
