"""Write and read ACT policies in LeRobot's files: config.json, model.safetensors, and the scales of its processors.

LeRobot's format has no field for some of our data. They are in exploration.safetensors: the standard deviation of
PPO's exploration and, if the policy uses only a part of the observation, which part, and the scale of all of it.
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

from tercet.arm.networks.act import ActShape
from tercet.arm.networks.files import read_json
from tercet.arm.networks.resnet import BLOCKS
from tercet.arm.sim.cameras import Camera
from tercet.errors import InputError, first_line

Tree = dict[str, Any]  # Any: JSON

STATES = {"robot": "observation.state", "env": "observation.environment_state"}
ACTION = "action"
IMAGES = "observation.images."  # followed by the name of a camera
NORMALIZER = "policy_preprocessor_step_3_normalizer_processor.safetensors"
UNNORMALIZER = "policy_postprocessor_step_0_unnormalizer_processor.safetensors"
EXPLORATION = "exploration.safetensors"
_TYPES = {"robot": "STATE", "env": "ENV"}
_COUNTS = [
    "chunk_size",
    "dim_model",
    "n_heads",
    "dim_feedforward",
    "n_encoder_layers",
    "n_decoder_layers",
    "n_vae_encoder_layers",
    "latent_dim",
]
_SHAPE = [*_COUNTS, "feedforward_activation", "pre_norm", "use_vae"]
_SCALES = ("mean", "std")
_LEROBOTS_EPS = 1e-8  # LeRobot adds it to the standard deviation of inputs, unless the files name another value
_MODES = {"VISUAL": "MEAN_STD", "STATE": "MEAN_STD", "ENV": "MEAN_STD", "ACTION": "MEAN_STD"}


@dataclass(frozen=True)
class ActFiles:
    """Contents of the files of a policy. `scales` holds the mean and std of `observation`, `action` and each camera."""

    shape: ActShape
    chunk: int  # number of actions of a chunk that are executed
    kl_weight: float
    weights: dict[str, Tensor]
    scales: dict[str, Tensor]
    log_std: Tensor | None  # None in files that LeRobot wrote
    own: Tensor | None = None  # (o,) mask of the entries that the policy uses; None if it uses all


def write(folder: Path, files: ActFiles) -> None:
    """Write all files of a policy."""
    shape = files.shape
    inputs = {STATES[name]: {"type": _TYPES[name], "shape": [size]} for name, size in shape.state_sizes.items()}
    for camera in shape.cameras:
        inputs[feature_of(camera)] = {"type": "VISUAL", "shape": [3, camera.height, camera.width]}
    outputs = {ACTION: {"type": "ACTION", "shape": [shape.action_size]}}
    backbone = {"vision_backbone": shape.vision_backbone, "replace_final_stride_with_dilation": False}
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
        **(backbone if shape.cameras else {}),
    }
    _write_json(folder / "config.json", config)
    weights = {f"model.{name}": value.contiguous() for name, value in files.weights.items()}
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    scales = _lerobot_scales(files)
    save_file(scales, folder / NORMALIZER)
    save_file(scales, folder / UNNORMALIZER)
    processors = {"policy_preprocessor": _pre_steps(inputs | outputs), "policy_postprocessor": _post_steps(outputs)}
    for name, steps in processors.items():
        _write_json(folder / f"{name}.json", {"name": name, "steps": steps})
    if files.log_std is not None:
        mask = {} if files.own is None else {"own": files.own, **_observation_scale(files.scales)}
        save_file({"log_std": files.log_std} | mask, folder / EXPLORATION)


def read(folder: Path) -> ActFiles:
    """Read the files that `write` or LeRobot wrote. Raises InputError if they are damaged or not supported."""
    config = read_json(folder / "config.json")
    try:
        shape = _shape(config, folder)
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        reason = f"missing or invalid entry {first_line(error)}"
        raise InputError(f"{folder / 'config.json'}: {reason}; copy the folder again") from error
    tensors = _tensors(folder / "model.safetensors")
    weights = {name.removeprefix("model."): value for name, value in tensors.items() if name.startswith("model.")}
    exploration = _tensors(folder / EXPLORATION) if (folder / EXPLORATION).exists() else {}
    scales = _our_scales(_saved_scales(folder, tensors, shape), shape, folder, _eps(folder))
    return ActFiles(
        shape=shape,
        chunk=config["n_action_steps"],
        kl_weight=config["kl_weight"],
        weights=weights,
        scales=scales | _observation_scale(exploration),
        log_std=exploration.get("log_std"),
        own=exploration.get("own"),
    )


def feature_of(camera: Camera) -> str:
    """Return LeRobot's name for the images of a camera."""
    return camera.name if camera.name.startswith("observation.") else IMAGES + camera.name


def _observation_scale(scales: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Select the scale of the whole observation, if `scales` holds it."""
    return {name: scales[name] for name in ("observation.mean", "observation.std") if name in scales}


def _cameras(inputs: Tree, folder: Path) -> tuple[Camera, ...]:
    """Return the cameras among the input features. Raises InputError if another feature is not supported."""
    cameras: list[Camera] = []
    for key, feature in inputs.items():
        if feature.get("type") == "VISUAL":
            shape = feature.get("shape") or []
            if len(shape) != 3 or shape[0] != 3:
                raise InputError(f"{folder}: {key} has shape {shape}; only images with three channels are supported")
            _, height, width = shape
            cameras.append(Camera(key.removeprefix(IMAGES), height, width))
        elif key not in STATES.values():
            supported = " and ".join(STATES.values())
            raise InputError(f"{folder}: the policy reads {key}; only images and {supported} are supported")
    return tuple(cameras)


def _checked_backbone(config: Tree, folder: Path) -> str:
    name = config.get("vision_backbone", "resnet18")
    if name not in BLOCKS or config.get("replace_final_stride_with_dilation"):
        raise InputError(f"{folder}: backbone {name} is not supported; use {' or '.join(BLOCKS)} without dilation")
    return name


def _shape(config: Tree, folder: Path) -> ActShape:
    inputs, outputs = config.get("input_features") or {}, config.get("output_features") or {}
    cameras = _cameras(inputs, folder)
    if config.get("temporal_ensemble_coeff") is not None:
        raise InputError(f"{folder}: temporal_ensemble_coeff is set; set it to null, because chunks are executed whole")
    used = {"STATE", "ENV", "ACTION", *(["VISUAL"] if cameras else [])} & set(config.get("normalization_mapping", {}))
    if any(config["normalization_mapping"][kind] != "MEAN_STD" for kind in used):
        raise InputError(f"{folder}: normalization_mapping must be MEAN_STD for all inputs and outputs")
    states = {name: inputs[key]["shape"][0] for name, key in STATES.items() if key in inputs}
    missing = [name for name in (*_SHAPE, "n_action_steps", "kl_weight") if name not in config]
    if missing or not (states or cameras) or ACTION not in outputs:
        raise InputError(f"{folder / 'config.json'}: lacks {', '.join(missing) or 'the features of state or action'}")
    wrong = [name for name in (*_COUNTS, "n_action_steps") if type(config[name]) is not int or config[name] < 1]
    if wrong or config["n_action_steps"] > config["chunk_size"] or config["dim_model"] % config["n_heads"]:
        raise InputError(
            f"{folder / 'config.json'}: invalid {', '.join(wrong) or 'sizes'}; sizes must be whole numbers above 0, "
            "n_action_steps at most chunk_size, and dim_model a multiple of n_heads"
        )
    if (activation := config["feedforward_activation"]) not in ("relu", "gelu"):
        raise InputError(f"{folder}: feedforward_activation={activation}; only relu and gelu are supported")
    action = outputs[ACTION]["shape"][0]
    sizes = {name: config[name] for name in _SHAPE}
    backbone = _checked_backbone(config, folder) if cameras else "resnet18"
    return ActShape(state_sizes=states, action_size=action, cameras=cameras, vision_backbone=backbone, **sizes)


def _lerobot_scales(files: ActFiles) -> dict[str, Tensor]:
    """Convert the scales to LeRobot's features: an observation can be two of them, and images have (3, 1, 1)."""
    scales, sizes = files.scales, files.shape.state_sizes
    by_feature = {f"{ACTION}.{name}": scales[f"{ACTION}.{name}"] for name in _SCALES}
    for name in _SCALES:
        whole = scales[f"observation.{name}"]
        parts = (whole if files.own is None else whole[files.own]).split(list(sizes.values()))
        by_feature |= {f"{STATES[state]}.{name}": part.contiguous() for state, part in zip(sizes, parts, strict=True)}
        keys = [f"{feature_of(camera)}.{name}" for camera in files.shape.cameras]
        by_feature |= {key: scales[key][:, None, None] for key in keys}
    return {name: value.clone() for name, value in by_feature.items()}


def _our_scales(by_feature: Mapping[str, Tensor], shape: ActShape, folder: Path, eps: float) -> dict[str, Tensor]:
    """Convert LeRobot's scales to ours. As in LeRobot, `eps` is added to the deviations of inputs, not of actions."""
    keys, pictures = [STATES[state] for state in shape.state_sizes], [feature_of(camera) for camera in shape.cameras]
    needed = [f"{key}.{name}" for key in (*keys, ACTION, *pictures) for name in _SCALES]
    if missing := [name for name in needed if name not in by_feature]:
        raise InputError(f"{folder}: lacks the scales {', '.join(missing)}; copy LeRobot's policy_preprocessor files")
    scales = {f"{key}.{name}": by_feature[f"{key}.{name}"].flatten() for key in (ACTION, *pictures) for name in _SCALES}
    for name in _SCALES:
        parts = [by_feature[f"{key}.{name}"].flatten() for key in keys]
        scales[f"observation.{name}"] = torch.cat([torch.zeros(0), *parts])
    for key in ("observation", *pictures):
        scales[f"{key}.std"] = scales[f"{key}.std"] + eps
    return scales


def _eps(folder: Path) -> float:
    """Return the constant that the preprocessor adds to a standard deviation before it divides by it."""
    file = folder / "policy_preprocessor.json"
    steps = read_json(file).get("steps", []) if file.exists() else []
    values = [step.get("config", {}).get("eps") for step in steps if "eps" in step.get("config", {})]
    return float(values[0]) if values else _LEROBOTS_EPS


def _saved_scales(folder: Path, weights: Mapping[str, Tensor], shape: ActShape) -> Mapping[str, Tensor]:
    """Return the scales in the preprocessor's file. Older files of LeRobot hold them among the weights."""
    files = sorted(folder.glob("policy_preprocessor*normalizer_processor.safetensors"))
    if files:
        return _tensors(files[0])
    scales: dict[str, Tensor] = {}
    for key in (*STATES.values(), ACTION, *map(feature_of, shape.cameras)):
        group = "normalize_targets" if key == ACTION else "normalize_inputs"
        for name in _SCALES:
            old = f"{group}.buffer_{key.replace('.', '_')}.{name}"
            if old in weights:
                scales[f"{key}.{name}"] = weights[old]
    return scales


def _pre_steps(features: Tree) -> list[Tree]:
    """Return the steps of LeRobot's preprocessor, under the names of its registry."""
    return [
        {"registry_name": "rename_observations_processor", "config": {"rename_map": {}}},
        {"registry_name": "to_batch_processor", "config": {}},
        {"registry_name": "device_processor", "config": {"device": "cpu", "float_dtype": None}},
        _normaliser("normalizer_processor", features, NORMALIZER),
    ]


def _post_steps(features: Tree) -> list[Tree]:
    """Return the steps of LeRobot's postprocessor."""
    device = {"registry_name": "device_processor", "config": {"device": "cpu", "float_dtype": None}}
    return [_normaliser("unnormalizer_processor", features, UNNORMALIZER), device]


def _normaliser(name: str, features: Tree, file: str) -> Tree:
    config = {"eps": 0.0, "features": features, "norm_map": _MODES}
    return {"registry_name": name, "config": config, "state_file": file}


def _tensors(file: Path) -> dict[str, Tensor]:
    try:
        return load_file(file)
    except (OSError, SafetensorError) as error:
        raise InputError(f"{file}: damaged or missing ({first_line(error)})") from error


def _write_json(file: Path, tree: Tree) -> None:
    file.write_text(json.dumps(tree, indent=2) + "\n", encoding="utf-8")
