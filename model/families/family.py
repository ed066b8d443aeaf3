"""What a dropout family is: the sites that it takes, and what it multiplies the values there with.

Families import no torch, so that commands that only read them start fast.
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from model.checks import FromDict, check_bool, check_choice, check_integer, check_number, short

if TYPE_CHECKING:
    from torch import Tensor

    from model.sites import FamilySite

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
        works_in_eval: whether it changes evaluation too, so that the rate belongs to the saved weights.
        learned: whether its site has a weight matrix of its own, which starts as a copy of the MLP's first one.
    """

    noun = "family"
    sites: tuple[str, ...]
    elsewhere: str = NONE
    works_in_eval: ClassVar[bool] = False
    learned: bool = False
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
    def places(self) -> tuple[str, ...]:
        """Where in the model its own module stands."""
        return self.sites

    @property
    def standard_sites(self) -> tuple[str, ...]:
        """The sites with standard dropout."""
        return tuple(site for site in NANOGPT_SITES if self.elsewhere == STANDARD and site not in self.sites)

    @property
    def all_sites(self) -> tuple[str, ...]:
        """The sites where anything is dropped, in the order of the data."""
        return tuple(site for site in SITES if site in self.sites or site in self.standard_sites)

    def check_heads(self, n_channels: int) -> None:
        """Raises ValueError if the family does not fit a model whose heads have `n_channels` channels."""

    def derived(self, threshold: int) -> Mapping[str, float]:
        """Returns what the site needs beside `threshold` and `scale`, which is 1 / (1 - rate), by name.

        The rate is threshold / LEVELS. Whole numbers become int32 tensors, others float32.
        """
        return {}

    def multiplier(self, site: "FamilySite", x: "Tensor", *causes: "Tensor") -> "Tensor":
        """Returns what `x` (B, T, channels) is multiplied with in its site, while that is active.

        Args:
            causes: of the MLP's hidden layer, its pre-activations (B, T, 4C) and its input (B, T, C).
        """
        raise NotImplementedError
