"""The processes of a planned run: each computes its share of every batch, and may hold its part of the weights only."""

from dataclasses import dataclass
from math import ceil
from typing import TypeVar

from tercet.config.fit import FitConfig
from tercet.config.lm import LmConfig, PpoConfig
from tercet.runs.ranks import automatic

C = TypeVar("C", bound=FitConfig | PpoConfig)


@dataclass(frozen=True)
class Processes:
    """The number of processes of a run, and whether the weights are divided among them."""

    num: int = 1
    shard: bool = False

    @classmethod
    def of(cls, config: LmConfig, *, on_gpu: bool) -> "Processes":
        """Return the processes that the run itself would start."""
        num = config.processes or automatic(on_gpu)
        return cls(num, config.shard and num > 1)

    def part(self, num_bytes: int) -> int:
        """Return the bytes that one process holds of a network's `num_bytes`."""
        return -(-num_bytes // self.num) if self.shard else num_bytes

    def work_of_one(self, config: LmConfig) -> LmConfig:
        """Return the config with the batches of one process."""
        if self.num == 1:
            return config

        def of_one(section: C, *keys: str) -> C:
            return section.model_copy(update={key: ceil(getattr(section, key) / self.num) for key in keys})

        sft, reward, dpo = (of_one(section, "batch_size") for section in (config.sft, config.reward, config.dpo))
        ppo = of_one(config.ppo, "batch_size", "num_eval_prompts")
        return config.model_copy(update={"sft": sft, "reward": reward, "ppo": ppo, "dpo": dpo})
