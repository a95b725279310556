from __future__ import annotations

from dataclasses import replace

import pytest
from cache_world import World
from huggingface_hub import DatasetCard

from e2i.cache.header import read_header
from e2i.errors import StorageError
from e2i.hub.card import CardFacts, data_card, speaks_of


@pytest.fixture
def facts(world: World) -> CardFacts:
    world.plan()
    return CardFacts.of_header(read_header(world.folder), ("10 of 10 clips",))


def metadata_of(card: bytes) -> dict:
    return DatasetCard(card.decode()).data.to_dict()


def paths_of(card: bytes) -> dict[str, list[tuple[str, str]]]:
    return {
        entry["config_name"]: [(file["split"], file["path"]) for file in entry["data_files"]]
        for entry in metadata_of(card)["configs"]
    }


def test_a_first_card(facts: CardFacts) -> None:
    card = data_card(None, "", facts)
    assert metadata_of(card)["license"] == "unknown"
    assert paths_of(card) == {
        "audio": [("development", "audio/*.parquet")],
        "text": [("development", "text/*.parquet")],
    }
    text = card.decode()
    for words in ("# data", "10 of 10 clips", "| encoder | counting | counting-text |", "12 | 7"):
        assert words in text
    assert facts.fingerprints["audio"] in text
    assert data_card(card, "", facts) == card


def test_splits_side_by_side_share_their_tables(facts: CardFacts) -> None:
    card = data_card(None, "development", facts)
    other = replace(facts, split="evaluation", counts=("3 of 3 clips",))
    card = data_card(card, "evaluation", other)
    assert paths_of(card)["audio"] == [
        ("development", "development/audio/*.parquet"),
        ("evaluation", "evaluation/audio/*.parquet"),
    ]
    assert "10 of 10 clips" in card.decode()
    assert "3 of 3 clips" in card.decode()
    assert data_card(data_card(card, "development", facts), "evaluation", other) == card
    assert speaks_of(card, "evaluation")
    assert not speaks_of(card, "")
    assert not speaks_of(None, "")


def test_another_folder_has_tables_of_its_own(facts: CardFacts) -> None:
    card = data_card(data_card(None, "", facts), "runs/dev cache", facts)
    assert paths_of(card)["runs-dev-cache-audio"] == [
        ("development", "runs/dev cache/audio/*.parquet")
    ]
    assert paths_of(card)["audio"] == [("development", "audio/*.parquet")]


def test_a_split_is_told_in_the_words_of_datasets(facts: CardFacts) -> None:
    card = data_card(None, "", replace(facts, split="my-split.2"))
    assert paths_of(card)["audio"][0][0] == "my_split_2"


def test_pseudo_images_are_tables_too(facts: CardFacts) -> None:
    tables = {**facts.tables, "pseudo-images-audio": "pseudo_images/audio"}
    card = data_card(None, "development", replace(facts, tables=tables))
    assert paths_of(card)["pseudo-images-audio"] == [
        ("development", "development/pseudo_images/audio/*.parquet")
    ]


def test_what_others_wrote_is_kept(facts: CardFacts) -> None:
    theirs = b"""---
license: cc-by-4.0
tags:
- audio
configs:
- config_name: mine
  data_files: mine.csv
---
# My sounds

Words of mine: 100 % & more.
"""
    card = data_card(theirs, "", facts)
    metadata = metadata_of(card)
    assert (metadata["license"], metadata["tags"]) == ("cc-by-4.0", ["audio"])
    assert metadata["configs"][0] == {"config_name": "mine", "data_files": "mine.csv"}
    assert "# My sounds\n\nWords of mine: 100 % & more." in card.decode()
    plain = data_card(b"# Only text\n", "", facts)
    assert metadata_of(plain)["license"] == "unknown"
    assert "# Only text" in plain.decode()


def test_clotho_has_terms_of_its_own(facts: CardFacts) -> None:
    metadata = metadata_of(data_card(None, "", replace(facts, dataset="CLOTHO_v2.1")))
    assert metadata["license"] == "other"
    assert metadata["license_link"] == "https://zenodo.org/records/4783391"


@pytest.mark.parametrize("existing", [b"---\na: [\n---\n", b"\xff\xfe", b"---\n- a list\n---\n"])
def test_a_card_that_cannot_be_read_is_not_written_over(facts: CardFacts, existing: bytes) -> None:
    with pytest.raises(StorageError, match="the data card cannot be read"):
        data_card(existing, "", facts)
