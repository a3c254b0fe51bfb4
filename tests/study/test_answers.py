"""The three answers hold what they promise on studies whose truth is known."""

from dataclasses import replace

import numpy as np
import pytest

from tests.study.boards import board, setting
from tether.records.findings import Answer, Setting
from tether.study import needed, rules, which
from tether.study.arms import Side, compare, equal_kl
from tether.study.board import Board, Dialled, Words
from tether.study.more_pairs import pairs_note
from tether.study.tight import dial_cost, how_tight, regret_of

ALIKE = {"DPO": [0.0] * 4, "posterior": [0.0] * 4, "DPO, reference model:strong": [0.0] * 4}
QUESTIONS = 3


def answers(study: Board, seed: int) -> list[Answer]:
    """Ask all three questions as `findings` does: 5 % shared among them."""
    alpha = 0.05 / QUESTIONS
    return [
        how_tight(study, "DPO", alpha=alpha, seed=seed).answer,
        needed.reference_needed(study, alpha=alpha, seed=seed)[0],
        which.which_reference(study, [], alpha=alpha, seed=seed)[0],
    ]


def alarms(studies: int, seeds: int, seed_sd: float, prompts: int = 60) -> tuple[float, float]:
    """Share of studies of identical cells with any `supported`, and of single-question studies with one."""
    several = single = 0
    for draw in range(studies):
        study = board(ALIKE, seeds=seeds, seed_sd=seed_sd, prompts=prompts, draw=draw)
        several += any(answer.verdict == "supported" for answer in answers(study, draw))
        single += how_tight(study, "DPO", alpha=0.05, seed=draw).answer.verdict == "supported"
    return several / studies, single / studies


@pytest.mark.parametrize(("seeds", "seed_sd"), [(1, 0.0), (3, 0.3)])
def test_studies_of_identical_cells_rarely_say_supported(seeds: int, seed_sd: float) -> None:
    several, single = alarms(40, seeds, seed_sd)
    assert max(several, single) <= 0.153  # 5 % and three binomial standard errors of 40 studies


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.parametrize(
    ("seeds", "seed_sd", "prompts"), [(1, 0.0, 60), (1, 0.0, 8), (3, 0.0, 60), (3, 0.3, 60), (5, 0.5, 60)]
)
def test_identical_cells_say_supported_in_at_most_6_5_per_cent_of_1000_studies(
    seeds: int, seed_sd: float, prompts: int
) -> None:
    several, single = alarms(1000, seeds, seed_sd, prompts)
    assert several <= 0.065 and single <= 0.065


def test_a_real_difference_is_found() -> None:
    truth = {"DPO": [0.2, 0.9, 1.0, 0.3], "posterior": [0.0, 0.1, 0.2, 0.0]}
    found = {"tight": 0, "needed": 0, "peak": 0}
    for draw in range(40):
        study = board(truth, prompts=100, noise_sd=0.7, draw=draw)
        tight = how_tight(study, "DPO", alpha=0.025, seed=draw)
        found["tight"] += tight.answer.verdict == "supported"
        found["peak"] += tight.recommended in ("DPO β 0.3", "DPO β 0.1")
        answer, _ = needed.reference_needed(study, alpha=0.025, seed=draw)
        found["needed"] += answer.verdict == "supported"
    assert min(found.values()) >= 36


def test_worse_than_the_start_everywhere_is_contradicted() -> None:
    tight = how_tight(board({"DPO": [-1.0, -1.2, -1.5, -2.0]}), "DPO")
    assert tight.answer.verdict == "contradicted" and tight.recommended is None
    assert tight.set == ("start",)
    assert "each is distinguishably worse" in tight.answer.sentence


def test_the_start_model_in_the_set_means_no_recommendation_and_says_what_would_help() -> None:
    tight = how_tight(board({"DPO": [0.05, 0.1, 0.15, 0.0]}, prompts=40, draw=1), "DPO")
    assert tight.answer.verdict == "not distinguishable" and tight.recommended is None
    assert "start" in tight.set and tight.best_looking is not None
    assert tight.prompts_needed is not None and tight.prompts_needed > 40
    assert any("prompts would be needed" in note for note in tight.answer.notes)


def test_as_many_prompts_as_were_said_to_be_needed_do_tell_the_gain_from_nothing() -> None:
    truth = {"DPO": [0.0, 0.25, 0.0, 0.0]}
    small = how_tight(board(truth, prompts=30, draw=3), "DPO")
    assert small.recommended is None and small.prompts_needed is not None
    gain = max(estimate.estimate for estimate in small.gains.values())
    told = {"DPO": [0.0, gain, 0.0, 0.0]}
    found = [
        how_tight(board(told, prompts=small.prompts_needed, draw=100 + d), "DPO", seed=d) for d in range(40)
    ]
    assert 0.6 <= np.mean([t.recommended is not None for t in found]) <= 1.0  # 80 % was announced


def test_the_tightest_within_one_standard_error_is_recommended_not_the_best_looking() -> None:
    study = board({"DPO": [0.2, 1.0, 1.0, 1.0]}, prompts=200, noise_sd=1.0)
    tight = how_tight(study, "DPO")
    gains = study.gains.mean(axis=(1, 2))
    best = int(gains[1:].argmax()) + 1
    error = study.gains[best, 0].std(ddof=1) / np.sqrt(200)
    within = [row for row in range(1, 5) if gains[row] >= gains[best] - error]
    assert tight.recommended == study.name(min(within))
    assert tight.best_looking == study.name(best)
    assert tight.recommended == "DPO β 0.3" and tight.best_looking != "DPO β 0.3"


def test_a_tighter_setting_that_may_gain_nothing_is_not_recommended() -> None:
    study = board({"DPO": [0.0, 1.0, 0.0, 0.0]}, prompts=100, noise_sd=0.5)
    scores = study.scores.copy()
    noise = np.random.default_rng(5).normal(size=study.n)
    scores[1, 0] = scores[2, 0] - 0.02 + 8.0 * (noise - noise.mean())  # as good as the best, but a lottery
    tight = how_tight(replace(study, scores=scores), "DPO")
    assert "DPO β 1" in tight.set and tight.recommended == "DPO β 0.3"


def test_the_sentence_never_says_near_the_best_of_what_is_not() -> None:
    study = board({"DPO": [0.0, 1.0, 0.0, 0.0]}, prompts=100, noise_sd=0.5)
    scores = study.scores.copy()
    noise = np.random.default_rng(5).normal(size=study.n)
    scores[3, 0] = scores[2, 0] + 0.5 + 20.0 * (noise - noise.mean())  # looks best, but a lottery
    tight = how_tight(replace(study, scores=scores), "DPO")
    assert (tight.recommended, tight.best_looking) == ("DPO β 0.3", "DPO β 0.1")
    assert "within one standard error of DPO β 0.1" not in tight.answer.sentence
    assert "DPO β 0.1 looks best, but its own gain is not distinguishable from 0" in tight.answer.sentence


def test_no_recommendation_exactly_where_the_start_is_in_the_set_or_no_gain_is_sure() -> None:
    seen = set()
    for draw in range(120):
        study = board({"DPO": [0.1, 0.38, 0.36, 0.1]}, prompts=50, noise_sd=0.7, draw=draw)
        tight = how_tight(study, "DPO", seed=draw)
        sure = any(g.low is not None and g.low > 0 for n, g in tight.gains.items() if n in tight.set)
        assert (tight.recommended is not None) == ("start" not in tight.set and sure)
        seen.add(("start" in tight.set, sure))
    assert {(True, True), (False, True), (True, False)} <= seen


def test_one_seed_speaks_of_trained_models_and_several_of_beta() -> None:
    truth = {"DPO": [0.2, 1.0, 0.9, 0.3]}
    one = how_tight(board(truth), "DPO").answer
    assert one.sentence.startswith("Of these trained models take") and "not about β" in one.notes[0]
    many = how_tight(board(truth, seeds=5), "DPO").answer
    assert many.sentence.startswith("Use DPO β") and not any("not about β" in n for n in many.notes)


def test_a_degenerate_setting_is_never_recommended_and_is_named() -> None:
    study = board({"DPO": [0.2, 1.2, 2.0, 0.3]})
    flagged = replace(study, degenerate=((), (), ("end rate 0.1 beyond 0.4",), ()))
    assert how_tight(study, "DPO").recommended == "DPO β 0.1"
    tight = how_tight(flagged, "DPO")
    assert tight.recommended == "DPO β 0.3"
    assert "DPO β 0.1 (end rate" in " ".join(tight.answer.notes)
    everything = replace(study, degenerate=(("cut",),) * 4)
    assert "every setting is degenerate" in how_tight(everything, "DPO").answer.sentence


def test_the_best_at_an_end_says_where_a_better_one_may_lie() -> None:
    end = board({"DPO": [0.2, 0.5, 1.0, 2.0]})
    assert "β 0.03 is the loosest tried: the best may lie at a smaller β, which tether study add" in said(end)
    flagged = replace(end, degenerate=((), (), (), ("end rate 0.1 beyond 0.4",)))
    assert "β 0.1 is the loosest that is not degenerate: the best may lie between it and β 0.03" in said(
        flagged
    )
    tight = board({"DPO": [2.0, 1.0, 0.5, 0.2]})
    assert "β 1 is the tightest tried: the best may lie at a larger β" in said(tight)
    assert "tried" not in said(board({"DPO": [0.2, 1.0, 0.5, 0.1]}))
    other = Words(take="Take", trained=1, seeds="more runs would tell", strengths="which other dials can try")
    dial = said(replace(end, words=other))
    assert "which other dials can try" in dial and "about this trained model" in dial
    assert (
        "more runs would tell" in dial
        and how_tight(replace(end, words=other), "DPO").answer.sentence[:5] == "Take "
    )


def said(study: Board) -> str:
    """All notes of the answer."""
    return " ".join(how_tight(study, "DPO").answer.notes)


def test_the_rule_never_sees_the_gold_score() -> None:
    study = board({"DPO": [0.2, 1.0, 0.9, 0.3]})
    flipped = [
        replace(study, gold=np.array(gold), gold_name="gold") for gold in ([0, 1, 2, 3, 9], [9, 3, 2, 1, 0])
    ]
    one, other = (how_tight(b, "DPO") for b in flipped)
    assert one.model_copy(update={"regret": None}) == other.model_copy(update={"regret": None})
    assert one.regret is not None and other.regret is not None and one.regret != other.regret


def test_regret_by_hand() -> None:
    study = replace(board({"DPO": [0.0] * 4}), gold=np.array([1.0, 2.0, 5.0, 4.0, 0.0]), gold_name="gold")
    regret = regret_of(study, 3)
    assert regret is not None
    assert (regret.regret, regret.share, regret.best_setting) == (1.0, 0.25, "DPO β 0.3")


def test_equal_kl_interpolates_each_curve_in_the_root_of_kl() -> None:
    kl = {"DPO": [1.0, 2.0], "posterior": [1.0, 4.0]}
    truth = {"DPO": [1.0, 2.0], "posterior": [0.5, 2.0]}
    study = board(truth, noise_sd=1e-9, prompt_sd=1e-9, kl=kl)
    found = equal_kl(study, Side("DPO", (1, 2)), Side("posterior", (3, 4)), seed=0)
    at = np.array([1.25, 1.5, 1.75])  # from 1, where posterior begins, to 2, where DPO ends
    assert [point.kl for point in found] == pytest.approx(at)
    first, second = 1 + (np.sqrt(at) - 1) / (np.sqrt(2) - 1), 0.5 + 1.5 * (np.sqrt(at) - 1)
    assert [point.first for point in found] == pytest.approx(first, abs=1e-6)
    assert [point.second for point in found] == pytest.approx(second, abs=1e-6)
    assert [p.difference.estimate for p in found] == pytest.approx(first - second, abs=1e-6)


def test_equal_kl_starts_at_the_start_model_only_where_beta_leads_there() -> None:
    kl = {"DPO": [1.0, 3.0], "posterior": [2.0, 3.0]}
    study = board({"DPO": [1.0, 2.0], "posterior": [1.5, 2.0]}, kl=kl)
    dpo, other = Side("DPO", (1, 2)), Side("posterior", (3, 4))
    assert [p.kl for p in equal_kl(study, dpo, dpo, seed=0)] == pytest.approx([0.75, 1.5, 2.25])
    assert min(p.kl for p in equal_kl(study, dpo, other, seed=0)) > 2.0
    apart = replace(study, kl=study.kl * np.array([1, 0.1, 0.1, 1, 1])[:, None, None])
    assert equal_kl(apart, dpo, other, seed=0) == []
    answer, _ = needed.reference_needed(apart, alpha=0.05)
    assert "DPO and posterior reach no KL in common" in answer.notes[-1]


def test_arms_on_one_frontier_do_not_differ_at_equal_kl_because_their_grids_do() -> None:
    def law(kl: float) -> float:
        return kl**0.5 * (1.5 - 0.3 * np.log(kl))

    kl = {"DPO": [0.1, 0.5, 1.5, 4.0], "posterior": [2.0, 3.0, 4.0, 5.0]}
    truth = {arm: [law(k) for k in spent] for arm, spent in kl.items()}
    study = board(truth, prompts=200, noise_sd=0.01, kl=kl)
    sides = Side("DPO", (1, 2, 3, 4)), Side("posterior", (5, 6, 7, 8))
    # Linear in KL and from the start model on, they differed by 0.47 at 1 nat.
    assert all(abs(p.difference.estimate) < 0.1 for p in equal_kl(study, *sides, seed=0))


def test_a_side_of_several_arms_is_interpolated_along_the_arm_of_its_best() -> None:
    kl = {"DPO": [1.0, 2.0], "posterior": [1.0, 2.0], "DPO, reference model:strong": [1.2, 1.8]}
    truth = {"DPO": [1.0, 2.0], "posterior": [1.0, 2.0], "DPO, reference model:strong": [-9.0, -9.0]}
    study = board(truth, noise_sd=1e-9, prompt_sd=1e-9, kl=kl)
    found = compare(study, [(Side("DPO", (1, 2)), Side("others", (3, 4, 5, 6)))], alpha=0.05)
    assert [p.difference.estimate for p in found[0].equal_kl] == pytest.approx([0.0] * 3, abs=1e-6)


def test_the_standard_error_of_a_comparison_is_over_seeds_too() -> None:
    study = board({"DPO": [1.0, 1.0], "posterior": [0.0, 0.0]}, seeds=5, seed_sd=2.0, noise_sd=0.1)
    found = compare(study, [(Side("DPO", (1,)), Side("posterior", (3,)))], alpha=0.05)[0].difference
    by_seed = (study.scores[1] - study.scores[3]).mean(axis=1)
    assert found.se == pytest.approx(by_seed.std(ddof=1) / 5**0.5, rel=0.05)


def test_prompts_needed_are_never_fewer_than_those_that_did_not_suffice() -> None:
    seen = 0
    for draw in range(40):
        truth = {"DPO": [0.1, 0.3, 0.2, 0.0]}
        luck, noise = [(0.25, 0.7), (0.1, 1.5)][draw % 2]
        study = board(truth, prompts=100, seeds=3, seed_sd=luck, noise_sd=noise, draw=draw)
        tight = how_tight(study, "DPO", seed=draw)
        if tight.answer.verdict == "not distinguishable" and tight.prompts_needed is not None:
            assert tight.prompts_needed > 100
            seen += 1
    assert seen >= 5


def test_equal_kl_intervals_cover_a_known_difference() -> None:
    kl = {"DPO": [1.0, 2.0], "posterior": [1.0, 2.0]}
    hits = []
    for draw in range(60):
        study = board({"DPO": [1.0, 2.0], "posterior": [0.8, 1.6]}, prompts=50, kl=kl, draw=draw)
        middle = equal_kl(study, Side("DPO", (1, 2)), Side("posterior", (3, 4)), seed=draw)[1]
        assert middle.difference.low is not None and middle.difference.high is not None
        hits.append(middle.difference.low <= 0.2 <= middle.difference.high)
    assert np.mean(hits) >= 0.866  # 95 % less three standard errors of 60


@pytest.mark.parametrize("seeds", [2, 3])
def test_equal_kl_intervals_hold_with_few_seeds(seeds: int) -> None:
    kl = {"DPO": [1.0, 2.0], "posterior": [1.0, 2.0]}
    truth, hits = {"DPO": [1.0, 2.0], "posterior": [1.0, 2.0]}, []
    for draw in range(200):
        study = board(truth, prompts=50, seeds=seeds, seed_sd=0.5, noise_sd=0.3, kl=kl, draw=draw)
        last = equal_kl(study, Side("DPO", (1, 2)), Side("posterior", (3, 4)), seed=draw)[2].difference
        assert last.low is not None and last.high is not None
        hits.append(last.low <= 0.0 <= last.high)
    assert np.mean(hits) >= 0.904  # 95 % less three standard errors of 200


def test_the_dial_is_compared_at_the_kl_of_the_recommended_model() -> None:
    study = board({"DPO": [0.2, 1.0, 0.9, 0.3]}, noise_sd=0.3)
    source = study.settings[0]
    row = study.scores[2, 0]
    dialled = tuple(
        Dialled("cell", source, dial, row + shift, np.full(study.n, kl))
        for dial, shift, kl in ((1.0, -0.8, 1.0), (2.0, -0.2, 1.5), (4.0, 0.2, 2.5))
    )
    cost = how_tight(replace(study, dialled=dialled), "DPO").dial
    assert cost is not None  # the recommended model is row 2, of KL 2
    assert cost.dial == pytest.approx(3.0) and cost.kl == pytest.approx(2.0)
    assert cost.difference.estimate == pytest.approx(0.0, abs=1e-9)
    short = how_tight(replace(study, dialled=dialled[:2]), "DPO").dial
    assert short is None  # the dial was never turned so far


def test_the_interval_of_the_dials_cost_holds_for_new_seeds() -> None:
    hits = []
    for draw in range(100):
        study = board({"DPO": [0.2, 4.0, 0.9, 0.3]}, seeds=3, seed_sd=0.4, noise_sd=0.3, draw=draw)
        model = study.scores[0, 0] + 0.4 * np.random.default_rng([draw, 1]).normal()
        dialled = tuple(
            Dialled("cell", study.settings[0], dial, model + gain, np.full(study.n, kl))
            for dial, gain, kl in ((1.0, 3.0, 1.0), (4.0, 5.0, 3.0))
        )
        cost = dial_cost(study, dialled, 2, seed=draw)  # 4 at 2 nats, as the model of row 2 on average
        assert cost is not None and cost.difference.low is not None and cost.difference.high is not None
        hits.append(cost.difference.low <= 0.0 <= cost.difference.high)
    assert np.mean(hits) >= 0.885  # 95 % less three standard errors of 100


def test_how_the_gain_grew_with_the_pairs_says_about_how_many_more() -> None:
    study = board({"DPO": [0.0, 0.1, 0.0, 0.0]}, noise_sd=1e-9, prompt_sd=1e-9)
    quarter = tuple(replace_setting(s, 0.25) for s in study.settings)
    less = study.scores[1:] * 0.4
    both = replace(
        study,
        settings=(*study.settings, *quarter),
        scores=np.concatenate([study.scores, less]),
        kl=np.concatenate([study.kl, study.kl[1:]]),
        degenerate=((),) * 8,
    )
    tight = how_tight(study, "DPO").model_copy(
        update={"smallest_visible": 0.1 + 0.06 / np.log(4) * np.log(3)}
    )
    note = pairs_note(both, tight)  # gain 0.04 at a quarter, 0.1 at all: 0.06 / ln 4 per e-fold
    assert "0.04 with 25 %, 0.1 with 100 %" in note and "about 3 times as many pairs" in note
    assert pairs_note(study, tight) == ""
    assert "cannot be told from none" not in note
    noise = np.random.default_rng(0).normal(size=both.scores.shape)
    unsure = replace(both, scores=both.scores + 2.0 * (noise - noise.mean(axis=2, keepdims=True)))
    assert pairs_note(unsure, tight).endswith("; but that growth cannot be told from none.")


def replace_setting(s: Setting, fraction: float) -> Setting:
    """Return a setting trained on a share of the pairs."""
    name = f"{s.name} at {fraction:g}"
    return s.model_copy(update={"data_fraction": fraction, "name": name, "arm": f"{s.arm}, {fraction:g}"})


def test_which_reference_and_the_label_shuffle_control() -> None:
    study = board(
        {"DPO": [0.1, 0.5, 0.4, 0.1], "DPO, reference model:strong": [2.0, 2.1, 1.8, 1.0]}, prompts=100
    )
    answer, found = which.which_reference(study, [], alpha=0.05)
    assert answer.verdict == "supported" and "model:strong" in answer.sentence
    assert found[0].second == "self" and len(found) == 2
    assert "No setting was trained on shuffled labels" in answer.notes[-1]
    shuffled = setting("DPO, reference model:strong", 1.0, "shuffled")
    more = replace(
        study,
        settings=(*study.settings, shuffled),
        scores=np.concatenate([study.scores, study.scores[5:6] - 0.5]),
        kl=np.concatenate([study.kl, study.kl[5:6]]),
        degenerate=(*study.degenerate, ()),
    )
    controls = which.shuffle_controls(more, alpha=0.05)
    assert len(controls) == 1 and controls[0].difference.estimate == pytest.approx(0.5)
    gain = float(more.gains[5].mean())
    assert controls[0].share == pytest.approx((gain - 0.5) / gain)
    assert controls[0].shuffled.estimate == pytest.approx(gain - 0.5)
    copied = which.which_reference(study, controls, alpha=0.05)[0].notes[-1]
    assert "that part is not learnt from the preferences" in copied
    nothing = more.scores.copy()
    nothing[-1] -= gain - 0.55  # a twentieth above the start model, far within its error
    controls = which.shuffle_controls(replace(more, scores=nothing), alpha=0.05)
    told = which.which_reference(study, controls, alpha=0.05)[0].notes[-1]
    assert controls[0].shuffled_gain > 0 and told.endswith("no gain that can be told from nothing.")


def test_no_judge_free_rule_is_the_products_before_it_is_proven() -> None:
    assert not rules.PROVEN
    study = replace(board({"DPO": [0.2, 1.0, 0.9, 0.3]}), gold=np.array([0.0, 1, 2, 3, 0]), gold_name="gold")
    accuracy = {study.name(row): value for row, value in zip(range(1, 5), (0.5, 0.6, 0.7, 0.9), strict=True)}
    choice = rules.ranking(study, "DPO", accuracy)
    assert choice.choice == "DPO β 0.03" and not choice.proven
    assert choice.regret is not None and choice.regret.share == pytest.approx(1.0)
    guarded = replace(study, degenerate=((), (), (), ("collapsed",)))
    assert rules.ranking(guarded, "DPO", accuracy).choice == "DPO β 0.1"
