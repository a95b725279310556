"""The table: each option of the original that is there, and how it shows."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from option_outcomes import NUM_CLIPS, NUM_OTHERS, PUBLISHED, SMALL_ARCHS, Ran, Words
from pydantic import SecretStr

Proof = Callable[[Ran, Ran], bool]


class Row(NamedTuple):
    """One option of one command.

    Attributes:
        command: as typed.
        option: as typed.
        typed: its value on the command line; None for a flag.
        field: where it is in the parameters.
        resolved: what it has to be there.
        proof: whether the outcomes without it and with it differ as they should.
        given: words that either call needs beside the base.
        otherwise: what the call without it is given in its place, where a default cannot run.
        again: each call comes after one that did the same.
        json: whether `--json` is given.
        neutral: whether the outcome is to be the same.
    """

    command: str
    option: str
    typed: str | None
    field: str
    resolved: object
    proof: Proof
    given: Words = {}  # noqa: RUF012 - never changed
    otherwise: str | None = None
    again: bool = False
    json: bool = True
    neutral: bool = False


def differs(what: Callable[[Ran], object]) -> Proof:
    """Both are there, and are not the same."""
    return lambda before, after: what(before) != what(after)


def becomes(what: Callable[[Ran], object], before_is: object, after_is: object) -> Proof:
    """What is seen, before and after."""
    return lambda before, after: (what(before), what(after)) == (before_is, after_is)


def refused(*words: str) -> Proof:
    """It runs without, and is refused with it, in these words."""
    return lambda before, after: (
        before.code == 0 < after.code and all(word in after.refusal for word in words)
    )


def audio_of(run: Ran) -> bytes:
    return run.cache.audio.tobytes()


def arch_of(run: Ran) -> object:
    header = json.loads((run.folder / "cache" / "cache.json").read_text())
    return header["audio"]["settings"]["audio_arch"]


def text_of(run: Ran) -> bytes:
    return run.cache.text.tobytes()


def weights_of(run: Ran) -> dict[str, bytes]:
    return {name: weight.tobytes() for name, weight in run.weights.items()}


def loss_of(run: Ran) -> float:
    return run.checkpoint.record.history[0].train_loss


def shape_of(name: str) -> Callable[[Ran], object]:
    return lambda run: run.weights[name].shape


def image_sides(run: Ran) -> set[int]:
    return {pixels.shape[-1] for pixels in run.images().values()}


def equal_channels(run: Ran) -> bool:
    return all((pixels == pixels[:1]).all() for pixels in run.images().values())


def pixels_of(run: Ran) -> dict[str, bytes]:
    return {name: pixels.tobytes() for name, pixels in run.images().items()}


def interpolated(before: Ran, after: Ran) -> bool:
    """Nearest keeps the folded values; bilinear puts others between them."""

    def values(pixels: NDArray[np.uint8]) -> int:
        return len(np.unique(pixels))

    pairs = zip(before.images().values(), after.images().values(), strict=True)
    return all(values(nearest) < values(smooth) for nearest, smooth in pairs)


def logged(folder: str, name: str) -> Callable[[Ran], bool]:
    return lambda run: (
        run.code == 0 and any(re.fullmatch(rf"{folder}/{name}\.jsonl", file) for file in run.files)
    )


def image_rows(command: str, given: Words, clip: str) -> list[Row]:
    """The options of pseudo-images, which two commands have."""
    no_images_there = "cache/pseudo_images/sheet.png"
    return [
        Row(command, "--image-size", "48", "images.image_size", 48,
            becomes(image_sides, {128}, {48}), given),
        Row(command, "--image-mode", "bilinear", "images.image_mode", "bilinear",
            interpolated, given),
        Row(command, "--image-channel-mode", "replicate", "images.image_channel_mode", "replicate",
            becomes(equal_channels, False, True), given),
        Row(command, "--images-dir", "drawn", "images.images_dir", "drawn",
            lambda before, after: bool(before.images() and after.images("drawn"))
            and no_images_there not in after.files, given),
        Row(command, clip, None, "images.clip_values", True, differs(pixels_of), given),
    ]  # fmt: skip


def hub_rows(command: str, given: Words) -> list[Row]:
    """The options of the Hub, which two commands have."""
    mirrored: Words = {**given, "--hf-dataset": "{repo}"}
    return [
        Row(command, "--hf-dataset", "{repo}", "hub.hf_dataset", "{repo}",
            lambda before, after: not before.mirrored and "README.md" in after.mirrored, given),
        Row(command, "--hf-prefix", "runs/dev", "hub.hf_prefix", "runs/dev",
            becomes(lambda run: {f.startswith("runs/dev/") for f in run.mirrored - {"README.md"}},
                    {False}, {True}), mirrored),
        Row(command, "--hf-token", "hf_typed", "hub.hf_token", SecretStr("hf_typed"),
            becomes(lambda run: run.asked_as, {None}, {"Bearer hf_typed"}), mirrored),
        Row(command, "--upload-every", "1", "hub.upload_every", 1,
            lambda before, after: before.counts["hub_commits"] == 1 < after.counts["hub_commits"]
            and before.mirrored == after.mirrored, mirrored),
    ]  # fmt: skip


E_ = "cache-embeddings"
EMBEDDINGS = [
    Row(E_, "--metadata", "{world}/clips.json", "source.metadata", "{world}/clips.json",
        becomes(lambda run: run.counts["clips"], NUM_OTHERS, NUM_CLIPS),
        otherwise="{world}/others.json"),
    Row(E_, "--cache-dir", "{run}/elsewhere", "cache_dir", "{run}/elsewhere",
        becomes(lambda run: "elsewhere/manifest.json" in run.files, False, True),
        otherwise="{run}/cache"),
    Row(E_, "--audio-arch", "passt_l_kd_p16_128_ap47", "encoders.audio_arch",
        "passt_l_kd_p16_128_ap47",
        lambda before, after: (arch_of(before), arch_of(after)) == tuple(PUBLISHED)
        and audio_of(before) != audio_of(after),
        {"--audio-encoder": "passt", "--weights-dir": "{world}/weights"}, otherwise=PUBLISHED[0]),
    Row(E_, "--text-model", "{world}/roberta", "encoders.text_model", "{world}/roberta",
        lambda before, after: before.cache.text.shape == after.cache.text.shape
        and text_of(before) != text_of(after),
        given={"--text-encoder": "hf", "--device": "cpu"}, otherwise="{world}/another roberta"),
    # Neither changes an embedding, and the encoders without weights take no heed of them.
    Row(E_, "--batch-size", "1", "encoders.batch_size", 1,
        lambda before, after: audio_of(before) == audio_of(after), neutral=True),
    Row(E_, "--device", "cpu", "encoders.device", "cpu",
        lambda before, after: audio_of(before) == audio_of(after), neutral=True),
    Row(E_, "--id-key", "name", "source.id_key", "name",
        becomes(lambda run: run.cache.clip_ids[1], "id 1", "name 1")),
    Row(E_, "--audio-key", "file", "source.audio_key", "file",
        lambda before, after: np.array_equal(
            np.roll(before.cache.audio, 1, axis=0), after.cache.audio)),
    Row(E_, "--text-key", "words", "source.text_key", "words",
        becomes(lambda run: run.cache.captions[0], "hum 0", "buzz 0")),
    Row(E_, "--sample-rate-key", "rate", "source.sample_rate_key", "rate",
        refused("'rate'", "the string 'fast'", "expected a sample rate in Hz")),
    Row(E_, "--force", None, "cache.force", True,
        becomes(lambda run: (run.counts["embedded"], run.counts["reused"]),
                (0, NUM_OTHERS), (NUM_OTHERS, 0)), again=True),
    Row(E_, "--no-progress", None, "no_progress", True,
        lambda before, after: "embed " in before.said.err and after.said.err == "", json=False),
    Row(E_, "--with-images", None, "with_images", True,
        becomes(lambda run: len(run.images()), 0, 3 * NUM_OTHERS)),
    *image_rows(E_, {"--with-images": None}, "--clip-images"),
    *hub_rows(E_, {"--chunk-size": "2"}),
]  # fmt: skip

I_ = "cache-images"
IMAGE_FILES = [
    Row(I_, "--cache-dir", "{run}/clips", "cache_dir", "{run}/clips",
        becomes(lambda run: run.counts["images_rendered"], 3 * NUM_OTHERS, 3 * NUM_CLIPS),
        otherwise="{run}/cache"),
    *image_rows(I_, {}, "--clip-values"),
    *hub_rows(I_, {}),
    Row(I_, "--include-embeddings", None, "include_embeddings", True,
        becomes(lambda run: {"manifest.json", "audio_embeddings.pt"} & run.mirrored,
                set(), {"manifest.json", "audio_embeddings.pt"}), {"--hf-dataset": "{repo}"}),
]  # fmt: skip

D_ = "download-embeddings"


def num_clips(run: Ran) -> int:
    return run.counts["clips"]


DOWNLOADS = [
    Row(D_, "--cache-dir", "{run}/others", "cache_dir", "{run}/others",
        becomes(num_clips, NUM_CLIPS, NUM_OTHERS), otherwise="{run}/clips"),
    Row(D_, "--repo-id", "me/kept", "repo_id", "me/kept",
        becomes(num_clips, NUM_CLIPS, NUM_OTHERS), otherwise="file://{world}/embeddings"),
    Row(D_, "--subset", "others", "subset", "others", becomes(num_clips, NUM_CLIPS, NUM_OTHERS)),
    Row(D_, "--revision", "first", "revision", "first",
        becomes(num_clips, NUM_OTHERS, NUM_CLIPS), {"--repo-id": "me/kept"}),
    Row(D_, "--force", None, "force", True,
        lambda before, after: (before.code, after.code) == (1, 0) and num_clips(after) == NUM_CLIPS,
        {"--cache-dir": "{run}/held", "--subset": "clips"}),
    Row(D_, "--print-stats", None, "print_stats", True,
        becomes(lambda run: "statistics" in run.summary["details"], False, True)),
]  # fmt: skip

T_ = "train-projection"
CNN: Words = {
    "--input-type": "vision",
    "--vision-base-channels": "2",
    "--vision-hidden-dim": "8",
    "--vision-image-size": "native",
}


def train(option: str, typed: str | None, field: str, resolved: object, proof: Proof, **other):
    return Row(T_, option, typed, f"training.{field}", resolved, proof, **other)


def head(option: str, typed: str | None, resolved: object, proof: Proof, **other):
    field = option.removeprefix("--").replace("-", "_")
    return Row(T_, option, typed, f"heads.{field}", resolved, proof, **other)


def smaller_weights(before: Ran, after: Ran) -> bool:
    name = "text.hidden.weight"
    return bool(np.linalg.norm(after.weights[name]) < np.linalg.norm(before.weights[name]))


def cut_note(run: Ran) -> bool:
    return any("batch size is cut from 256" in note for note in run.summary["notes"])


TRAINING = [
    Row(T_, "--cache-dir", "{world}/embeddings/others", "cache_dir",
        ("{world}/embeddings/others",),
        becomes(lambda run: run.counts["clips"], NUM_CLIPS, NUM_OTHERS),
        otherwise="{world}/embeddings/clips"),
    Row(T_, "--output-dir", "{run}/mine", "output_dir", "{run}/mine",
        becomes(lambda run: {f for f in run.files if f.endswith(".safetensors")},
                {"checkpoints/projection_heads.safetensors"},
                {"mine/projection_heads.safetensors"})),
    train("--epochs", "2", "epochs", 2,
          becomes(lambda run: len(run.checkpoint.record.history), 10, 2)),
    train("--batch-size", "4", "batch_size", 4, becomes(cut_note, True, False)),
    train("--lr", "1e-2", "lr", 1e-2,
          becomes(lambda run: run.checkpoint.record.history[0].lr, 5e-4, 1e-2)),
    train("--weight-decay", "10", "weight_decay", 10.0, smaller_weights),
    head("--hidden-dim", "16", 16,
         becomes(shape_of("text.hidden.weight"), (512, 1024), (16, 1024))),
    head("--out-dim", "3", 3, becomes(shape_of("text.out.weight"), (256, 8), (3, 8))),
    head("--activation", "gelu", "gelu", differs(loss_of)),
    head("--dropout", "0.9", 0.9, differs(loss_of)),
    train("--temperature", "0.5", "temperature", 0.5,
          lambda before, after: np.allclose(
              [np.exp(-run.weights["logit_scale"]) for run in (before, after)], [0.07, 0.5])),
    train("--val-fraction", "0.5", "val_fraction", 0.5,
          # A clip held out for the smaller share is held out for the larger one.
          lambda before, after: set(before.checkpoint.clips.validation)
          < set(after.checkpoint.clips.validation)),
    train("--seed", "14", "seed", 14, lambda before, after: weights_of(before) != weights_of(after)
          and before.checkpoint.clips != after.checkpoint.clips),
    train("--device", "cuda:99", "device", "cuda:99", refused("device", "'cuda:99'")),
    head("--input-type", "vision", "vision", becomes(
        lambda run: any(weight.ndim == 4 for weight in run.weights.values()), False, True),
        given=CNN),
    Row(T_, "--log-dir", "{run}/mine", "tracking.log_dir", "{run}/mine",
        becomes(logged("mine/train", ".*"), False, True)),
    Row(T_, "--run-name", "mine", "tracking.run_name", "mine",
        lambda before, after: logged("logs/train", r"\d{8}-\d{6}-[0-9a-f]{8}")(before)
        and logged("logs/train", "mine")(after)),
    head("--vision-base-channels", "3", 3, becomes(
        lambda run: min(w.shape[0] for w in run.weights.values() if w.ndim == 4), 2, 3),
        given=CNN, otherwise="2"),
    head("--vision-hidden-dim", "9", 9, becomes(
        lambda run: run.weights["audio.mlp.hidden.weight"].shape[0], 512, 9), given=CNN),
    head("--vision-image-source", "disk", "disk", refused("pseudo_images/audio"), given=CNN),
    head("--vision-image-dir", "drawn/audio", "drawn/audio",
         lambda before, after: before.code == 1 and after.code == 0,
         given={**CNN, "--vision-image-source": "disk"}),
    head("--vision-image-size", "40", 40, differs(loss_of), given=CNN, otherwise="native"),
    head("--vision-image-mode", "bilinear", "bilinear", differs(loss_of),
         given={**CNN, "--vision-image-size": "24"}),
    head("--vision-image-channel-mode", "replicate", "replicate", differs(loss_of), given=CNN),
    head("--vision-clip-images", None, True, differs(loss_of), given=CNN),
]  # fmt: skip

S_ = "eval-projection"
OTHER_CHECKPOINT = "{world}/checkpoints/other/projection_heads.safetensors"


def same_scores(before: Ran, after: Ran) -> bool:
    return before.summary["metrics"] == after.summary["metrics"]


EVALUATION = [
    Row(S_, "--cache-dir", "{world}/embeddings/others", "cache_dir", "{world}/embeddings/others",
        becomes(lambda run: run.counts["clips"], NUM_CLIPS, NUM_OTHERS),
        otherwise="{world}/embeddings/clips"),
    Row(S_, "--checkpoint", OTHER_CHECKPOINT, "checkpoint", OTHER_CHECKPOINT,
        lambda before, after: not same_scores(before, after),
        otherwise="{world}/checkpoints/projection_heads.safetensors"),
    # They bound memory: the scores are the same, in more parts.
    Row(S_, "--batch-size", "5", "batch_size", 5, lambda before, after: same_scores(before, after)
        and (before.forward_passes, after.forward_passes) == (2, 3 + 5)),
    Row(S_, "--sim-batch-size", "5", "evaluation.sim_batch_size", 5,
        lambda before, after: same_scores(before, after)
        and (before.blocks, after.blocks) == (2, 3 + 5)),
    Row(S_, "--device", "cuda:99", "device", "cuda:99", refused("device", "'cuda:99'")),
    Row(S_, "--log-dir", "{run}/mine", "tracking.log_dir", "{run}/mine",
        becomes(logged("mine/eval", ".*"), False, True)),
    Row(S_, "--run-name", "mine", "tracking.run_name", "mine",
        lambda before, after: logged("logs/eval", r"\d{8}-\d{6}-[0-9a-f]{8}")(before)
        and logged("logs/eval", "mine")(after)),
]  # fmt: skip

F_ = "finetune"
FINETUNED_CNN: Words = {
    "--model-type": "vision",
    "--vision-base-channels": "2",
    "--vision-hidden-dim": "8",
    "--vision-image-size": "native",
}


def tuned(option: str, typed: str | None, resolved: object, proof: Proof, **other):
    field = option.removeprefix("--").replace("-", "_")
    return Row(F_, option, typed, f"finetuning.{field}", resolved, proof, **other)


def first_lr(run: Ran) -> float:
    return run.checkpoint.record.history[0].lr


def blocks_of(run: Ran) -> int:
    return len({name.split(".")[2] for name in run.tensors if name.startswith("audio.blocks.")})


def chosen(run: Ran) -> set[str]:
    return {note.split("chosen by ")[1] for note in run.summary["notes"] if "chosen by" in note}


FINE_TUNING = [
    Row(F_, "--metadata", "{world}/clips.json", "source.metadata", "{world}/clips.json",
        becomes(num_clips, NUM_OTHERS, NUM_CLIPS), otherwise="{world}/others.json"),
    Row(F_, "--output-dir", "{run}/mine", "output_dir", "{run}/mine",
        becomes(lambda run: {f for f in run.files if f.endswith(".safetensors")},
                {"checkpoints/finetune_baseline.safetensors",
                 "checkpoints/finetune_baseline_last.safetensors"},
                {"mine/finetune_baseline.safetensors",
                 "mine/finetune_baseline_last.safetensors"})),
    Row(F_, "--log-dir", "{run}/mine", "tracking.log_dir", "{run}/mine",
        becomes(logged("mine/finetune", ".*"), False, True)),
    Row(F_, "--run-name", "mine", "tracking.run_name", "mine",
        lambda before, after: logged("logs/finetune", r"\d{8}-\d{6}-[0-9a-f]{8}")(before)
        and logged("logs/finetune", "mine")(after)),
    tuned("--model-type", "vision", "vision", becomes(
        lambda run: any(weight.ndim == 4 for weight in run.weights.values()), False, True),
        given={o: v for o, v in FINETUNED_CNN.items() if o != "--model-type"}),
    tuned("--audio-arch", SMALL_ARCHS[1], SMALL_ARCHS[1], becomes(blocks_of, 1, 2),
          otherwise=SMALL_ARCHS[0]),
    tuned("--text-model", "{world}/another roberta", "{world}/another roberta", differs(loss_of),
          otherwise="{world}/roberta"),
    tuned("--projection-dim", "3", 3, becomes(shape_of("text.out.weight"), (1024, 8), (3, 8)),
          given={"--hidden-dim": "8"}),
    tuned("--hidden-dim", "9", 9, becomes(shape_of("text.hidden.weight"), (1024, 32), (9, 32))),
    tuned("--dropout", "0.9", 0.9, differs(loss_of)),
    tuned("--sample-rate", "16000", 16000, refused("sample_rate", "got 16000", "expected 32000")),
    tuned("--max-audio-seconds", "0.22", 0.22, differs(loss_of), given={"--freeze": "text"}),
    tuned("--max-text-length", "3", 3, differs(loss_of)),
    tuned("--batch-size", "2", 2, becomes(
        lambda run: any("batch size is cut from 32" in note for note in run.summary["notes"]),
        True, False), otherwise="32"),
    tuned("--epochs", "2", 2, becomes(lambda run: len(run.checkpoint.record.history), 1, 2),
          otherwise="1"),
    tuned("--warmup-epochs", "0", 0, differs(first_lr)),
    tuned("--max-lr", "1e-3", 1e-3, differs(first_lr)),
    tuned("--min-lr", "1e-6", 1e-6, differs(first_lr)),
    tuned("--weight-decay", "10", 10.0, smaller_weights, given={"--max-lr": "1e-2"}),
    tuned("--grad-clip-norm", "1e-9", 1e-9, differs(weights_of), given={"--max-lr": "1e-2"}),
    tuned("--val-fraction", "0.5", 0.5,
          lambda before, after: set(before.checkpoint.clips.validation)
          < set(after.checkpoint.clips.validation)),
    tuned("--num-workers", "1", 1,
          lambda before, after: weights_of(before) == weights_of(after), neutral=True),
    tuned("--seed", "14", 14, lambda before, after: weights_of(before) != weights_of(after)),
    tuned("--selection-metric", "val_loss", "val_loss",
          lambda before, after: {c.split(" ")[0] for c in chosen(after)} == {"val_loss"}
          != {c.split(" ")[0] for c in chosen(before)}),
    # It can only say what the metric says by itself; anything else is refused.
    tuned("--metric-mode", "max", "max",
          lambda before, after: weights_of(before) == weights_of(after), neutral=True),
    tuned("--vision-image-size", "40", 40, differs(loss_of), given=FINETUNED_CNN,
          otherwise="native"),
    tuned("--vision-image-mode", "bilinear", "bilinear", differs(loss_of),
          given={**FINETUNED_CNN, "--vision-image-size": "24"}),
]  # fmt: skip

TABLE = [*EMBEDDINGS, *IMAGE_FILES, *DOWNLOADS, *TRAINING, *EVALUATION, *FINE_TUNING]
