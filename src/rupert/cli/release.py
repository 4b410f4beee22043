"""`rupert release`: a folder to publish, with hardened weights, the card, and the SHA-256 of every file."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from rupert.cli.arguments import Parser
from rupert.cli.card import FACTS, add_evidence, chosen_defense, facts_of
from rupert.errors import FolderError, InvalidValue, UsageError
from rupert.evidence import Evidence, Origin
from rupert.report.card.facts import hardening_of
from rupert.report.card.metadata import card
from rupert.report.card.section import model_card
from rupert.study.evidence import evidence
from rupert.study.publishing.release import SUMS_FILE, as_json, check_weights, refuse_full, release
from rupert.study.publishing.upload import hub_for, upload

README = "README.md"


def configure(parser: Parser) -> None:
    """The command's arguments."""
    add_evidence(parser)
    parser.add_argument("--seed", type=int, help="whose weights (default: the study's first)")
    parser.add_argument("--output-dir", required=True, type=Path, help="new or empty: what is to be published")
    parser.add_argument(
        "--push-to-hub", default="", metavar="OWNER/NAME", help="upload it to this new model of yours, as a private one"
    )
    parser.add_argument("--public", action="store_true", help="with --push-to-hub: everybody may see it")


def run(arguments: argparse.Namespace) -> int:
    """Write the folder, upload it where that is asked for, and say where it is."""
    folder, name = arguments.output_dir, arguments.push_to_hub
    if arguments.public and not name:
        raise UsageError("--public goes with --push-to-hub; name the model on the Hub, or leave it out")
    refuse_full(folder)
    found = evidence(arguments.folder)
    defense = chosen_defense(found, arguments.defense)
    seed = found.seeds[0] if arguments.seed is None else arguments.seed
    stage = arguments.folder / _hardening(found, defense, seed).folder
    known = facts_of(found, arguments, defense, released=seed)
    check_weights(stage)
    api = hub_for(name) if name else None
    for file in release(stage, _texts(known, name), folder):
        print(folder / file)
    for sentence in known["findings"]:
        print(sentence)
    if api:
        print(upload(api, name, folder, is_public=arguments.public))
    print(
        f"license: none is named; fill it in at the top of {folder / README}, and renew that file's sum in {SUMS_FILE}"
    )
    return 0


def _hardening(found: Evidence, defense: str, seed: int) -> Origin:
    """The stage that made the weights.

    Raises:
        InvalidValue: the study has no such seed.
        FolderError: it is not done.
    """
    if seed not in found.seeds:
        raise InvalidValue("--seed", seed, f"the study has {', '.join(map(str, found.seeds))}")
    cells = [cell for cell in found.cells if (cell.seed, cell.defense) == (seed, defense)]
    made = next(filter(None, map(hardening_of, cells)), None)
    if made is None:
        missing = next((one for cell in cells for one in cell.missing if one.startswith("defend ")), "not done")
        raise FolderError(f"--defense: {defense!r} of seed {seed} has no weights yet ({missing}); repeat `rupert run`")
    return made


def _texts(known: dict[str, Any], name: str) -> dict[str, str]:
    title = name.rpartition("/")[2] or f"{known['model']['name']}-{known['defense']['name']}"
    return {README: card(known, title, model_card(known, title)), FACTS: as_json(known)}
