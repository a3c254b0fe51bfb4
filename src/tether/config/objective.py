"""Every knob of the objectives: TRL's names and defaults, with unit, range and source. No torch.

What each objective computes, and which of these it reads, stands in `objectives` and docs/objectives.md.
"""

import difflib
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

OBJECTIVE_NAMES = (
    "sigmoid",
    "robust",
    "ipo",
    "hinge",
    "apo_zero",
    "apo_down",
    "sigmoid_norm",
    "simpo",
    "orpo",
    "cpo",
    "sft",
    "unlikelihood",
    "aot",
    "aot_unpaired",
    "exo_pair",
    "nca_pair",
    "bco_pair",
    "sppo_hard",
    "discopop",
    "dpop",
    "chi_po",
    "hypo",
    "alphapo",
    "cal_dpo",
    "beta_dpo",
    "epsilon_dpo",
    "kto",
    "apo_zero_unpaired",
    "bco",
    "plackett_luce",
)
"""Names `loss_type` takes, in the order of the documentation."""


def _knob(text: str, default: Any, source: str) -> Any:
    return Field(default, description=text, json_schema_extra={"group": "Objective", "source": source})


class ObjectiveOptions(BaseModel):
    """Which loss is minimised, and its numbers."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    loss_type: tuple[str, ...] = _knob(
        "One objective or several. Several are summed; see docs/objectives.md.", ("sigmoid",), "TRL"
    )
    loss_weights: tuple[float, ...] | None = _knob(
        "Weight of each summed objective; unset: 1 each.", None, "TRL"
    )
    beta: float = _knob(
        "How tight to hold to the reference: nats of log-ratio are multiplied by it. Above 0.",
        0.1,
        "TRL; 2305.18290 Eq. 7",
    )
    label_smoothing: float = _knob(
        "Chance that a label is wrong. From 0 to below 0.5. TRL ignores it in sigmoid.",
        0.0,
        "TRL; cDPO note, 2403.00409",
    )
    f_divergence_type: Literal["reverse_kl", "forward_kl", "js_divergence", "alpha_divergence"] = _knob(
        "Divergence from the reference; reverse_kl is DPO.", "reverse_kl", "TRL; 2309.16240"
    )
    f_alpha_divergence_coef: float = _knob(
        "Order of the alpha divergence; 1 is reverse_kl.", 0.5, "TRL; 2309.16240"
    )
    ld_alpha: float | None = _knob(
        "LD-DPO's weight of the longer text's tail. Tokens beyond the shorter length, 0 to 1; unset: 1.",
        None,
        "TRL; 2409.06411",
    )
    wpo_weighting: Literal["none", "mean_probability"] = _knob(
        "WPO's weighting of pairs. By the policy's length-normalised probability of both texts.",
        "none",
        "2406.11827 Eq. 2",
    )
    ipo_reduction: Literal["mean", "sum"] = _knob(
        "ipo per token, or summed. TRL takes the mean, the paper the sum.", "mean", "TRL; 2310.12036 Eq. 17"
    )
    simpo_gamma: float = _knob("Margin the rewards should differ by.", 0.5, "TRL; 2405.14734 Eq. 6")
    cpo_alpha: float = _knob("Weight of cpo's NLL of the chosen text.", 1.0, "TRL; 2401.08417")
    alphapo_alpha: float = _knob(
        "Shape of alphapo's reward; 0 is simpo. TRL calls it alpha.", 0.25, "2501.03884 Table 3"
    )
    unlikelihood_alpha: float = _knob("Weight of rejected texts' unlikelihood.", 1.0, "1908.04319")
    discopop_tau: float = _knob(
        "Temperature of discopop's blend. Above 0, at most 1.", 0.05, "TRL; 2406.08414"
    )
    dpop_lambda: float = _knob(
        "Penalty per nat the chosen text lost. Below the reference's log-prob.", 50.0, "2402.13228"
    )
    hypo_gamma: float = _knob("Least reference margin in hypo, nats.", 0.0, "2602.11902")
    chi_po_rmax: float = _knob("Reward bound R; chi_po clips its margin to +-2R.", 1.0, "2407.13399")
    bco_delta: Literal["none", "update", "running"] = _knob(
        "Shift of bco's rewards. none (TRL's bco_pair), their mean over the update, or over all updates"
        " so far. For bco, none means update.",
        "none",
        "TRL; 2404.04656",
    )
    beta_dpo_alpha: float = _knob(
        "How far beta follows the update's mean margin, per nat above its running mean.", 0.6, "2407.08639"
    )
    beta_dpo_keep: float = _knob(
        "Share of pairs beta_dpo trains on. Those nearest the usual margin are likelier to stay; 1: all.",
        0.8,
        "2407.08639",
    )
    epsilon_dpo_epsilon: float = _knob("Step of epsilon_dpo's beta, beta / (1 +- it).", 0.01, "2502.13177")
    desirable_weight: float = _knob("Weight of desirable rows (kto, bco, apo).", 1.0, "TRL; 2402.01306")
    undesirable_weight: float = _knob("Weight of undesirable rows (kto, bco).", 1.0, "TRL; 2402.01306")

    @field_validator("loss_type", mode="before")
    @classmethod
    def _names(cls, value: Any) -> Any:
        names = (value,) if isinstance(value, str) else tuple(value)
        if not names:
            raise ValueError("is empty; name at least one objective")
        for name in names:
            if name not in OBJECTIVE_NAMES:
                near = difflib.get_close_matches(str(name), OBJECTIVE_NAMES, 1, 0.4)
                hint = f"; did you mean {near[0]}?" if near else f"; use one of {', '.join(OBJECTIVE_NAMES)}"
                raise ValueError(f"{name!r} is not an objective{hint}")
        if len(set(names)) != len(names):
            raise ValueError(f"names an objective twice: {', '.join(names)}; use loss_weights")
        return names

    @field_validator("beta", "chi_po_rmax")
    @classmethod
    def _positive(cls, value: float) -> float:
        if not value > 0:
            raise ValueError(f"is {value}; it must be above 0")
        return value

    @field_validator("label_smoothing")
    @classmethod
    def _minority(cls, value: float) -> float:
        if not 0 <= value < 0.5:
            raise ValueError(
                f"is {value}; it must be at least 0 and below 0.5: at 0.5 the labels carry no information"
            )
        return value

    @field_validator("beta_dpo_keep", "epsilon_dpo_epsilon")
    @classmethod
    def _open_share(cls, value: float, info: Any) -> float:
        below = info.field_name == "epsilon_dpo_epsilon"
        if not 0 < value <= 1 or (below and value == 1):
            raise ValueError(f"is {value}; it must be above 0 and {'below' if below else 'at most'} 1")
        return value

    @field_validator("ld_alpha", "discopop_tau")
    @classmethod
    def _share(cls, value: float | None, info: Any) -> float | None:
        if value is None:
            return value
        if not 0 <= value <= 1 or (value == 0 and info.field_name == "discopop_tau"):
            lowest = "above 0" if info.field_name == "discopop_tau" else "at least 0"
            raise ValueError(f"is {value}; it must be {lowest} and at most 1")
        return value

    @field_validator(
        "cpo_alpha",
        "beta_dpo_alpha",
        "unlikelihood_alpha",
        "dpop_lambda",
        "desirable_weight",
        "undesirable_weight",
        "simpo_gamma",
    )
    @classmethod
    def _not_negative(cls, value: float) -> float:
        if not value >= 0:
            raise ValueError(f"is {value}; it must be at least 0")
        return value

    @model_validator(mode="after")
    def _one_weight_each(self) -> Self:
        if self.loss_weights is not None and len(self.loss_weights) != len(self.loss_type):
            raise ValueError(
                f"loss_weights has {len(self.loss_weights)} values for {len(self.loss_type)} objectives"
                f" ({', '.join(self.loss_type)}); give one each"
            )
        if self.loss_weights is not None and not all(weight > 0 for weight in self.loss_weights):
            raise ValueError(f"loss_weights are {list(self.loss_weights)}; each must be above 0")
        if "exo_pair" in self.loss_type and self.label_smoothing == 0:
            raise ValueError(
                "label_smoothing is 0 but exo_pair takes its logarithm; set 0.001, as its paper does"
            )
        return self

    @property
    def weighted(self) -> tuple[tuple[str, float], ...]:
        """Return each objective with its weight, in order."""
        return tuple(zip(self.loss_type, self.loss_weights or (1.0,) * len(self.loss_type), strict=True))
