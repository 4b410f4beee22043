"""Starting several processes: which configurations there are, what is refused, and that what is asked for is run."""

from __future__ import annotations

import os
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate.commands.config.config_args import ClusterConfig, load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils import DistributedType
from accelerate.utils.launch import prepare_deepspeed_cmd_env, prepare_multi_gpu_env

from rupert.attacks import FineTune
from rupert.cli.main import main
from rupert.defenses import SDD, SEAM
from rupert.errors import UsageError
from rupert.records import read_record
from rupert.training import launching
from rupert.training.launching import CONFIGS, check_hardening, find_config, is_launched, launch_module, spread


def read(name: str) -> ClusterConfig:
    return load_config_from_file(str(find_config(name)))


def environment(name: str) -> dict[str, str]:
    """What `accelerate launch` tells the processes of a configuration."""
    words = ["--config_file", str(find_config(name)), "--num_processes", "2", "-m", "rupert", "attack"]
    arguments, *_ = _validate_launch_command(launch_command_parser().parse_args(words))
    if not arguments.use_deepspeed:
        return dict(prepare_multi_gpu_env(arguments))
    arguments.deepspeed_fields_from_accelerate_config = ""
    return dict(prepare_deepspeed_cmd_env(arguments)[1])


def test_what_ships_is_read_by_accelerate() -> None:
    kinds = {name: read(name).distributed_type for name in CONFIGS}
    expected = {
        "fsdp2": DistributedType.FSDP,
        "replicas": DistributedType.MULTI_GPU,
        "zero3": DistributedType.DEEPSPEED,
    }
    assert kinds == expected


def test_processes_are_told_what_their_configuration_says() -> None:
    # What the scenarios of test_processes.py run under.
    sharded = {
        "ACCELERATE_USE_FSDP": "true",
        "FSDP_VERSION": "2",
        "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
        "FSDP_CPU_RAM_EFFICIENT_LOADING": "true",
        "FSDP_RESHARD_AFTER_FORWARD": "true",
        "FSDP_OFFLOAD_PARAMS": "false",
        "ACCELERATE_MIXED_PRECISION": "no",
    }
    assert sharded.items() <= environment("fsdp2").items()
    zero3 = {
        "ACCELERATE_USE_DEEPSPEED": "true",
        "ACCELERATE_DEEPSPEED_ZERO_STAGE": "3",
        "ACCELERATE_DEEPSPEED_ZERO3_SAVE_16BIT_MODEL": "true",
        "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "auto",
    }
    assert zero3.items() <= environment("zero3").items()
    assert "ACCELERATE_USE_FSDP" not in environment("replicas")


def test_a_configuration_is_a_name_or_a_file(tmp_path: Path) -> None:
    own = tmp_path / "own.yaml"
    own.write_text("distributed_type: MULTI_GPU\n")
    assert find_config(str(own)) == own
    assert find_config("fsdp2") == CONFIGS["fsdp2"]
    with pytest.raises(UsageError, match=r"^--accelerate-config: 'fsdp' is unknown; did you mean 'fsdp2'\?$"):
        find_config("fsdp")


def test_a_launched_process_launches_no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    assert not is_launched()
    monkeypatch.setenv("LOCAL_RANK", "0")
    assert is_launched()


@pytest.mark.parametrize(
    ("passes", "rows", "number", "expected"),
    [(4, 2, 2, (2, 2)), (4, 2, 4, (1, 2)), (4, 2, 8, (1, 1)), (1, 8, 4, (1, 2)), (3, 4, 6, (1, 2)), (5, 3, 1, (5, 3))],
)
def test_processes_share_the_rows_of_a_step(passes: int, rows: int, number: int, expected: tuple[int, int]) -> None:
    settings = FineTune(gradient_accumulation_steps=passes, per_device_train_batch_size=rows)
    each = spread(settings, number)
    assert (each.gradient_accumulation_steps, each.per_device_train_batch_size) == expected
    assert each.batch_size * number == settings.batch_size
    assert replace(each, gradient_accumulation_steps=passes, per_device_train_batch_size=rows) == settings


def test_every_stream_of_a_defense_is_shared() -> None:
    defense = SEAM(per_device_train_batch_size=8, alignment_benign_share=0.5)
    assert {name: 2 * rows for name, rows in spread(defense, 2).streams.items()} == defense.streams


def test_rows_that_cannot_be_shared_are_refused() -> None:
    with pytest.raises(
        UsageError, match=r"^gradient_accumulation_steps: 2 x per_device_train_batch_size: 4 are 8 rows"
    ):
        spread(FineTune(gradient_accumulation_steps=2), 3)
    defense = SDD(pairs="x", benign="y", benign_share=0.3, per_device_train_batch_size=10)
    with pytest.raises(UsageError, match=r"^the 7 pairs rows of a step cannot be divided over 2 processes; use fewer"):
        spread(defense, 2)
    with pytest.raises(UsageError, match=r"^10 processes with 1 rows each: benign_share: 0.3 is not valid"):
        spread(defense, 10)


@pytest.fixture
def devices(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with two accelerators."""
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda **_: torch.device("cuda"))
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 2)


@pytest.fixture
def no_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda **_: None)


def refusal(config: str, number: int | None = None) -> str:
    with pytest.raises(UsageError) as caught:
        launch_module(config, "rupert", [], number)
    return str(caught.value)


@pytest.mark.usefixtures("devices")
def test_more_processes_than_devices_are_refused() -> None:
    assert refusal("fsdp2", 3) == "--num-processes: 3 is not valid; here there is cuda:0, cuda:1"
    assert refusal("replicas", 1) == (
        "--num-processes: 1 is not valid; must be above 1; leave out --accelerate-config for one process"
    )


@pytest.mark.usefixtures("no_devices")
def test_without_devices_there_are_replicas_alone() -> None:
    assert refusal("fsdp2", 2) == (
        "--accelerate-config: 'fsdp2' is not valid; models are sharded over accelerators, and here there is cpu; "
        "use replicas"
    )
    assert refusal("replicas") == "--num-processes is missing; here there is cpu: say how many processes share it"


@pytest.mark.usefixtures("devices")
def test_deepspeed_has_to_be_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launching, "find_spec", lambda _: None)
    assert refusal("zero3", 2) == (
        "--accelerate-config: 'zero3' is not valid; DeepSpeed is not installed; pip install deepspeed, or use fsdp2"
    )


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("distributed_type: FSDP\nfsdp_config: {fsdp_version: 1}", "is not valid; models are sharded by FSDP2"),
        ("distributed_type: 'NO'", "is not valid; distributed_type: NO starts no several processes here; use replicas"),
        ("distributed_type: MULTI_CPU", "is not valid; distributed_type: MULTI_CPU starts no several processes"),
        ("distributed_type: FSPD", "is no configuration of Accelerate \\('FSPD' is not a valid DistributedType\\)"),
        ("fsdp_config: {}", "is no configuration of Accelerate \\(A `distributed_type` must be specified"),
        ("nothing", "is no configuration of Accelerate"),
    ],
)
def test_a_file_that_cannot_be_used_is_one_line(tmp_path: Path, text: str, complaint: str) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(text)
    with pytest.raises(UsageError, match=f"^--accelerate-config: '{path}' {complaint}") as caught:
        launch_module(str(path), "rupert", [], 2)
    assert "\n" not in str(caught.value)


def test_hardening_under_deepspeed_is_refused_before_anything_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    check_hardening(None)
    check_hardening("fsdp2")
    with pytest.raises(UsageError, match=r"^--accelerate-config: 'zero3' is not valid; hardening .* use fsdp2$"):
        check_hardening("zero3")
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    with pytest.raises(UsageError, match=r"^hardening .* launch it with --accelerate-config fsdp2$"):
        check_hardening(None)


def test_the_command_line_says_so_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shared = ["--model", "potionworld", "--output-dir", str(tmp_path / "out")]
    zero3 = ["defend", "sdd", *shared, "--pairs", "potionworld:defender", "--accelerate-config", "zero3"]
    alone = ["attack", "fine_tune", *shared, "--data", "potionworld:attacker", "--num-processes", "2"]
    assert (main(zero3), main(alone)) == (2, 2)
    assert capsys.readouterr().err.splitlines() == [
        "rupert: --accelerate-config: 'zero3' is not valid; hardening needs gradients that DeepSpeed hides; use fsdp2",
        "rupert: --num-processes: needs --accelerate-config, such as fsdp2",
    ]
    assert not (tmp_path / "out").exists()


WORKER = """
import os, pathlib, signal, sys, time

def stop(number, frame):
    pathlib.Path(sys.argv[1], f"stopped {os.environ['RANK']}").write_text(signal.Signals(number).name)
    sys.exit(130)

signal.signal(signal.SIGINT, stop)
print("said by", os.environ["RANK"], file=sys.stderr)
pathlib.Path(sys.argv[1], f"began {os.environ['RANK']}").touch()
if sys.argv[2] == "fail" and os.environ["RANK"] == "1":
    sys.exit(7)
time.sleep(60)
"""


@pytest.fixture
def worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a module that needs no time to be imported."""
    (tmp_path / "launched_worker.py").write_text(WORKER)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return "launched_worker"


def test_a_process_that_fails_ends_the_others_and_is_heard(
    worker: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert launch_module("replicas", worker, [str(tmp_path), "fail"], 2) == 7
    assert sorted(path.name for path in tmp_path.glob("began *")) == ["began 0", "began 1"]
    assert [line for line in capfd.readouterr().err.splitlines() if line] == ["said by 0", "said by 1"]


def test_control_c_reaches_every_process_once(worker: str, tmp_path: Path) -> None:
    def press() -> None:
        while len(list(tmp_path.glob("began *"))) < 2:
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    pressing = threading.Thread(target=press, daemon=True)
    pressing.start()
    assert launch_module("replicas", worker, [str(tmp_path), "wait"], 2) == 130
    assert {path.name: path.read_text() for path in tmp_path.glob("stopped *")} == {
        "stopped 0": "SIGINT",
        "stopped 1": "SIGINT",
    }
    assert signal.getsignal(signal.SIGINT) == before


def test_an_attack_is_launched_in_two_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    out = tmp_path / "out"
    words = [
        "--model",
        "potionworld",
        "--data",
        "potionworld:attacker",
        "--num_examples",
        "8",
        "--output-dir",
        str(out),
    ]
    split = ["--accelerate-config", "replicas", "--num-processes", "2"]
    assert main(["attack", "fine_tune", *words, "--per-device-train-batch-size", "2", *split]) == 0
    record = read_record(out)
    assert record.report["steps"] == 2  # 8 rows, 2 x 2 a step
    assert (out / "model.safetensors").exists()
