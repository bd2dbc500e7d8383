"""What every stage of an annotation needs to know."""

from dataclasses import dataclass, field

import torch

from .config import AnnotateConfig
from .manifest import Work
from .reporter import Reporter
from .team import Team
from .uris import Roots


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """config: what was asked for; roots: where pictures lie; work: where finished parts lie; device: of the classifier;
    workers: threads or processes that decode; the first of a team reads with all of them. team: the processes that
    annotate."""

    config: AnnotateConfig
    roots: Roots
    work: Work
    device: torch.device
    workers: int
    reporter: Reporter
    team: Team = field(default_factory=Team)

    @property
    def share(self) -> int:
        """The workers of each process while all of the team decode."""
        return -(-self.workers // self.team.size)
