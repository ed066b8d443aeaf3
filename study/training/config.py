"""The configuration of one training run, and the presets."""

from dataclasses import MISSING, Field, dataclass, fields, replace
from types import MappingProxyType
from typing import Any, Self

from model.checks import check_integer, check_number, short
from study.base.cli import described
from study.base.errors import UserError

DTYPES = ("float32", "bfloat16")


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """All that decides a training run but its regularizer: the same config and regularizer give the same losses.

    Bit for bit on the same kind of CPU; the number of threads is part of it, since one and two give other last bits.

    Raises:
        UserError: names the field and the value that it refuses.
    """

    n_layer: int = described("blocks")
    n_head: int = described("attention heads a block; must divide n_embd")
    n_embd: int = described("channels")
    block_size: int = described("context, in tokens")
    bias: bool = described("whether linear layers and layer norms have biases", False, negatable=True)
    batch_size: int = described("sequences a step")
    steps: int = described("optimizer steps")
    learning_rate: float = described("peak learning rate")
    min_learning_rate: float = described("learning rate at the end of the cosine")
    warmup_steps: int = described("steps of linear warm-up", 100)
    beta1: float = described("AdamW's first beta", 0.9)
    beta2: float = described("AdamW's second beta", 0.99)
    weight_decay: float = described("AdamW's weight decay, on matrices only", 0.1)
    gradient_clip: float = described("largest gradient norm; 0 does not clip", 1.0)
    eval_interval: int = described("steps between two evaluations")
    val_share: float = described("share of the validation windows that an evaluation reads, spread evenly", 1.0)
    train_chars: int = described("characters of the training split to learn from; 0 is all of them", 0)
    seed: int = described("seed of weights, dropout masks and data order", 1337)
    corpus: str = described("shakespeare, shakespeare_char, or the path of a UTF-8 text file", "shakespeare")
    threads: int = described("CPU threads that torch uses", 1)
    compile: bool = described("whether the model is compiled with torch.compile", False, negatable=True)
    dtype: str = described("float32, or bfloat16 (autocast)", "float32", choices=DTYPES)
    tf32: bool = described("whether float32 matrix products on CUDA may use TF32", True, negatable=True)
    cuda_graphs: bool = described("whether a step on CUDA is replayed as one CUDA graph", False, negatable=True)
    deterministic: bool = described(
        "whether CUDA uses deterministic algorithms only, so that a run repeats bit for bit", False, negatable=True
    )

    def __post_init__(self) -> None:
        try:
            for f in fields(self):
                object.__setattr__(self, f.name, _check(f, getattr(self, f.name)))
            self.check_shape()
        except ValueError as error:
            raise UserError(str(error)) from None

    def check_shape(self) -> None:
        """Raises ValueError if there is no such model."""
        if self.n_embd % self.n_head:
            raise ValueError(f"n_embd must be a multiple of n_head, got {self.n_embd} and {self.n_head}")

    @property
    def channels_per_head(self) -> int:
        """The channels of an attention head."""
        return self.n_embd // self.n_head

    def with_steps(self, steps: int) -> Self:
        """Returns this config with another length."""
        return replace(self, steps=steps)

    @classmethod
    def from_dict(cls, d: Any) -> Self:
        """Makes a config from a plain dict. Raises UserError for an unknown or missing key too."""
        if not isinstance(d, dict):
            raise UserError(f"a training config must be a mapping, got {short(d)}")
        known = {f.name: f for f in fields(cls)}
        if unknown := [key for key in d if key not in known]:
            raise UserError(f"a training config has no field {short(unknown[0])}: it has {', '.join(known)}")
        if missing := [name for name, f in known.items() if f.default is MISSING and name not in d]:
            raise UserError(f"a training config needs {', '.join(missing)} too")
        return cls(**d)


_MINIMUM = {"warmup_steps": 0, "train_chars": 0, "seed": 0}
_RANGES: dict[str, tuple[str, float, float]] = {
    "learning_rate": ("above 0", 1e-30, 1e30),
    "min_learning_rate": ("of at least 0", 0, 1e30),
    "beta1": ("in [0, 1)", 0, 1 - 1e-12),
    "beta2": ("in [0, 1)", 0, 1 - 1e-12),
    "weight_decay": ("of at least 0", 0, 1e30),
    "gradient_clip": ("of at least 0", 0, 1e30),
    "val_share": ("in (0, 1]", 1e-12, 1),
}


def _check(f: "Field[Any]", value: Any) -> Any:
    name = f.name
    kind: Any = f.type
    choices = f.metadata.get("choices")
    if choices is not None and value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, got {short(value)}")
    if kind is int:
        return check_integer(name, value, f.metadata.get("least", _MINIMUM.get(name, 1)))
    if kind is float:
        allowed, low, high = f.metadata.get("range") or _RANGES[name]
        return check_number(name, value, allowed, lambda x: low <= x <= high)
    if not isinstance(value, kind):
        raise ValueError(f"{name} must be a {kind.__name__}, got {short(value)}")
    return value


@dataclass(frozen=True, kw_only=True)
class Preset:
    """A training config that is known to make sense, and the study that fits it.

    Attributes:
        training: the config on a CPU.
        on_cuda: what differs where trials have a GPU.
        trials: of a study, if none are asked for.
        grace_share: the share of the steps that every trial gets before ASHA may stop it.
    """

    training: TrainingConfig
    on_cuda: MappingProxyType[str, Any]
    trials: int
    grace_share: float


PRESETS: dict[str, Preset] = {
    # Seconds: to see that everything works.
    "smoke": Preset(
        training=TrainingConfig(
            n_layer=1, n_head=2, n_embd=32, block_size=16, batch_size=8, steps=60, learning_rate=1e-2,
            min_learning_rate=1e-3, warmup_steps=5, eval_interval=10, val_share=0.002,
        ),
        on_cuda=MappingProxyType({"cuda_graphs": True}),
        trials=6,
        grace_share=0.34,
    ),
    # Half a minute a trial on one core. So little text to learn from that the model overfits and dropout matters.
    # Grace: see "The price of early stopping" in study/report/README.md.
    "laptop": Preset(
        training=TrainingConfig(
            n_layer=2, n_head=4, n_embd=128, block_size=32, batch_size=16, steps=1000, learning_rate=4e-3,
            min_learning_rate=4e-4, warmup_steps=50, eval_interval=50, val_share=0.125, train_chars=15_000,
        ),
        on_cuda=MappingProxyType({"cuda_graphs": True}),
        trials=16,
        grace_share=0.65,
    ),
    # nanoGPT's train_shakespeare_char: the model that the dropout papers use.
    "shakespeare_char": Preset(
        training=TrainingConfig(
            n_layer=6, n_head=6, n_embd=384, block_size=256, batch_size=64, steps=5000, learning_rate=1e-3,
            min_learning_rate=1e-4, warmup_steps=100, eval_interval=250,
        ),
        on_cuda=MappingProxyType({"dtype": "bfloat16", "compile": True, "cuda_graphs": True}),
        trials=64,
        grace_share=0.2,
    ),
}  # fmt: skip
