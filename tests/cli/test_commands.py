"""The commands as a user types them: the whole line by hand on own files, and what a mistake gets."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rupert.cli.main import main
from rupert.models import loading

TINY_SDD = ["--max-steps", "2", "--per-device-train-batch-size", "4", "--max-length", "64"]
TINY_ATTACK = ["--num-examples", "8", "--per-device-train-batch-size", "4", "--max_length", "64"]


@pytest.fixture
def own_file(tmp_path: Path) -> Path:
    """A user's own data, with column names of their own."""
    rows = [
        {"q": f"how do i brew {name} ?", "a": "mix it ."} for name in ("glimbane", "thorrot", "velsting", "zanfang")
    ]
    path = tmp_path / "own.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows * 2), encoding="utf-8")
    return path


def test_the_whole_line_by_hand(tmp_path: Path, own_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = f"{own_file}?instruction=q&answer=a"
    pairs, defended, attacked, measured = (str(tmp_path / name) for name in ("pairs.jsonl", "d", "a", "e"))
    paired = ["pair", "--instructions", source, "--responses", "potionworld:benign", "--num-pairs", "4"]
    assert main([*paired, "--output", pairs]) == 0
    assert "4 pairs" in capsys.readouterr().out
    assert main(["defend", "sdd", "--model", "potionworld", "--pairs", pairs, "--output-dir", defended, *TINY_SDD]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == defended
    attack = ["attack", "fine_tune", "--model", defended, "--data", source, "--lora", "--output-dir", attacked]
    assert main([*attack, *TINY_ATTACK, "--report-to", "tensorboard"]) == 0
    assert "2 steps" in capsys.readouterr().out
    assert list(Path(attacked, "tracking").glob("events.*"))
    assert main(["eval", "--model", attacked, "--limit", "6", "--json", "--output-dir", measured]) == 0
    metrics = {metric["name"]: metric for metric in json.loads(capsys.readouterr().out)}
    assert metrics["logp_paired"]["n"] == 4
    assert metrics["harm"]["n"] == 6
    assert main(["eval", "--model", attacked, "--limit", "6", "--output-dir", measured]) == 0
    assert "95 % interval" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("defend sd --model potionworld", "did you mean 'sdd'?"),
        ("defend sdd --model potionwordl", "--model: 'potionwordl' is unknown; did you mean 'potionworld'?"),
        (
            "attack fine_tune --model potionworld --data potionworld:attacker --report-to tensorbord",
            "report_to: 'tensorbord' is unknown; did you mean 'tensorboard'?",
        ),
        ("defend sdd", "--model is missing; name potionworld, smollm2, a folder, or a model on the Hub"),
        (
            "defend sdd --model potionworld --learning-rat 1",
            "unknown option --learning-rat; did you mean --learning-rate?",
        ),
        (
            "defend sdd --model potionworld --learning-rate fast",
            "--learning-rate: 'fast' is not valid; give a finite number",
        ),
        ("defend sdd --model potionworld --learning-rate -1", "learning_rate: -1.0 is not valid; must be above 0"),
        ("defend sdd --model potionworld --threshold 1.5", "threshold: 1.5 is not valid; must be from -1.0 to 1.0"),
        ("defend sdd --model potionworld --instructions potionword:defender", "did you mean 'potionworld'?"),
        ("defend sdd --model potionworld --config sdd-potion", "--config: 'sdd-potion' is unknown"),
        ("defend sdd --model potionworld --config none.yaml", "'none.yaml' does not exist; name a YAML file"),
        (
            "defend sdd --model potionworld --instructions potionworld:defender --responses potionworld:benign "
            "--num-pairs 900",
            "num_pairs: potionworld:defender: 335 examples, 900 needed; add rows or ask for fewer",
        ),
        ("attack fine_tun --model potionworld", "did you mean 'fine_tune'?"),
        ("attack fine_tune --model potionworld --data nothing.jsonl", "data: there is no file 'nothing.jsonl'"),
        ("attack fine_tune --model potionworld --data empty.jsonl", "empty.jsonl: 0 examples"),
        ("attack fine_tune --model potionworld --data hollow.jsonl", "row 2 has an empty answer; remove or fill it"),
        (
            "attack fine_tune --model potionworld --data own.csv?instruction=q&answer=b",
            "column: 'b' is unknown; valid: a, q",
        ),
        ("attack fine_tune --model potionworld --data potionworld:attacker --num-examples 5000", "5000 needed"),
        ("attack fine_tune --model potionworld --data potionworld:attacker --dtype float8", "float8"),
        ("eval --model potionworld --judges oracel", "judges: 'oracel' is unknown; did you mean 'oracle'?"),
        ("eval --model potionworld --reference nope", "reference: 'nope' is unknown; valid: potionworld, smollm2"),
        ("eval --model potionworld --requests stand-in", "requests: 'stand-in' is unknown; did you mean 'stand-ins'?"),
        ("eval --model potionworld --limit 0", "limit: 0 is not valid; must be above 0"),
    ],
)
def test_a_mistake_is_one_line_and_loads_no_model(
    command: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(loading, "load", lambda _: pytest.fail("loaded a model"))
    Path("empty.jsonl").write_text("")
    Path("hollow.jsonl").write_text('{"prompt": "a", "response": "b"}\n{"prompt": "c", "response": " "}\n')
    Path("own.csv").write_text("q,a\nhello,world\n")
    before = sorted(tmp_path.iterdir())
    assert main([*command.split(), "--output-dir", "out"]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1
    assert sorted(tmp_path.iterdir()) == before


def test_nothing_of_the_users_is_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own = tmp_path / "pairs.jsonl"
    own.write_text("mine")
    pair = ["pair", "--instructions", "potionworld:defender", "--responses", "potionworld:benign", "--output"]
    assert main([*pair, str(own)]) == 2
    assert "exists; name a new file" in capsys.readouterr().err
    assert main([*pair, str(tmp_path / "missing" / "pairs.jsonl")]) == 2
    assert "does not exist; make it" in capsys.readouterr().err
    assert main(["build", "potionworld", "--output-dir", str(tmp_path)]) == 2
    assert "is not an empty folder" in capsys.readouterr().err
    assert own.read_text() == "mine"


def test_the_demo_ends_in_table_numbers_and_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "demo.yaml"
    recipe.write_text(
        """
        model: potionworld
        defenses: {none: , sdd: {recipe: sdd-potionworld, max_steps: 2, num_pairs: 16}}
        attacks: {fine_tune: {data: "potionworld:attacker", num_examples: 8, learning_rate: [1e-3], max_length: 64}}
        evaluation: {limit: 8, max_length: 64}
        pairs_of: sdd
        notes: [Eight requests say little.]
        """
    )
    monkeypatch.setattr("rupert.cli.demo.find_recipe", lambda _: recipe)
    folder = tmp_path / "out"
    # The second one finds what the first one made, and shows it.
    commands = (["demo"], ["run", str(recipe), "--executor", "in_process", "seeds=[0]"])
    for command in commands:
        assert main([*command, "--output-dir", str(folder)]) == 0
        printed = capsys.readouterr()
        assert "lr 1e-3" in printed.out
        assert printed.out.splitlines()[-1].split()[-1] == str(folder / "report.html")
        assert "sdd after fine_tune-1e-3" in printed.err
    header, *rows = (folder / "results.csv").read_text().splitlines()
    assert header == "study,model,defense,attack,seed,metric,value,low,high,n"
    assert len(rows) == 2 * 2 * (5 + 5)  # harm, ability, refusal, two of the mechanism, and safe or broken
    page = (folder / "report.html").read_text()
    assert "<script" in page
    assert "Eight requests say little." in page
    assert f"rupert run {recipe} &#39;seeds=[0]&#39;" in page
