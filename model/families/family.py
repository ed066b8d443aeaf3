"""What a dropout family is: which sites of the model it takes."""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from model.checks import FromDict, check_bool, check_choice, check_integer, check_number, short

SITES = ("embedding", "attention", "attention_output", "before_gelu", "mlp_hidden", "mlp_output")
"""Where a GPT can drop, in the order of the data: the sum of the embeddings, the attention probabilities, the output of
attention, the MLP's hidden layer before and after its GELU, and the output of the MLP."""
NANOGPT_SITES = ("embedding", "attention", "attention_output", "mlp_output")
"""Where nanoGPT drops."""
STANDARD, NONE = "standard", "none"
ELSEWHERE = (STANDARD, NONE)
"""`standard`: standard dropout at the same rate stands on those of nanoGPT's sites that the family does not take.
`none`: nothing is dropped there, as in the papers' own baselines. Sites matter more than families, so that a family is
to be compared with standard dropout at the same sites: `model.families.control`."""


def check_sites(name: str, value: Any) -> tuple[str, ...]:
    """Returns sites, each once, in the order of the data."""
    if (
        not isinstance(value, list | tuple)
        or not value
        or not all(isinstance(site, str) and site in SITES for site in value)
        or len(set(value)) < len(value)
    ):
        raise ValueError(
            f"{name} must be a list of {', '.join(SITES)}, at least one and none twice, got {short(value)}"
        )
    return tuple(site for site in SITES if site in value)


class Family(FromDict):
    """What is dropped, and at which sites.

    Attributes:
        sites: the sites that the family itself takes.
        elsewhere: what stands on nanoGPT's other sites: see ELSEWHERE.
    """

    noun = "family"
    sites: tuple[str, ...]
    elsewhere: str = NONE
    checks: ClassVar[Mapping[str, Callable[[str, Any], Any]]] = {
        "sites": check_sites,
        "elsewhere": lambda name, value: check_choice(name, value, ELSEWHERE),
        "alpha": lambda name, value: check_number(name, value, "of at least 0", lambda x: x >= 0),
        "learned": check_bool,
        "calibrated": check_bool,
        "sampled": check_bool,
        "block": lambda name, value: check_integer(name, value, minimum=1),
        "drop": lambda name, value: check_number(name, value, "in (0, 1)", lambda x: 0 < x < 1),
        "over_time": check_bool,
    }

    @property
    def all_sites(self) -> tuple[str, ...]:
        """The sites where anything is dropped, those with standard dropout included, in the order of the data."""
        others = NANOGPT_SITES if self.elsewhere == STANDARD else ()
        return tuple(site for site in SITES if site in self.sites or site in others)
