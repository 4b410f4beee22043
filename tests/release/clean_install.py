"""Installs the wheel of a folder into a clean environment with the core alone, and uses it: `clean_install.py dist`.

It needs a package index, and so is no test that `make test` runs; `make release` does. The build of torch is the one
that `TORCH_INDEX` names (by default PyTorch's without CUDA), or where that cannot be reached, the one that pip finds.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path

TORCH = "torch==2.13.0"
INDEX = os.environ.get("TORCH_INDEX", "https://download.pytorch.org/whl/cpu")
SMALL = [
    *("defenses.sdd.max_steps=2", "defenses.seam.max_steps=2"),
    *("attacks.fine_tune.learning_rate=[1e-4]", "attacks.fine_tune.num_train_epochs=1"),
]
COMMANDS = (
    ["--help"],
    ["env"],
    *(["ls", kind] for kind in ("datasets", "models", "defenses", "attacks", "judges", "scores", "recipes")),
    ["demo", *SMALL, "--output-dir", "demo"],
    ["status", "demo"],
    ["report", "demo"],
    ["report", "demo", "--output-dir", "tables", "--format", "markdown", "latex", "csv"],
    ["card", "demo", "--defense", "seam", "--output-dir", "card"],
    ["release", "demo", "--defense", "seam", "--output-dir", "released"],
)
JUDGE = "language_model?model=gpt&base_url=http://127.0.0.1:9"
# What lacks an extra says so in one line, before anything is loaded.
LACKING = (
    (["demo", "--model", "smollm2", "--output-dir", "smollm2"], "offline"),
    (["pair", "--instructions", "stand-ins:defender", "--responses", "pairs", "--output", "pairs.jsonl"], "pairing"),
    (["eval", "--model", "potionworld", "--tasks", "questions", "--output-dir", "asked"], "eval"),
    (["eval", "--model", "potionworld", "--judges", JUDGE, "--output-dir", "judged"], "judges"),
    (["attack", "fine_tune", "--model", "potionworld", "--optim", "lion", "--output-dir", "lion"], "attacks"),
    (["score", "alpaca", "--model", "potionworld", "--output-dir", "scored"], "alpaca"),
    (["run", "demo", "--executor", "ray", "--output-dir", "ray"], "ray"),
    (["report", "demo", "--output-dir", "drawn", "--format", "svg"], "figures"),
)


def main() -> int:
    """Build the environment, run everything, and say how large it is and how long it took."""
    (wheel,) = Path(sys.argv[1]).resolve().glob("rupert-*.whl")
    with tempfile.TemporaryDirectory(prefix="rupert-clean-") as name:
        folder = Path(name)
        install(folder / "venv", wheel)
        program = [str(folder / "venv" / "bin" / "rupert")]
        places = {"HOME": name, "XDG_CACHE_HOME": str(folder / "cache"), "HF_HUB_OFFLINE": "1"}
        failed = 0
        for words in COMMANDS:
            failed += not works([*program, *words], folder, places)
        for words, extra in LACKING:
            failed += not refused([*program, *words], folder, places, extra)
        failed += not (folder / "demo" / "report.html").is_file()
    print("failed" if failed else "all of it works with the core alone")
    return min(failed, 1)


def install(folder: Path, wheel: Path) -> None:
    """A virtual environment with torch, the wheel and what it needs."""
    venv.create(folder, with_pip=True)
    pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    if subprocess.run(
        [*pip, "--retries", "0", TORCH, "--index-url", INDEX], check=False, capture_output=True
    ).returncode:
        subprocess.run([*pip, TORCH], check=True)
    subprocess.run([*pip, str(wheel)], check=True)
    size = sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file())
    count = len(list(folder.glob("lib/*/site-packages/*.dist-info"))) - 2  # without rupert and pip
    megabytes = wheel.stat().st_size / 1e6
    print(f"{wheel.name}: {megabytes:.1f} MB; {count} packages beside it, {size / 1e6:.0f} MB installed", flush=True)


def works(command: list[str], folder: Path, places: dict[str, str]) -> bool:
    """Whether a command ends well."""
    done, seconds = run(command, folder, places)
    return told("done", done, seconds, is_well=done.returncode == 0 and "Traceback" not in done.stderr)


def refused(command: list[str], folder: Path, places: dict[str, str], extra: str) -> bool:
    """Whether a command ends with one line that names the extra."""
    done, seconds = run(command, folder, places)
    lines = done.stderr.strip().splitlines()
    is_one = len(lines) == 1 and lines[0].endswith(f"pip install 'rupert[{extra}]'")
    return told("refused", done, seconds, is_well=done.returncode == 2 and is_one)


def run(command: list[str], folder: Path, places: dict[str, str]) -> tuple[subprocess.CompletedProcess[str], float]:
    """What a command said, and the seconds that it took."""
    start = time.monotonic()
    done = subprocess.run(command, cwd=folder, env=os.environ | places, check=False, capture_output=True, text=True)
    return done, time.monotonic() - start


def told(expected: str, done: subprocess.CompletedProcess[str], seconds: float, *, is_well: bool) -> bool:
    """Print how a command ended, and what it said where that is not as it should be."""
    print(f"{expected if is_well else 'FAILED':<8}{seconds:6.1f} s  rupert {' '.join(done.args[1:])}", flush=True)
    if not is_well:
        print(f"exit {done.returncode}", done.stdout[-2000:], done.stderr[-2000:])
    return is_well


if __name__ == "__main__":
    sys.exit(main())
