"""Which sites of a model are driven, and the errors that say why none is."""

import re
from collections.abc import Sequence

from torch import nn

from model.checks import short
from model.drive.sites import OwnerSite, Site
from model.families import Family
from model.gpt import GPT
from model.regularizer import PLAIN_FAMILY

SHOWN = 40
"""An error names at most this many sites."""


def check_family(model: nn.Module, family: Family) -> None:
    """Raises ValueError unless a GPT of this project has the family, or the family is standard."""
    of_gpts = [module.family for module in model.modules() if isinstance(module, GPT)]
    if not of_gpts and family != PLAIN_FAMILY:
        raise ValueError(
            f"a Driver cannot drive the family {short(family.to_dict())} in {type(model).__name__}: it can drive "
            "family standard, with any schedule and depth; other families need the GPT of this project (model.gpt)"
        )
    if other := [own for own in of_gpts if own != family]:
        raise ValueError(
            f"the GPT was made with family {short(other[0].to_dict())}, the schedule has {short(family.to_dict())}: "
            "make GPT(config, family)"
        )


def chosen(model: nn.Module, sites: Sequence[Site], only: str | None, skip: str | None) -> list[Site]:
    """Returns the sites to drive; raises ValueError if there is none."""
    patterns = {}
    for name, pattern in (("only", only), ("skip", skip)):
        try:
            patterns[name] = re.compile(pattern) if pattern is not None else None
        except re.error as error:
            raise ValueError(f"{name} must be a regular expression, got {short(pattern)}: {error}") from None
    by_hand, left_out = patterns["only"], patterns["skip"]
    driven = [
        site
        for site in sites
        if not (left_out and left_out.search(site.name))
        and (by_hand.search(site.name) if by_hand else site.rate > 0 or isinstance(site, OwnerSite))
    ]
    if driven:
        return driven
    kind = type(model).__name__
    if not sites:
        raise ValueError(
            f"{kind} has no dropout to drive: no dropout module, and no number in [0, 1) with drop in its name"
        )
    if by_hand or left_out:
        raise ValueError(f"only={short(only)}, skip={short(skip)} leave no site of {kind}, which has {names(sites)}")
    raise ValueError(f"all dropout rates of {kind} are 0: give only= to drive some of {names(sites)}")


def names(sites: Sequence[Site]) -> str:
    """Returns sites with their rates, for an error or a warning."""
    more = f" and {len(sites) - SHOWN} more" if len(sites) > SHOWN else ""
    return ", ".join(f"{site.name} ({site.rate:g})" for site in sites[:SHOWN]) + more
