"""`findings(folder)`: everything a study found, as data; the page is drawn from it. No torch."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tether import __version__
from tether.records.findings import (
    Answer,
    Comparison,
    Curve,
    Estimate,
    Findings,
    ReferenceDistance,
    RuleFinding,
    Setting,
    SettingFinding,
    ShuffleControl,
    Tight,
)
from tether.records.results import read_lines
from tether.records.study import CROSS_FIT, MEASURES, crossed_score
from tether.study import needed, rules, which
from tether.study.board import Board, standard_error
from tether.study.collect import (
    Study,
    board_of,
    read_folder,
    setting_findings,
    start_numbers,
)
from tether.study.frontier import laws, optimum_points, points
from tether.study.identity import identity
from tether.study.more_pairs import pairs_note
from tether.study.tables import HeldOut, read_table
from tether.study.tight import how_tight
from tether.study.token_level import token_findings
from tether.study.words import seeds_text

ALPHA = 0.05
"""Chance that a study of identical cells says `supported` in any of its answers."""
CURVES = {
    "eval_rewards/accuracies": "implicit accuracy",
    "eval_logratios/chosen": "log-ratio per token, chosen",
    "eval_logratios/rejected": "log-ratio per token, rejected",
    "eval_loss": "held-out loss",
}
POINTS = 200
"""Most points of one learning curve kept here; the run's metrics.jsonl has all."""


def findings(folder: Path, *, seed: int = 0) -> Findings:
    """Return what a study folder says so far; the same folder gives the same findings.

    Raises:
        RunFolderError: no study here, nothing measured yet, or a damaged file.

    """
    return findings_of(read_folder(folder), seed=seed)


def findings_of(study: Study, *, seed: int = 0) -> Findings:
    """Return the findings of a study that was read."""
    record = study.record
    board = None if study.judge is None else board_of(study, study.judge)
    settings = setting_findings(study)
    asked = _asked(study, board)
    known = identity(study)
    common: dict[str, Any] = {
        "study_id": record.study_id,
        "tether_version": __version__,
        "judge": study.judge,
        "gold": study.gold,
        "status": record.status,
        "start": start_numbers(study),
        "degenerate": {s.setting.name: s.degenerate for s in settings if s.degenerate},
        "optimum": tuple(optimum_points(study)),
        "tokens": tuple(token_findings(study)),
        "curves": tuple(learning_curves(study)),
        "distances": tuple(reference_distances(study)),
        "identity": known,
        "alpha": ALPHA,
    }
    if board is None:
        return _without_judge(study, settings, common)
    alpha = ALPHA / max(len(asked), 1)
    tight = _tight(board, alpha, seed)
    main = tight[0] if tight else None
    answers = [main.answer] if main is not None else []
    comparisons: list[Comparison] = []
    references: list[Comparison] = []
    shuffled: list[ShuffleControl] = []
    whole = _whole(board)
    if "reference needed" in asked:
        answer, comparisons = needed.reference_needed(whole, alpha=alpha, seed=seed)
        answers.append(answer)
    if "which reference" in asked:
        shuffled = which.shuffle_controls(board, alpha=alpha, seed=seed)
        answer, references = which.which_reference(whole, shuffled, alpha=alpha, seed=seed)
        answers.append(answer)
    scored = tuple(_scored(board, tight, s) for s in settings)
    recommended = _named(board, main.recommended if main else None)
    row = None if recommended is None else board.settings.index(recommended) + 1
    return Findings(
        **common,
        recommended=recommended,
        best_looking=_named(board, main.best_looking if main else None),
        set=main.set if main else (),
        kl=None if row is None else float(board.kl[row].mean()),
        kl_se=None if row is None else standard_error(board.kl[row]),
        interval=main.answer.interval if main else None,
        n=board.n,
        seeds=len(board.seeds),
        notices=tuple([*_notices(study, known), *board.notices]),
        answers=tuple(answers),
        settings=scored,
        tight=tuple(tight),
        comparisons=tuple(_described(scored, c) for c in comparisons),
        references=tuple(_described(scored, c) for c in references),
        shuffled=tuple(shuffled),
        frontier=tuple(points(study, board)),
        laws=tuple(laws(board)),
        rules=tuple(_rules(study, board, main, alpha, seed)),
    )


def _asked(study: Study, board: Board | None) -> list[str]:
    """Return the questions this study's grid can answer."""
    settings = study.settings
    dpo, none, other = (
        [s for s in settings if test(s)]
        for test in (needed.is_dpo, lambda s: s.reference == "none", which.is_other)
    )
    if board is not None:
        whole = _whole(board)
        compared = needed.asked(whole), which.asked(whole)
    else:
        compared = bool(dpo and none), bool(dpo and other)
    return [
        "how tight",
        *(["reference needed"] if compared[0] else []),
        *(["which reference"] if compared[1] else []),
    ]


def _whole(board: Board) -> Board:
    """Return the settings trained on the most pairs, with the labels as given."""
    most = max((s.data_fraction for s in board.settings), default=1.0)
    return board.only(lambda s: s.data_fraction == most and s.labels == "given")


def _tight(board: Board, alpha: float, seed: int) -> list[Tight]:
    """Answer how tight for every arm, the main one first: DPO where it has two strengths, else the widest."""
    arms = [arm for arm in board.arms() if _given(board, arm)]
    strengths = {arm: len(board.rows(lambda s, a=arm: s.arm == a, sound=False)) for arm in arms}

    def order(arm: str) -> tuple[bool, float, int]:
        own = next(s for s in board.settings if s.arm == arm)
        return not (needed.is_dpo(own) and strengths[arm] > 1), -own.data_fraction, -strengths[arm]

    return [
        _with_pairs(board, how_tight(board, arm, alpha=alpha, seed=seed)) for arm in sorted(arms, key=order)
    ]


def _with_pairs(board: Board, tight: Tight) -> Tight:
    note = "" if tight.answer.verdict == "supported" else pairs_note(board, tight)
    if not note:
        return tight
    answer = tight.answer.model_copy(update={"notes": (*tight.answer.notes, note)})
    return tight.model_copy(update={"answer": answer})


def _given(board: Board, arm: str) -> bool:
    return any(s.arm == arm and s.labels == "given" for s in board.settings)


def _named(board: Board, name: str | None) -> Setting | None:
    return next((setting for setting in board.settings if setting.name == name), None)


def _scored(board: Board, tight: Sequence[Tight], finding: SettingFinding) -> SettingFinding:
    """Put in what the board says of a setting: score and KL on the prompts and seeds that all share."""
    if finding.setting not in board.settings:
        return finding
    row = board.settings.index(finding.setting) + 1
    own = next((t for t in tight if finding.setting.name in t.p_values), None)
    gains = board.gains[row]
    return finding.model_copy(
        update={
            "score": float(board.scores[row].mean()),
            "score_se": standard_error(board.scores[row]),
            "kl": float(board.kl[row].mean()),
            "kl_se": standard_error(board.kl[row]),
            "gain": own.gains.get(finding.setting.name) if own else _plain(board, gains),
            "p_value": own.p_values.get(finding.setting.name) if own else None,
            "in_set": own is not None and finding.setting.name in own.set,
        }
    )


def _told(gold: Board, finding: SettingFinding) -> SettingFinding:
    """Add a world's truth to a setting of a study without a judge: no gain, no choice."""
    if finding.setting not in gold.settings:
        return finding
    place = gold.settings.index(finding.setting) + 1
    row, kl = gold.scores[place], gold.kl[place]
    found = {"score": float(row.mean()), "score_se": standard_error(row)}
    return finding.model_copy(update=found | {"kl": float(kl.mean()), "kl_se": standard_error(kl)})


def _described(settings: Sequence[SettingFinding], found: Comparison) -> Comparison:
    """Add KL, length and entropy of both sides at their best."""
    by_name = {s.setting.name: s for s in settings}
    first, second = by_name[found.first_setting], by_name[found.second_setting]
    numbers: dict[str, tuple[float | None, float | None]] = {"KL": (first.kl, second.kl)}
    for field in ("tokens", "entropy"):
        numbers[field] = (first.numbers.get(field), second.numbers.get(field))
    return found.model_copy(update={"numbers": numbers})


def _plain(board: Board, gains: Any) -> Estimate:
    """Return a gain without an interval that would hold with the others'."""
    return Estimate(estimate=float(gains.mean()), se=standard_error(gains), n=board.n, level=0.95)


def _rules(study: Study, board: Board, main: Tight | None, alpha: float, seed: int) -> list[RuleFinding]:
    if main is None:
        return []
    return [
        rules.judged(board, main.arm, alpha=alpha, seed=seed),
        *_judge_free(study, board, main.arm, alpha, seed),
    ]


def _judge_free(study: Study, board: Board | None, arm: str, alpha: float, seed: int) -> list[RuleFinding]:
    """Return what rules without a judge would choose for an arm; `board` says which settings are sound."""
    found: list[RuleFinding] = []
    boards = crossed_boards(study)
    if boards and arm in next(iter(boards.values())).arms():
        found.append(rules.cross_fitted(boards, arm, cost=crossed_cost(study), alpha=alpha, seed=seed))
        board = board or next(iter(boards.values()))
    accuracies = {
        s.setting.name: s.numbers["policy_accuracy"] or 0.0
        for s in setting_findings(study)
        if s.numbers.get("policy_accuracy") is not None
    }
    if accuracies and board is not None:
        found.append(rules.ranking(board, arm, accuracies))
    return found


def crossed_boards(study: Study) -> dict[float, Board]:
    """Return the board of every scorer's rewards, by its beta; empty where the study has no halves."""
    halves = study.halves()
    if halves is None:
        return {}
    boards = {beta: board_of(halves, crossed_score(beta)) for beta in study.scorers}
    return {beta: board for beta, board in boards.items() if board is not None}


def crossed_cost(study: Study) -> tuple[float, float]:
    """Return what cross-fitting took: training runs on all pairs, and processor seconds."""
    halves = study.halves()
    cells = () if halves is None else halves.cells
    seconds = sum(cell.record.seconds.get(CROSS_FIT, 0.0) for cell in cells)
    return float(len(cells) + len(study.scorers)), seconds


def _without_judge(study: Study, settings: list[SettingFinding], common: dict[str, Any]) -> Findings:
    """Return findings that recommend nothing: no judge was declared, or it did not score every model."""
    judge = study.judge
    if judge is not None:
        why = f"the judge {judge} has not scored every model on at least two common prompts"
    elif study.gold is not None:
        world = f"world:{study.record.world}"
        why = f"{world} measures what is true and chooses nothing (`--judge {world}` lets it choose)"
    else:
        why = "no judge was declared"
    seeds = max((len(s.seeds) for s in settings), default=0)
    sentences = {
        "how tight": f"Needs a judge: {why}, and no rule without one has been proven to pick β. "
        "KL, entropy, lengths, rankings and tokens are below; none of them says which is better.",
        "reference needed": f"Needs a judge: {why}.",
        "which reference": f"Needs a judge: {why}.",
    }
    answers = [
        Answer(
            question=question,  # pyright: ignore[reportArgumentType]
            claim="",
            verdict="needs a judge",
            sentence=sentences[question],
            notes=(f"{seeds_text(seeds).capitalize()} per setting.",),
            n=study.start.prompts,
            seeds=seeds,
        )
        for question in _asked(study, None)
    ]
    # Of a world the truth is drawn beside what was measured; nothing is chosen by it.
    gold = None if study.gold is None else board_of(study, study.gold)
    boards = crossed_boards(study)
    main = next((b.arms()[0] for b in boards.values()), None)
    return Findings(
        **common,
        n=study.start.prompts,
        seeds=seeds,
        notices=tuple(_notices(study, common["identity"])),
        answers=tuple(answers),
        settings=tuple(settings) if gold is None else tuple(_told(gold, s) for s in settings),
        frontier=() if gold is None else tuple(points(study, gold)),
        laws=() if gold is None else tuple(laws(gold)),
        rules=tuple(_judge_free(study, gold, main, ALPHA, 0)) if main else (),
    )


def _notices(study: Study, known: Mapping[str, Any]) -> list[str]:
    found: list[str] = []
    if study.record.status != "finished":
        found.append(f"This study is {study.record.status}: the page shows what was measured so far.")
    for cell in study.record.cells:
        if cell.state == "failed":
            found.append(
                f"{cell.cell_id} failed after {cell.attempts} attempts: {cell.error or 'no reason kept'}."
            )
    there = {cell.record.cell_id for cell in study.cells}
    for cell in study.record.cells:
        if cell.state == "finished" and cell.cell_id not in there:
            found.append(f"{cell.cell_id}: its measures are gone; run the study again to measure it anew.")
    for left in study.record.skipped:
        found.append(f"Left out: {', '.join(f'{k} {v}' for k, v in left.items())}.")
    for finding in known.get("data", {}).get("findings", ()):
        if finding["severity"] == "warning":
            kind = str(finding["kind"]).replace("_", " ")
            found.append(f"Data, {kind}, {finding['count']:,} rows: {finding['text']}")
    return found


def learning_curves(study: Study) -> list[Curve]:
    """Return learning curves of the first seed of every setting, from its cell's metrics.jsonl."""
    found: list[Curve] = []
    for setting in study.settings:
        for cell in study.of(setting)[:1]:
            lines = list(read_lines(cell.folder / "metrics.jsonl"))
            for metric, name in CURVES.items():
                values = [(float(x["step"]), float(x[metric])) for x in lines if x.get(metric) is not None]
                values = values[:: -(-len(values) // POINTS) or 1]
                if len(values) > 1 and bool(np.isfinite(values).all()):
                    found.append(
                        Curve(
                            cell=cell.record.cell_id, setting=setting.name, metric=name, points=tuple(values)
                        )
                    )
    return found


def reference_distances(study: Study) -> list[ReferenceDistance]:
    """Return how far every reference that is not the start model is from it on held-out texts."""
    ratios: dict[str, Any] = {}
    for cell in study.cells:
        reference = cell.setting.reference
        if reference in ratios or reference in ("self", "none"):
            continue
        held = read_table(HeldOut, cell.folder / MEASURES / "held_out.parquet")
        ratios[reference] = (held.reference_logp - held.start_logp) / held.tokens
    return which.distances(ratios)
