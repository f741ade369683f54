"""Models in a local Hugging Face folder: ``config.json`` and safetensors weights -> Program. Nothing is downloaded."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gossamer.core.errors import ModelError
from gossamer.core.extras import require_extra
from gossamer.frontends.torch_module import DynamicDims, capture
from gossamer.program.program import Program

CONFIG_FILE = "config.json"
DEFAULT_LENGTH = 128
DEFAULT_IMAGE_SIZE = 224
DEFAULT_SAMPLES = 16_000


def read_huggingface(
    folder: Path | str, *, example: Any = None, dynamic: DynamicDims = "batch", length: int = DEFAULT_LENGTH
) -> Program:
    """Read a folder as ``save_pretrained`` writes it.

    Weights are read as float32, the key/value cache is off. Without ``example`` inputs are made from the config: token
    ids and an attention mask of ``length``, pixels of ``image_size``, or speech features.

    Args:
        folder: holds ``config.json`` and ``model.safetensors`` (or its shards).
        example: inputs to capture with; see ``capture``.
        dynamic: which dims may vary; see ``capture``.
        length: number of tokens of example texts; shortened to what the model has positions for.

    Raises:
        ModelError: the folder needs code of its own, has pickled or quantized weights only, is damaged, or its weights
            do not fill the model.
        CaptureError: the model cannot be captured.
        MissingExtra: transformers is not installed.
    """
    folder = Path(folder)
    model = load_huggingface(folder)
    inputs = example_inputs(model, length) if example is None else example
    return capture(model, inputs, dynamic=dynamic)


def load_huggingface(folder: Path | str) -> nn.Module:
    """The model in a local folder, in eval mode and float32, of the class that its config names.

    Raises:
        ModelError: see ``read_huggingface``.
        MissingExtra: transformers is not installed.
    """
    folder = Path(folder)
    doing = f"reading the Hugging Face folder {folder}"
    raw = _config(folder, doing)
    _require_plain_folder(folder, raw, doing)
    require_extra("transformers", "hf", doing)
    import transformers

    model_class = _model_class(transformers, raw, doing)
    try:
        config = model_class.config_class.from_dict(raw)
        model, info = model_class.from_pretrained(
            folder,
            config=config,
            local_files_only=True,
            use_safetensors=True,
            dtype=torch.float32,
            output_loading_info=True,
        )
    except Exception as error:  # transformers raises whatever a damaged config or file leads to
        lines = str(error).strip().splitlines() or [""]
        raise ModelError(
            doing, got=f"{type(error).__name__}: {lines[0][:200]}", expected="a folder that save_pretrained wrote"
        ) from error
    missing = sorted(info["missing_keys"]) + sorted(str(key) for key in info["mismatched_keys"])
    if missing:
        raise ModelError(
            doing,
            got=f"{len(missing)} tensors of {model_class.__name__} are not in the file, the first is {missing[0]}",
            expected="weights for the whole model: what is missing would be random",
            try_=f"save the trained model again, or correct 'architectures' in {CONFIG_FILE}",
        )
    model.config.use_cache = False
    return model.eval()


def example_inputs(model: Any, length: int = DEFAULT_LENGTH) -> dict[str, Tensor]:
    """Two example inputs for a transformers model, made from its config.

    Raises:
        ModelError: the model takes something else than text, images or speech.
    """
    accepted = inspect.signature(model.forward).parameters
    main = getattr(model, "main_input_name", "input_ids")
    config = model.config
    inputs: dict[str, Tensor] = {}
    if (
        hasattr(config, "vision_config")
        and hasattr(config, "text_config")
        and {"pixel_values", "input_ids"} <= {*accepted}
    ):
        inputs |= _images(config.vision_config) | _text(config.text_config, accepted, length)
    elif main == "input_ids":
        inputs |= _text(config, accepted, length)
    elif main == "pixel_values":
        inputs |= _images(config)
    elif main == "input_features":
        positions = getattr(config, "max_source_positions", 1500)
        inputs["input_features"] = _noise(2, getattr(config, "num_mel_bins", 80), 2 * positions)
    elif main == "input_values":
        inputs["input_values"] = _noise(2, DEFAULT_SAMPLES)
    else:
        raise ModelError(
            f"making example inputs for {type(model).__name__}",
            got=f"a model of {main!r}",
            expected="text, images or speech",
            try_="give example inputs by name",
        )
    if getattr(config, "is_encoder_decoder", False) and "decoder_input_ids" in accepted:
        inputs["decoder_input_ids"] = _tokens(config, 8 if main != "input_ids" else length)
    return inputs


def _config(folder: Path, doing: str) -> dict[str, Any]:
    try:
        raw = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(
            doing, got=f"{CONFIG_FILE}: {error}", expected="a folder that save_pretrained wrote"
        ) from error
    if not isinstance(raw, dict):
        raise ModelError(doing, got=f"{CONFIG_FILE} holds a {type(raw).__name__}", expected="a mapping")
    return _without_attention_choice(raw)


def _without_attention_choice(value: Any) -> Any:
    """The config without its choice of attention code: it may name a kernel to download."""
    if not isinstance(value, Mapping):
        return value
    return {key: _without_attention_choice(item) for key, item in value.items() if "attn_implementation" not in key}


def _require_plain_folder(folder: Path, raw: Mapping[str, Any], doing: str) -> None:
    if "quantization_config" in raw:
        raise ModelError(
            doing,
            got="weights that are quantized already",
            expected="float weights, as trained",
            try_="the model it was quantized from",
        )
    if (folder / "adapter_config.json").is_file():
        raise ModelError(
            doing, got="an adapter beside the weights", expected="one whole model", try_="merge it: merge_and_unload()"
        )
    if not any(folder.glob("*.safetensors")):
        pickled = sorted(path.name for path in folder.glob("*.bin"))
        raise ModelError(
            doing,
            got=f"pickled weights only: {', '.join(pickled)}" if pickled else "no weights",
            expected="model.safetensors: a pickle can run code and is not read",
            try_="where you trust the file, convert it once: from_pretrained(folder).save_pretrained(folder)"
            if pickled
            else "model.save_pretrained(folder)",
        )


def _model_class(transformers: Any, raw: Mapping[str, Any], doing: str) -> Any:
    names = raw.get("architectures")
    if not isinstance(names, list) or len(names) != 1 or not isinstance(names[0], str):
        raise ModelError(
            doing,
            got=f"architectures: {names!r}",
            expected="the name of one class of transformers",
            try_=f'"architectures": ["BertForSequenceClassification"] in {CONFIG_FILE}',
        )
    found = getattr(transformers, names[0], None) if names[0].isidentifier() else None
    if not (isinstance(found, type) and issubclass(found, transformers.PreTrainedModel)):
        hint = "; code in the folder is never run" if "auto_map" in raw else ""
        raise ModelError(
            doing,
            got=f"architecture {names[0]!r}",
            expected=f"a model class of transformers {transformers.__version__}{hint}",
            try_="load the model yourself and give the nn.Module",
        )
    return found


def _text(config: Any, accepted: Mapping[str, Any], length: int) -> dict[str, Tensor]:
    tokens = _tokens(config, length)
    inputs = {"input_ids": tokens}
    if "attention_mask" in accepted:
        inputs["attention_mask"] = torch.ones_like(tokens)
    return inputs


def _tokens(config: Any, length: int) -> Tensor:
    """(2, length) token ids without special ones: those mark ends and padding."""
    positions = getattr(config, "max_position_embeddings", None) or getattr(config, "n_positions", None)
    if isinstance(positions, int):
        length = max(1, min(length, positions - 2))  # RoBERTa and its kin number positions from 2
    ends = ("pad_token_id", "bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id", "decoder_start_token_id")
    special = {getattr(config, name, None) for name in ends}
    special |= set(eos) if isinstance(eos := getattr(config, "eos_token_id", None), list) else set()
    plain = np.setdiff1d(np.arange(config.vocab_size), [token for token in special if isinstance(token, int)])
    return torch.from_numpy(np.random.default_rng(0).choice(plain, (2, length)))


def _images(config: Any) -> dict[str, Tensor]:
    size = getattr(config, "image_size", None) or DEFAULT_IMAGE_SIZE
    height, width = (size, size) if isinstance(size, int) else tuple(size)
    return {"pixel_values": _noise(2, getattr(config, "num_channels", 3), height, width)}


def _noise(*shape: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(0).standard_normal(shape, dtype=np.float32))
