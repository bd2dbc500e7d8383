"""What every stage of an annotation needs to know."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from .manifest import Work
from .reporter import Reporter
from .uris import Roots

if TYPE_CHECKING:
    from .annotate import AnnotateConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """config: what was asked for; roots: where pictures lie; work: where finished parts lie; device: of the classifier;
    workers: threads that decode."""

    config: "AnnotateConfig"
    roots: Roots
    work: Work
    device: torch.device
    workers: int
    reporter: Reporter
