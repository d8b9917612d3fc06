"""ACT's files, as LeRobot writes and reads them: config.json, model.safetensors, and the scales of its processors.

What LeRobot has no place for lies beside them in exploration.safetensors: the deviation with which PPO explores, and of
a policy that sees only a part of the observation, which part, and the scale of the whole.
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

from tercet.arm.policies.act_network import ActShape
from tercet.arm.policies.resnet import BLOCKS
from tercet.arm.sim.cameras import Camera
from tercet.errors import InputError, first_line

Tree = dict[str, Any]  # Any: JSON

STATES = {"robot": "observation.state", "env": "observation.environment_state"}
ACTION = "action"
IMAGES = "observation.images."  # and a camera's name
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
_SCALES = ("mean", "std")
_LEROBOTS_EPS = 1e-8  # what LeRobot adds to the deviation of what is seen, unless the files say otherwise
_MODES = {"VISUAL": "MEAN_STD", "STATE": "MEAN_STD", "ENV": "MEAN_STD", "ACTION": "MEAN_STD"}


@dataclass(frozen=True)
class ActFiles:
    """What the files of a policy hold; `scales` are the mean and std of `observation`, `action` and each picture."""

    shape: ActShape
    chunk: int  # actions of a chunk that are executed
    kl_weight: float
    weights: dict[str, Tensor]
    scales: dict[str, Tensor]
    log_std: Tensor | None  # LeRobot's own files have none
    own: Tensor | None = None  # (o,) True where the policy sees the observation, if not everywhere


def write(folder: Path, files: ActFiles) -> None:
    """All of them."""
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
    scales = _by_feature(files)
    save_file(scales, folder / NORMALIZER)
    save_file(scales, folder / UNNORMALIZER)
    for name, steps in (("policy_preprocessor", _before(inputs | outputs)), ("policy_postprocessor", _after(outputs))):
        _write_json(folder / f"{name}.json", {"name": name, "steps": steps})
    if files.log_std is not None:
        part = {} if files.own is None else {"own": files.own, **_whole(files.scales)}
        save_file({"log_std": files.log_std} | part, folder / EXPLORATION)


def read(folder: Path) -> ActFiles:
    """Those that `write` or LeRobot wrote; InputError where they are damaged, or need what is not read here."""
    config = read_json(folder / "config.json")
    shape = _shape(config, folder)
    found = _tensors(folder / "model.safetensors")
    weights = {name.removeprefix("model."): value for name, value in found.items() if name.startswith("model.")}
    beside = _tensors(folder / EXPLORATION) if (folder / EXPLORATION).exists() else {}
    return ActFiles(
        shape=shape,
        chunk=config["n_action_steps"],
        kl_weight=config["kl_weight"],
        weights=weights,
        scales=_of_observation(_found_scales(folder, found, shape), shape, folder, _eps(folder)) | _whole(beside),
        log_std=beside.get("log_std"),
        own=beside.get("own"),
    )


def feature_of(camera: Camera) -> str:
    """LeRobot's name of a camera's pictures."""
    return camera.name if camera.name.startswith("observation.") else IMAGES + camera.name


def _whole(scales: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Those of the whole observation, where they are there."""
    return {name: scales[name] for name in ("observation.mean", "observation.std") if name in scales}


def _cameras(inputs: Tree, folder: Path) -> tuple[Camera, ...]:
    """Those of the features; InputError where there is another feature that is not read."""
    found: list[Camera] = []
    for key, feature in inputs.items():
        if feature.get("type") == "VISUAL":
            shape = feature.get("shape") or []
            if len(shape) != 3 or shape[0] != 3:
                raise InputError(f"{folder}: {key} is of shape {shape}; pictures of three colours are read")
            _, height, width = shape
            found.append(Camera(key.removeprefix(IMAGES), height, width))
        elif key not in STATES.values():
            raise InputError(
                f"{folder}: it sees {key}; only pictures and {' and '.join(STATES.values())} are read here"
            )
    return tuple(found)


def _checked_backbone(config: Tree, folder: Path) -> str:
    name = config.get("vision_backbone", "resnet18")
    if name not in BLOCKS or config.get("replace_final_stride_with_dilation"):
        raise InputError(f"{folder}: its backbone is {name}, or dilated; {' and '.join(BLOCKS)} are read, not dilated")
    return name


def _shape(config: Tree, folder: Path) -> ActShape:
    inputs, outputs = config.get("input_features") or {}, config.get("output_features") or {}
    cameras = _cameras(inputs, folder)
    if config.get("temporal_ensemble_coeff") is not None:
        raise InputError(f"{folder}: temporal_ensemble_coeff is set; set it to null, so that chunks are executed whole")
    used = {"STATE", "ENV", "ACTION", *(["VISUAL"] if cameras else [])} & set(config.get("normalization_mapping", {}))
    if any(config["normalization_mapping"][kind] != "MEAN_STD" for kind in used):
        raise InputError(f"{folder}: normalization_mapping must be MEAN_STD for all that it sees and does")
    states = {name: inputs[key]["shape"][0] for name, key in STATES.items() if key in inputs}
    missing = [name for name in (*_SHAPE, "n_action_steps", "kl_weight") if name not in config]
    if missing or not (states or cameras) or ACTION not in outputs:
        raise InputError(f"{folder / 'config.json'}: lacks {', '.join(missing) or 'the features of state and action'}")
    if config["feedforward_activation"] not in ("relu", "gelu"):
        raise InputError(f"{folder}: feedforward_activation={config['feedforward_activation']}; relu and gelu are read")
    action = outputs[ACTION]["shape"][0]
    sizes = {name: config[name] for name in _SHAPE}
    backbone = _checked_backbone(config, folder) if cameras else "resnet18"
    return ActShape(state_sizes=states, action_size=action, cameras=cameras, vision_backbone=backbone, **sizes)


def _by_feature(files: ActFiles) -> dict[str, Tensor]:
    """Under the names of LeRobot's features, of which an observation may have two; pictures' as (3, 1, 1)."""
    scales, sizes = files.scales, files.shape.state_sizes
    found = {f"{ACTION}.{name}": scales[f"{ACTION}.{name}"] for name in _SCALES}
    for name in _SCALES:
        whole = scales[f"observation.{name}"]
        parts = (whole if files.own is None else whole[files.own]).split(list(sizes.values()))
        found |= {f"{STATES[state]}.{name}": part.contiguous() for state, part in zip(sizes, parts, strict=True)}
        keys = [f"{feature_of(camera)}.{name}" for camera in files.shape.cameras]
        found |= {key: scales[key][:, None, None] for key in keys}
    return {name: value.clone() for name, value in found.items()}


def _of_observation(found: Mapping[str, Tensor], shape: ActShape, folder: Path, eps: float) -> dict[str, Tensor]:
    """The other way round; deviations of what is seen with LeRobot's `eps`, of which those of actions know nothing."""
    keys, pictures = [STATES[state] for state in shape.state_sizes], [feature_of(camera) for camera in shape.cameras]
    missing = [
        f"{key}.{name}" for key in (*keys, ACTION, *pictures) for name in _SCALES if f"{key}.{name}" not in found
    ]
    if missing:
        raise InputError(f"{folder}: lacks the scales {', '.join(missing)}; copy LeRobot's policy_preprocessor files")
    scales = {f"{key}.{name}": found[f"{key}.{name}"].flatten() for key in (ACTION, *pictures) for name in _SCALES}
    for name in _SCALES:
        scales[f"observation.{name}"] = torch.cat([torch.zeros(0), *(found[f"{key}.{name}"].flatten() for key in keys)])
    for key in ("observation", *pictures):
        scales[f"{key}.std"] = scales[f"{key}.std"] + eps
    return scales


def _eps(folder: Path) -> float:
    """What the preprocessor adds to a deviation before it divides by it."""
    file = folder / "policy_preprocessor.json"
    steps = read_json(file).get("steps", []) if file.exists() else []
    given = [step.get("config", {}).get("eps") for step in steps if "eps" in step.get("config", {})]
    return float(given[0]) if given else _LEROBOTS_EPS


def _found_scales(folder: Path, weights: Mapping[str, Tensor], shape: ActShape) -> Mapping[str, Tensor]:
    """Of the processors; of the weights themselves in files from before LeRobot had processors."""
    files = sorted(folder.glob("policy_preprocessor*normalizer_processor.safetensors"))
    if files:
        return _tensors(files[0])
    found: dict[str, Tensor] = {}
    for key in (*STATES.values(), ACTION, *map(feature_of, shape.cameras)):
        group = "normalize_targets" if key == ACTION else "normalize_inputs"
        for name in _SCALES:
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
    config = {"eps": 0.0, "features": features, "norm_map": _MODES}
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
