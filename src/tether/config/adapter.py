"""Every knob of adapters and of a quantised base: the names of PEFT and of TRL's `ModelConfig`. No torch."""

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from tether.config.objective import ObjectiveOptions


def _knob(text: str, default: Any, **limits: Any) -> Any:
    return Field(default, description=text, json_schema_extra={"group": "LoRA"}, **limits)


class AdapterOptions(ObjectiveOptions):
    """What is trained beside a frozen base, and how that base is stored."""

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
    load_in_4bit: bool = _knob("Store the frozen base in 4 bits (needs bitsandbytes).", False)
    load_in_8bit: bool = _knob("Store the frozen base in 8 bits (needs bitsandbytes).", False)
    bnb_4bit_quant_type: Literal["nf4", "fp4"] = _knob("The 4-bit numbers.", "nf4")
    use_bnb_nested_quant: bool = _knob("Also quantise the scales of the 4-bit numbers.", False)

    @model_validator(mode="after")
    def _adapters_consistent(self) -> Self:
        asked = [name for name in ("use_dora", "use_rslora") if getattr(self, name)]
        asked += ["init_lora_weights"] if self.init_lora_weights != "default" else []
        if asked and not self.use_peft:
            raise ValueError(f"{asked[0]} is about a new adapter: add use_peft, or leave it out")
        if self.load_in_4bit and self.load_in_8bit:
            raise ValueError("load_in_4bit and load_in_8bit: a base is stored in one of them; choose one")
        if self.use_dora and self.load_in_8bit:
            raise ValueError(
                "use_dora with load_in_8bit: PEFT and bitsandbytes lose the base's scales after one pass; "
                "use load_in_4bit, or leave out use_dora"
            )
        if self.use_bnb_nested_quant and not self.load_in_4bit:
            raise ValueError("use_bnb_nested_quant is about 4-bit numbers: add load_in_4bit, or leave it out")
        if self.bnb_4bit_quant_type != "nf4" and not self.load_in_4bit:
            raise ValueError("bnb_4bit_quant_type is about 4-bit numbers: add load_in_4bit, or leave it out")
        return self

    @model_validator(mode="after")
    def _pissa_consistent(self) -> Self:
        if self.init_lora_weights == "pissa" and (self.load_in_4bit or self.load_in_8bit):
            raise ValueError(
                "init_lora_weights pissa takes its start out of the base's whole weights; "
                "leave out load_in_4bit and load_in_8bit, or use init_lora_weights default"
            )
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
