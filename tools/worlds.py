"""Run the worlds' studies: `python tools/worlds.py [--quick] [--only WORLD]`; writes docs/results.md.

What is run and what is claimed stands in studies/*.yaml, fixed before running. Studies are ordinary
`tether study` folders, so a run that was stopped goes on where it was.
"""

import argparse
import math
import random
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from scipy import stats

from tether import api
from tether.config.study import build_study
from tether.records.results import read_lines, write_lines, write_text
from tether.records.study import CellMeasures, CellRecord
from tether.worlds import WORLDS, Enumerable

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "results.md"
NAMES = {"similar": "model:{place}/similar/model", "dissimilar": "model:{place}/dissimilar/model"}

Row = dict[str, Any]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the arguments ask for; return the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer betas, two seeds")
    parser.add_argument("--only", help="one world")
    parser.add_argument("--out", type=Path, help="default: worlds/full or worlds/quick")
    parser.add_argument("--report", action="store_true", help="only write docs/results.md from what is there")
    options = parser.parse_args(arguments)
    out: Path = options.out or ROOT / "worlds" / ("quick" if options.quick else "full")
    plans = [read_plan(path, quick=options.quick) for path in sorted((ROOT / "studies").glob("*.yaml"))]
    if not options.report:
        for plan in plans:
            for world in plan["worlds"]:
                if options.only in (None, world):
                    run_world(plan, world, out / world)
    write_text(PAGE, page(plans, out, quick=options.quick))
    print(f"written: {PAGE}")
    return 0


def read_plan(path: Path, *, quick: bool) -> dict[str, Any]:
    """Read a plan; `quick` puts its smaller grids in."""
    plan: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    smaller = plan.pop("quick")
    if quick:
        plan["seeds"] = smaller["seeds"]
        plan["studies"] = {k: {**v, **smaller["studies"].get(k, {})} for k, v in plan["studies"].items()}
    return plan


def run_world(plan: Mapping[str, Any], name: str, place: Path) -> None:
    """Make a world's files, its other references, and run every study in it."""
    place.mkdir(parents=True, exist_ok=True)
    api.make_world(name, place / "world", **plan["made"])
    for study, grid in plan["studies"].items():
        references = grid.get("reference", ["self"])
        for other in NAMES.keys() & set(references):
            stronger(plan, name, place, other)
        data = shuffled(place) if grid.get("labels") == "shuffled" else place / "world" / "train.jsonl"
        factors = {key: value for key, value in grid.items() if key != "labels"}
        factors["reference"] = [NAMES.get(r, r).format(place=place) for r in references]
        values = {
            "model": str(place / "world" / "model"),
            "data": str(data),
            "eval_data": str(place / "world" / "eval.jsonl"),
            "output_dir": str(place / study),
            "evaluators": [f"world:{name}"],
            "seed": plan["seeds"],
            "save_strategy": "no",
            **plan["train"],
            **factors,
        }
        print(f"{name}: {study}", flush=True)
        record = api.study_config(build_study(values, source=f"studies: {name} {study}"))
        rows = [row for row in measured(name, place, study, record.cells) if row]
        write_lines(place / study / "rows.jsonl", rows)


def stronger(plan: Mapping[str, Any], name: str, place: Path, which: str) -> None:
    """Train a stronger reference: this world's base, or the next world's, on other pairs of this world."""
    folder, other = place / which, plan["references"]
    if (folder / "model").is_dir():
        return
    worlds = plan["worlds"]
    base = name if which == "similar" else worlds[(worlds.index(name) + 1) % len(worlds)]
    source, more = place / f"{which}-base", place / "more"
    api.make_world(base, source, pairs=64, eval_pairs=16)
    api.make_world(name, more, pairs=other["pairs"], eval_pairs=16, seed=other["seed"])
    given = {k: v for k, v in plan["train"].items() if k not in ("measured_prompts", "samples_per_prompt")}
    api.train(
        source / "model",
        more / "train.jsonl",
        folder,
        seed=other["seed"],
        measure_prompts=0,
        save_strategy="no",
        **{**given, "beta": other["beta"], "num_train_epochs": other["num_train_epochs"]},
    )


def shuffled(place: Path) -> Path:
    """Write the training pairs with chosen and rejected swapped in a random half of them."""
    path, draw = place / "shuffled.jsonl", random.Random(5)
    rows = list(read_lines(place / "world" / "train.jsonl"))
    swapped = [
        {**row, "chosen": row["rejected"], "rejected": row["chosen"]} if draw.random() < 0.5 else row
        for row in rows
    ]
    write_lines(path, swapped)
    return path


def measured(name: str, place: Path, study: str, cells: Iterable[CellRecord]) -> Iterable[Row | None]:
    """Return what every cell's model is worth: exactly where the world is listed, else on samples."""
    folder, world = place / study, WORLDS[name]
    start = exact_start(world, place) if isinstance(world, Enumerable) else None
    for cell in [None, *cells]:
        summary = (folder / "cells" / cell.cell_id / "measures" if cell else folder / "shared" / "start") / (
            "summary.json"
        )
        if not summary.is_file():
            yield None
            continue
        found = CellMeasures.model_validate_json(summary.read_bytes())
        row: Row = {"world": name, "study": study, "cell": cell.cell_id if cell else "start"}
        if cell is not None:
            factors = cell.factors.model_dump()
            named = [k for k in NAMES if factors["reference"].endswith(f"/{k}/model")]
            row |= {**factors, "reference": (named or [factors["reference"]])[0]}
        row |= {
            "policy_accuracy": found.policy_accuracy,
            "chosen_log_ratio": found.chosen_log_ratio,
            "degenerate": list(found.degenerate),
            "reward": found.scores.get("gold_reward"),
            "kl": found.kl,
            "tokens": found.tokens,
            "entropy": found.entropy,
            "fluent": None,
        }
        if cell is None and start is not None and isinstance(world, Enumerable):
            others = {k: place / k / "model" for k in NAMES if (place / k / "model").is_dir()}
            row["stronger"] = {k: exactly(world, path, start) for k, path in others.items()}
        if start is not None and isinstance(world, Enumerable):
            model = folder / "cells" / cell.cell_id / "model" if cell else place / "world" / "model"
            row |= exactly(world, model, start)
        yield row


def exact_start(world: Enumerable, place: Path) -> Any:
    """Return the base model's next-token distributions after every prefix."""
    return world.conditionals(*_load(place / "world" / "model"))


def exactly(world: Enumerable, folder: Path, start: Any) -> Row:
    """Return a model's exact reward, KL, length, entropy and share of fluent answers."""
    value = world.exact(world.conditionals(*_load(folder)), start)
    return {
        "reward": value.reward,
        "kl": value.kl,
        "tokens": value.tokens,
        "entropy": value.entropy,
        "fluent": value.fluent,
    }


def _load(folder: Path) -> tuple[Any, Any]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    return AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)


@dataclass(frozen=True)
class Found:
    """What became of a claim in one world: a difference with its interval over seeds."""

    verdict: str
    estimate: float | None = None
    low: float | None = None
    high: float | None = None
    seeds: int = 0
    words: str = ""


@dataclass(frozen=True)
class Table:
    """The rows of one world."""

    rows: tuple[Row, ...]

    def start(self) -> Row:
        """Return the start model's row."""
        return next(row for row in self.rows if row["cell"] == "start")

    def arm(self, study: str, **factors: Any) -> dict[float | None, dict[int, Row]]:
        """Return rows of one arm by beta and seed."""
        found: dict[float | None, dict[int, Row]] = {}
        for row in self.rows:
            if row["study"] == study and "seed" in row and all(row[k] == v for k, v in factors.items()):
                found.setdefault(row["beta"], {})[row["seed"]] = row
        return found

    def best(self, arm: Mapping[Any, Mapping[int, Row]]) -> Any:
        """Return the beta of the highest mean reward."""
        return max(arm, key=lambda beta: _mean(row["reward"] for row in arm[beta].values()))


def _mean(values: Iterable[float]) -> float:
    listed = list(values)
    return sum(listed) / len(listed)


def judged(differences: Sequence[float], words: str = "") -> Found:
    """Say whether a difference is above 0: a t interval over seeds (95 %)."""
    n, mean = len(differences), _mean(differences)
    if n < 2:
        return Found("not distinguishable", mean, None, None, n, words + " one seed has no interval")
    se = math.sqrt(sum((d - mean) ** 2 for d in differences) / (n - 1) / n)
    half = float(stats.t.ppf(0.975, n - 1)) * se
    low, high = mean - half, mean + half
    verdict = "supported" if low > 0 else "contradicted" if high < 0 else "not distinguishable"
    return Found(verdict, mean, low, high, n, words)


def paired(first: Mapping[int, Row], second: Mapping[int, Row], name: str = "reward") -> list[float]:
    """Return first - second, seed by seed."""
    return [first[seed][name] - second[seed][name] for seed in sorted(first.keys() & second.keys())]


def above(rows: Mapping[int, Row], level: float, name: str) -> list[float]:
    """Return a quantity less a level, seed by seed."""
    return [rows[seed][name] - level for seed in sorted(rows)]


def inverted_u(table: Table) -> Found:
    """Both ends of the grid are worse than the best beta, which lies inside."""
    arm = table.arm("tight")
    best, low, high = table.best(arm), min(arm), max(arm)
    words = f"best beta {best:g}, ends {low:g} and {high:g}"
    if best in (low, high):
        return Found("contradicted", seeds=len(arm[best]), words=words)
    ends = [judged(paired(arm[best], arm[end]), words) for end in (low, high)]
    return min(ends, key=lambda found: found.estimate or 0.0)


def _ends(table: Table) -> tuple[Mapping[int, Row], Mapping[int, Row]]:
    arm = table.arm("tight")
    return arm[min(arm)], arm[max(arm)]


def margin_copying(table: Table) -> Found:
    """Half the gain of given labels is reached with shuffled ones, at the largest beta."""
    given, mixed = (table.arm(s, reference="similar") for s in ("which", "shuffled"))
    beta, start = max(mixed), table.start()["reward"]
    seeds = sorted(given[beta].keys() & mixed[beta].keys())
    parts = [
        mixed[beta][s]["reward"] - start - 0.5 * (given[beta][s]["reward"] - start) for s in seeds
    ]  # fmt: skip
    share = _mean(mixed[beta][s]["reward"] - start for s in seeds) / _mean(
        given[beta][s]["reward"] - start for s in seeds
    )
    return judged(parts, f"shuffled labels give {share:.0%} of the gain at beta {beta:g}")


def _beats(table: Table, first: tuple[str, dict[str, Any]], second: tuple[str, dict[str, Any]]) -> Found:
    one, two = (table.arm(study, **factors) for study, factors in (first, second))
    a, b = table.best(one), table.best(two)
    return judged(paired(one[a], two[b]), f"best beta {a:g} and {b:g}")


def _without(table: Table) -> Found:
    arm = table.arm("needed", loss_type="sigmoid", reference="none")
    beta = max(arm)
    return judged(above(arm[beta], table.start()["tokens"], "tokens"), f"at beta {beta:g}, in tokens")


CLAIMS: dict[str, Callable[[Table], Found]] = {
    "inverted-u": inverted_u,
    "policy-ranking": lambda t: judged(paired(*_ends(t), "policy_accuracy")),
    "displacement": lambda t: judged([-v for v in above(_ends(t)[0], 0.0, "chosen_log_ratio")], "nats lost"),
    "collapse": lambda t: judged([-v for v in above(_ends(t)[0], t.start()["fluent"], "fluent")]),
    "reference-helps": lambda t: _beats(
        t,
        ("needed", {"loss_type": "sigmoid", "reference": "self"}),
        ("needed", {"loss_type": "sigmoid", "reference": "none"}),
    ),
    "length-blow-up": _without,
    "similar-helps": lambda t: _beats(
        t, ("which", {"reference": "similar"}), ("which", {"reference": "self"})
    ),
    "dissimilar-hurts": lambda t: _beats(
        t, ("which", {"reference": "self"}), ("which", {"reference": "dissimilar"})
    ),
    "margin-copying": margin_copying,
}


def page(plans: Sequence[Mapping[str, Any]], out: Path, *, quick: bool) -> str:
    """Return docs/results.md: every claim in every world, and the curve behind it."""
    command = "make worlds-quick" if quick else "make worlds"
    text = [PREFACE.format(command=command)]
    for plan in plans:
        tables = {name: read_table(out / name, plan["studies"]) for name in plan["worlds"]}
        there = {name: table for name, table in tables.items() if table is not None}
        if not there:
            continue
        seeds = len(plan["seeds"])
        text.append(f"## {', '.join(there)}\n\n{seeds} seed{'s' if seeds > 1 else ''} each.\n")
        text.append(f"| claim | {' | '.join(there)} |\n|---|{'---|' * len(there)}")
        for claim in plan["claims"]:
            cells = [_told(claim["id"], table) for table in there.values()]
            text.append(f"| {claim['says']} | {' | '.join(cells)} |")
        text += ["", *(_curves(name, table) for name, table in there.items())]
    return "\n".join(text) + "\n"


def read_table(place: Path, studies: Iterable[str]) -> Table | None:
    """Read a world's rows; None where nothing was run."""
    rows = [row for study in studies for row in read_lines(place / study / "rows.jsonl")]
    return Table(tuple(rows)) if rows else None


def _told(claim: str, table: Table) -> str:
    try:
        found = CLAIMS[claim](table)
    except (KeyError, ValueError, StopIteration, ZeroDivisionError):
        return "not run"
    number = ""
    if found.estimate is not None:
        ends = f" ({found.low:.2f} to {found.high:.2f})" if found.low is not None else ""
        number = f" {found.estimate:+.2f}{ends}"
    return f"**{found.verdict}**{number}" + (f"; {found.words}" if found.words else "")


def _curves(name: str, table: Table) -> str:
    start = table.start()
    lines = [
        f"### {name}\n",
        f"Start model: reward {start['reward']:.2f}, {start['tokens']:.1f} tokens.{_references(table)}\n",
        "| study | arm | beta | reward | KL | tokens | fluent | policy accuracy | degenerate |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    arms: dict[tuple[Any, ...], list[Row]] = {}
    for row in table.rows:
        if "seed" in row:
            arms.setdefault((row["study"], row["loss_type"], row["reference"], row["beta"]), []).append(row)
    for (study, loss, reference, beta), rows in sorted(arms.items(), key=lambda i: str(i[0])):
        means = {k: _average(rows, k) for k in ("reward", "kl", "tokens", "fluent", "policy_accuracy")}
        broken = sum(bool(row["degenerate"]) for row in rows)
        shown = [f"{means[k]:.2f}" if means[k] is not None else "-" for k in means]
        strength = "-" if beta is None else f"{beta:g}"
        lines.append(
            f"| {study} | {loss}, {reference} | {strength} | {' | '.join(shown)} | {broken} of {len(rows)} |"
        )
    return "\n".join(lines) + "\n"


def _references(table: Table) -> str:
    """Say how strong the other references are: the premise of the third question."""
    found: dict[str, Row] = {}
    for row in table.rows:
        found |= row.get("stronger", {})
    told = [f"{name} {row['reward']:.2f} (KL from start {row['kl']:.1f})" for name, row in found.items()]
    return f" Other references, reward: {', '.join(told)}." if told else ""


def _average(rows: Sequence[Row], name: str) -> float | None:
    known = [row[name] for row in rows if row[name] is not None]
    return _mean(known) if known else None


PREFACE = """# Results in worlds

Claims of the literature in worlds whose true reward is known, from `{command}`: worlds, grids, seeds and
claims were fixed in `studies/` before the first run. **supported** means that the 95 % interval of the
difference (a t interval over seeds, paired) lies above 0, **contradicted** below; in the listed worlds
reward, KL, length and fluency of each trained model are exact, so seeds are the only noise.

"Best beta" is chosen by the true reward here, on the same models: an oracle no user has, which flatters every
arm alike. The worlds are small; what holds in them is evidence about the method, not about your model.
"Not run" is what was stopped before its turn. The third question needs references that are stronger than the
start model: their rewards are printed under each world, and where one is weaker its line says nothing.
"""


if __name__ == "__main__":
    sys.exit(main())
