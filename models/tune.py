"""What of the encoder learns: nothing, low-rank adapters, or all but the word embeddings."""

import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor, nn

from models.bundle import Tuned
from models.recipe import Encoder
from schemas.errors import BundleError, UsageError

# Names that the linear layers of BERT-class encoders have; every one of them gets an adapter.
_LINEAR = (
    "query", "key", "value", "dense", "q_lin", "k_lin", "v_lin", "out_lin", "lin1", "lin2", "q", "k", "v", "o"
)  # fmt: skip


def prepare(encoder: Any, options: Encoder) -> tuple[Any, Tuned]:
    """The encoder with just those weights learning that the recipe asks for, and what a manifest says of it.

    Raises:
        UsageError: more layers are to stay frozen than there are.
    """
    count = int(encoder.config.num_hidden_layers)
    if options.frozen_layers >= count and options.tuning != "frozen":
        raise UsageError(
            f"encoder: frozen_layers is {options.frozen_layers} and the base has {count} layers; "
            "leave at least one to learn, or set tuning to frozen."
        )
    for weight in encoder.parameters():
        weight.requires_grad_(False)
    layers = tuple(range(options.frozen_layers, count))
    if options.tuning == "frozen":
        return encoder, Tuned()
    if options.tuning == "full":
        for layer in layers_of(encoder)[options.frozen_layers :]:
            layer.requires_grad_(True)
        # What it was started with differs from the base below these layers, too.
        return encoder, Tuned("full", layers=tuple(range(count)) if options.start else layers)
    tuned = Tuned("lora", options.rank, options.alpha, layers)
    return with_adapters(encoder, tuned, options.dropout), tuned


def with_adapters(encoder: Any, tuned: Tuned, dropout: float = 0.0) -> Any:
    """The encoder with fresh adapters on every linear layer of the tuned layers (peft)."""
    peft = importlib.import_module("peft")
    names = {name.rsplit(".", 1)[-1] for name, part in encoder.named_modules() if isinstance(part, nn.Linear)}
    config = peft.LoraConfig(
        r=tuned.rank,
        lora_alpha=tuned.alpha,
        lora_dropout=dropout,
        target_modules=sorted(names & set(_LINEAR)),
        layers_to_transform=list(tuned.layers),
    )
    return peft.get_peft_model(encoder, config)


def adapters(encoder: Any) -> dict[str, Tensor]:
    """The weights of the adapters alone."""
    state = importlib.import_module("peft").get_peft_model_state_dict(encoder)
    return {name: value.detach().cpu().contiguous() for name, value in state.items()}


def merged(encoder: Any) -> Any:
    """A plain encoder with the adapters added to its weights; what has none is given back as it is."""
    return encoder.merge_and_unload() if hasattr(encoder, "merge_and_unload") else encoder


def load_adapters(encoder: Any, tuned: Tuned, path: Path) -> Any:
    """The encoder with stored adapters added to its weights.

    Raises:
        BundleError: they do not fit.
    """
    peft = importlib.import_module("peft")
    model = with_adapters(encoder, tuned)
    found = peft.set_peft_model_state_dict(model, {name: each.float() for name, each in load_file(path).items()})
    if found.unexpected_keys or any("lora_" in name for name in found.missing_keys):
        raise BundleError(f"The adapters in {path} do not fit the base and the manifest; train the bundle anew.")
    return merged(model).eval()


def changed(encoder: Any, tuned: Tuned) -> dict[str, nn.Parameter]:
    """Weights of an encoder tuned in full that may differ from its base, by name."""
    mine = {id(weight) for number in tuned.layers for weight in layers_of(encoder)[number].parameters()}
    return {name: weight for name, weight in encoder.named_parameters() if id(weight) in mine}


def layers_of(encoder: Any) -> Sequence[nn.Module]:
    """The encoder's layers, from the bottom.

    Raises:
        UsageError: the architecture keeps them where this does not look.
    """
    inner = encoder.get_base_model() if hasattr(encoder, "get_base_model") else encoder
    for holder, name in (("encoder", "layer"), ("transformer", "layer"), ("encoder", "layers")):
        found = getattr(getattr(inner, holder, None), name, None)
        if isinstance(found, nn.ModuleList):
            return list(found)
    raise UsageError(
        f"the layers of a {type(inner).__name__} are not where BERT, RoBERTa, ELECTRA, MPNet or DistilBERT keep "
        "them; use such a base, or tuning = frozen or lora with frozen_layers = 0."
    )


def learning(module: nn.Module) -> Mapping[str, nn.Parameter]:
    """The weights that learn, by name."""
    return {name: weight for name, weight in module.named_parameters() if weight.requires_grad}
