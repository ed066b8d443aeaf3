"""A GPT that holds smaller GPTs: sub-networks that are prefixes of its weights ("supernet")."""

from collections.abc import Iterable
from dataclasses import replace
from fractions import Fraction

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.dropout import rate_owners, set_rates
from model.families import Family
from model.gpt import GPT, STANDARD, Block, GPTConfig
from model.size import Size


class PrefixLinear(nn.Linear):
    """A linear layer that can use the first of its inputs or outputs only.

    Its outputs are `parts` groups of equal size, of each of which the first are used.
    """

    def __init__(self, linear: nn.Linear, parts: int = 1) -> None:
        super().__init__(linear.in_features, linear.out_features, bias=linear.bias is not None, device="meta")
        self.weight, self.bias = linear.weight, linear.bias
        self.parts = parts
        self.inputs, self.outputs = linear.in_features, linear.out_features

    def prefix(self) -> tuple[Tensor, Tensor | None]:
        """Returns the weight (outputs, inputs) and bias that are used: views, as far as their layout allows it.

        The rows of several parts lie apart. Such a weight is put together anew: its product is then the same operation
        as that of a GPT that has no more weights, which its bits depend on.
        """
        weight: Tensor = self.weight
        bias: Tensor | None = self.bias
        if self.outputs < self.out_features:
            n = self.outputs // self.parts
            weight = weight.unflatten(0, (self.parts, -1))[:, :n].flatten(0, 1)
            bias = bias if bias is None else bias.unflatten(0, (self.parts, -1))[:, :n].flatten()
        return weight[:, : self.inputs], bias

    def forward(self, x: Tensor) -> Tensor:
        """Returns (..., outputs) for `x` (..., inputs)."""
        return F.linear(x, *self.prefix())


class ElasticGPT(GPT):
    """A GPT that works at any of its sizes, one at a time: `resize` says at which.

    A size has the first heads and hidden units of the first blocks; the residual width stays whole, so that embeddings
    and layer norms belong to all sizes. Gradients arrive in the prefixes that were used. At size (1, n_layer), where
    it starts, it is the plain GPT, bit for bit, and its weights are those of a plain GPT by name.

    The sub-networks are of the once-for-all kind (Cai et al. 2020, arXiv 1908.09791; slimmable networks, Yu & Huang
    2019, arXiv 1903.05134). TODM (2023, arXiv 2309.01947) reduces widths and depth of an encoder in the same manner.

    Raises:
        ValueError: if the family does not fit the config.
    """

    def __init__(self, config: GPTConfig, family: Family = STANDARD) -> None:
        super().__init__(config, family)
        for block in self._all_blocks():
            attn, mlp = block.attn, block.mlp
            attn.c_attn, attn.c_proj = PrefixLinear(attn.c_attn, parts=3), PrefixLinear(attn.c_proj)
            mlp.c_fc, mlp.c_proj = PrefixLinear(mlp.c_fc), PrefixLinear(mlp.c_proj)
        self.size = Size(Fraction(1), config.n_layer)

    def resize(self, size: Size) -> None:
        """Makes `size` the one that the model works at. Raises ValueError if the model has no such size."""
        c = self.config
        size.check(c.n_head, c.hidden_units, c.n_layer)
        self.size = size
        heads, hidden = size.of(c.n_head), size.of(c.hidden_units)
        for block in self._all_blocks():
            block.attn.n_head = heads
            _use(block.attn.c_attn, outputs=3 * heads * block.attn.head_size)
            _use(block.attn.c_proj, inputs=heads * block.attn.head_size)
            _use(block.mlp.c_fc, outputs=hidden)
            _use(block.mlp.c_proj, inputs=hidden)

    def used_blocks(self) -> Iterable[nn.Module]:
        return self._all_blocks()[: self.size.depth]

    def extract(self, size: Size) -> GPT:
        """Returns an ordinary GPT, in eval mode, with copies of the weights of one size.

        Its logits equal those of this model at that size bit for bit. Its dropout rates are those that are set here.
        """
        before, device = self.size, self.wte.weight.device
        self.resize(size)
        weights = self.state_dict()
        for name, module in self.named_modules():
            if isinstance(module, PrefixLinear):
                weight, bias = module.prefix()
                weights |= {f"{name}.weight": weight} | ({} if bias is None else {f"{name}.bias": bias})
        self.resize(before)
        with torch.random.fork_rng(devices=[]):  # initial weights draw random numbers
            gpt = GPT(subnet_config(self.config, size), self.family)
        own = gpt.state_dict()  # a family's own weight on the hidden layer has a row for each of its units
        gpt.load_state_dict({name: weights[name][: len(t)] if t.dim() else weights[name] for name, t in own.items()})
        owners = rate_owners(gpt)
        set_rates(owners, [owner.value for owner in rate_owners(self)[: size.depth]])
        return gpt.to(device).eval()

    def _all_blocks(self) -> list[Block]:
        return [block for block in self.blocks if isinstance(block, Block)]


def subnet_config(config: GPTConfig, size: Size) -> GPTConfig:
    """Returns the shape of the ordinary GPT that one size is."""
    return replace(
        config,
        n_layer=size.depth,
        n_head=size.of(config.n_head),
        head_size=config.channels_per_head,
        n_hidden=size.of(config.hidden_units),
    )


def _use(layer: nn.Linear, inputs: int | None = None, outputs: int | None = None) -> None:
    assert isinstance(layer, PrefixLinear)
    layer.inputs = layer.in_features if inputs is None else inputs
    layer.outputs = layer.out_features if outputs is None else outputs
