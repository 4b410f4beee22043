"""What `launching` starts: `accelerate launch`, which ends as the first process that failed, without a traceback."""

from __future__ import annotations

import logging
import os
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path


def main() -> int:
    """Run the processes that the command line asks for.

    The main process of a machine has the terminal. What the others say is the same, or of their own that failed first.

    Returns:
        the exit code of the process that failed first, 0 where none did.
    """
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # for the time until torch listens
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()

    from accelerate.commands.launch import launch_command, launch_command_parser
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    logging.disable(logging.CRITICAL)  # what failed says so itself
    arguments = launch_command_parser().parse_args()
    with tempfile.TemporaryDirectory(prefix="rupert-") as folder:
        arguments.log_dir = folder
        arguments.redirects = ",".join(f"{rank}:3" for rank in range(1, arguments.num_processes))
        try:
            launch_command(arguments)
        except SignalException as stopped:
            return 128 + int(stopped.sigval)
        except ChildFailedError as error:
            _, failure = error.get_first_failure()
            return _explained(failure.local_rank, failure.exitcode, Path(folder))
    return 0


def _explained(rank: int, code: int, folder: Path) -> int:
    """Say what the terminal does not show of a failure, and return its exit code."""
    for said in folder.glob(f"*/attempt_*/{rank}/stderr.log"):
        sys.stderr.write(said.read_text(encoding="utf-8", errors="replace"))
    if code >= 0:
        return code
    print(f"rupert: process {rank} was ended by {signal.Signals(-code).name}", file=sys.stderr)
    return 128 - code


def _end_with(parent: int) -> None:
    """Stop when the process that started this one is gone: nobody else would, and its work may be begun again."""
    while os.getppid() == parent:
        time.sleep(1)
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main())
