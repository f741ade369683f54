"""What a member of the zoo is: how it is built and what goes into it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

Inputs = Callable[[], dict[str, Tensor]]


@dataclass(frozen=True)
class Architecture:
    """One architecture with random weights.

    Attributes:
        name: how ``--models`` names it.
        family: cnn, vit, hybrid, encoder, decoder, encoder-decoder, audio, detection, segmentation, multi-modal,
            recurrent or other.
        make: builds the module.
        inputs: example inputs by the names of ``forward``'s arguments, two samples.
        dynamic: which dims may vary; see ``gossamer.capture``.
    """

    name: str
    family: str
    make: Callable[[], nn.Module]
    inputs: Inputs
    dynamic: Any = "batch"

    def build(self) -> tuple[nn.Module, dict[str, Tensor]]:
        """The module in eval mode and its example inputs, the same each time."""
        torch.manual_seed(0)
        model = self.make().eval()
        spread_statistics(model)
        return model, self.inputs()


class Returning(nn.Module):
    """A transformers model that returns the named fields of its output, as plain tensors."""

    def __init__(self, net: nn.Module, fields: tuple[str, ...]) -> None:
        super().__init__()
        self.net = net
        self.fields = fields

    def forward(self, **inputs: Tensor) -> Tensor | tuple[Tensor, ...]:
        """The fields, bare if there is one."""
        output = self.net(**inputs, return_dict=True)
        values = tuple(getattr(output, field) for field in self.fields)
        return values[0] if len(values) == 1 else values


def pretrained(
    name: str,
    family: str,
    classes: tuple[str, str],
    options: Mapping[str, Any] | Callable[[], Mapping[str, Any]],
    inputs: Inputs,
    fields: tuple[str, ...] = ("logits",),
    dynamic: Any = "batch",
) -> Architecture:
    """An architecture of the transformers library: names of its model and configuration classes, and the options.

    Options that hold a configuration come from a function: transformers is imported when something is built.
    """

    def make() -> nn.Module:
        import transformers

        transformers.logging.set_verbosity_error()  # of token ids outside of so small a vocabulary
        model_class, config_class = (getattr(transformers, one) for one in classes)
        config = config_class(**(options() if callable(options) else options))
        if hasattr(config, "use_cache"):
            config.use_cache = False
        return Returning(model_class(config), fields)

    return Architecture(name, family, make, inputs, dynamic)


def spread_statistics(model: nn.Module) -> None:
    """Random running statistics and scales: with those of a new batch norm a wrong cut of them would not show."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is not None:
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.6, 1.4)
            if module.weight is not None:
                nn.init.uniform_(module.weight, 0.6, 1.4)
                nn.init.normal_(module.bias, 0, 0.2)


def image(size: int = 32, name: str = "pixel_values", channels: int = 3) -> Inputs:
    """Two square images of noise."""
    return lambda: {name: torch.randn(2, channels, size, size)}


def text(length: int = 10, *, mask: bool = True, decoder: int = 0) -> Inputs:
    """Two texts of random tokens 3 to 89, with a mask of ones, and others for a decoder."""

    def make() -> dict[str, Tensor]:
        made = {"input_ids": torch.randint(3, 90, (2, length))}
        if mask:
            made["attention_mask"] = torch.ones(2, length, dtype=torch.int64)
        if decoder:
            made["decoder_input_ids"] = torch.randint(3, 90, (2, decoder))
        return made

    return make


def noise(name: str, *shape: int) -> Inputs:
    """Two samples of noise."""
    return lambda: {name: torch.randn(2, *shape)}


def both(*parts: Inputs) -> Inputs:
    """The inputs of several together."""
    return lambda: {key: value for part in parts for key, value in part().items()}
