"""The Space: what sigma is measured in."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

from .errors import UserError


@dataclass(frozen=True, kw_only=True, slots=True)
class Space:
    """The space in which noise is added: a noise level means nothing without it.

    kind: ``pixel`` (values in [-1, 1]) or ``latent`` (``vae`` names the autoencoder).
    resolution: height and width, in pixels or latent cells.
    channels: 1 (grey) or 3 (RGB) for pixels; the autoencoder's for latents.
    sigma_data: standard deviation of the data, in the units of the space (arXiv 2206.00364, table 1: 0.5).
    """

    resolution: int
    channels: int = 3
    kind: Literal["pixel", "latent"] = "pixel"
    vae: str | None = None
    sigma_data: float = 0.5

    def __post_init__(self) -> None:
        if self.kind not in ("pixel", "latent"):
            raise UserError(f"the space's kind is {self.kind!r}; it must be 'pixel' or 'latent'")
        if self.resolution < 8:
            raise UserError(f"resolution {self.resolution} is too small: the smallest is 8")
        if self.kind == "pixel" and self.channels not in (1, 3):
            raise UserError(f"a pixel space has 1 or 3 channels, not {self.channels}")
        if (self.kind == "latent") != (self.vae is not None):
            raise UserError("a latent space names its vae, a pixel space has none")
        if not self.sigma_data > 0:
            raise UserError(f"sigma_data must be above 0, not {self.sigma_data}")

    def __str__(self) -> str:
        where = "pixels" if self.vae is None else f"latents of {self.vae}"
        return f"{self.resolution}x{self.resolution}x{self.channels} {where}, sigma_data {self.sigma_data:g}"

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of one picture."""
        return (self.channels, self.resolution, self.resolution)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> "Space":
        return cls(**fields)
