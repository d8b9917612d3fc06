"""A small server of vLLM's API, where vLLM is not installed. It reads models and adapters with transformers and peft.

As a script it takes the options of `vllm serve` that Tercet gives. `STAND_IN_ENDS_AFTER` makes it end without a word
after so many responses.
"""

import argparse
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import uvicorn
from peft import PeftModel
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from transformers import AutoModelForCausalLM, PreTrainedModel


@dataclass
class StandIn:
    """The state of the server, and what was asked of it."""

    base: Path
    dtype: torch.dtype = torch.float32
    max_model_len: int = 64
    takes_adapters: bool = True
    ignores_adapters: bool = False
    ends_after: int = 0
    calls: list[str] = field(default_factory=list)
    seeds: list[int] = field(default_factory=list)
    names: list[str] = field(default_factory=list)  # of all adapters that were loaded

    def __post_init__(self) -> None:
        self.served: dict[str, torch.nn.Module] = {"base": self._read(self.base)}

    def _read(self, folder: Path) -> PreTrainedModel:
        return AutoModelForCausalLM.from_pretrained(folder, dtype=self.dtype).eval()

    def app(self) -> Starlette:
        async def call(request: Request) -> Response:
            path = request.url.path
            self.calls.append(path)
            body = json.loads(await request.body() or b"{}")
            return getattr(self, path.rpartition("/")[2])(body)

        paths = ["/v1/models", "/health", "/v1/load_lora_adapter", "/v1/unload_lora_adapter", "/v1/completions"]
        paths += ["/collective_rpc", "/reset_prefix_cache", "/sleep", "/wake_up"]
        return Starlette(routes=[Route(path, call, methods=["GET", "POST"]) for path in paths])

    def health(self, body: Any) -> Response:
        return Response()

    def models(self, body: Any) -> Response:
        cards = [
            {"id": name, "parent": None if name == "base" else "base", "max_model_len": self.max_model_len}
            for name in self.served
        ]
        return JSONResponse({"data": cards})

    def load_lora_adapter(self, body: Any) -> Response:
        name, path = body["lora_name"], Path(body["lora_path"])
        if not self.takes_adapters:
            return _refused(404, "adapters are off")
        if name in self.served or not path.is_absolute():
            return _refused(400, f"{name} at {path}")
        self.names.append(name)
        model = self._read(self.base)
        self.served[name] = model if self.ignores_adapters else PeftModel.from_pretrained(model, path).eval()
        return PlainTextResponse(f"Success: LoRA adapter '{name}' added successfully.")

    def unload_lora_adapter(self, body: Any) -> Response:
        del self.served[body["lora_name"]]
        return PlainTextResponse("Success")

    def collective_rpc(self, body: Any) -> Response:
        assert body["method"] == "reload_weights"
        self.served["base"] = self._read(Path(body["kwargs"]["weights_path"]))
        return JSONResponse({"results": [None]})

    def reset_prefix_cache(self, body: Any) -> Response:
        return Response()

    sleep = wake_up = reset_prefix_cache

    @torch.no_grad()
    def completions(self, body: Any) -> Response:
        self.seeds.append(body["seed"])
        if self.ends_after and len(self.seeds) > self.ends_after:
            os._exit(9)
        assert body["ignore_eos"] and body["return_token_ids"] and body["top_p"] == 1 and body["top_k"] == -1
        if body["model"] not in self.served:
            return _refused(404, f"The model `{body['model']}` does not exist.")
        model, chance = self.served[body["model"]], torch.Generator().manual_seed(body["seed"])
        ids, logprobs = list(body["prompt"]), []
        prompt, temperature = len(ids), body["temperature"]
        while len(logprobs) < body["max_tokens"] and (not logprobs or ids[-1] not in body["stop_token_ids"]):
            logits = model(torch.tensor([ids])).logits[0, -1].float()
            scores = (logits / (temperature or 1.0)).log_softmax(-1)
            token = int(torch.multinomial(scores.exp(), 1, generator=chance) if temperature else scores.argmax())
            ids.append(token)
            logprobs.append(float(scores[token]))
        reason = "stop" if ids[-1] in body["stop_token_ids"] else "length"
        choice = {"token_ids": ids[prompt:], "logprobs": {"token_logprobs": logprobs}, "finish_reason": reason}
        return JSONResponse({"choices": [choice]})


def _refused(code: int, message: str) -> Response:
    return JSONResponse({"error": {"message": message, "code": code}}, code)


def main() -> None:
    command = argparse.ArgumentParser()
    command.add_argument("model", type=Path)
    command.add_argument("--port", type=int)
    command.add_argument("--dtype", default="float32")
    command.add_argument("--max-model-len", type=int)
    command.add_argument("--enable-lora", action="store_true")
    asked, _ = command.parse_known_args()
    torch.set_num_threads(1)
    server = StandIn(
        asked.model,
        getattr(torch, asked.dtype),
        asked.max_model_len,
        asked.enable_lora,
        bool(os.environ.get("STAND_IN_IGNORES_ADAPTERS")),
        int(os.environ.get("STAND_IN_ENDS_AFTER", "0")),
    )
    uvicorn.run(server.app(), host="127.0.0.1", port=asked.port, log_level="warning")


if __name__ == "__main__":
    main()
