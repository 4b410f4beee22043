"""A study's plan: what is counted together, what does not fit, and what to change."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rupert.errors import UnknownName
from rupert.models.shape import shape_of
from rupert.study.definition.graph import graph
from rupert.study.definition.reading import read_study
from rupert.study.definition.recipes import find_recipe
from rupert.study.definition.study import Study
from rupert.study.estimates import DEVICES, Line, Plan, Setup, device, estimate, plan
from rupert.study.estimates import hardware as hardware_module
from rupert.study.estimates.hardware import Hardware

A100 = Setup(hardware=DEVICES["A100-80GB"])
SMALL = Hardware(name="small", memory=8 * 10**9, single=10**12, half=10**12, bandwidth=10**11, is_gpu=False)


def recipe(name: str, *changes: str) -> Study:
    return read_study(find_recipe(name), changes)


def planned(name: str, *changes: str, setup: Setup = A100) -> Plan:
    return plan(recipe(name, *changes), setup)


def line(found: Plan, kind: str, label: str = "") -> Line:
    [match] = [one for one in found.lines if (one.kind, one.label) == (kind, label)]
    return match


def test_equal_stages_are_one_line_with_a_count() -> None:
    found = planned("seam-figure-2")
    counts = {(one.kind, one.label): one.count for one in found.lines}
    assert counts == {
        ("defend", "none"): 1,
        ("defend", "seam"): 1,
        ("attack", "fine_tune"): 10,
        ("evaluate", ""): 12,
    }


def test_the_published_study_does_not_fit_on_one_gpu_and_says_what_would() -> None:
    found = planned("seam-figure-2")
    seam = line(found, "defend", "seam")
    assert not seam.fits
    assert seam.remedies == ("lora=true", "model.device=auto --gpus 2")
    assert [one.fits for one in found.lines if one is not seam] == [True] * 3


@pytest.mark.parametrize(
    ("changes", "setup"),
    [
        (["defenses.seam.lora=true"], A100),
        (["model.device=auto"], replace(A100, gpus=2)),
        (
            ["model.dtype=float32", "defenses.seam.gradient=hessian_free"],
            replace(A100, gpus=4, sharding="fsdp2"),
        ),
    ],
)
def test_what_is_recommended_fits(changes: list[str], setup: Setup) -> None:
    assert all(one.fits for one in planned("seam-figure-2", *changes, setup=setup).lines)


def test_sharding_refuses_a_second_derivative_whatever_the_memory() -> None:
    seam = line(planned("seam-figure-2", setup=replace(A100, gpus=8, sharding="fsdp2")), "defend", "seam")
    assert not seam.fits
    assert "hessian_free" in seam.estimate.refused


def test_zero3_is_refused_for_hardening_and_taken_for_attacks() -> None:
    found = planned("seam-figure-2", setup=replace(A100, gpus=4, sharding="zero3"))
    assert "fsdp2" in line(found, "defend", "seam").estimate.refused
    assert line(found, "attack", "fine_tune").fits


def test_rows_that_cannot_be_divided_over_the_devices_are_refused_as_a_run_would() -> None:
    found = planned("seam-figure-2", setup=replace(A100, gpus=8, sharding="fsdp2"))
    assert "4 rows a step, which 8 processes cannot divide" in line(found, "attack", "fine_tune").estimate.refused


def test_devices_share_the_rows_of_a_step() -> None:
    whole, half = (
        planned("sdd-table-llama2-7b-chat", setup=replace(A100, gpus=gpus, sharding="fsdp2")) for gpus in (2, 4)
    )
    whole, half = (line(found, "defend", "sdd").estimate for found in (whole, half))
    assert half.seconds == pytest.approx(whole.seconds / 2)


def test_half_precision_weights_are_refused_for_differences_under_fsdp2() -> None:
    setup = replace(A100, gpus=8, sharding="fsdp2")
    seam = line(planned("seam-figure-2", "defenses.seam.gradient=hessian_free", setup=setup), "defend", "seam")
    assert "model.dtype=float32" in seam.estimate.refused


def test_fewer_rows_at_once_are_the_first_remedy_and_keep_the_step() -> None:
    study = ["defenses.sdd.per_device_train_batch_size=32", "defenses.sdd.max_length=1024"]
    found = planned("demo-smollm2", *study, setup=Setup(hardware=SMALL))
    words = dict(word.split("=") for word in line(found, "defend", "sdd").remedies[0].split())
    assert set(words) == {"per_device_train_batch_size", "gradient_accumulation_steps"}
    assert int(words["per_device_train_batch_size"]) * int(words["gradient_accumulation_steps"]) == 32


def test_an_evaluation_is_told_to_ask_less_at_once() -> None:
    found = planned(
        "demo-smollm2", "evaluation.batch_size=64", "evaluation.max_length=2048", setup=Setup(hardware=SMALL)
    )
    [evaluation] = [one for one in found.lines if one.kind == "evaluate" and not one.fits]
    assert evaluation.remedies[0].startswith("batch_size=")


def test_nothing_is_recommended_where_nothing_would_fit() -> None:
    setup = Setup(hardware=replace(SMALL, memory=2 * 10**9))
    assert line(planned("seam-figure-2", setup=setup), "defend", "none").remedies == ("model.device=auto --gpus 32",)
    larger = planned("seam-figure-2", "model.model=meta-llama/Llama-2-70b-chat-hf", setup=setup)
    assert line(larger, "defend", "none").remedies == ()


def test_disk_holds_hardened_weights_and_one_attacked_model_at_a_time() -> None:
    weights = 2 * shape_of("meta-llama/Llama-2-7b-chat-hf").parameters
    found = planned("seam-figure-2", "defenses.seam.optim=adafactor", "defenses.seam.max_steps=1")
    assert found.kept == pytest.approx(2 * weights, rel=0.001)
    assert found.disk == pytest.approx(3 * weights, rel=0.001)


@pytest.mark.parametrize(("attacked", "models"), [("drop", 2), ("keep", 12), ("delta", 12)])
def test_attacked_weights_that_are_kept_are_counted(attacked: str, models: int) -> None:
    weights = 2 * shape_of("meta-llama/Llama-2-7b-chat-hf").parameters
    assert planned("seam-figure-2", f"attacked={attacked}").kept == pytest.approx(models * weights, rel=0.001)


def test_an_adapter_is_all_that_a_lora_attack_leaves() -> None:
    whole, kept = (
        planned("seam-figure-2", "attacks.fine_tune.lora=true", f"attacked={how}") for how in ("drop", "delta")
    )
    assert kept.kept - whole.kept == 10 * 4 * 19_988_480


def test_several_gpus_run_stages_at_once() -> None:
    one, eight = (planned("seam-figure-2", setup=replace(A100, gpus=gpus)) for gpus in (1, 8))
    assert eight.seconds == pytest.approx(one.seconds) == pytest.approx(one.elapsed)
    longest = line(one, "defend", "seam").estimate.seconds
    assert longest < eight.elapsed < one.elapsed / 2


def test_judge_tokens_are_those_of_endpoints_times_the_models() -> None:
    judges = "evaluation.judges=['language_model?model=some-model','refusal_words']"
    few, many = (planned("seam-figure-2", judges, f"evaluation.num_requests={count}") for count in (10, 100))
    assert planned("seam-figure-2").judge_tokens == 0
    assert many.judge_tokens == 10 * few.judge_tokens
    assert 12 * 100 * 500 < many.judge_tokens < 12 * 100 * 2000


def test_what_is_not_known_is_named() -> None:
    changes = ["evaluation.tasks=[arc_challenge]", "evaluation.judges=['next_token?model=some/judge']"]
    named = " ".join(planned("seam-figure-2", *changes).not_counted)
    assert "arc_challenge" in named
    assert "its configuration is not at hand" in named


def test_a_judge_of_a_known_size_is_loaded_alone() -> None:
    found = planned("demo-smollm2", "evaluation.judges=[beaver-dam-7b]")
    [evaluation] = {one.estimate for one in found.lines if one.kind == "evaluate"}
    assert evaluation.memory.weights == 2 * shape_of("PKU-Alignment/beaver-dam-7b").parameters


def test_an_estimate_is_a_function_of_its_arguments() -> None:
    study = recipe("demo")
    for node in graph(study).nodes:
        first, again = (estimate(node, study, shape_of("potionworld"), A100) for _ in range(2))
        assert first == again
        assert first.seconds >= 0
        assert first.memory.total > 0


@pytest.mark.parametrize("name", sorted(path.stem for path in find_recipe("demo").parent.glob("*.yaml")))
def test_every_study_that_ships_has_a_plan(name: str) -> None:
    text = find_recipe(name).read_text(encoding="utf-8")
    if "\nattacks:" in text:
        assert planned(name).lines


def test_a_device_goes_by_its_name_in_any_case() -> None:
    assert device("h100-80gb") is DEVICES["H100-80GB"]
    with pytest.raises(UnknownName, match="did you mean 'A100-80GB'"):
        device("A100-80")


def test_this_machine_is_measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    limit = tmp_path / "memory.max"
    limit.write_text("1000000000\n")
    monkeypatch.setattr(hardware_module, "CGROUP", limit)
    hardware_module.this_machine.cache_clear()
    found: Any = device("")
    hardware_module.this_machine.cache_clear()
    assert found.single > 10**8
    assert found.bandwidth > 10**7
    assert found.memory > 0
    assert found.is_gpu or found.memory == 10**9
