"""Vision heads on timm models, and vision heads without the mean over the image."""

from __future__ import annotations

import io

import pytest
import torch
from safetensors.torch import save

from e2i.errors import CheckpointError, CheckpointNotFoundError, ConfigError
from e2i.heads.backbone import BackboneHead, read_backbone_weights
from e2i.heads.build import build_heads, unset_heads
from e2i.heads.cnn import CNNHead
from e2i.heads.config import HeadsConfig
from e2i.heads.mlp import LinearHead, MLPHead
from e2i.training.config import TrainingConfig
from e2i.training.train import train_heads

SMALL = HeadsConfig(
    input_type="vision",
    hidden_dim=16,
    out_dim=8,
    vision_base_channels=2,
    vision_hidden_dim=8,
    vision_image_size=32,
    vision_image_source="generated",
    vision_backbone="test_resnet",
)
QUICK = TrainingConfig(epochs=2, batch_size=32, device="cpu")


def changed(**changes: object) -> HeadsConfig:
    return HeadsConfig.model_validate({**SMALL.model_dump(), **changes})


def weights_of(heads):
    return {name: weight.clone() for name, weight in heads.state_dict().items()}


def equal(first, second) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


def test_each_side_has_the_head_that_was_asked_for():
    kinds = {
        (): (BackboneHead, MLPHead),
        (("vision_backbone", ""),): (CNNHead, MLPHead),
        (("text_input_type", "vision"),): (BackboneHead, BackboneHead),
        (("text_input_type", "vision"), ("vision_backbone", "")): (CNNHead, CNNHead),
        (("input_type", "embedding"), ("head_type", "linear")): (LinearHead, LinearHead),
        (("head_type", "linear"),): (BackboneHead, LinearHead),
    }
    for changes, (audio, text) in kinds.items():
        heads = unset_heads(changed(**dict(changes)), 24, 48, torch.device("meta"))
        assert (type(heads.audio), type(heads.text)) == (audio, text)


def test_a_linear_head_is_one_product_and_one_sum():
    heads = build_heads(HeadsConfig(head_type="linear", out_dim=3), 5, 7, seed=1)
    assert {n: tuple(w.shape) for n, w in heads.audio.state_dict().items()} == {
        "out.weight": (3, 5),
        "out.bias": (3,),
    }
    inputs = torch.arange(10.0).view(2, 5)
    expected = inputs @ heads.audio.out.weight.T + heads.audio.out.bias
    torch.testing.assert_close(heads.audio(inputs), expected)


@pytest.mark.parametrize(
    ("size", "features"),
    # 32 is halved to 4, as is 16; 6 is left alone, for 3 would be too small.
    [(32, 32 * 4 * 4), ("native", 32 * 3 * 3), (16, 32 * 4 * 4), (6, 32 * 6 * 6)],
)
def test_without_the_mean_every_place_counts(size, features):
    config = changed(vision_backbone="", vision_pooling="none", vision_image_size=size)
    head = build_heads(config, 24, 48, seed=1).audio
    assert head.mlp.hidden.weight.shape[1] == features
    pixels = torch.zeros((1, 3, head.side, head.side), dtype=torch.uint8)
    pixels[..., 0, 0] = 255
    assert not torch.equal(head(pixels), head(pixels.flip(-1, -2)))


def test_the_seed_decides_and_nothing_global_is_touched():
    before = torch.get_rng_state()
    first, again, other = (weights_of(build_heads(SMALL, 24, 48, seed=s)) for s in (1, 1, 2))
    assert torch.equal(before, torch.get_rng_state())
    assert equal(first, again)
    assert not equal(first, other)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"vision_backbone": "", "vision_pooling": "none", "text_input_type": "vision"},
        {"input_type": "embedding", "head_type": "linear", "standardize_input": True},
        {"vision_backbone": "test_vit", "vision_image_size": 160},
    ],
    ids=["backbone", "places", "linear", "transformer"],
)
def test_trained_stored_and_read_back_it_projects_the_same(make_cache, tmp_path, changes):
    from e2i.heads.checkpoint import checkpoint_bytes, checkpoint_from_bytes

    quick = QUICK.model_copy(update={"epochs": 1})
    clips = 8 if changes.get("vision_backbone") == "test_vit" else 24
    caches = [make_cache(clips, 1)], make_cache(clips, 1, split="validation")
    config = changed(**changes)
    first, again = (train_heads(*caches, config, quick) for _ in range(2))
    data = checkpoint_bytes(first.checkpoint)
    assert data == checkpoint_bytes(again.checkpoint)

    read = checkpoint_from_bytes(data, "x")

    assert read.record.heads == config
    inputs = torch.from_numpy(caches[1].audio)
    one, two = (made.heads().project_audio(inputs) for made in (first.checkpoint, read))
    assert torch.equal(one, two)
    assert one.std(dim=0).min() > 0
    text = torch.from_numpy(caches[1].text)
    assert torch.equal(first.checkpoint.heads().project_text(text), read.heads().project_text(text))


def test_a_projection_does_not_depend_on_its_batch_mates():
    heads = build_heads(SMALL, 24, 48, seed=1)
    inputs = torch.randn((9, 24), generator=torch.Generator().manual_seed(1))
    whole = heads.project_audio(inputs)
    alone = torch.cat([heads.project_audio(row[None]) for row in inputs])
    torch.testing.assert_close(whole, alone, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("form", ["safetensors", "pytorch", "nested"])
def test_weights_of_a_file_are_where_training_starts(tmp_path, make_cache, form):
    donor = build_heads(SMALL, 24, 48, seed=5).audio.backbone.state_dict()
    donor |= {"fc.weight": torch.zeros(3, 3)}  # a classifier, which is left
    path = tmp_path / ("w.safetensors" if form == "safetensors" else "w.pth")
    if form == "safetensors":
        path.write_bytes(save({k: v.contiguous() for k, v in donor.items()}))
    else:
        file = io.BytesIO()
        torch.save({"state_dict": donor} if form == "nested" else donor, file)
        path.write_bytes(file.getvalue())

    read = read_backbone_weights(str(path))
    made = build_heads(SMALL, 24, 48, seed=1, backbone=read).audio.backbone.state_dict()
    assert equal(made, {k: v for k, v in donor.items() if k != "fc.weight"})

    trained = train_heads(
        [make_cache(24, 1)],
        make_cache(12, 1, split="validation"),
        changed(vision_backbone_weights=str(path)),
        QUICK.model_copy(update={"epochs": 1, "lr": 1e-12}),
    )
    kept = trained.checkpoint.weights["audio.backbone.conv1.0.weight"]
    torch.testing.assert_close(kept, donor["conv1.0.weight"], atol=1e-6, rtol=0)
    assert trained.checkpoint.record.heads.vision_backbone_weights == f"sha256:{read.sha256}"


def test_other_weights_are_refused(tmp_path):
    donor = build_heads(SMALL, 24, 48, seed=5).audio.backbone.state_dict()
    donor.pop("conv1.0.weight")
    (tmp_path / "w.safetensors").write_bytes(save({k: v.contiguous() for k, v in donor.items()}))
    read = read_backbone_weights(str(tmp_path / "w.safetensors"))
    with pytest.raises(CheckpointError) as caught:
        build_heads(SMALL, 24, 48, seed=1, backbone=read)
    assert str(caught.value).startswith(
        "the weights are not those of test_resnet: got conv1.0.weight of shape none in "
        f"{tmp_path}/w.safetensors, expected "
    )


@pytest.mark.parametrize("name", ["w.safetensors", "w.pth"])
def test_what_holds_no_weights_is_refused(tmp_path, name):
    (tmp_path / name).write_bytes(b"none")
    with pytest.raises(CheckpointError, match="cannot be read: got 4 bytes in "):
        read_backbone_weights(str(tmp_path / name))
    with pytest.raises(CheckpointNotFoundError, match="are not there: got "):
        read_backbone_weights(str(tmp_path / f"another-{name}"))


def test_a_pickle_that_would_run_code_is_refused(tmp_path):
    class Evil:
        def __reduce__(self):
            return pytest.fail, ("ran",)

    torch.save({"one": Evil()}, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_backbone_weights(str(tmp_path / "w.pth"))


def test_unknown_backbones_and_sizes_that_do_not_fit():
    with pytest.raises(ConfigError) as caught:
        build_heads(changed(vision_backbone="resnet19"), 24, 48, seed=1)
    assert str(caught.value).startswith("there is no such backbone: got 'resnet19', expected ")
    config = changed(vision_backbone="vit_tiny_patch16_224")
    with pytest.raises(ConfigError) as caught:
        unset_heads(config, 24, 48, torch.device("meta"))
    assert "takes no images of this size: got 32 px for vit_tiny_patch16_224" in str(caught.value)
    assert str(caught.value).endswith("Set --vision-image-size.")
    for name in ("hf-hub:timm/resnet18", "../resnet18", "local-dir:x"):
        with pytest.raises(ValueError, match="vision_backbone"):
            changed(vision_backbone=name)
    with pytest.raises(ValueError, match="weights without their backbone"):
        HeadsConfig(vision_backbone_weights="w.pth")
