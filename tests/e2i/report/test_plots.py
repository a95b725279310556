from __future__ import annotations

import dataclasses
import io
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from e2i.report import plots as plots_module
from e2i.report.plots import DARK, LIGHT, draw_plots


@pytest.fixture(scope="module")
def plots(make_content):
    return {plot.name: plot for plot in draw_plots(make_content())}


def pixels(data):
    with Image.open(io.BytesIO(data)) as picture:
        assert picture.format == "PNG"
        assert not {key for key in picture.info if key != "dpi"}
        return np.asarray(picture.convert("RGB"))


def rgb(color):
    return [int(color[i : i + 2], 16) for i in (1, 3, 5)]


def test_there_is_a_plot_of_everything(plots):
    assert list(plots) == [
        "recall-text-to-audio",
        "recall-audio-to-text",
        "training-loss",
        "training-metric",
        "ranks",
        "by-caption-length",
        "by-clip-duration",
    ]


def test_both_papers_have_their_colors_and_one_size(plots):
    for plot in plots.values():
        for data, theme in ((plot.light, LIGHT), (plot.dark, DARK)):
            picture = pixels(data)
            assert abs(picture.shape[1] - 1000) <= 1
            assert abs(picture.shape[0] - 687) <= 1
            assert picture[0, 0].tolist() == rgb(theme.paper)
            assert (picture == rgb(theme.models[0])).all(axis=-1).sum() > 200


def test_each_model_has_a_color_and_only_trained_ones_curves(plots, make_content):
    second = rgb(LIGHT.models[1])
    assert (pixels(plots["ranks"].light) == second).all(axis=-1).sum() > 500
    content = make_content()
    alone = dataclasses.replace(content, models=content.models[1:])
    alone = {plot.name: plot for plot in draw_plots(alone)}
    assert not [name for name in alone if name.startswith("training")]
    assert not (pixels(alone["ranks"].light) == second).all(axis=-1).any()


def test_taller_bars_are_drawn_for_higher_recalls(make_content):
    content = make_content(models=1)

    def blue(value):
        (model,) = content.models
        scores = {
            key: dataclasses.replace(score, value=value, low=None, high=None)
            if key.startswith("text_to_audio_R@")
            else score
            for key, score in model.scores.items()
        }
        changed = dataclasses.replace(model, scores=scores)
        changed = dataclasses.replace(content, models=(changed,))
        plot = plots_module._recall_plot(changed, "text_to_audio", "Text to audio")
        return (pixels(plot.light) == rgb(LIGHT.models[0])).all(axis=-1).sum()

    assert blue(0.8) / blue(0.4) == pytest.approx(2.0, rel=0.08)


def test_the_numbers_stand_in_the_words_too(plots, make_content):
    model = make_content().models[0]
    score = model.scores["text_to_audio_R@10"]
    words = f"R@10 {score.value:.1%} ({score.low:.1%} to {score.high:.1%})"
    assert words in plots["recall-text-to-audio"].alt
    assert f"rank 1 {model.rank_shares[0]:.1%}" in plots["ranks"].alt
    assert f"kept: epoch {model.curve.best_epoch}" in plots["training-metric"].alt
    assert "Chance: 33.3%" in plots["by-clip-duration"].alt
    assert plots["training-metric"].title == "Validation text→audio mAP@10 by epoch"


def test_a_models_name_is_no_formula(make_content):
    content = make_content(models=1)
    names = ("$x^", "_hidden", "a" * 60, r"\frac{", "100 % & <b>")
    models = tuple(dataclasses.replace(content.models[0], name=name) for name in names)
    rows = tuple(
        dataclasses.replace(
            rows,
            groups=tuple(dataclasses.replace(g, scores=g.scores * 5) for g in rows.groups),
        )
        for rows in content.breakdowns
    )
    assert len(draw_plots(dataclasses.replace(content, models=models, breakdowns=rows))) == 7


def test_one_clip_and_one_epoch_can_be_drawn(make_cache, make_content):
    content = make_content(make_cache(clips=1))
    curve = content.models[0].curve
    short = dataclasses.replace(
        curve, epochs=(1,), train_loss=(2.0,), validation_loss=(), values=(0.5,), best_epoch=1
    )
    models = (dataclasses.replace(content.models[0], curve=short), content.models[1])
    assert len(draw_plots(dataclasses.replace(content, models=models))) == 7


def test_the_same_content_gives_the_same_bytes(plots, make_content):
    assert plots_module._rank_plot(make_content()) == plots["ranks"]


def test_nothing_is_drawn_through_pyplot():
    # In a process of its own: other tests import what imports it.
    program = (
        "import sys, e2i.report.plots, e2i.report.recordings; "
        "sys.exit('matplotlib.pyplot' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
