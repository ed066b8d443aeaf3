"""Standard dropout: the family of every run that names none."""

from dataclasses import dataclass, field

from model.families.family import NANOGPT_SITES, Family


@dataclass(frozen=True)
class Standard(Family):
    """Single elements are dropped, at `sites`; absent: nanoGPT's four.

    y = x m / (1 - p) with m ~ Bernoulli(1 - p) for each element (Srivastava et al. 2014, "Dropout", in the scaling of
    today's libraries). In evaluation y = x. It is what "dynamic dropout" (Yan & Shao 2024, arXiv 2411.03236) schedules;
    curriculum dropout (Morerio et al. 2017) is this with the schedule `exponential` from 0 with decay 10.
    """

    kind = "standard"
    sites: tuple[str, ...] = field(default=NANOGPT_SITES, metadata={"omitted": True})

    @property
    def places(self) -> tuple[str, ...]:
        return ()

    @property
    def standard_sites(self) -> tuple[str, ...]:
        return self.sites
