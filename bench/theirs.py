"""Child process: TRL's DPOTrainer, as shipped or at its better settings, with the same time marks."""

import json
import sys
from pathlib import Path
from typing import Any

import torch
import trl.trainer.utils
from datasets import Dataset
from peft import PeftConfig, set_peft_model_state_dict
from safetensors.torch import load_file
from transformers import AutoTokenizer
from trl import DPOConfig, DPOTrainer

from bench.jobs import Job, read_job, write
from bench.marks import Marks


class Marked(DPOTrainer):
    """DPOTrainer that notes losses and tokens, and keeps the column that rows are grouped by."""

    marks: Marks

    def compute_loss(self, model: Any, inputs: Any, *rest: Any, **named: Any) -> Any:
        """Compute the loss of a micro-batch."""
        self.marks.tokens += int(inputs["attention_mask"].sum())
        self.marks.completion_tokens += int(inputs["completion_mask"].sum())
        loss = self.marks.timed("forward", super().compute_loss)(model, inputs, *rest, **named)
        self.noted.append((loss.detach(), len(inputs["input_ids"]) // 2))
        return loss

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        if "length" not in self._signature_columns:
            self._signature_columns.append("length")


def build(job: Job, marks: Marks) -> Marked:
    """Return the trainer of a job."""
    if job.patched_head:
        # What TRL does on a GPU: only completion positions go through the head.
        trl.trainer.utils._use_triton = lambda device: True
    rows = [json.loads(line) for line in Path(job.rows).read_text(encoding="utf-8").splitlines()]
    micro = job.micro_pairs or job.per_update
    config = DPOConfig(
        output_dir=job.out,
        beta=job.beta,
        learning_rate=job.learning_rate,
        num_train_epochs=1,
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=job.per_update // micro,
        max_length=job.max_length,
        train_sampling_strategy="group_by_length" if job.grouped else "sequential",
        gradient_checkpointing=job.checkpointing,
        use_cpu=job.device == "cpu",
        bf16=job.bf16,
        save_strategy="no",
        report_to="none",
        model_init_kwargs={"dtype": torch.float32},
    )
    trainer = Marked(
        job.model,
        args=config,
        train_dataset=Dataset.from_list(rows),
        processing_class=AutoTokenizer.from_pretrained(job.model),
        peft_config=None if job.adapter is None else _to_train(job.adapter),
    )
    if job.grouped:
        data = trainer.train_dataset
        widths = [
            len(row["prompt_ids"]) + max(len(row["chosen_ids"]), len(row["rejected_ids"])) for row in data
        ]
        trainer.train_dataset = data.add_column("length", widths)
    if job.adapter is not None:
        set_peft_model_state_dict(trainer.model, load_file(Path(job.adapter) / "adapter_model.safetensors"))
    trainer.marks, trainer.noted = marks, []
    return trainer


def _to_train(adapter: str) -> PeftConfig:
    """Return an adapter's config; a saved one says that it is for inference only."""
    config = PeftConfig.from_pretrained(adapter)
    config.inference_mode = False
    return config


def per_update(losses: list[tuple[Any, int]], micro_steps: int) -> list[float]:
    """Return the mean loss over the pairs of each update."""
    updates = [losses[at : at + micro_steps] for at in range(0, len(losses), micro_steps)]
    return [sum(float(x) * n for x, n in part) / sum(n for _, n in part) for part in updates]


def main(job_file: str, outcome_file: str) -> None:
    """Run the job and write what was measured."""
    job = read_job(Path(job_file))
    marks = Marks(job.updates)
    trainer = build(job, marks)
    if trainer.ref_model is not None:
        trainer.ref_model.forward = marks.timed("of which reference", trainer.ref_model.forward)
    trainer.accelerator.backward = marks.timed("backward", trainer.accelerator.backward)
    trainer.train()
    marks.losses = per_update(trainer.noted, job.per_update // (job.micro_pairs or job.per_update))
    write(Path(outcome_file), marks.outcome())


if __name__ == "__main__":
    main(*sys.argv[1:])
