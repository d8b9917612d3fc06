"""Write the advantages, losses and gradients that TRL's own code gives on random tensors, as numbers for the tests.

Run it in the environment of `requirements.txt`:

    PEERS/bin/python benchmarks/peers/losses_trl.py > tests/train/trl_losses.json

`tests/train/test_same_as_trl.py` computes the same from the same tensors. TRL's methods are called on an object
that has only the attributes which they read, with given log-probabilities in place of a model's.
"""

import json
from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import torch
import trl
from torch import Tensor
from trl.trainer.dpo_trainer import DPOTrainer
from trl.trainer.grpo_trainer import GRPOTrainer
from trl.trainer.rloo_trainer import RLOOTrainer

ROWS, LENGTH, GROUP, LONGEST, BETA = 8, 6, 4, 9, 0.1
CASES: dict[str, dict[str, Any]] = {  # Any: the attributes of a trainer
    "grpo": {"loss_type": "grpo"},
    "grpo_k3": {"loss_type": "grpo", "beta": BETA},
    "grpo_k3_weighted": {"loss_type": "grpo", "beta": BETA, "corrected": True},
    "dr_grpo": {"loss_type": "dr_grpo", "scale": False},
    "dapo": {"loss_type": "dapo", "high": 0.28},
    "gspo": {"loss_type": "grpo", "level": "sequence", "low": 3e-4, "high": 4e-4},
    "rloo": {"rloo": True, "scale": False},
}


class Accelerator:
    """One process: there is nothing to gather."""

    num_processes, sync_gradients, device = 1, True, torch.device("cpu")

    def gather(self, x: Tensor) -> Tensor:
        return x

    gather_for_metrics = gather

    def reduce(self, x: Tensor, reduction: str = "sum") -> Tensor:
        return x


def tensors() -> dict[str, Tensor]:
    chance = torch.Generator().manual_seed(0)
    old = -3 * torch.rand(ROWS, LENGTH, generator=chance, dtype=torch.float64)
    lengths = torch.randint(1, LENGTH + 1, (ROWS, 1), generator=chance)
    return {
        "logprobs": old + 0.3 * torch.randn(ROWS, LENGTH, generator=chance, dtype=torch.float64),
        "old_logprobs": old,
        "ref_logprobs": old + 0.5 * torch.randn(ROWS, LENGTH, generator=chance, dtype=torch.float64),
        "mask": (torch.arange(LENGTH) < lengths).double(),
        "returns": torch.randn(ROWS, generator=chance, dtype=torch.float64),
    }


def advantages_of(returns: Tensor, *, scale: bool, rloo: bool) -> Tensor:
    """As in `_generate_and_score_completions`, which cannot be called apart from generation."""
    groups = returns.view(-1, GROUP)
    if rloo:
        return (groups - (groups.sum(1, keepdim=True) - groups) / (GROUP - 1)).flatten()
    spread = groups.std(1, keepdim=True) + 1e-4 if scale else 1.0
    return ((groups - groups.mean(1, keepdim=True)) / spread).flatten()


def trainer(logprobs: Tensor, case: dict[str, Any]) -> SimpleNamespace:  # Any: the attributes of a trainer
    return SimpleNamespace(
        _get_per_token_logps_and_entropies=lambda *args, **kwargs: (logprobs, torch.zeros_like(logprobs), None),
        accelerator=Accelerator(),
        args=SimpleNamespace(use_bias_correction_kl=case.get("corrected", False), delta=None, steps_per_generation=1),
        aux_loss_enabled=False,
        beta=case.get("beta", 0.0),
        current_gradient_accumulation_steps=1,
        epsilon_low=case.get("low", 0.2),
        epsilon_high=case.get("high", 0.2),
        importance_sampling_level=case.get("level", "token"),
        loss_type=case.get("loss_type", ""),
        max_completion_length=LONGEST,
        model=SimpleNamespace(training=True),
        off_policy_mask_threshold=None,
        top_entropy_quantile=1.0,
        use_vllm=False,
        _entropy_bonus_enabled=False,
        _metrics=defaultdict(lambda: defaultdict(list)),
    )


def case_of(name: str, given: dict[str, Tensor]) -> dict[str, Any]:  # Any: JSON
    case, logprobs = CASES[name], given["logprobs"].clone().requires_grad_()
    mask, old = given["mask"], given["old_logprobs"]
    rloo = case.get("rloo", False)
    advantages = advantages_of(given["returns"], scale=case.get("scale", True), rloo=rloo)
    inputs = {
        "prompt_ids": torch.zeros(ROWS, 1, dtype=torch.long),
        "prompt_mask": torch.ones(ROWS, 1),
        "completion_ids": torch.zeros(ROWS, LENGTH, dtype=torch.long),
        "completion_mask": mask,
        "advantages": advantages,
        "old_per_token_logps": old,
        "old_logps": (old * mask).sum(1),
        "ref_per_token_logps": given["ref_logprobs"],
        "num_items_in_batch": mask.sum(),
    }
    kind = RLOOTrainer if rloo else GRPOTrainer
    loss = kind._compute_loss(trainer(logprobs, case), None, inputs)
    (grad,) = torch.autograd.grad(loss, logprobs)
    return {"advantages": advantages.tolist(), "loss": loss.item(), "gradient": grad.tolist()}


def dpo(given: dict[str, Tensor]) -> dict[str, Any]:  # Any: JSON
    """The rows are chosen, chosen, ..., rejected, rejected, ...; log-probabilities outside a response are 0."""
    mask = given["mask"]
    logprobs, ref = (given[name] * mask for name in ("logprobs", "ref_logprobs"))
    logprobs.requires_grad_()
    shifted = torch.cat([torch.zeros(ROWS, 1), mask], 1)
    nothing = torch.zeros(ROWS, LENGTH)
    outputs = SimpleNamespace(log_probs=logprobs, entropy=nothing, mean_logits=nothing, is_top1=nothing.bool())
    stand_in = SimpleNamespace(
        accelerator=Accelerator(),
        aux_loss_enabled=False,
        beta=BETA,
        f_divergence_type="reverse_kl",
        ld_alpha=None,
        loss_types=["sigmoid"],
        loss_weights=[1.0],
        model=SimpleNamespace(training=True),
        precompute_ref_logps=True,
        use_weighting=False,
        _metrics=defaultdict(lambda: defaultdict(list)),
        _total_train_tokens=0,
        _tp_size=1,
    )
    chosen, rejected = ref.sum(1).chunk(2)
    inputs = {
        "input_ids": torch.zeros(ROWS, LENGTH + 1, dtype=torch.long),
        "attention_mask": torch.ones(ROWS, LENGTH + 1),
        "completion_mask": shifted,
        "ref_chosen_logps": chosen,
        "ref_rejected_logps": rejected,
    }
    loss = DPOTrainer._compute_loss(stand_in, lambda **kwargs: outputs, inputs, False)
    (grad,) = torch.autograd.grad(loss, logprobs)
    return {"loss": loss.item(), "gradient": grad.tolist()}


def main() -> None:
    given = tensors()
    numbers = {
        "trl": trl.__version__,
        "sizes": {"group": GROUP, "longest": LONGEST, "beta": BETA},
        "tensors": {name: x.tolist() for name, x in given.items()},
        **{name: case_of(name, given) for name in CASES},
        "dpo": dpo(given),
    }
    print(json.dumps(numbers, indent=1))


if __name__ == "__main__":
    main()
