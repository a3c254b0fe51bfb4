"""`python -m studies [--quick] [--only WORLD]`: run the worlds' studies and write docs/results.md.

What is run and what is claimed stands in studies/*.yaml, fixed before running. Studies are ordinary
`tether study` folders, so a run that was stopped goes on where it was.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from studies.page import write_page
from studies.run import ROOT, read_plan, run_world


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the arguments ask for; return the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer betas, fewer seeds")
    parser.add_argument("--every-world", action="store_true", help="the quick grids in all worlds")
    parser.add_argument("--only", help="one world")
    parser.add_argument("--out", type=Path, help="default: worlds/full or worlds/quick")
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "results.md", help="page to write")
    parser.add_argument("--report", action="store_true", help="only write the page from what is there")
    options = parser.parse_args(arguments)
    out: Path = options.out or ROOT / "worlds" / ("quick" if options.quick else "full")
    paths = sorted((ROOT / "studies").glob("*.yaml"))
    plans = [read_plan(path, quick=options.quick, every_world=options.every_world) for path in paths]
    for plan in [] if options.report else plans:
        for world in plan["worlds"]:
            if options.only in (None, world):
                run_world(plan, world, out / world)
    write_page(options.page, plans, out, command=command_of(options))
    print(f"written: {options.page}")
    return 0


def command_of(options: argparse.Namespace) -> str:
    """Return what a reader types to get this page."""
    if not options.quick:
        return "make worlds"
    return "python -m studies --quick --every-world" if options.every_world else "make worlds-quick"


if __name__ == "__main__":
    sys.exit(main())
