"""Guidance: away from what a worse denoiser says.

D = D_guide + G (D_main - D_guide), which is the denoiser of the density p_main^G / p_guide^(G - 1), up to its
normalisation and taken at each noise level by itself. Three uses of the one formula:

- classifier-free guidance (arXiv 2207.12598): the guide is the same network, told the class "none";
- the same with another, unconditional network, as EDM2 does it (arXiv 2312.02696, section 4);
- autoguidance (arXiv 2406.02507): the guide is a smaller or less trained network, such as the same at an
  earlier moment, told the same class.

G = 1 is the main denoiser alone; arXiv 2207.12598 writes w = G - 1.
"""

from torch import Tensor

from ..schemas.errors import UserError
from .solvers import Denoise
from .trained import Trained


def guided(main: Denoise, guide: Denoise, scale: float) -> Denoise:
    """The guided denoiser. scale: G. Where it is 1 the guide is never evaluated."""
    if scale == 1:
        return main

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        away = guide(x, sigma)
        return away + scale * (main(x, sigma) - away)

    return denoise


def check_guidance(main: Trained, guide: Trained | None, scale: float, *, chosen: bool) -> None:
    """Raise UserError where this run cannot be guided so. scale: G. chosen: whether the guide's weights were."""
    if guide is None:
        if chosen:
            raise UserError("--guide-ema and --guide-at choose weights of a guide: name its run, with --guide RUN")
        if scale != 1 and main.config.num_classes == 0:
            raise UserError(f"{main.run} was trained without classes: guide it by another run, with --guide RUN")
        if scale != 1 and not main.trains_none:
            raise UserError(
                f'{main.run} never trained the class "none" that guides the others: train with '
                "--set label_dropout=0.1, or guide it by another run, with --guide RUN"
            )
        return
    if scale == 1:
        raise UserError("a guide changes nothing at guidance 1: say how strong it is, such as --guidance 2")
    if guide.space != main.space:
        raise UserError(f"{guide.run} draws {guide.space}, not {main.space}: it cannot guide {main.run}")
    if guide.config.num_classes not in (0, main.config.num_classes):
        raise UserError(
            f"{guide.run} was trained with {guide.config.num_classes} classes and {main.run} with "
            f"{main.config.num_classes}: a guide has the same or none"
        )
    same = (guide.num_images, guide.ema_std) == (main.num_images, main.ema_std)
    if same and guide.run.resolve() == main.run.resolve():
        raise UserError(
            f"{main.run} cannot be guided by the very same weights: choose an earlier moment of the guide, with "
            "--guide-at, or another length of its average, with --guide-ema"
        )
