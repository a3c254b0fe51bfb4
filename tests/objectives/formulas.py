"""Every objective again, in plain Python floats, from the papers, sharing no code with the product.

A text is (log-probs per token under the policy, under the reference); a pair is (chosen, rejected).
"""

import math
from collections.abc import Callable

from tether.config.objective import ObjectiveOptions

Text = tuple[list[float], list[float]]
PairOfTexts = tuple[Text, Text]


def sig(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x > -700 else 0.0


def nls(x: float) -> float:
    """-log sigma(x)."""
    return math.log1p(math.exp(-x)) if x > -30 else -x


def ratio(text: Text) -> float:
    return sum(text[0]) - sum(text[1])


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def over_pairs(value: Callable[[PairOfTexts, ObjectiveOptions], float]) -> Callable[..., float]:
    def loss(pairs: list[PairOfTexts], o: ObjectiveOptions) -> float:
        return mean([value(pair, o) for pair in pairs])

    return loss


def rs(pair: PairOfTexts) -> tuple[float, float]:
    return ratio(pair[0]), ratio(pair[1])


def sigmoid(pair: PairOfTexts, o: ObjectiveOptions) -> float:
    w, r = rs(pair)
    x = o.beta * (w - r)
    return (1 - o.label_smoothing) * nls(x) + o.label_smoothing * nls(-x)


def robust(pair: PairOfTexts, o: ObjectiveOptions) -> float:
    w, r = rs(pair)
    x, e = o.beta * (w - r), o.label_smoothing
    return ((1 - e) * nls(x) - e * nls(-x)) / (1 - 2 * e)


def ipo(pair: PairOfTexts, o: ObjectiveOptions) -> float:
    w, r = rs(pair)
    if o.ipo_reduction == "mean":
        w, r = w / len(pair[0][0]), r / len(pair[1][0])
    return (w - r - 0.5 / o.beta) ** 2


def hinge(pair: PairOfTexts, o: ObjectiveOptions) -> float:
    w, r = rs(pair)
    return max(0.0, 1 - o.beta * (w - r))


def sigmoid_norm(pair: PairOfTexts, o: ObjectiveOptions) -> float:
    w, r = rs(pair)
    return nls(o.beta * (w / len(pair[0][0]) - r / len(pair[1][0])))


def apo_zero(pair: PairOfTexts, o: ObjectiveOptions) -> float:
    w, r = rs(pair)
    return 1 - sig(o.beta * w) + sig(o.beta * r)


def apo_down(pair: PairOfTexts, o: ObjectiveOptions) -> float:
    w, r = rs(pair)
    return sig(o.beta * w) + 1 - sig(o.beta * (w - r))


def simpo(pair: PairOfTexts, o: ObjectiveOptions) -> float:
    x = o.beta * (mean(pair[0][0]) - mean(pair[1][0])) - o.simpo_gamma
    return (1 - o.label_smoothing) * nls(x) + o.label_smoothing * nls(-x)


def alphapo(pair: PairOfTexts, o: ObjectiveOptions) -> float:
    a = o.alphapo_alpha
    reward = [(1 - math.exp(mean(text[0])) ** -a) / a for text in pair]
    return nls(o.beta * (reward[0] - reward[1]) - o.simpo_gamma)


def nll_per_token(pairs: list[PairOfTexts]) -> float:
    tokens = [value for chosen, _ in pairs for value in chosen[0]]
    return -mean(tokens)


def orpo(pairs: list[PairOfTexts], o: ObjectiveOptions) -> float:
    def odds(text: Text) -> float:
        p = math.exp(mean(text[0]))
        return math.log(p / (1 - p))

    return nll_per_token(pairs) + o.beta * mean([nls(odds(w) - odds(r)) for w, r in pairs])


def cpo(pairs: list[PairOfTexts], o: ObjectiveOptions) -> float:
    preference = mean([nls(o.beta * (sum(w[0]) - sum(r[0]))) for w, r in pairs])
    return preference + o.cpo_alpha * nll_per_token(pairs)


def sft(pairs: list[PairOfTexts], o: ObjectiveOptions) -> float:
    return nll_per_token(pairs)


def unlikelihood(pairs: list[PairOfTexts], o: ObjectiveOptions) -> float:
    pushed = mean([mean([-math.log(1 - math.exp(t)) for t in r[0]]) for _, r in pairs])
    return nll_per_token(pairs) + o.unlikelihood_alpha * pushed


def exo_pair(pair: PairOfTexts, o: ObjectiveOptions) -> float:
    w, r = rs(pair)
    q, e = sig(o.beta * (w - r)), o.label_smoothing
    return q * math.log(q / (1 - e)) + (1 - q) * math.log((1 - q) / e)


def nca_pair(pair: PairOfTexts, o: ObjectiveOptions) -> float:
    w, r = rs(pair)
    return nls(o.beta * w) + (nls(-o.beta * w) + nls(-o.beta * r)) / 2


def bco_pair(pairs: list[PairOfTexts], o: ObjectiveOptions) -> float:
    rewards = [(o.beta * ratio(w), o.beta * ratio(r)) for w, r in pairs]
    delta = mean([value for pair in rewards for value in pair]) if o.bco_delta != "none" else 0.0
    return mean([nls(w - delta) + nls(delta - r) for w, r in rewards])


def sppo_hard(pair: PairOfTexts, o: ObjectiveOptions) -> float:
    w, r = rs(pair)
    return (w - 0.5 / o.beta) ** 2 + (r + 0.5 / o.beta) ** 2


def cal_dpo(pair: PairOfTexts, o: ObjectiveOptions) -> float:
    w, r = rs(pair)
    return nls(w - r) + sppo_hard(pair, o)


def discopop(pair: PairOfTexts, o: ObjectiveOptions) -> float:
    w, r = rs(pair)
    x = o.beta * (w - r)
    s = sig(x / o.discopop_tau)
    return (1 - s) * nls(x) + s * math.exp(-x)


def dpop(pair: PairOfTexts, o: ObjectiveOptions) -> float:
    w, r = rs(pair)
    return nls(o.beta * (w - r - o.dpop_lambda * max(0.0, -w)))


def chi_po(pair: PairOfTexts, o: ObjectiveOptions) -> float:
    w, r = rs(pair)
    x = o.beta * ((math.exp(w) + w) - (math.exp(r) + r))
    return nls(min(2 * o.chi_po_rmax, max(-2 * o.chi_po_rmax, x)))


def hypo(pair: PairOfTexts, o: ObjectiveOptions) -> float:
    chosen, rejected = pair
    policy = sum(chosen[0]) - sum(rejected[0])
    reference = sum(chosen[1]) - sum(rejected[1])
    return nls(o.beta * (policy - max(reference, o.hypo_gamma)))


def aot(pairs: list[PairOfTexts], o: ObjectiveOptions) -> float:
    policy = sorted(sum(w[0]) - sum(r[0]) for w, r in pairs)
    reference = sorted(sum(w[1]) - sum(r[1]) for w, r in pairs)
    e = o.label_smoothing
    differences = [o.beta * (p - q) for p, q in zip(policy, reference, strict=True)]
    return mean([(1 - e) * nls(x) + e * nls(-x) for x in differences])


def aot_unpaired(pairs: list[PairOfTexts], o: ObjectiveOptions) -> float:
    chosen = sorted(ratio(w) for w, _ in pairs)
    rejected = sorted(ratio(r) for _, r in pairs)
    return mean([nls(o.beta * (w - r)) for w, r in zip(chosen, rejected, strict=True)])


def beta_dpo(pairs: list[PairOfTexts], o: ObjectiveOptions) -> float:
    """All of the first update's pairs, or the kept ones: their margins nearest a tenth of the mean."""
    margins = [ratio(w) - ratio(r) for w, r in pairs]
    usual = 0.1 * mean(margins)
    beta = max(1e-3, o.beta * (1 + o.beta_dpo_alpha * (mean(margins) - usual)))
    return mean([nls(beta * margin) for margin in margins])


Tilt = tuple[float, float]


def epsilon_dpo(rows: list[tuple[Text, Text, Tilt, Tilt]], o: ObjectiveOptions) -> float:
    values: list[float] = []
    for chosen, rejected, (away_w, towards_w), (away_r, towards_r) in rows:
        now = sum(chosen[0]) - sum(rejected[0])
        away, towards = away_w - away_r, towards_w - towards_r
        step = 1 if away > now > towards else -1 if towards > now > away else 0
        values.append(nls(o.beta / (1 + step * o.epsilon_dpo_epsilon) * (ratio(chosen) - ratio(rejected))))
    return mean(values)


PAIRS: dict[str, Callable[[list[PairOfTexts], ObjectiveOptions], float]] = {
    "sigmoid": over_pairs(sigmoid),
    "robust": over_pairs(robust),
    "ipo": over_pairs(ipo),
    "hinge": over_pairs(hinge),
    "apo_zero": over_pairs(apo_zero),
    "apo_down": over_pairs(apo_down),
    "sigmoid_norm": over_pairs(sigmoid_norm),
    "simpo": over_pairs(simpo),
    "orpo": orpo,
    "cpo": cpo,
    "sft": sft,
    "unlikelihood": unlikelihood,
    "aot": aot,
    "aot_unpaired": aot_unpaired,
    "exo_pair": over_pairs(exo_pair),
    "nca_pair": over_pairs(nca_pair),
    "bco_pair": bco_pair,
    "sppo_hard": over_pairs(sppo_hard),
    "discopop": over_pairs(discopop),
    "dpop": over_pairs(dpop),
    "chi_po": over_pairs(chi_po),
    "hypo": over_pairs(hypo),
    "alphapo": over_pairs(alphapo),
    "cal_dpo": over_pairs(cal_dpo),
    "beta_dpo": beta_dpo,
}

Marked = tuple[str, Text]


def kto(rows: list[Marked], o: ObjectiveOptions) -> float:
    z0 = max(0.0, mean([ratio(text) for role, text in rows if role == "kl"]))
    good = [1 - sig(o.beta * (ratio(text) - z0)) for role, text in rows if role == "desirable"]
    bad = [1 - sig(o.beta * (z0 - ratio(text))) for role, text in rows if role == "undesirable"]
    return mean([o.desirable_weight * v for v in good] + [o.undesirable_weight * v for v in bad])


def apo_zero_unpaired(rows: list[Marked], o: ObjectiveOptions) -> float:
    good = [1 - sig(o.beta * ratio(text)) for role, text in rows if role == "desirable"]
    bad = [sig(o.beta * ratio(text)) for role, text in rows if role == "undesirable"]
    return mean([o.desirable_weight * v for v in good] + [o.undesirable_weight * v for v in bad])


def bco(rows: list[Marked], o: ObjectiveOptions) -> float:
    good = [o.beta * ratio(text) for role, text in rows if role == "desirable"]
    bad = [o.beta * ratio(text) for role, text in rows if role == "undesirable"]
    delta = mean(good + bad) if o.bco_delta == "running" else (mean(good) + mean(bad)) / 2
    return mean(
        [o.desirable_weight * nls(v - delta) for v in good]
        + [o.undesirable_weight * nls(delta - v) for v in bad]
    )


UNPAIRED = {"kto": kto, "apo_zero_unpaired": apo_zero_unpaired, "bco": bco}


def plackett_luce(lists: list[list[Text]], o: ObjectiveOptions) -> float:
    values: list[float] = []
    for texts in lists:
        rewards = [o.beta * ratio(text) for text in texts]
        value = 0.0
        for k in range(len(rewards)):
            value += math.log(sum(math.exp(r) for r in rewards[k:])) - rewards[k]
        values.append(value)
    return mean(values)
