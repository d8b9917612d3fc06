"""ACT's files, as LeRobot writes and reads them: config.json, model.safetensors, and the scales of its processors.

What LeRobot has no place for, the deviation with which PPO explores, lies beside them in exploration.safetensors.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from tercet.arm.act_network import ActShape
from tercet.errors import InputError, first_line

Tree = dict[str, Any]  # Any: JSON

STATES = {"robot": "observation.state", "env": "observation.environment_state"}
ACTION = "action"
NORMALIZER = "policy_preprocessor_step_3_normalizer_processor.safetensors"
UNNORMALIZER = "policy_postprocessor_step_0_unnormalizer_processor.safetensors"
EXPLORATION = "exploration.safetensors"
_TYPES = {"robot": "STATE", "env": "ENV"}
_SHAPE = [
    "chunk_size",
    "dim_model",
    "n_heads",
    "dim_feedforward",
    "n_encoder_layers",
    "n_decoder_layers",
    "n_vae_encoder_layers",
    "latent_dim",
    "feedforward_activation",
    "pre_norm",
    "use_vae",
]
_MODES = {"VISUAL": "MEAN_STD", "STATE": "MEAN_STD", "ENV": "MEAN_STD", "ACTION": "MEAN_STD"}


@dataclass(frozen=True)
class ActFiles:
    """What the files of a policy hold; `scales` are the mean and std of `observation` and `action`."""

    shape: ActShape
    chunk: int  # actions of a chunk that are executed
    kl_weight: float
    weights: dict[str, Tensor]
    scales: dict[str, Tensor]
    log_std: Tensor | None  # LeRobot's own files have none


def write(folder: Path, files: ActFiles) -> None:
    """All of them."""
    shape = files.shape
    inputs = {STATES[name]: {"type": _TYPES[name], "shape": [size]} for name, size in shape.state_sizes.items()}
    outputs = {ACTION: {"type": "ACTION", "shape": [shape.action_size]}}
    config = {
        "type": "act",
        "n_obs_steps": 1,
        "n_action_steps": files.chunk,
        "input_features": inputs,
        "output_features": outputs,
        "normalization_mapping": _MODES,
        **{name: getattr(shape, name) for name in _SHAPE},
        "dropout": 0.0,
        "kl_weight": files.kl_weight,
        "temporal_ensemble_coeff": None,
        "pretrained_backbone_weights": None,
    }
    _write_json(folder / "config.json", config)
    weights = {f"model.{name}": value.contiguous() for name, value in files.weights.items()}
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    scales = _by_feature(files.scales, shape.state_sizes)
    save_file(scales, folder / NORMALIZER)
    save_file(scales, folder / UNNORMALIZER)
    for name, steps in (("policy_preprocessor", _before(inputs | outputs)), ("policy_postprocessor", _after(outputs))):
        _write_json(folder / f"{name}.json", {"name": name, "steps": steps})
    if files.log_std is not None:
        save_file({"log_std": files.log_std}, folder / EXPLORATION)


def read(folder: Path) -> ActFiles:
    """Those that `write` or LeRobot wrote; InputError where they are damaged, or need what is not read here."""
    config = read_json(folder / "config.json")
    shape = _shape(config, folder)
    found = _tensors(folder / "model.safetensors")
    weights = {name.removeprefix("model."): value for name, value in found.items() if name.startswith("model.")}
    exploration = folder / EXPLORATION
    return ActFiles(
        shape=shape,
        chunk=config["n_action_steps"],
        kl_weight=config["kl_weight"],
        weights=weights,
        scales=_of_observation(_found_scales(folder, found), shape.state_sizes, folder),
        log_std=_tensors(exploration)["log_std"] if exploration.exists() else None,
    )


def _shape(config: Tree, folder: Path) -> ActShape:
    inputs, outputs = config.get("input_features") or {}, config.get("output_features") or {}
    others = sorted(set(inputs) - set(STATES.values()))
    if others:
        raise InputError(f"{folder}: it sees {', '.join(others)}; only {' and '.join(STATES.values())} are read here")
    if config.get("temporal_ensemble_coeff") is not None:
        raise InputError(f"{folder}: temporal_ensemble_coeff is set; set it to null, so that chunks are executed whole")
    used = {"STATE", "ENV", "ACTION"} & set(config.get("normalization_mapping", {}))
    if any(config["normalization_mapping"][kind] != "MEAN_STD" for kind in used):
        raise InputError(f"{folder}: normalization_mapping must be MEAN_STD for states and actions")
    states = {name: inputs[key]["shape"][0] for name, key in STATES.items() if key in inputs}
    missing = [name for name in (*_SHAPE, "n_action_steps", "kl_weight") if name not in config]
    if missing or not states or ACTION not in outputs:
        raise InputError(f"{folder / 'config.json'}: lacks {', '.join(missing) or 'the features of state and action'}")
    if config["feedforward_activation"] not in ("relu", "gelu"):
        raise InputError(f"{folder}: feedforward_activation={config['feedforward_activation']}; relu and gelu are read")
    action = outputs[ACTION]["shape"][0]
    return ActShape(state_sizes=states, action_size=action, **{name: config[name] for name in _SHAPE})


def _by_feature(scales: Mapping[str, Tensor], sizes: Mapping[str, int]) -> dict[str, Tensor]:
    """Under the names of LeRobot's features, of which an observation may have two."""
    found = {f"{ACTION}.{name}": scales[f"{ACTION}.{name}"] for name in ("mean", "std")}
    for name in ("mean", "std"):
        parts = scales[f"observation.{name}"].split(list(sizes.values()))
        found |= {f"{STATES[state]}.{name}": part.contiguous() for state, part in zip(sizes, parts, strict=True)}
    return {name: value.clone() for name, value in found.items()}


def _of_observation(found: Mapping[str, Tensor], sizes: Mapping[str, int], folder: Path) -> dict[str, Tensor]:
    """The other way round."""
    keys = [STATES[state] for state in sizes]
    missing = [f"{key}.{name}" for key in (*keys, ACTION) for name in ("mean", "std") if f"{key}.{name}" not in found]
    if missing:
        raise InputError(f"{folder}: lacks the scales {', '.join(missing)}; copy LeRobot's policy_preprocessor files")
    scales = {f"{ACTION}.{name}": found[f"{ACTION}.{name}"].flatten() for name in ("mean", "std")}
    for name in ("mean", "std"):
        scales[f"observation.{name}"] = torch.cat([found[f"{key}.{name}"].flatten() for key in keys])
    return scales


def _found_scales(folder: Path, weights: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Of the processors; of the weights themselves in files from before LeRobot had processors."""
    files = sorted(folder.glob("policy_preprocessor*normalizer_processor.safetensors"))
    if files:
        return _tensors(files[0])
    found: dict[str, Tensor] = {}
    for key in (*STATES.values(), ACTION):
        group = "normalize_targets" if key == ACTION else "normalize_inputs"
        for name in ("mean", "std"):
            old = f"{group}.buffer_{key.replace('.', '_')}.{name}"
            if old in weights:
                found[f"{key}.{name}"] = weights[old]
    return found


def _before(features: Tree) -> list[Tree]:
    """The steps of LeRobot's preprocessor, under the names of its registry."""
    return [
        {"registry_name": "rename_observations_processor", "config": {"rename_map": {}}},
        {"registry_name": "to_batch_processor", "config": {}},
        {"registry_name": "device_processor", "config": {"device": "cpu", "float_dtype": None}},
        _normaliser("normalizer_processor", features, NORMALIZER),
    ]


def _after(features: Tree) -> list[Tree]:
    device = {"registry_name": "device_processor", "config": {"device": "cpu", "float_dtype": None}}
    return [_normaliser("unnormalizer_processor", features, UNNORMALIZER), device]


def _normaliser(name: str, features: Tree, file: str) -> Tree:
    config = {"eps": 1e-8, "features": features, "norm_map": _MODES}
    return {"registry_name": name, "config": config, "state_file": file}


def read_json(file: Path) -> Tree:
    """A JSON object; InputError where there is none."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{file}: cannot be read ({first_line(error)}); give the folder of a saved policy") from error
    if not isinstance(found, dict):
        raise InputError(f"{file}: holds no policy's config")
    return found


def _tensors(file: Path) -> dict[str, Tensor]:
    try:
        return load_file(file)
    except (OSError, SafetensorError) as error:
        raise InputError(f"{file}: damaged, or missing ({first_line(error)})") from error


def _write_json(file: Path, tree: Tree) -> None:
    file.write_text(json.dumps(tree, indent=2) + "\n", encoding="utf-8")
