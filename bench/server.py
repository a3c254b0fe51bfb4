"""Runs of one program as forks of a process that has imported it: `python -m bench.server MODULE`.

Each run still has a process of its own, with no model, no rows and no threads taken over; only importing is
not done again. A request is a line of JSON, [job, outcome, log] as paths; the answer is the exit status. The
end of the input ends it.
"""

import gc
import importlib
import json
import os
import sys
import traceback
from collections.abc import Callable
from typing import Never


def main(module: str) -> None:
    """Serve requests."""
    run: Callable[[str, str], None] = importlib.import_module(module).main
    # Collecting garbage would write to, and so copy, every page of what was imported: 4 % of a short run.
    gc.freeze()
    for line in sys.stdin:
        job, outcome, log = json.loads(line)
        process = os.fork()
        if process == 0:
            _child(run, job, outcome, log)
        _, status = os.waitpid(process, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


def _child(run: Callable[[str, str], None], job: str, outcome: str, log: str) -> Never:
    status = 1
    try:
        null = os.open(os.devnull, os.O_RDONLY)
        file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        for source, target in ((null, 0), (file, 1), (file, 2)):
            os.dup2(source, target)
        run(job, outcome)
        status = 0
    except BaseException:  # whatever it is, the log has it and the driver hears of it
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        # Without the exit handlers of what was imported: they belong to the process that imported it.
        os._exit(status)


if __name__ == "__main__":
    main(sys.argv[1])
