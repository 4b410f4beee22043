"""Every executor does the same: results, errors, dead processes, Ctrl-C."""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from types import ModuleType

import pytest

from rupert.errors import InvalidValue, MissingDependency, RunError, UsageError, WorkerDied
from rupert.study.executors import EXECUTORS, Executor, Resources, ray
from rupert.study.executors.processes import count, died, environment
from rupert.study.executors.shares import room, share

HERE = Path(__file__).parent
ELSEWHERE = sorted(set(EXECUTORS) - {"in_process"})  # the executors with processes of their own


@pytest.fixture(scope="module")
def toys() -> Iterator[ModuleType]:
    """Work that other processes can import."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(HERE))
        patch.setenv("PYTHONPATH", str(HERE))
        yield importlib.import_module("toys")


@pytest.fixture(scope="module")
def running(toys: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Executor]]:
    """Each executor with two slots, started once, when it is first asked for."""
    started: dict[str, Executor] = {}
    with ExitStack() as stack:
        # Ray leaves a token in the home folder.
        stack.enter_context(pytest.MonkeyPatch.context()).setenv("HOME", str(tmp_path_factory.mktemp("home")))

        def start(name: str) -> Executor:
            if name not in started:
                started[name] = stack.enter_context(EXECUTORS[name](Resources(workers=2)))
            return started[name]

        yield start


@pytest.mark.parametrize("name", EXECUTORS)
def test_results_come_back_in_their_own_futures(
    name: str, running: Callable[[str], Executor], toys: ModuleType
) -> None:
    futures = [running(name).submit(toys.double, number) for number in range(7)]
    assert [future.result() for future in futures] == [0, 2, 4, 6, 8, 10, 12]


@pytest.mark.parametrize("name", EXECUTORS)
def test_an_error_comes_back_as_itself_and_others_go_on(
    name: str, running: Callable[[str], Executor], toys: ModuleType
) -> None:
    executor = running(name)
    refused, broken, fine = (
        executor.submit(toys.refuse, "beta"),
        executor.submit(toys.break_plainly, "key"),
        executor.submit(toys.double, 2),
    )
    with pytest.raises(InvalidValue) as refusal:
        refused.result()
    assert str(refusal.value) == "beta: {'a': 1} is not valid; must be something else"
    with pytest.raises(KeyError) as missing:
        broken.result()
    assert missing.value.args == ("key",)
    assert fine.result() == 4


@pytest.mark.parametrize("name", ELSEWHERE)
def test_an_error_says_where_it_was_raised(name: str, running: Callable[[str], Executor], toys: ModuleType) -> None:
    error = running(name).submit(toys.break_plainly, "key").exception()
    assert error is not None
    assert "in break_plainly" in "".join(error.__notes__)


@pytest.mark.parametrize("name", ELSEWHERE)
def test_what_cannot_be_pickled_is_told_all_the_same(
    name: str, running: Callable[[str], Executor], toys: ModuleType
) -> None:
    with pytest.raises(RunError, match=r"^Twofold: this and that"):
        running(name).submit(toys.break_twofold, None).result()
    with pytest.raises((AttributeError, TypeError), match="pickle"):
        running(name).submit(toys.give_a_function, None).result()
    with pytest.raises((AttributeError, TypeError), match="pickle"):
        running(name).submit(toys.double, lambda: None).result()


@pytest.mark.parametrize("name", ELSEWHERE)
def test_a_dead_process_takes_only_its_own_work_with_it_and_is_replaced(
    name: str, running: Callable[[str], Executor], toys: ModuleType
) -> None:
    executor = running(name)
    dead = executor.submit(toys.die, None)
    others = [executor.submit(toys.double, number) for number in range(6)]
    with pytest.raises(WorkerDied, match=r"if memory ran out|when memory runs out.*--workers"):
        dead.result()
    assert [future.result() for future in others] == [0, 2, 4, 6, 8, 10]
    assert executor.slots == 2


@pytest.mark.parametrize("name", ELSEWHERE)
def test_work_is_interrupted_and_has_time_to_stop_and_what_waits_is_given_up(
    name: str, running: Callable[[str], Executor], toys: ModuleType, tmp_path: Path
) -> None:
    running(name)  # two executors at once; Ray is joined
    with pytest.raises(KeyboardInterrupt), EXECUTORS[name](Resources(workers=1)) as executor:  # noqa: PT012
        runs, waits = executor.submit(toys.linger, tmp_path), executor.submit(toys.double, 1)
        toys.heard(tmp_path, "begun")
        raise KeyboardInterrupt
    assert (tmp_path / "stopped").read_text() == "cleanly"
    assert isinstance(runs.exception(), KeyboardInterrupt)
    assert waits.cancelled()


@pytest.mark.parametrize("name", ELSEWHERE)
def test_work_with_a_handler_of_its_own_is_asked_once_and_its_result_counts(
    name: str, running: Callable[[str], Executor], toys: ModuleType, tmp_path: Path
) -> None:
    running(name)
    with pytest.raises(RunError, match=r"^another stage failed$"), EXECUTORS[name](Resources(workers=1)) as executor:  # noqa: PT012
        runs = executor.submit(toys.finish_anyway, tmp_path)
        toys.heard(tmp_path, "begun")
        raise RunError("another stage failed")
    assert runs.result() == 1


@pytest.mark.parametrize("name", ELSEWHERE)
def test_leaving_waits_for_what_was_submitted(name: str, running: Callable[[str], Executor], toys: ModuleType) -> None:
    running(name)
    with EXECUTORS[name](Resources(workers=1)) as executor:
        futures = [executor.submit(toys.double, number) for number in range(3)]
    assert [future.result(timeout=0) for future in futures] == [0, 2, 4]


@pytest.mark.parametrize("name", ELSEWHERE)
def test_the_third_interruption_kills(
    name: str, running: Callable[[str], Executor], toys: ModuleType, tmp_path: Path
) -> None:
    def press() -> None:
        while toys.heard(tmp_path, "presses") == "0":
            time.sleep(0.02)
        for _ in range(2):
            time.sleep(0.5)
            os.kill(os.getpid(), signal.SIGINT)

    running(name)
    user = threading.Thread(target=press)
    with pytest.raises(KeyboardInterrupt), EXECUTORS[name](Resources(workers=1)) as executor:  # noqa: PT012
        runs = executor.submit(toys.never_stop, tmp_path)
        toys.heard(tmp_path, "begun")
        user.start()
        raise KeyboardInterrupt
    user.join()
    assert isinstance(runs.exception(timeout=0), KeyboardInterrupt)
    assert toys.heard(tmp_path, "presses") == "2"


def test_work_in_process_is_done_here_and_ctrl_c_goes_through(toys: ModuleType, tmp_path: Path) -> None:
    threading.Thread(
        target=lambda: (toys.heard(tmp_path, "begun"), os.kill(os.getpid(), signal.SIGINT)), daemon=True
    ).start()
    with EXECUTORS["in_process"](Resources()) as executor:
        assert executor.submit(toys.here, None).result()[0] == os.getpid()
        with pytest.raises(KeyboardInterrupt):
            executor.submit(toys.linger, tmp_path)


def test_a_process_does_one_work_after_the_other_and_has_its_share_of_threads(
    running: Callable[[str], Executor], toys: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    with EXECUTORS["processes"](Resources(workers=1)) as executor:
        places = [executor.submit(toys.here, None).result()[0] for _ in range(3)]
        assert len(set(places)) == 1
        assert places[0] != os.getpid()
        assert executor.submit(toys.compute, None).result() == (True, 3, 300**3)
    with pytest.raises(ProcessLookupError):
        os.kill(places[0], 0)


def test_a_process_that_leaves_says_its_exit_code(running: Callable[[str], Executor], toys: ModuleType) -> None:
    with pytest.raises(WorkerDied, match="exit code 3;"):
        running("processes").submit(toys.leave, 3).result()
    with pytest.raises(WorkerDied, match=r"SIGKILL.*memory.*--workers"):
        running("processes").submit(toys.die, None).result()


@pytest.mark.parametrize(
    ("exitcode", "told"), [(-signal.SIGSEGV, "crashed (SIGSEGV)"), (-signal.SIGKILL, "memory"), (1, "exit code 1")]
)
def test_how_a_process_died_is_told(exitcode: int, told: str) -> None:
    assert told in str(died(exitcode))


def program(work: str, folder: Path) -> subprocess.Popen[str]:
    """A program of its own, in a terminal's group of its own, that waits for work in another process."""
    return subprocess.Popen(
        [sys.executable, str(HERE / "toys.py"), work, str(folder)],
        start_new_session=True,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("send", [os.killpg, os.kill])
def test_ctrl_c_comes_once_whether_the_group_or_only_the_program_gets_it(
    toys: ModuleType, tmp_path: Path, send: Callable[[int, int], None]
) -> None:
    ran = program("finish_anyway", tmp_path)
    toys.heard(tmp_path, "begun")
    send(ran.pid, signal.SIGINT)
    _, complaint = ran.communicate(timeout=60)
    assert (tmp_path / "stopped").read_text() == "1"
    assert complaint.count("KeyboardInterrupt") == 1  # the program's own
    assert ran.returncode == -signal.SIGINT


def test_processes_end_when_the_program_is_killed(toys: ModuleType, tmp_path: Path) -> None:
    ran = program("linger", tmp_path)
    left = [int(number) for number in toys.heard(tmp_path, "begun").split()]
    ran.kill()
    ran.communicate()
    deadline = time.monotonic() + 30
    while any(is_alive(number) for number in left):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert not (tmp_path / "stopped").exists()


def is_alive(number: int) -> bool:
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize("wrong", [{"workers": 0}, {"gpus_per_stage": -0.5}, {"gpus_per_stage": 1.5}])
def test_resources_that_cannot_be_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(InvalidValue, match=f"^{next(iter(wrong))}: "):
        Resources(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("accelerators", "each", "stages"),
    [(2, 1.0, 2), (2, 0.5, 4), (1, 0.4, 2), (3, 0.1, 30), (4, 2.0, 2), (5, 2.0, 2), (1, 2.0, 0)],
)
def test_accelerators_have_room_for_so_many_stages(accelerators: int, each: float, stages: int) -> None:
    assert room(accelerators, each) == stages


def test_slots_share_accelerators_evenly() -> None:
    assert [share(slot, ["4", "5"], 0.5) for slot in range(4)] == [("4",), ("5",), ("4",), ("5",)]
    assert [share(slot, ["0", "1", "2", "3"], 2.0) for slot in range(2)] == [("0", "1"), ("2", "3")]
    assert share(3, ["0"], 0) == ()


def test_the_number_of_processes_is_what_there_is_room_for() -> None:
    assert count(Resources(workers=7), 0) == 7
    assert count(Resources(gpus_per_stage=0.25), 2) == 8
    assert count(Resources(gpus_per_stage=0.25, workers=3), 2) == 3
    with pytest.raises(InvalidValue, match=r"^workers: 9 .* 2 accelerators have room for 8$"):
        count(Resources(gpus_per_stage=0.25, workers=9), 2)
    with pytest.raises(InvalidValue, match=r"^gpus_per_stage: 4\.0 .* only 2 "):
        count(Resources(gpus_per_stage=4.0), 2)


def test_a_slot_sees_its_accelerators_and_has_its_share_of_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setattr("rupert.study.executors.processes.cores", lambda: 9)
    assert environment(1, 2, ["a", "b"], 1.0) == {"OMP_NUM_THREADS": "4", "CUDA_VISIBLE_DEVICES": "b"}
    assert environment(1, 2, ["a", "b", "c", "d"], 2.0) == {"OMP_NUM_THREADS": "4", "CUDA_VISIBLE_DEVICES": "c,d"}
    assert environment(0, 20, [], 1.0) == {"OMP_NUM_THREADS": "1"}
    assert environment(0, 3, [], 0) == {"OMP_NUM_THREADS": "3", "CUDA_VISIBLE_DEVICES": ""}


NODES = [{"CPU": 16.0, "GPU": 2.0}, {"CPU": 12.0, "GPU": 1.0}, {"CPU": 4.0}]


@pytest.mark.parametrize(
    ("nodes", "resources", "slots", "options"),
    [
        (NODES, Resources(), 3, {"num_cpus": 8, "num_gpus": 1.0}),
        (NODES, Resources(gpus_per_stage=0.5), 6, {"num_cpus": 4, "num_gpus": 0.5}),
        (NODES, Resources(gpus_per_stage=2), 1, {"num_cpus": 16, "num_gpus": 2}),
        (NODES, Resources(gpus_per_stage=0), 32, {"num_cpus": 1, "num_gpus": 0}),
        ([{"CPU": 2.0}], Resources(), 2, {"num_cpus": 1, "num_gpus": 0}),
        ([{"CPU": 16.0}, {"CPU": 16.0}], Resources(workers=3), 3, {"num_cpus": 8, "num_gpus": 0}),
    ],
)
def test_a_cluster_is_divided(
    nodes: list[dict[str, float]], resources: Resources, slots: int, options: dict[str, float]
) -> None:
    assert ray.divide(nodes, resources) == (slots, options)


def test_a_cluster_without_room_is_refused() -> None:
    with pytest.raises(InvalidValue, match=r"^workers: 33 .* room for 32$"):
        ray.divide(NODES, Resources(workers=33, gpus_per_stage=0))
    with pytest.raises(InvalidValue, match=r"^gpus_per_stage: 4 "):
        ray.divide(NODES, Resources(gpus_per_stage=4))


def test_tasks_get_the_environment_that_matters_and_no_secrets() -> None:
    found = ray.passed_on({"HF_HOME": "/h", "HF_TOKEN": "t", "OMP_NUM_THREADS": "1", "PATH": "/", "WANDB_API_KEY": "k"})
    assert found == {"HF_HOME": "/h", "OMP_NUM_THREADS": "1"}


def test_ray_s_tasks_have_this_environment(running: Callable[[str], Executor], toys: ModuleType) -> None:
    assert running("ray").submit(toys.variable, "HF_HUB_OFFLINE").result() == "1"


def test_a_cluster_that_is_not_there_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "TRY", "raise ConnectionError('Could not find any running Ray instance. Say one.')")
    with pytest.raises(UsageError) as refusal:
        ray.reach("auto")
    assert str(refusal.value) == (
        "--ray-address: no cluster at 'auto' (ConnectionError: Could not find any running Ray instance. Say one); "
        "start one with `ray start --head`, or leave the address out"
    )
    monkeypatch.setattr(ray, "TRY", "import time; time.sleep(60)")
    monkeypatch.setattr(ray, "ANSWERS_WITHIN", 0.1)
    with pytest.raises(UsageError, match=r"^--ray-address: no cluster at '127\.0\.0\.1:9' \(no answer within 0\.1 sec"):
        ray.reach("127.0.0.1:9")


def test_a_cluster_that_is_there_is_reached(running: Callable[[str], Executor]) -> None:
    running("ray")
    import ray as package

    address = package.get_runtime_context().gcs_address
    ray.reach(address)
    with (
        pytest.raises(UsageError, match="this process is in a Ray already"),
        EXECUTORS["ray"](Resources(address=address)),
    ):
        pass


def test_ray_s_client_is_refused() -> None:
    with pytest.raises(UsageError, match=r"^--ray-address: 'ray://head:10001' "):
        EXECUTORS["ray"](Resources(address="ray://head:10001"))


def test_without_ray_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingDependency, match=r"^ray is not installed; pip install 'rupert\[ray\]'$"):
        EXECUTORS["ray"](Resources())
