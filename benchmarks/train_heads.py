"""Training heads: the original's loop and `TrainingRun`, on the same batches from the same weights.

The original's loop: a data set that is asked for one pair at a time, a DataLoader that puts them
together, for the CNN each pseudo-image folded, enlarged and scaled as it is asked for; AdamW;
symmetric cross-entropy. Dropout is off, so that the losses of both can be compared step by step.
Also printed: which share of an epoch of ours is not arithmetic, against the same steps on one batch
that is ready; and, for the MLP, which share is matrix products alone. Those are the same in either
way, in the same library, so the original's seconds by the products' seconds is the most that any
ratio can come to on the machine: where MKL's products run at the processor's rate (200 GFLOP/s of
float32 on two cores of an AMD EPYC with AVX-512), that was 1.5.

    python -m benchmarks.train_heads mlp --rounds 5
    python -m benchmarks.train_heads cnn --clips 64 --batch-size 32 --rounds 3
    python -m benchmarks.train_heads cnn --clips 64 --batch-size 32 --rounds 3 --precision bfloat16
"""

from __future__ import annotations

import argparse
import copy
import math
import statistics
import time

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

from benchmarks.interleaved import compare
from e2i.clips import ClipKey
from e2i.heads.build import build_heads
from e2i.heads.config import HeadsConfig
from e2i.losses import contrastive_loss
from e2i.training import epochs
from e2i.training.config import TrainingConfig
from e2i.training.epochs import Parts, TrainingRun
from e2i.training.pairs import Pairs

DIM = 768
TEMPERATURE = 0.07


class PairDataset(Dataset):
    """One pair at a time, as the original asked for them."""

    def __init__(self, pairs: Pairs, order: list[int], size: int | None) -> None:
        self._audio, self._text = torch.from_numpy(pairs.audio), torch.from_numpy(pairs.text)
        self._clip, self._order, self._size = pairs.pair_clip.tolist(), order, size

    def __len__(self) -> int:
        return len(self._order)

    def __getitem__(self, position: int) -> tuple[Tensor, Tensor]:
        pair = self._order[position]
        audio = self._audio[self._clip[pair]]
        return (audio if self._size is None else pseudo_image(audio, self._size)), self._text[pair]


def pseudo_image(embedding: Tensor, size: int) -> Tensor:
    """(768,) to (3, size, size) in [-1, 1], rounded to 8 bits as those of e2i are."""
    folded = embedding.double().view(1, 3, 16, 16)
    image = functional.interpolate(folded, size=(size, size), mode="nearest")[0]
    low, high = image.amin(dim=(1, 2), keepdim=True), image.amax(dim=(1, 2), keepdim=True)
    levels = ((image - low) / (high - low) * 255).round()
    return (levels.float() - 127.5) / 127.5


class OriginalCNN(nn.Module):
    """The original's layers as torch's own modules, with the weights of ours."""

    def __init__(self, ours: nn.Module) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for number, stage in enumerate(ours.stages):
            for convolution, norm in (
                (stage.first, stage.first_norm),
                (stage.second, stage.second_norm),
            ):
                out_channels, in_channels = convolution.weight.shape[:2]
                conv = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)
                conv.weight.data.copy_(convolution.weight)
                layers += [conv, nn.BatchNorm2d(out_channels, eps=1e-5), nn.GELU()]
                assert torch.equal(norm.weight, layers[-2].weight)
            if number < len(ours.stages) - 1:
                layers.append(nn.MaxPool2d(2))
        self.convolutions = nn.Sequential(*layers)
        self.mlp = original_mlp(ours.mlp)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, S, S) to (B, P)."""
        return self.mlp(self.convolutions(images).mean(dim=(2, 3)))


def original_mlp(ours: nn.Module) -> nn.Sequential:
    """The original's layers as torch's own modules, with the weights of ours."""
    layers = [nn.Linear(*ours.hidden.weight.shape[::-1]), nn.ReLU(), nn.Dropout(0.0)]
    layers.append(nn.Linear(*ours.out.weight.shape[::-1]))
    for layer, source in ((layers[0], ours.hidden), (layers[3], ours.out)):
        layer.weight.data.copy_(source.weight)
        layer.bias.data.copy_(source.bias)
    return nn.Sequential(*layers)


class Original:
    """The original's loop over one epoch."""

    def __init__(self, run: TrainingRun, heads: HeadsConfig, pairs: Pairs) -> None:
        self._heads, self._pairs = heads, pairs
        model = copy.deepcopy(run._model)
        vision = heads.input_type == "vision"
        self.audio = OriginalCNN(model.audio) if vision else original_mlp(model.audio)
        self.text = original_mlp(model.text)
        self.size = heads.vision_image_size if vision else None
        parameters = [*self.audio.parameters(), *self.text.parameters()]
        self.optimizer = torch.optim.AdamW(
            parameters, lr=run.config.lr, weight_decay=run.config.weight_decay
        )

    def epoch(self, plan: epochs.EpochPlan) -> list[float]:
        """Losses by step."""
        ends = np.cumsum(plan.sizes)
        batches = [list(range(end - size, end)) for end, size in zip(ends, plan.sizes, strict=True)]
        data = PairDataset(self._pairs, plan.order.tolist(), self.size)
        losses = []
        for images, captions in DataLoader(data, batch_sampler=batches):
            audio = functional.normalize(self.audio(images), dim=-1)
            text = functional.normalize(self.text(captions), dim=-1)
            logits = audio @ text.T / TEMPERATURE
            labels = torch.arange(len(logits))
            loss = (
                functional.cross_entropy(logits, labels)
                + functional.cross_entropy(logits.T, labels)
            ) / 2
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            losses.append(loss.item())
        return losses


def make_pairs(clips: int, captions: int, seed: int) -> Pairs:
    """Random unit embeddings, `captions` a clip."""
    random = np.random.default_rng(seed)

    def unit(rows: int) -> np.ndarray:
        values = random.standard_normal((rows, DIM)).astype(np.float32)
        return values / np.linalg.norm(values, axis=1, keepdims=True)

    keys = tuple(ClipKey("random", str(seed), f"{clip}.wav") for clip in range(clips))
    clip = np.repeat(np.arange(clips), captions)
    return Pairs(keys, unit(clips), unit(clips * captions), clip)


def bare_steps(run: TrainingRun, batch_size: int, steps: int) -> float:
    """Seconds a step on one batch that is ready: what no loop can do without.

    The mean, as a whole epoch has slow steps in it too.
    """
    model, pairs = run._model, run._pairs
    rows = min(batch_size, len(pairs.audio))
    audio, text = pairs.audio[:rows].clone(), pairs.text[:rows].clone()
    times = []
    for _ in range(steps):
        started = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=run.config.precision == "bfloat16"):
            projections = (
                model.project_audio(audio, run._dropout),
                model.project_text(text, run._dropout),
            )
        loss = contrastive_loss(*projections, None, model.logit_scale)
        run._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        run._optimizer.step()
        times.append(time.perf_counter() - started)
    return statistics.mean(times)


def bare_products(run: TrainingRun, batch_size: int, steps: int) -> float:
    """Seconds a step of the MLPs' and the logits' matrix products alone, forward and backward."""
    model, pairs = run._model, run._pairs
    rows = min(batch_size, len(pairs.audio))
    times = []
    with torch.no_grad():
        for _ in range(steps):
            started = time.perf_counter()
            for head, inputs in (
                (model.audio, pairs.audio[:rows]),
                (model.text, pairs.text[:rows]),
            ):
                hidden = functional.linear(inputs, head.hidden.weight, head.hidden.bias)
                out = functional.linear(hidden, head.out.weight, head.out.bias)
                _ = out.T @ hidden, out @ head.out.weight, hidden.T @ inputs
            logits = out @ out.T
            _ = logits @ out, logits.T @ out
            times.append(time.perf_counter() - started)
    return statistics.mean(times)


def main() -> None:
    """Print seconds an epoch of both, the ratio, the difference of losses, and the overhead."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("head", choices=["mlp", "cnn"])
    parser.add_argument("--clips", type=int, default=3839)
    parser.add_argument("--captions", type=int, default=5)
    parser.add_argument("--batch-size", type=int, default=512)
    parser.add_argument("--image-size", type=int, default=128)
    parser.add_argument("--precision", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    heads = HeadsConfig(
        input_type="vision" if options.head == "cnn" else "embedding",
        dropout=0.0,
        vision_image_size=options.image_size,
        vision_image_source="generated",
    )
    training = TrainingConfig(
        epochs=100_000, batch_size=options.batch_size, device="cpu", precision=options.precision
    )
    captions = options.captions if options.head == "mlp" else 1
    pairs, held = make_pairs(options.clips, captions, 1), make_pairs(20, 1, 2)
    model = build_heads(heads, DIM, DIM, seed=13)
    run = TrainingRun(model, Parts(pairs, held, held), heads, training, torch.device("cpu"))
    original = Original(run, heads, pairs)
    our_losses: list[float] = []

    def recorded(*arguments: Tensor) -> Tensor:
        loss = contrastive_loss(*arguments)
        our_losses.append(float(loss.detach()))
        return loss

    order = run._order.get_state()
    plan = run._batches.epoch(run._order)
    run._order.set_state(order)
    epochs.contrastive_loss = recorded
    lrs = [training.lr] * len(plan.sizes)
    run._pass(run._batches.epoch(run._order), lrs)
    epochs.contrastive_loss = contrastive_loss
    their_losses = original.epoch(plan)
    difference = max(abs(a - b) for a, b in zip(their_losses, our_losses, strict=True))
    their_s, our_s, ratio = compare(
        lambda: original.epoch(plan),
        lambda: run._pass(run._batches.epoch(run._order), lrs),
        options.rounds,
    )
    bare, whole, products = [], [], []
    for _ in range(options.rounds):
        if options.head == "mlp":
            products.append(bare_products(run, options.batch_size, len(lrs)) * len(lrs))
        bare.append(bare_steps(run, options.batch_size, len(lrs)))
        started = time.perf_counter()
        run._pass(run._batches.epoch(run._order), lrs)
        whole.append((time.perf_counter() - started) / len(lrs))
    share = statistics.median(1 - b / w for b, w in zip(bare, whole, strict=True))
    rate = len(pairs.pair_clip)
    print(
        f"{options.head}, {rate} pairs, batch {options.batch_size}, {options.precision}, "
        f"{options.threads} threads, {options.rounds} rounds"
    )
    print(f"original: {their_s:.3f} s an epoch, {rate / their_s:,.1f} pairs/s")
    print(f"e2i:      {our_s:.3f} s an epoch, {rate / our_s:,.1f} pairs/s")
    print(f"ratio:    {ratio:.2f}")
    print(f"largest difference of losses, step by step: {difference:.1e}")
    print(f"outside of the arithmetic: {100 * share:.1f} % of an epoch")
    say_products(products, their_s, our_s)
    assert math.isfinite(difference)


def say_products(products: list[float], their_s: float, our_s: float) -> None:
    """Print what the products bound, of seconds an epoch, where they were measured."""
    if products:
        products_s = statistics.median(products)
        print(
            f"matrix products alone: {products_s:.3f} s, {100 * products_s / our_s:.0f} % of an "
            f"epoch of ours; a ratio of {their_s / products_s:.2f} is the most there can be"
        )


if __name__ == "__main__":
    main()
