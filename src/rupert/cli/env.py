"""`rupert env`: what a bug report needs to say of rupert, the machine, its packages and its settings, and no secret."""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path

import rupert

# Variables that change what rupert does; beside these all that begin with RUPERT_.
VARIABLES = (
    *("HF_HUB_OFFLINE", "HF_HOME", "HF_HUB_CACHE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE", "XDG_CACHE_HOME"),
    *("OMP_NUM_THREADS", "MKL_NUM_THREADS", "PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF", "TORCHDYNAMO_DISABLE"),
    *("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "WORLD_SIZE", "LOCAL_RANK"),
    *("BROWSER_PATH", "HF_TOKEN", "OPENAI_API_KEY"),
)
SECRET = re.compile("TOKEN|KEY|SECRET|PASSWORD|CREDENTIAL|AUTH")
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "microsoft-edge")
GIB = 2**30


def configure(parser: argparse.ArgumentParser) -> None:
    """The command's flags."""
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")


def run(arguments: argparse.Namespace) -> int:
    """Print what a bug report needs; the home directory is shown as ~, and no token at all."""
    rows = {name: _without_home(value) for name, value in _rows().items()}
    if arguments.json:
        print(json.dumps(rows, indent=2))
    else:
        _print_table(rows)
    return 0


def _rows() -> dict[str, str]:
    core, extras = _requirements()
    return {
        "rupert": rupert.__version__,
        "commit": _commit() or "none: not from a checkout",
        "python": f"{platform.python_version()} ({platform.python_implementation()})",
        "system": platform.platform(),
        "cores": _cores(),
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / GIB:.1f} GiB",
        **dict(_torch()),
        **{name: _version(name) or "not installed" for name in core if name != "torch"},
        **{f"extra {extra}": _state(extra, names) for extra, names in extras.items()},
        **dict(_methods_of_others()),
        "browser": _browser(),
        **dict(_variables(os.environ)),
    }


def _commit() -> str:
    """The commit that rupert runs from, marked where files were changed; empty where that cannot be known."""
    checkout = Path(rupert.__file__).parents[2]
    git = shutil.which("git")
    if git and (checkout / ".git").exists():
        command = [git, "-C", str(checkout), "describe", "--always", "--dirty", "--exclude=*"]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()  # noqa: S603 - git itself
    origin = distribution("rupert").read_text("direct_url.json")  # of `pip install git+https://...`
    commit = json.loads(origin).get("vcs_info", {}).get("commit_id", "") if origin else ""
    return str(commit)


def _cores() -> str:
    from rupert.study.executors.executor import cores

    return f"{os.cpu_count()}, of which {cores()} for this process"


def _torch() -> Iterator[tuple[str, str]]:
    """What torch is, what it was built for, and what it finds."""
    import torch

    hip = getattr(torch.version, "hip", None)
    build = f"ROCm {hip}" if hip else f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU"
    yield "torch", torch.__version__
    yield "torch build", build
    yield "torch threads", str(torch.get_num_threads())
    for number in range(torch.cuda.device_count()):
        found = torch.cuda.get_device_properties(number)
        yield f"device {number}", f"{found.name}, {found.total_memory / GIB:.1f} GiB"
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    if accelerator is None:
        yield "devices", "the CPU alone"
    elif accelerator.type != "cuda":
        yield "devices", f"{torch.accelerator.device_count()} x {accelerator.type}"


def _requirements() -> tuple[list[str], dict[str, list[str]]]:
    """Packages that rupert names: those that it always needs, and those of each extra."""
    from packaging.requirements import Requirement

    metadata = distribution("rupert").metadata
    found = [Requirement(line) for line in metadata.get_all("Requires-Dist", [])]

    def needed(extra: str) -> list[str]:
        return [one.name for one in found if one.marker is None or one.marker.evaluate({"extra": extra})]

    core = needed("")
    extras = (extra for extra in metadata.get_all("Provides-Extra", []) if extra != "all")
    return core, {extra: [name for name in needed(extra) if name not in core] for extra in extras}


def _state(extra: str, names: list[str]) -> str:
    found = {name: _version(name) for name in names}
    there = ", ".join(f"{name} {number}" for name, number in found.items() if number)
    missing = ", ".join(name for name, number in found.items() if not number)
    remedy = f"missing: {missing}; pip install 'rupert[{extra}]'" if missing else ""
    return "; ".join(filter(None, (there, remedy)))


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _methods_of_others() -> Iterator[tuple[str, str]]:
    """Defenses, attacks and judges of other packages, and what is wrong with them."""
    from rupert.attacks import ATTACKS
    from rupert.defenses import DEFENSES
    from rupert.evaluation.judges import JUDGES
    from rupert.plugins import packages_of

    families = {"defense": DEFENSES, "attack": ATTACKS, "judge": JUDGES}
    for kind, family in families.items():
        for name, method in family.items():
            for package, number in packages_of([method]).items():
                yield f"{kind} {name}", f"{package} {number}"
    problems = [problem for family in families.values() for problem in family.problems()]
    yield from ((f"problem {number}", problem) for number, problem in enumerate(problems, start=1))


def _browser() -> str:
    """Which browser draws figures as SVG and PDF."""
    named = os.environ.get("BROWSER_PATH", "")
    if named:
        return named if Path(named).is_file() else f"BROWSER_PATH: there is no file {named!r}"
    return next(filter(None, map(shutil.which, BROWSERS)), "none found")


def _variables(environment: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Variables that matter, as far as they are set; of a secret only that it is."""
    ours = sorted(name for name in environment if name.startswith("RUPERT_"))
    for name in (*VARIABLES, *ours):
        if name in environment:
            yield f"${name}", "set, not shown" if SECRET.search(name) else environment[name]


def _without_home(text: str) -> str:
    home = str(Path.home())
    return text if home == "/" else re.sub(re.escape(home) + r"(?![\w.-])", "~", text)


def _print_table(rows: Mapping[str, str]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows.items():
        table.add_row(name, value)
    Console(markup=False, highlight=False).print(table)
