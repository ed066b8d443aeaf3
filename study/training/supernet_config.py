"""The configs of a supernet's run and of one of its sizes as a GPT of its own, and the supernet's presets."""

from dataclasses import asdict, dataclass, fields
from fractions import Fraction
from types import MappingProxyType
from typing import Any

from model.checks import short
from model.size import Size
from study.base.cli import described
from study.training.config import PRESETS, Preset, TrainingConfig

OPTIMIZERS = ("adamw", "scaled_adam")
SIZES, HEAD_SIZE = "sizes", "head_size"
"""The keys that only a supernet's config has, and only that of an extracted size."""
_ALPHA = ("from -10 to 10", -10, 10)


@dataclass(frozen=True, kw_only=True)
class SupernetConfig(TrainingConfig):
    """All that decides a run of a supernet but its regularizer.

    The largest size learns with cross-entropy. The smallest, and at each step a few others that chance takes, learn
    with (1 - k) cross-entropy + k alpha-divergence from the largest, k the distillation share.
    """

    sizes: str = described(
        "sizes, each WIDTH,DEPTH, with spaces between them: the whole model first, the smallest last"
    )
    n_random: int = described("sizes beside the largest and the smallest that a step trains", 1, least=0)
    distillation: float = described(
        "share of the alpha-divergence in the loss of all sizes but the largest", 0.5, range=("in [0, 1]", 0, 1)
    )
    alpha_low: float = described("the divergence is the larger of two for each token: one alpha", -1.0, range=_ALPHA)
    alpha_high: float = described("the other alpha; 1 and 1 is the KL divergence", 1.0, range=_ALPHA)
    importance_clip: float = described(
        "largest importance weight in a divergence", 5.0, range=("of at least 1", 1, 1e30)
    )
    optimizer: str = described("which optimizer", "adamw", choices=OPTIMIZERS)

    def check_shape(self) -> None:
        super().check_shape()
        sizes = self.size_list()
        for size in sizes:
            size.check(self.n_head, 4 * self.n_embd, self.n_layer)
        if not sizes or sizes[0] != Size(Fraction(1), self.n_layer):
            raise ValueError(f"sizes must begin with the whole model, 1,{self.n_layer}, got {short(self.sizes)}")
        if len(set(sizes)) < max(2, len(sizes)) or min(sizes, key=lambda size: size.share) != sizes[-1]:
            raise ValueError(f"sizes must be two or more, none twice, the smallest last, got {short(self.sizes)}")
        if self.n_random > len(sizes) - 2:
            raise ValueError(
                f"n_random must be at most {len(sizes) - 2}, the sizes between the largest and the smallest, "
                f"got {self.n_random}"
            )
        if self.cuda_graphs:
            raise ValueError(
                "cuda_graphs must be false for a supernet, whose steps have other sizes each time: "
                "give --no-cuda-graphs"
            )

    def size_list(self) -> tuple[Size, ...]:
        """Returns the sizes, the largest first and the smallest last. Raises ValueError."""
        return tuple(Size.parse(text) for text in self.sizes.split())


@dataclass(frozen=True, kw_only=True)
class SubnetConfig(TrainingConfig):
    """The config of a GPT with the shape of one size of a supernet: narrower than its residual stream."""

    head_size: int = described("channels a head; must divide n_embd")
    n_hidden: int = described("units of the MLP's hidden layer")

    def check_shape(self) -> None:
        if self.n_embd % self.head_size:
            raise ValueError(f"n_embd must be a multiple of head_size, got {self.n_embd} and {self.head_size}")

    @property
    def channels_per_head(self) -> int:
        return self.head_size


def subnet_training(config: SupernetConfig, size: Size) -> SubnetConfig:
    """Returns the config of a size as a GPT of its own: the exported one, or one that is trained alone."""
    common: dict[str, Any] = {f.name: getattr(config, f.name) for f in fields(TrainingConfig)}
    shape = {"n_layer": size.depth, "n_head": size.of(config.n_head)}
    return SubnetConfig(**common | shape, head_size=config.channels_per_head, n_hidden=size.of(4 * config.n_embd))


def _supernet(preset: str, **more: Any) -> SupernetConfig:
    return SupernetConfig(**asdict(PRESETS[preset].training) | more)


SUPERNET_PRESETS: dict[str, Preset] = {
    "smoke": Preset(
        training=_supernet("smoke", sizes="1,1 0.5,1", n_random=0),
        on_cuda=MappingProxyType({}),
        trials=6,
        grace_share=0.34,
    ),
    # 406,000, 210,000, 111,000 and 62,000 parameters. A step does 2.3 times the work of a plain one.
    "laptop": Preset(
        training=_supernet("laptop", sizes="1,2 0.5,2 0.25,2 0.25,1"),
        on_cuda=MappingProxyType({}),
        trials=12,
        grace_share=0.65,
    ),
    "shakespeare_char": Preset(
        training=_supernet("shakespeare_char", sizes="1,6 2/3,6 1/3,6 2/3,3 1/3,3", n_random=2),
        on_cuda=MappingProxyType({"dtype": "bfloat16", "compile": True}),
        trials=16,
        grace_share=0.2,
    ),
}
"""Presets by the names of the language model's, whose fields they share."""
