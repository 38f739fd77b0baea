"""The training loop: mixed batches, warm-up and decay, early stopping, and a checkpoint to go on from."""

import hashlib
import math
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch import Tensor, nn

from models.corpus import Corpus, gather
from models.frozen import FrozenStates
from models.losses import Losses, named_outputs
from models.mixing import plan
from models.network import Network
from models.predict import answers, headline
from models.recipe import Recipe
from models.runner import NetworkRunner
from models.tokens import TextTokenizer
from models.tune import learning
from schemas.errors import TrainingError

CHECKPOINT = "checkpoint.pt"
LOG = "metrics.jsonl"
# Seconds between two checkpoints within an epoch: what a kill costs at most.
CHECKPOINT_SECONDS = 120.0
# Batches between two lines of the log.
LOG_BATCHES = 50

State = dict[str, Tensor]


@dataclass(slots=True)
class Progress:
    """How far a run is; a checkpoint holds it. `figures` are those of validation by epoch, from 1."""

    epoch: int = 0
    batch: int = 0
    texts: int = 0
    seconds: float = 0.0
    best_epoch: int = 0
    best: float = -1.0
    figures: list[dict[str, float]] = field(default_factory=list)


Report = Callable[[str, Progress, int, int], None]


def fit(
    network: Network,
    recipe: Recipe,
    train: Corpus,
    validation: Corpus,
    tokenizer: TextTokenizer,
    folder: Path,
    report: Report = lambda *_: None,
    keep: bool = False,
    key: str = "",
) -> Progress:
    """Train what of the network learns, and leave it with the weights of its best epoch on validation.

    With `keep` the weights that it begins with are a candidate, too, as epoch 0.

    Args:
        folder: takes the log and the checkpoint; a checkpoint that lies there is gone on from.
        report: called with a line, the progress, and the batch and number of batches of this epoch.
        key: what a checkpoint must be of to be gone on from; the recipe's fingerprint where it is "".

    Raises:
        TrainingError: a loss is not a number, or the checkpoint is of another run.
    """
    run = _Run(network, recipe, train, tokenizer, folder, key or fingerprint(recipe))
    run.restore()
    progress = run.progress
    if keep and not progress.epoch and not progress.batch:
        run.consider(headline(answers(NetworkRunner(network), validation, recipe, tokenizer), validation, recipe))
    while progress.epoch < recipe.training.epochs and not run.has_stalled():
        run.epoch(report)
        figures = headline(answers(NetworkRunner(network), validation, recipe, tokenizer), validation, recipe)
        run.judge(figures)
        report("validation " + "  ".join(f"{name} {value:.3f}" for name, value in figures.items()), progress, 1, 1)
    run.restore_best()
    return progress


class _Run:
    """One run of training; everything that a checkpoint must hold."""

    def __init__(
        self, network: Network, recipe: Recipe, train: Corpus, tokenizer: TextTokenizer, folder: Path, key: str
    ) -> None:
        self._network = network
        self._recipe = recipe
        self._key = key
        self._train = train
        self._tokenizer = tokenizer
        self._folder = folder
        self._device = next(network.parameters()).device
        self._losses = Losses(recipe, label_counts(train, recipe), self._device)
        self._weights = learning(network)
        self._plans = [
            plan(train.lengths, train.files, recipe.training, epoch) for epoch in range(recipe.training.epochs)
        ]
        self._optimizer, self._schedule = self._optimization()
        frozen = recipe.encoder.tuning == "frozen"
        self._frozen = FrozenStates(network, train, tokenizer) if frozen else None
        self._best: State = {}
        self._saved = time.monotonic()
        self.progress = Progress()
        folder.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(recipe.training.seed)

    def epoch(self, report: Report) -> None:
        """Train to the end of the current epoch."""
        progress = self.progress
        batches = self._plans[progress.epoch]
        recent: defaultdict[str, list[float]] = defaultdict(list)
        while progress.batch < len(batches):
            started = time.monotonic()
            positions = batches[progress.batch]
            losses = self._step(positions)
            progress.batch += 1
            progress.texts += len(positions)
            progress.seconds += time.monotonic() - started
            for name, loss in losses.items():
                recent[name].append(loss)
            if progress.batch % LOG_BATCHES == 0 or progress.batch == len(batches):
                means = {name: round(sum(each) / len(each), 4) for name, each in recent.items()}
                rate = self._schedule.get_last_lr()[0]
                self._log({"epoch": progress.epoch + 1, "batch": progress.batch, "loss": means, "rate": rate})
                line = "loss " + "  ".join(f"{name} {value:.3f}" for name, value in means.items())
                report(line, progress, progress.batch, len(batches))
                recent.clear()
            if time.monotonic() - self._saved > CHECKPOINT_SECONDS:
                self.save()

    def judge(self, figures: dict[str, float]) -> None:
        """Close an epoch: keep its weights if its figures are the best so far."""
        progress = self.progress
        progress.figures.append(figures)
        progress.epoch += 1
        progress.batch = 0
        self._log({"epoch": progress.epoch, "validation": figures, "seconds": round(progress.seconds, 1)})
        self.consider(figures)
        self.save()

    def consider(self, figures: dict[str, float]) -> None:
        """Keep the weights as they are now if these figures are the best so far."""
        progress = self.progress
        taught = {head.name for head in self._recipe.heads if head.kind != "embedding"}
        counted = [value for name, value in figures.items() if name in taught] or list(figures.values())
        mean = sum(counted) / max(1, len(counted))
        if mean > progress.best:
            progress.best, progress.best_epoch = mean, progress.epoch
            self._best = {name: weight.detach().cpu().clone() for name, weight in self._weights.items()}

    def has_stalled(self) -> bool:
        """Whether the last epochs brought nothing better."""
        return self.progress.epoch - self.progress.best_epoch >= self._recipe.training.patience

    def restore_best(self) -> None:
        """Give the network the weights of its best epoch."""
        with torch.no_grad():
            for name, weight in self._best.items():
                self._weights[name].copy_(weight)

    def save(self) -> None:
        """Write the checkpoint beside the old one, then take its place."""
        state = {
            "recipe": self._key,
            "texts": self._train.digest,
            "progress": asdict(self.progress),
            "weights": {name: weight.detach().cpu() for name, weight in self._weights.items()},
            "best": self._best,
            "optimizer": self._optimizer.state_dict(),
            "schedule": self._schedule.state_dict(),
            "random": torch.get_rng_state(),
        }
        scratch = self._folder / f"{CHECKPOINT}.new"
        torch.save(state, scratch)
        scratch.replace(self._folder / CHECKPOINT)
        self._saved = time.monotonic()

    def restore(self) -> None:
        """Go on from a checkpoint, where there is one.

        Raises:
            TrainingError: it is of another recipe, or of other texts.
        """
        path = self._folder / CHECKPOINT
        if not path.is_file():
            return
        state: dict[str, Any] = torch.load(path, weights_only=True)
        if state["recipe"] != self._key:
            raise another_recipe(path)
        if state["texts"] != self._train.digest:
            raise TrainingError(
                f"{path} is the checkpoint of a run on other texts; give back the data that made it, or remove "
                f"{self._folder} to begin anew."
            )
        self.progress = Progress(**state["progress"])
        with torch.no_grad():
            for name, weight in state["weights"].items():
                self._weights[name].copy_(weight)
        self._best = state["best"]
        self._optimizer.load_state_dict(state["optimizer"])
        self._schedule.load_state_dict(state["schedule"])
        torch.set_rng_state(state["random"])

    def _step(self, positions: Any) -> dict[str, float]:
        options = self._recipe.training
        self._network.train()
        if not self._recipe.encoder.dropout:
            # The encoder's own dropout costs a third of the time on a CPU.
            self._network.encoder.eval()
        losses = self._read(positions)
        total = torch.stack(list(losses.values())).sum()
        if not math.isfinite(float(total.detach())):
            raise TrainingError(
                f"The loss of epoch {self.progress.epoch + 1}, batch {self.progress.batch + 1}, is not a number; "
                f"lower learning_rate ({options.learning_rate}) or head_learning_rate "
                f"({options.head_learning_rate}), or look for rows that are no text."
            )
        self._optimizer.zero_grad()
        torch.autograd.backward(total)
        nn.utils.clip_grad_norm_(list(self._weights.values()), options.clip)
        self._optimizer.step()
        self._schedule.step()
        return {name: float(loss.detach()) for name, loss in losses.items()}

    def _read(self, positions: Any) -> dict[str, Tensor]:
        """Each head's loss over a batch, which is read twice where the two readings shall agree."""
        batch, inputs = gather(self._train, positions, self._tokenizer, self._device)
        vectors = self._train.vectors
        base = None if vectors is None else torch.from_numpy(vectors[positions]).float().to(self._device)
        targets = [self._train.targets[position] for position in positions]
        outputs = self._outputs(positions, inputs)
        losses = self._losses(self._network, outputs, batch, targets, base)
        alpha = self._recipe.training.r_drop
        if not alpha:
            return losses
        again = self._outputs(positions, inputs)
        others = self._losses(self._network, again, batch, targets, base)
        losses = {name: (loss + others[name]) / 2 for name, loss in losses.items()}
        for name, apart in self._losses.apart(outputs, again, targets).items():
            losses[name] = losses[name] + alpha / 2 * apart
        return losses

    def _outputs(self, positions: Any, inputs: Sequence[Tensor]) -> dict[str, Tensor]:
        if self._frozen is None:
            return named_outputs(self._network, self._network(*inputs))
        return named_outputs(self._network, self._network.read(self._frozen.layers(positions), *inputs))

    def _optimization(self) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
        options = self._recipe.training
        # Biases and norms have one dimension; pulling them to zero helps nothing.
        groups = []
        for heads, rate in ((False, options.learning_rate), (True, options.head_learning_rate)):
            mine = [weight for name, weight in self._weights.items() if name.startswith("heads.") == heads]
            for decays in (True, False):
                part = [weight for weight in mine if (weight.ndim > 1) == decays]
                decay = options.weight_decay if decays else 0.0
                groups += [{"params": part, "lr": rate, "weight_decay": decay}] if part else []
        optimizer = torch.optim.AdamW(groups)
        steps = sum(map(len, self._plans))
        warm = max(1, int(options.warm_up * steps))
        # Down to a hundredth: an epoch at rate zero would teach nothing.
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: min((step + 1) / warm, max(0.01, (steps - step) / max(1, steps - warm)))
        )
        return optimizer, schedule

    def _log(self, line: dict[str, Any]) -> None:
        with (self._folder / LOG).open("ab") as log:
            log.write(msgspec.json.encode(line) + b"\n")


def label_counts(corpus: Corpus, recipe: Recipe) -> dict[str, list[int]]:
    """How often each label stands in the corpus, by head of kind label or span."""
    found: dict[str, Counter[int]] = {
        head.name: Counter() for head in recipe.heads if head.kind in ("label", "span")
    }
    for target in corpus.targets:
        for name, label in target.labels.items():
            found[name][label] += 1
        if target.judging:
            found[target.judging].update(span[2] for span in target.spans)
    return {
        name: [counts[number] for number in range(len(recipe.head(name).labels))] for name, counts in found.items()
    }


def another_recipe(path: Path) -> TrainingError:
    """That a checkpoint cannot be gone on from."""
    return TrainingError(
        f"{path} is the checkpoint of another recipe, or of another release; give back what made it, or remove "
        f"{path.parent} to begin anew."
    )


def fingerprint(recipe: Recipe, start: str = "") -> str:
    """What a checkpoint must have been made by: all of a recipe that training asks about.

    `start` is the identity of the bundle that training starts with, which may have changed under the same name.
    """
    heads = tuple(
        msgspec.structs.replace(head, streams=(), precision=0.0, none="", ngrams=0) for head in recipe.heads
    )
    training = msgspec.structs.replace(recipe.training, patience=1, refit_epochs=0)
    kept = msgspec.structs.replace(
        recipe, heads=heads, training=training, limits=(), languages=(), ships=False, benchmark=None
    )
    return hashlib.sha256(msgspec.json.encode(kept) + start.encode()).hexdigest()
