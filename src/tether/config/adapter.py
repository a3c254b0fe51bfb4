"""Every knob of adapters: the names of PEFT and of TRL's `ModelConfig`. No torch."""

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from tether.config.objective import ObjectiveOptions


def _knob(text: str, default: Any, **limits: Any) -> Any:
    return Field(default, description=text, json_schema_extra={"group": "LoRA"}, **limits)


class AdapterOptions(ObjectiveOptions):
    """What is trained beside a frozen base."""

    use_peft: bool = _knob("Train a LoRA adapter only.", False)
    lora_r: int = _knob("Rank.", 16, gt=0)
    lora_alpha: float = _knob("Scale; the update is alpha / r times B A.", 32, gt=0)
    lora_dropout: float = _knob("Dropout on the adapter's input.", 0.0, ge=0, lt=1)
    lora_target_modules: tuple[str, ...] = _knob("Module names, or all-linear.", ("all-linear",))
    use_rslora: bool = _knob("Scale by alpha / sqrt(r), so that a higher rank learns as fast.", False)
    use_dora: bool = _knob("Learn each output's magnitude apart from its direction.", False)
    init_lora_weights: Literal["default", "gaussian", "pissa"] = _knob(
        "How the adapter starts: default or gaussian (B = 0), or pissa (the base's largest singular parts).",
        "default",
    )

    @model_validator(mode="after")
    def _adapters_consistent(self) -> Self:
        asked = [name for name in ("use_dora", "use_rslora") if getattr(self, name)]
        asked += ["init_lora_weights"] if self.init_lora_weights != "default" else []
        if asked and not self.use_peft:
            raise ValueError(f"{asked[0]} is about a new adapter: add use_peft, or leave it out")
        return self

    @property
    def adapter_arithmetic(self) -> str:
        """How a fresh adapter takes part in the numbers of step 0; empty where it adds exact zeros."""
        if not self.use_peft:
            return ""
        names = ["dora"] if self.use_dora else []
        if self.init_lora_weights == "pissa":
            scale = "sqrt r" if self.use_rslora else "r"
            names.append(f"pissa of rank {self.lora_r}, alpha {self.lora_alpha:g} / {scale}")
        return f"{' '.join(names)} on {' '.join(sorted(self.lora_target_modules))}" if names else ""
