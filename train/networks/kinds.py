"""The networks that a configuration can name."""

from torch import nn

from . import ddpmpp, edm2, unet

NetworkConfig = unet.UNetConfig | ddpmpp.DDPMPPConfig | edm2.EDM2Config

KINDS: dict[str, tuple[type[NetworkConfig], type[nn.Module]]] = {
    "unet": (unet.UNetConfig, unet.UNet),
    "ddpmpp": (ddpmpp.DDPMPPConfig, ddpmpp.DDPMPP),
    "edm2": (edm2.EDM2Config, edm2.EDM2),
}
"""Name -> (configuration, module called with (configuration, channels=, resolution=, num_classes=))."""

BLOCKS = (unet.Block, ddpmpp.Block, edm2.Block)
"""What networks are made of: their weights are spread over GPUs one block at a time."""


def kind_of(config: NetworkConfig) -> str:
    """The name of a configuration's network."""
    return next(name for name, (known, _) in KINDS.items() if type(config) is known)


def build_network(config: NetworkConfig, *, channels: int, resolution: int, num_classes: int) -> nn.Module:
    """The network F of ``Denoiser``: called with (x, c_noise, condition)."""
    _, module = KINDS[kind_of(config)]
    return module(config, channels=channels, resolution=resolution, num_classes=num_classes)
