"""Write the advantages, losses and gradients that verl's and OpenRLHF's code gives on the tensors of `losses_trl.py`.

Run it in an environment with torch, and with these packages and nothing that they depend on:

    PEERS/bin/pip install --no-deps verl==0.9.1 openrlhf==0.11.2 omegaconf==2.3.0 antlr4-python3-runtime==4.9.3
    PEERS/bin/python benchmarks/peers/losses_verl_openrlhf.py > tests/train/verl_openrlhf_losses.json

`tests/train/test_same_as_verl_openrlhf.py` computes the same from the same tensors. The modules with the losses import
libraries that the losses do not use (ray, tensordict, deepspeed and others); stand-ins take their place.
"""

import json
import sys
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import torch
from torch import Tensor

GIVEN: dict[str, Any] = json.loads(  # Any: JSON
    (Path(__file__).parents[2] / "tests" / "train" / "trl_losses.json").read_text(encoding="utf-8")
)
GROUP, LONGEST, BETA = (GIVEN["sizes"][name] for name in ("group", "longest", "beta"))
GAMMA, LAM, VALUE_CLIP = 0.99, 0.95, 0.2
# the estimator and its arguments, the aggregation of the loss, and the clip range below and above 1
CASES: dict[str, dict[str, Any]] = {  # Any: arguments of verl's functions
    "ppo": {"estimator": "gae"},
    "rloo": {"estimator": "rloo"},
    "grpo": {"estimator": "grpo", "arguments": {"epsilon": 1e-4}, "aggregation": "seq-mean-token-mean", "kl": "k3"},
    "dr_grpo": {
        "estimator": "grpo",
        "arguments": {"norm_adv_by_std_in_grpo": False},
        "aggregation": "seq-mean-token-sum-norm",
    },
    "dapo": {"estimator": "grpo", "arguments": {"epsilon": 1e-4}, "high": 0.28},
    "gspo": {
        "estimator": "grpo",
        "arguments": {"epsilon": 1e-4},
        "aggregation": "seq-mean-token-mean",
        "low": 3e-4,
        "high": 4e-4,
    },
    "reinforce++": {"estimator": "reinforce_plus_plus"},
}


def verl() -> Any:  # Any: a module
    for name in ("ray", "tensordict", "tensordict.tensorclass", "codetiming", "hydra"):
        sys.modules.setdefault(name, MagicMock())
    return import_module("verl.trainer.ppo.core_algos")


def openrlhf(name: str) -> Any:  # Any: a module
    """Import a module of openrlhf.models without the networks that the package itself imports."""
    sys.modules.setdefault("deepspeed", MagicMock())
    package = ModuleType("openrlhf.models")
    package.__path__ = [str(Path(import_module("openrlhf").__path__[0]) / "models")]
    sys.modules.setdefault("openrlhf.models", package)
    return import_module(f"openrlhf.models.{name}")


def tensors() -> dict[str, Tensor]:
    chance = torch.Generator().manual_seed(1)
    given = {name: torch.tensor(rows, dtype=torch.float64) for name, rows in GIVEN["tensors"].items()}
    old = torch.randn(given["mask"].shape, generator=chance, dtype=torch.float64)
    new = old + 0.3 * torch.randn(old.shape, generator=chance, dtype=torch.float64)
    return given | {"old_values": old * given["mask"], "values": new * given["mask"]}


def with_gradient(loss_of: Callable[[Tensor], Tensor], at: Tensor) -> dict[str, Any]:  # Any: JSON
    point = at.clone().requires_grad_()
    loss = loss_of(point)
    (gradient,) = torch.autograd.grad(loss, point)
    return {"loss": loss.item(), "gradient": gradient.tolist()}


def advantages_and_returns(algos: Any, name: str, given: dict[str, Tensor]) -> tuple[Tensor, Tensor]:  # Any: a module
    mask = given["mask"]
    last = mask * (mask.flip(1).cumsum(1).flip(1) == 1)
    estimate = algos.get_adv_estimator_fn(CASES[name]["estimator"])
    more: dict[str, Any] = {"index": np.arange(len(mask)) // GROUP, **CASES[name].get("arguments", {})}  # Any: as there
    if name == "ppo":
        more = {"values": given["old_values"], "gamma": GAMMA, "lam": LAM}
    elif name == "reinforce++":
        more = {"config": MagicMock(gamma=GAMMA)}
    advantages, returns = estimate(token_level_rewards=given["returns"][:, None] * last, response_mask=mask, **more)
    return advantages * mask, returns * mask


def case_of(algos: Any, name: str, given: dict[str, Tensor]) -> dict[str, Any]:  # Any: a module; JSON
    case, mask = CASES[name], given["mask"]
    advantages, returns = advantages_and_returns(algos, name, given)
    config = import_module("verl.workers.config").ActorConfig(
        strategy="fsdp",
        rollout_n=1,
        ppo_micro_batch_size_per_gpu=1,
        clip_ratio_low=case.get("low", 0.2),
        clip_ratio_high=case.get("high", 0.2),
    )
    config.global_batch_info["loss_scale_factor"] = LONGEST
    aggregation = case.get("aggregation", "token-mean")
    policy_loss = algos.get_policy_loss_fn("gspo" if name == "gspo" else "vanilla")

    def loss(logprobs: Tensor) -> Tensor:
        found, _ = policy_loss(given["old_logprobs"], logprobs, advantages, mask, aggregation, config)
        if "kl" in case:
            kl = algos.kl_penalty(logprobs, given["ref_logprobs"], case["kl"])
            found = found + BETA * algos.agg_loss(kl, mask, aggregation)
        return found

    numbers = {"advantages": advantages.tolist(), **with_gradient(loss, given["logprobs"])}
    return numbers | ({"returns": returns.tolist()} if name == "ppo" else {})


def of_verl(given: dict[str, Tensor]) -> dict[str, Any]:  # Any: JSON
    algos = verl()
    cases = {name: case_of(algos, name, given) for name in CASES}
    returns = torch.tensor(cases["ppo"]["returns"], dtype=torch.float64)
    return {
        "version": version("verl"),
        **cases,
        "value": with_gradient(
            lambda values: algos.compute_value_loss(values, returns, given["old_values"], given["mask"], VALUE_CLIP)[0],
            given["values"],
        ),
        "kl": {
            name: (algos.kl_penalty(given["logprobs"], given["ref_logprobs"], name) * given["mask"]).tolist()
            for name in ("k1", "k2", "k3")
        },
    }


def of_openrlhf(given: dict[str, Tensor], advantages: Tensor, returns: Tensor) -> dict[str, Any]:  # Any: JSON
    """Compute the losses of OpenRLHF for these advantages and returns, which are verl's for PPO."""
    losses, mask = openrlhf("loss"), given["mask"]

    def policy(**settings: Any) -> dict[str, Any]:  # Any: of PolicyLoss; JSON
        loss = losses.PolicyLoss(**settings)
        return with_gradient(
            lambda logprobs: loss(logprobs, given["old_logprobs"], advantages, mask)[0], given["logprobs"]
        )

    value = losses.ValueLoss(clip_eps=VALUE_CLIP)
    ref = (given["ref_logprobs"] * mask).sum(1).chunk(2)
    dpo = losses.DPOLoss(beta=BETA)
    return {
        "version": version("openrlhf"),
        "tokens": policy(),
        "responses": policy(token_level_loss=False, clip_eps_high=0.28),
        "gspo": policy(policy_loss_type="gspo", clip_eps_low=3e-4, clip_eps_high=4e-4),
        "value": with_gradient(lambda values: value(values, given["old_values"], returns, mask), given["values"]),
        "pairwise": with_gradient(
            lambda scores: losses.PairWiseLoss()(*scores.chunk(2)), given["returns"]
        ),  # the first half of the rows are the chosen responses
        "dpo": with_gradient(lambda logprobs: dpo(*(logprobs * mask).sum(1).chunk(2), *ref)[0], given["logprobs"]),
    }


def main() -> None:
    given = tensors()
    verl_numbers = of_verl(given)
    advantages, returns = (
        torch.tensor(verl_numbers["ppo"][name], dtype=torch.float64) for name in ("advantages", "returns")
    )
    numbers = {
        "sizes": {"gamma": GAMMA, "lam": LAM, "value_clip": VALUE_CLIP},
        "tensors": {name: given[name].tolist() for name in ("old_values", "values")},
        "verl": verl_numbers,
        "openrlhf": of_openrlhf(given, advantages, returns),
    }
    print(json.dumps(numbers, indent=1))


if __name__ == "__main__":
    main()
