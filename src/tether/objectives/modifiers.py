"""What is laid over an objective: another divergence, other weights, another reference; for the page."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Modifier:
    """An option that makes a known method of an objective, as the table of objectives describes one."""

    option: str
    """Key of the config; a reference kind as `reference: moving`."""
    title: str
    purpose: str
    equation: str
    evidence: str
    source: str
    trl: str
    """TRL 1.16's key, and what differs."""
    further: tuple[str, ...] = ()
    """Other keys it reads."""
    refused: str = ""
    """What it cannot go with, where that is no objective."""


MODIFIERS = (
    Modifier(
        "f_divergence_type",
        "f-DPO: another divergence from the reference",
        "reverse_kl, the default, is DPO; forward_kl holds on to everything the reference says, js_divergence"
        " and alpha_divergence lie between.",
        "f'(r) in place of r:   forward_kl 1 - e^-r,   js_divergence log 2 + log sigma(r),"
        "   alpha_divergence (e^((a - 1) r) - 1) / (a - 1)",
        "Its paper finds a trade between how well answers please and how diverse they stay; no comparison"
        " with both sides tuned is known to us.",
        "2309.16240",
        "`f_divergence_type`. Difference: exponents stop at 40 (TRL: at 80, and for alpha only).",
        ("f_alpha_divergence_coef",),
        "`reference: none`: without a reference there is nothing to diverge from",
    ),
    Modifier(
        "ld_alpha",
        "LD-DPO: less weight on the longer text's tail",
        "Against answers that grow longer: 1 is the plain objective, 0 compares the length both texts have.",
        "log p of tokens beyond the shorter text's length times ld_alpha, under policy and reference alike",
        "Its paper reports answers 10 to 40 % shorter than DPO's.",
        "2409.06411",
        "`ld_alpha`. Difference: None.",
        (),
        "a reference whose tokenizer cuts the texts otherwise, or that has sums only",
    ),
    Modifier(
        "wpo_weighting",
        "WPO: pairs the policy would write itself count more",
        "Makes old pairs count as if they were the policy's own: mean_probability weighs each pair by it.",
        "the pair's loss times e^(p_w / n_w + p_l / n_l), taken as a constant",
        "Its paper reports up to 5.6 % over DPO on AlpacaEval 2.",
        "2406.11827 Eq. 2",
        "`use_weighting`. Difference: TRL also divides each token's probability by the sum of all squared"
        " ones (the paper's sampled alignment); that form is not offered, and the key is refused.",
    ),
    Modifier(
        "reference: moving",
        "TR-DPO: a reference that follows the policy",
        "Lets the policy go further than one fixed reference would, without a smaller beta.",
        "every ref_model_sync_steps updates:   w_ref <- a w + (1 - a) w_ref,   a = ref_model_mixup_alpha",
        "AlpacaEval 2 LC of 42.8 to 43.5 against DPO's 40.3 with Llama-3-8B-Instruct (2502.13177).",
        "2404.09656 Eq. 5",
        "`sync_ref_model`. Difference: None; full tuning only, as there.",
        ("ref_model_mixup_alpha", "ref_model_sync_steps"),
        "LoRA: mixing its factors is not mixing the models",
    ),
)
"""In the order of the documentation."""
