"""The networks that a configuration can name."""

from torch import nn

from .unet import UNet, UNetConfig

NetworkConfig = UNetConfig

KINDS: dict[str, tuple[type[NetworkConfig], type[nn.Module]]] = {"unet": (UNetConfig, UNet)}
"""Name -> (configuration, module called with (configuration, channels=, resolution=, num_classes=))."""


def kind_of(config: NetworkConfig) -> str:
    """The name of a configuration's network."""
    return next(name for name, (known, _) in KINDS.items() if type(config) is known)


def build_network(config: NetworkConfig, *, channels: int, resolution: int, num_classes: int) -> nn.Module:
    """The network F of ``Denoiser``: called with (x, c_noise, condition)."""
    _, module = KINDS[kind_of(config)]
    return module(config, channels=channels, resolution=resolution, num_classes=num_classes)
