"""Sample from a vLLM server, which gets the policy's weights before every batch."""

import shutil
import time
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from tercet.config.lm import LmConfig
from tercet.errors import FailedError, InputError
from tercet.lm.engines.client import Client, Json, NoReplyError, RefusedError
from tercet.lm.engines.server import last_lines, started
from tercet.lm.engines.weights import has_only_adapters, save_adapters, save_whole
from tercet.lm.models.adapters import DTYPES
from tercet.lm.models.roles import Policy
from tercet.lm.sampling.engine import sampled_tokens
from tercet.lm.sampling.generate import SampledTokens
from tercet.lm.text.encoder import Encoder
from tercet.runs.progress import say

MOST_AT_ONCE = 256  # requests that are open at the same time; the server queues what it cannot compute yet
_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # that vLLM has room for


@dataclass
class VllmEngine:
    """A vLLM server that samples for one policy.

    Adapters are sent under a new name each time, so that a response shows which version it came from, and so that the
    server's cache of prompts never holds states of older adapters. All weights are reloaded in place, and the cache is
    then cleared.
    """

    client: Client
    policy: Policy
    model: str  # the server's name of the base model
    folder: Path  # for the files that the server reads
    log: Path | None = None  # of a server that Tercet started
    sleeps: bool = False  # the server gives its memory back between batches
    has_weights: bool = False  # the server has been started with the policy's weights
    _name: str = field(default="", init=False)  # of the weights that the server has
    _version: int = field(default=0, init=False)

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        end_ids: Collection[int],
        max_tokens: int,
        temperature: float,
        generator: torch.Generator,
    ) -> SampledTokens:
        """Send the current weights, then sample one response per prompt; temperature 0 is greedy."""
        # one request and one seed per row: rows of one request would share their random numbers
        seeds = torch.randint(2**31, (len(prompts),), generator=generator).tolist()
        with self._errors():
            if self.sleeps:
                self.client.post("/wake_up")
            self._send()
            bodies = [
                self._request(prompt, seed, end_ids, max_tokens, temperature)
                for prompt, seed in zip(prompts, seeds, strict=True)
            ]
            with ThreadPoolExecutor(min(MOST_AT_ONCE, len(bodies))) as pool:
                rows = list(pool.map(self._completion, bodies))
            if self.sleeps:
                self.client.post("/sleep", query={"level": 1})
        ids, logprobs = [row for row, _ in rows], [row for _, row in rows]
        return sampled_tokens(ids, logprobs, end_ids=end_ids, device=self.policy.model.device)

    def close(self) -> None:
        """Take the last adapters from a server that goes on running."""
        if self._name and self.log is None:
            with suppress(FailedError):  # it has ended, or forgotten them
                self.client.post("/v1/unload_lora_adapter", {"lora_name": self._name})

    def _send(self) -> None:
        """Give the server the current weights; FailedError if it does not take them."""
        is_frozen = not any(parameter.requires_grad for parameter in self.policy.parameters())
        if is_frozen and (self.has_weights or self._version):
            return
        self._version += 1
        if has_only_adapters(self.policy):
            # the time makes the name differ from those of an earlier process on the same server
            before, name = self._name, f"tercet-{time.time_ns()}-{self._version}"
            path = self.folder / name
            save_adapters(self.policy, path)
            self.client.post("/v1/load_lora_adapter", {"lora_name": name, "lora_path": str(path.resolve())})
            if before:
                self.client.post("/v1/unload_lora_adapter", {"lora_name": before})
                shutil.rmtree(self.folder / before)
            self._name = name
            return
        path = self.folder / "weights"
        shutil.rmtree(path, ignore_errors=True)
        save_whole(self.policy, path)
        reload = {"method": "reload_weights", "kwargs": {"weights_path": str(path.resolve())}}
        self.client.post("/collective_rpc", reload)
        self.client.post("/reset_prefix_cache")  # else prompts would be continued from states of the old weights

    def _request(
        self, prompt: Sequence[int], seed: int, end_ids: Collection[int], max_tokens: int, temperature: float
    ) -> Json:
        return {
            "model": self._name or self.model,
            "prompt": list(prompt),
            "max_tokens": max_tokens,
            "temperature": temperature,
            "seed": seed,
            "stop_token_ids": sorted(end_ids),
            "ignore_eos": True,  # end_ids has every token that ends a response
            "logprobs": 0,  # of the sampled tokens alone
            "return_token_ids": True,
            # a server may have other defaults, such as those of the model's generation_config.json
            "top_p": 1.0,
            "top_k": -1,
            "min_p": 0.0,
            "repetition_penalty": 1.0,
            "presence_penalty": 0.0,
            "frequency_penalty": 0.0,
        }

    def _completion(self, body: Json) -> tuple[list[int], list[float]]:
        """Return token ids and log-probabilities of one response."""
        reply = self.client.post("/v1/completions", body)
        try:
            (choice,) = reply["choices"]
            ids, logprobs = choice["token_ids"], choice["logprobs"]["token_logprobs"]
            whole = choice["finish_reason"] in ("stop", "length") and 0 < len(ids) == len(logprobs)
        except (KeyError, TypeError, ValueError) as error:
            raise RefusedError(f"{self.client.url}/v1/completions: a reply without token ids and logprobs") from error
        if not whole or not all(isinstance(one, int) for one in ids):
            raise RefusedError(f"{self.client.url}/v1/completions: an incomplete response ({choice['finish_reason']})")
        return ids, [float(one) for one in logprobs]

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Say what to do if the server has ended or refuses a request."""
        again = "Give the same command again to continue from the last checkpoint"
        try:
            yield
        except NoReplyError as error:
            ended = last_lines(self.log) if self.log else ""
            first = "" if self.log else " Start the server again, then:"
            raise FailedError(f"vLLM has ended: {error}.{first} {again}{ended}") from error
        except RefusedError as error:
            raise FailedError(f"vLLM: {error}. {again}{last_lines(self.log) if self.log else ''}") from error


@contextmanager
def vllm_engine(config: LmConfig, policy: Policy, encoder: Encoder, folder: Path) -> Iterator[VllmEngine]:
    """Start a server with the policy, or use the one at ppo.engine_url; the policy must not have been trained yet.

    `folder` is emptied. InputError if the server at ppo.engine_url does not fit.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    longest = encoder.max_prompt_tokens + encoder.max_sampled_tokens
    url = config.ppo.engine_url
    try:
        if url:
            client = Client(url)
            engine = VllmEngine(client, policy, _served_model(client, config, policy, longest), folder)
            try:
                yield engine
            finally:
                engine.close()
            return
        save_whole(policy, folder / "base")
        encoder.tokenizer.save_pretrained(folder / "base")
        log, on_gpu = folder / "vllm.log", policy.model.device.type == "cuda"
        options = _options(config, policy, longest) + (["--enable-sleep-mode"] if on_gpu else [])
        with started(config.ppo.engine_command, folder / "base", options, log) as client:
            yield VllmEngine(client, policy, "base", folder, log, sleeps=on_gpu, has_weights=True)
    finally:
        for path in folder.iterdir():
            if path.is_dir():  # the log stays
                shutil.rmtree(path, ignore_errors=True)


def _options(config: LmConfig, policy: Policy, longest: int) -> list[str]:
    """Return the options that every server needs."""
    options: dict[str, Any] = {  # Any: of command lines
        "--served-model-name": "base",
        "--dtype": str(DTYPES[policy.precision]).removeprefix("torch."),
        "--max-model-len": longest,
        "--logprobs-mode": "processed_logprobs",  # at the sampling temperature
        "--generation-config": "vllm",  # no sampling settings of the model
        "--seed": config.seed,
    }
    words = [word for pair in options.items() for word in map(str, pair)]
    if has_only_adapters(policy):
        rank = next((rank for rank in _RANKS if rank >= config.lora.rank), None)
        if rank is None:
            raise InputError(f"lora.rank={config.lora.rank}: vLLM has room for adapters up to rank {_RANKS[-1]}")
        words += ["--enable-lora", "--max-loras", "1", "--max-cpu-loras", "2", "--max-lora-rank", str(rank)]
    return words


def _served_model(client: Client, config: LmConfig, policy: Policy, longest: int) -> str:
    """Return the name of the base model of a running server; InputError if it does not answer or is too short."""
    key = f"ppo.engine_url={client.url}"
    try:
        models = client.get("/v1/models", seconds=30.0).get("data", [])
    except (NoReplyError, RefusedError) as error:
        options = " ".join(_options(config, policy, longest))
        raise InputError(
            f"{key}: no vLLM server answers there ({error}); start one with VLLM_ALLOW_RUNTIME_LORA_UPDATING=1 "
            f"VLLM_SERVER_DEV_MODE=1 vllm serve MODEL {options}, where MODEL is the policy that PPO starts from, or "
            "leave ppo.engine_url empty"
        ) from error
    bases = [one for one in models if isinstance(one, dict) and not one.get("parent")]
    if not bases:
        raise InputError(f"{key}: its /v1/models lists no base model; give the address of a vLLM server")
    window = bases[0].get("max_model_len")
    if isinstance(window, int) and window < longest:
        raise InputError(
            f"{key}: prompts and responses need {longest} tokens, and the server reads {window}; start it with "
            f"--max-model-len {longest}"
        )
    say(f"ppo: responses come from {bases[0].get('id')} at {client.url}")
    return str(bases[0].get("id"))
