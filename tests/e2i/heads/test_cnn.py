"""CNN heads: architecture, any side, batch statistics, standardization; nothing global moves."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

import e2i
from e2i.errors import CheckpointError, ImageError
from e2i.heads.build import build_heads, seeded_generator
from e2i.heads.checkpoint import (
    Checkpoint,
    CheckpointRecord,
    EpochSummary,
    checkpoint_bytes,
    checkpoint_from_bytes,
)
from e2i.heads.clip_roles import ClipRoles
from e2i.heads.cnn import (
    CNNHead,
    Stage,
    UnsetBatchNorm,
    UnsetConvolution,
    _plain_float32,
    fold_embeddings,
)
from e2i.heads.config import HeadsConfig
from e2i.images.config import ImagesConfig
from e2i.images.fold import encode_tensor
from e2i.images.standardization import Standardization
from e2i.training.config import TrainingConfig

CPU = torch.device("cpu")
SMALL = HeadsConfig(
    input_type="vision",
    out_dim=8,
    vision_base_channels=2,
    vision_hidden_dim=16,
    vision_image_size="native",
)


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Images this small gain nothing from threads, and lose much on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def vision(**changes: object) -> HeadsConfig:
    return HeadsConfig.model_validate({**SMALL.model_dump(), **changes})


def head(config: HeadsConfig = SMALL, dim: int = 48, seed: int = 0) -> CNNHead:
    return CNNHead(config, dim, CPU).reset(seeded_generator(seed, "test"))


def embeddings(count: int, dim: int = 48, seed: int = 0) -> Tensor:
    return torch.randn((count, dim), generator=seeded_generator(seed, "embeddings"))


def trained(config: HeadsConfig = SMALL, dim: int = 48) -> CNNHead:
    """A head whose running statistics have moved."""
    made = head(config, dim)
    rows = embeddings(32, dim)
    made.standardize_by(Standardization.of((rows).numpy()))
    with torch.no_grad():
        made(rows, seeded_generator(0, "dropout"))
    return made


# -- configuration --------------------------------------------------------------------------------


def test_options_say_how_images_are_folded():
    config = HeadsConfig(
        vision_image_dir="a/b/audio",
        vision_image_size=32,
        vision_image_mode="bilinear",
        vision_image_channel_mode="replicate",
        vision_clip_images=True,
    )
    assert config.images() == ImagesConfig(
        image_size=32,
        image_mode="bilinear",
        image_channel_mode="replicate",
        images_dir="a/b",
        clip_values=True,
    )
    assert HeadsConfig().images() == ImagesConfig()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("input_type", "image"),
        ("vision_base_channels", 0),
        ("vision_hidden_dim", 0),
        ("vision_image_source", "memory"),
        ("vision_image_size", 0),
        ("vision_image_size", 4097),
        ("vision_image_size", "small"),
        ("vision_image_mode", "cubic"),
        ("vision_image_channel_mode", "gray"),
    ],
)
def test_out_of_bounds_is_refused(field, value):
    with pytest.raises(ValidationError, match=field):
        vision(**{field: value})


@pytest.mark.parametrize("folder", ["pseudo_images", "pseudo_images/text", "audio", ""])
def test_images_of_clips_lie_in_a_folder_named_audio(folder):
    with pytest.raises(ValidationError) as caught:
        vision(vision_image_dir=folder)
    assert (
        f"the CNN sees the pseudo-images of clips: got {folder!r}, expected a folder that ends "
        "with '/audio'. Give the --images-dir of cache-images and that."
    ) in str(caught.value)


@pytest.mark.parametrize("folder", ["../other/audio", "/etc/audio", "audio/audio", "a b/audio"])
def test_images_lie_below_the_cache(folder):
    with pytest.raises(ValidationError, match="the folder of the pseudo-images is not a plain nam"):
        vision(vision_image_dir=folder)


def test_on_cuda_convolutions_are_plain_float32():
    before = torch.backends.cudnn.allow_tf32
    with _plain_float32(torch.device("cuda")):
        assert not torch.backends.cudnn.allow_tf32
    assert torch.backends.cudnn.allow_tf32 == before


# -- architecture ---------------------------------------------------------------------------------


def reference(made: CNNHead) -> nn.Sequential:
    """The same network of torch's own layers, for images of any size, in evaluation mode."""
    layers: list[nn.Module] = []
    for index, stage in enumerate(made.stages):
        assert isinstance(stage, Stage)
        for convolution, norm in (
            (stage.first, stage.first_norm),
            (stage.second, stage.second_norm),
        ):
            wide, narrow = convolution.weight.shape[:2]
            plain = nn.Conv2d(narrow, wide, 3, padding=1, bias=False)
            plain.load_state_dict(convolution.state_dict())
            batch_norm = nn.BatchNorm2d(wide)
            batch_norm.load_state_dict(
                {
                    "weight": norm.weight,
                    "bias": norm.bias,
                    "running_mean": norm.mean,
                    "running_var": norm.variance,
                    "num_batches_tracked": torch.tensor(1),
                }
            )
            layers += [plain, batch_norm, nn.GELU()]
        if index < 4:
            layers.append(nn.MaxPool2d(2))
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*layers).eval()


def test_is_the_originals_network():
    made = trained(vision(vision_image_size=32, vision_base_channels=4))
    assert [stage.second.weight.shape[0] for stage in made.stages] == [4, 8, 16, 32, 64]
    rows = embeddings(6, seed=1)
    pixels = fold_embeddings(rows, made._config)
    expected = made.mlp(reference(made)(pixels.float() / 127.5 - 1))
    torch.testing.assert_close(made(pixels), expected, rtol=1e-5, atol=1e-6)


def test_default_stages_have_the_originals_channels():
    made = CNNHead(HeadsConfig(input_type="vision"), 768, torch.device("meta"))
    assert [stage.first.weight.shape[0] for stage in made.stages] == [32, 64, 128, 256, 512]
    assert made.mlp.hidden.weight.shape == (512, 512)
    assert made.mlp.out.weight.shape == (256, 512)


def test_the_hidden_layer_is_wide_as_vision_hidden_dim_says():
    made = CNNHead(vision(vision_hidden_dim=7, hidden_dim=99, out_dim=5), 48, CPU)
    assert made.mlp.hidden.weight.shape == (7, 32)
    assert made.mlp.out.weight.shape == (5, 7)


@pytest.mark.parametrize("dim", [1, 2, 3, 4, 12, 27, 48, 75, 300, 769])
@pytest.mark.parametrize("size", ["native", 1, 2, 3, 17])
def test_any_side_will_do(dim, size):
    made = head(vision(vision_image_size=size), dim)
    rows = embeddings(4, dim)
    for generator in (None, seeded_generator(0, "dropout")):
        assert made(rows, generator).shape == (4, 8)
        assert made(rows, generator).isfinite().all()


@pytest.mark.parametrize(
    ("side", "sides"),
    [
        (1, [1, 1, 1, 1, 1]),
        (5, [5, 3, 2, 1, 1]),
        (16, [16, 8, 4, 2, 1]),
        (17, [17, 9, 5, 3, 2]),
        (128, [128, 64, 32, 16, 8]),
    ],
)
def test_each_stage_halves_the_side_and_rounds_up(side, sides):
    made = head(vision(vision_image_size=side))
    seen = []
    for stage in made.stages:
        stage.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape[2:]))
    made(embeddings(1))
    assert seen == [(each, each) for each in sides]


def test_pixels_and_embeddings_give_the_same_bits():
    made = trained()
    rows = embeddings(9)
    assert torch.equal(made(rows), made(encode_tensor(rows, SMALL.images())))
    first, second = (
        made(inputs, seeded_generator(0, "dropout"))
        for inputs in (rows, fold_embeddings(rows, SMALL))
    )
    assert torch.equal(first, second)


def test_embeddings_that_are_not_finite_are_refused():
    with pytest.raises(ImageError, match="not finite"):
        head()(torch.full((1, 48), math.nan))


@pytest.mark.parametrize(
    "changes",
    [
        {"vision_image_channel_mode": "replicate"},
        {"vision_image_mode": "bilinear", "vision_image_size": 9},
        {"vision_clip_images": True},
        {"vision_image_size": 24},
    ],
)
def test_each_image_option_changes_the_projection(changes):
    rows = embeddings(3)
    assert not torch.equal(trained(vision(**changes))(rows), trained()(rows))


def test_weights_fill_the_range_that_torch_draws_from():
    made = UnsetConvolution(8, 64, CPU)
    made.reset(seeded_generator(0, "test"))
    bound = 1 / math.sqrt(72)
    weight = made.weight.detach()
    assert 0.99 * bound < weight.abs().max() <= bound
    assert float(weight.std()) == pytest.approx(bound / math.sqrt(3), rel=0.03)


# -- batch normalization --------------------------------------------------------------------------


def test_batch_statistics_are_torchs():
    """Its cumulative average (momentum None) for ten batches, its momentum of 0.1 from then on."""
    made, theirs = UnsetBatchNorm(3, CPU), nn.BatchNorm2d(3, momentum=None)
    made.reset()
    for step in range(13):
        if step == 10:
            theirs.momentum = 0.1
        rows = torch.randn((5, 3, 4, 4), generator=seeded_generator(step, "rows")) * 3 + step
        torch.testing.assert_close(made(rows, training=True), theirs(rows))
        torch.testing.assert_close(made.mean, theirs.running_mean)
        torch.testing.assert_close(made.variance, theirs.running_var)
    torch.testing.assert_close(made(rows, training=False), theirs.eval()(rows))


def test_running_statistics_move_in_training_alone():
    made = head()
    names = ("stages.0.first_norm.mean", "stages.4.second_norm.variance")
    before = {name: made.state_dict()[name].clone() for name in names}
    made(embeddings(8))
    assert all(torch.equal(before[name], made.state_dict()[name]) for name in names)
    made(embeddings(8), seeded_generator(0, "dropout"))
    assert not any(torch.equal(before[name], made.state_dict()[name]) for name in names)


def test_one_image_of_one_cell_can_be_trained_on():
    made = head(dim=3)
    with torch.no_grad():
        assert made(embeddings(1, 3), seeded_generator(0, "dropout")).isfinite().all()
    assert made.stages[0].first_norm.variance.isfinite().all()


def test_batch_mates_matter_in_training_and_not_elsewhere():
    made = trained(vision(dropout=0.0))
    rows = embeddings(9, seed=1)
    together, alone = made(rows), torch.cat([made(row[None]) for row in rows])
    assert ((together - alone).norm(dim=1) <= 1e-5 * alone.norm(dim=1)).all()
    with torch.no_grad():
        mixed = made(rows, seeded_generator(0, "dropout"))
        fewer = made(rows[:5], seeded_generator(0, "dropout"))
    assert (mixed[:5] - fewer).abs().max() > 1e-3


def test_many_images_are_worked_through_in_parts(monkeypatch):
    made = trained()
    rows = embeddings(25, seed=1)
    whole = made(rows)
    # One activation of the first stage: 4 bytes, 2 channels, 4 by 4 cells.
    monkeypatch.setattr("e2i.heads.cnn._ACTIVATION_BYTES", 3 * 4 * 2 * 16)
    seen = []
    project = made._project
    monkeypatch.setattr(
        made, "_project", lambda pixels, rng: (seen.append(len(pixels)), project(pixels, rng))[1]
    )
    torch.testing.assert_close(made(rows), whole, rtol=1e-5, atol=1e-6)
    assert seen == [3] * 8 + [1]


# -- standardization ------------------------------------------------------------------------------


def test_images_are_folded_from_standardized_embeddings():
    made, plain = head(vision(standardize_input=True)), head()
    rows = embeddings(50) * torch.arange(1, 49) + 7
    made.standardize_by(Standardization.of(rows.numpy()))
    expected = Standardization.of(rows.numpy()).apply(rows.numpy())
    pixels = fold_embeddings(rows, made._config, made.statistics)
    assert torch.equal(pixels, fold_embeddings(torch.from_numpy(expected), SMALL))
    assert torch.equal(made(rows), plain(torch.from_numpy(expected)))
    # Kept ready, they are the same pixels: standardizing is of embeddings alone.
    assert torch.equal(made(pixels), made(rows))
    assert not torch.equal(pixels, fold_embeddings(rows, SMALL))


def test_a_dimension_that_never_varies_stays_finite():
    rows = embeddings(20, 47)
    rows[:, 5] = 0.25
    made = head(vision(standardize_input=True), dim=47)
    made.standardize_by(Standardization.of(rows.numpy()))
    assert made.deviation[5] == 1
    assert made(rows).isfinite().all()


def test_without_standardization_statistics_change_nothing():
    made = head()
    assert not any(name in made.state_dict() for name in ("mean", "deviation"))
    made.standardize_by(Standardization.of((embeddings(3)).numpy()))


# -- in a pair of heads, and stored ---------------------------------------------------------------


def test_the_text_side_is_the_mlp_of_the_plain_heads():
    images = build_heads(SMALL, 48, 10, seed=3).state_dict()
    plain = build_heads(SMALL.model_copy(update={"input_type": "embedding"}), 48, 10, seed=3)
    assert isinstance(build_heads(SMALL, 48, 10, seed=3).audio, CNNHead)
    assert not isinstance(plain.audio, CNNHead)
    for name, weight in plain.text.state_dict().items():
        assert torch.equal(images[f"text.{name}"], weight)


def test_making_and_running_heads_leaves_the_global_random_state():
    before = torch.get_rng_state()
    heads = build_heads(SMALL, 48, 10, seed=0)
    heads.project_audio(embeddings(4), seeded_generator(0, "dropout"))
    heads.project_audio(embeddings(4))
    assert torch.equal(before, torch.get_rng_state())


def test_same_seed_same_heads():
    first, again, other = (build_heads(SMALL, 48, 10, seed=seed).state_dict() for seed in (3, 3, 4))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(
        first["audio.stages.1.first.weight"], other["audio.stages.1.first.weight"]
    )


def make_checkpoint(config: HeadsConfig = SMALL) -> Checkpoint:
    heads = build_heads(config, 48, 10, seed=1)
    heads.audio.standardize_by(Standardization.of((embeddings(8)).numpy()))
    with torch.no_grad():
        heads.project_audio(embeddings(8), seeded_generator(0, "dropout"))
    record = CheckpointRecord(
        kind="projection_heads",
        schema_version=1,
        e2i_version=e2i.__version__,
        heads=config,
        training=TrainingConfig(epochs=1),
        audio_dim=48,
        text_dim=10,
        audio_fingerprint="a" * 16,
        text_fingerprint="b" * 16,
        caches=(),
        best_epoch=1,
        history=(EpochSummary(epoch=1, lr=0.1, train_loss=1.0, metrics={}),),
        notes=(),
    )
    weights = {name: tensor.detach() for name, tensor in heads.state_dict().items()}
    return Checkpoint(record, weights, ClipRoles.of([], [], []))


@pytest.mark.parametrize("standardize", [False, True])
def test_a_checkpoint_knows_its_images_and_keeps_running_statistics(standardize):
    written = make_checkpoint(vision(standardize_input=standardize, vision_image_size=9))
    read = checkpoint_from_bytes(checkpoint_bytes(written), "here")
    assert read.record.heads == written.record.heads
    assert read.weights["audio.stages.0.first_norm.mean"].abs().sum() > 0
    rows = embeddings(5)
    assert torch.equal(read.heads().project_audio(rows), written.heads().project_audio(rows))
    assert checkpoint_bytes(read) == checkpoint_bytes(written)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"vision_base_channels": 4},
            r"got audio.mlp.hidden.weight of shape \(16, 32\), expected \(16, 64\)",
        ),
        ({"vision_hidden_dim": 5}, r"got audio.mlp.hidden.bias of shape \(16,\), expected \(5,\)"),
        ({"input_type": "embedding"}, r"got audio.hidden.bias of shape none, expected \(512,\)"),
        ({"standardize_input": True}, r"audio.deviation of shape none, expected \(48,\)"),
        ({"vision_base_channels": 1024, "vision_image_size": 4096}, r"expected \(16, 16384\)"),
    ],
)
def test_a_checkpoint_of_other_settings_is_refused(changes, words):
    written = make_checkpoint()
    other = written.record.model_copy(update={"heads": vision(**changes)})
    with pytest.raises(CheckpointError, match=words):
        checkpoint_from_bytes(checkpoint_bytes(dataclasses.replace(written, record=other)), "here")


def test_running_statistics_that_are_no_numbers_are_refused():
    written = make_checkpoint()
    written.weights["audio.stages.2.second_norm.variance"].fill_(math.inf)
    with pytest.raises(CheckpointError, match="variance with other than"):
        checkpoint_from_bytes(checkpoint_bytes(written), "here")
