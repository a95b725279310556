from __future__ import annotations

import base64
import dataclasses
import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from e2i.errors import ConfigError
from e2i.report import html
from e2i.report.config import ReportConfig
from e2i.report.content import ScoredModel, report_content
from e2i.report.html import render_html, write_report
from e2i.report.plots import Plot, draw_plots
from e2i.retrieval.config import EvaluationConfig
from e2i.retrieval.relevance import parse_relevance
from e2i.storage import Folder
from e2i.training.evaluate import Extras, evaluate_checkpoint

SCRIPT = "<script>alert('&')</script> {{ 7 * 7 }} \"quoted\""
FETCHING = {"src", "href", "srcset", "data", "poster", "action", "background", "xlink:href"}
VOID = {"meta", "img", "source", "br", "link"}


class Page(HTMLParser):
    """What a browser would make of a page."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.open, self.words = [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in {"style", "title"}:
            self.words.append(data)

    def all(self, tag):
        return [attrs for name, attrs in self.tags if name == tag]

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


def blank_plots(content):
    """Plots of the right names that take no time."""
    names = ["recall-text-to-audio", "recall-audio-to-text", "ranks"]
    if any(model.curve for model in content.models):
        names += ["training-loss", "training-metric"]
    names += ["by-caption-length", "by-clip-duration"]
    file = io.BytesIO()
    Image.new("RGB", (4, 4)).save(file, format="png")
    return tuple(Plot(name, name, name, file.getvalue(), file.getvalue()) for name in names)


def page_of(content):
    return Page(render_html(content, blank_plots(content)))


@pytest.fixture
def _blank(monkeypatch):
    monkeypatch.setattr(html, "draw_plots", blank_plots)


@pytest.fixture(scope="module")
def content(make_cache, make_content, wav):
    captions = (SCRIPT, *make_cache().captions[1:])
    cache = make_cache(captions=captions)
    return make_content(cache, load_recording=lambda _: wav, examples=30)


@pytest.fixture(scope="module")
def text(content):
    """With its real plots."""
    return render_html(content, draw_plots(content))


@pytest.fixture(scope="module")
def page(text):
    return Page(text)


def test_the_page_is_whole(page):
    assert page.open == []
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    targets = {a["href"] for a in page.all("a")}
    assert targets == {f"#{name}" for name in ids}


def test_nothing_is_fetched_and_nothing_runs(text, page):
    for tag, attrs in page.tags:
        assert tag not in {"script", "link", "iframe", "object", "embed", "base"}
        assert not [name for name in attrs if name.startswith("on")]
        for name in FETCHING & attrs.keys():
            assert attrs[name].startswith(("data:", "#")), (tag, name)
    assert not re.search(r"https?:|@import|url\(", text)
    (policy,) = [a["content"] for a in page.all("meta") if "http-equiv" in a]
    assert policy == (
        "default-src 'none'; img-src data:; media-src data:; style-src 'unsafe-inline'"
    )


def test_captions_are_text(content, page):
    assert SCRIPT in [query.caption for query in (*content.best, *content.worst)]
    assert SCRIPT in page.text
    assert "evaluation 0 <b>&amp;.wav" in page.text
    assert not page.all("script")


def test_the_headline_is_a_sentence_with_interval_and_chance(content, page):
    score = content.models[0].scores["text_to_audio_R@10"]
    assert (
        f"For {100 * score.value:.1f} % of the captions, the right clip is among the first 10 of 30"
        f" 95 % interval {100 * score.low:.1f} to {100 * score.high:.1f} %. By chance it would be "
        "33.3 %. 60 captions search 30 clips. These are the numbers of the MLP."
    ) in page.text


def test_every_score_stands_in_the_table(content, page):
    for model in content.models:
        for key, score in model.scores.items():
            share = not key.endswith("median_rank")
            value = f"{100 * score.value:.1f} %" if share else f"{score.value:g}"
            low = f"{100 * score.low:.1f}" if share else f"{score.low:g}"
            assert f"{value} {low} – " in page.text, key


def test_pictures_say_what_they_show_and_follow_the_paper(page):
    assert all(image["alt"] for image in page.all("img"))
    sources = page.all("source")
    assert len(sources) == 7
    assert {source["media"] for source in sources} == {"(prefers-color-scheme: dark)"}
    for image in (*page.all("img"), *({"src": s["srcset"]} for s in sources)):
        data = base64.b64decode(image["src"].removeprefix("data:image/png;base64,"), validate=True)
        with Image.open(io.BytesIO(data)) as picture:
            picture.verify()
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in page.all(
        "meta"
    )


def test_pseudo_images_are_the_pixels(content, page):
    shown = [image["src"] for image in page.all("img") if image.get("class") == "pixels"]
    assert len(shown) == 2 * len(content.images)
    data = base64.b64decode(shown[1].removeprefix("data:image/png;base64,"))
    with Image.open(io.BytesIO(data)) as picture:
        np.testing.assert_array_equal(
            np.asarray(picture).transpose(2, 0, 1), content.images[0].text
        )


def test_recordings_are_playable(page, wav):
    sounds = page.all("audio")
    assert len(sounds) >= 30
    assert all("controls" in sound and sound["aria-label"] for sound in sounds)
    assert base64.b64decode(sounds[0]["src"].removeprefix("data:audio/wav;base64,")) == wav


def test_tables_have_headers_with_a_scope(page):
    assert page.all("table")
    assert all(header["scope"] in {"col", "row", "rowgroup"} for header in page.all("th"))


def test_seen_stands_in_title_headline_banner_and_table(make_cache, make_content):
    content = make_content(make_cache("development"), allow_seen=True)
    text = render_html(content, blank_plots(content))
    page = Page(text)
    assert "(seen)" in re.search(r"<title>(.*?)</title>", text)[1]
    assert "Seen clips. MLP was trained or selected on clips among these" in page.text
    assert "among the first 10 of 30 seen" in page.text
    assert "MLP seen 95 % interval as they are 95 % interval chance" in page.text
    assert "seen" not in page_of(make_content()).text.lower()


def test_what_there_is_not_is_left_out(make_content):
    content = make_content(examples=0, sheet_clips=0)
    content = dataclasses.replace(content, models=content.models[1:], date="")
    page = page_of(content)
    assert {a["href"] for a in page.all("a")} == {"#scores", "#ranks", "#groups", "#provenance"}
    assert page.open == []


def test_a_very_long_caption_is_shortened(make_cache, make_content):
    captions = ("word " * 20_000, *make_cache().captions[1:])
    content = make_content(make_cache(captions=captions), examples=30)
    page = page_of(content)
    assert "word word…" in page.text
    assert len(page.text) < 40_000


def test_one_clip_without_intervals_can_be_shown(make_cache, make_content):
    page = page_of(make_content(make_cache(clips=1)))
    assert "For 100.0 % of the captions, the right clip comes first of 1" in page.text


def test_writing_leaves_the_page_and_its_plots(make_content, tmp_path):
    content = make_content()
    location = write_report(Folder(tmp_path / "reports"), "evaluation", content)
    assert location == f"{tmp_path}/reports/evaluation.html"
    plots = draw_plots(content)
    names = {plot.name for plot in plots}
    assert {path.name for path in (tmp_path / "reports/evaluation").iterdir()} == {
        *(f"{name}.png" for name in names),
        *(f"{name}-dark.png" for name in names),
        "pseudo-images.png",
    }
    written = (tmp_path / "reports/evaluation.html").read_text(encoding="utf-8")
    assert written == render_html(content, plots)
    assert (tmp_path / "reports/evaluation/ranks.png").read_bytes() in {p.light for p in plots}


@pytest.mark.usefixtures("_blank")
def test_writing_again_replaces_and_drops_the_plots_that_are_gone(make_content, tmp_path):
    folder = Folder(tmp_path)
    content = make_content()
    write_report(folder, "evaluation", content)
    folder.write("evaluation/notes.txt", b"mine")
    folder.write("evaluation-old/a.png", b"another report's")
    untrained = dataclasses.replace(content, models=content.models[1:])
    write_report(folder, "evaluation", untrained)
    names = [file.name for file in folder.files()]
    assert not [name for name in names if "training" in name]
    assert {"evaluation/notes.txt", "evaluation-old/a.png", "evaluation.html"} <= set(names)


@pytest.mark.usefixtures("_blank")
def test_reports_go_to_any_store(make_content):
    folder = Folder("memory://reports-test")
    assert write_report(folder, "a", make_content()) == "memory://reports-test/a.html"
    assert folder.read("a.html").startswith(b"<!doctype html>")


@pytest.mark.usefixtures("_blank")
def test_a_name_stays_in_the_folder(make_content, tmp_path):
    with pytest.raises(ConfigError):
        write_report(Folder(tmp_path / "in"), "../out", make_content())
    assert not (tmp_path / "out.html").exists()


def test_groups_that_are_not_known_leave_no_empty_section(make_cache, make_content):
    unknown = make_cache(captions=("",) * 60, duration_s=np.full(30, np.nan))
    page = page_of(make_content(unknown))
    assert all(attrs.get("id") != "groups" for attrs in page.all("section"))
    assert all(attrs.get("href") != "#groups" for attrs in page.all("a"))
    assert "nan" not in page.text.lower().split()


def test_several_right_clips_a_caption_have_a_group_of_scores(make_cache):
    cache = make_cache()
    last = cache.clip_ids[-1]
    rows = [f"clip {n} is heard,\"['{cache.clip_ids[n]}', '{last}']\"" for n in range(9)]
    data = "\n".join(["query,audio_filenames", *rows]).encode()
    extras = Extras(relevance=parse_relevance(data, "memory://relevance.csv"))
    evaluation = evaluate_checkpoint(None, cache, EvaluationConfig(), device="cpu", extras=extras)
    content = report_content(
        [ScoredModel("as they are", evaluation)],
        cache,
        EvaluationConfig(),
        ReportConfig(examples=0, sheet_clips=0),
        device="cpu",
    )
    text = Page(render_html(content, blank_plots(content))).text
    score = content.models[0].scores["text_to_audio_multi_mAP@16"]
    assert "Text to audio, all right clips" in text
    assert f"{100 * score.value:.1f}" in text.partition("Text to audio, all right clips")[2]
    assert "over the 9 captions of which memory://relevance.csv says" in text
