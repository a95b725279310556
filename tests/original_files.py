"""The three files of the original's cache, made for tests."""

from __future__ import annotations

import io
import json

import numpy as np
import torch

from e2i.storage import Folder

CLIPS = ("dog #2 [far].wav", "rain.wav", "#.wav")
CAPTIONS = 5
SOURCE = "/data/CLOTHO_v2.1/clotho_csv_files/clotho_captions_validation.csv"


def tensor_file(values: object) -> bytes:
    file = io.BytesIO()
    torch.save(values, file)
    return file.getvalue()


class OriginalFiles:
    """The three files as the original writes them: three clips with five captions each."""

    def __init__(self, audio_dim: int = 8, text_dim: int = 6) -> None:
        rng = np.random.default_rng(0)
        self.audio = torch.from_numpy(
            np.repeat(rng.standard_normal((len(CLIPS), audio_dim)), CAPTIONS, axis=0)
        ).float()
        num_pairs = len(self.audio)
        self.text = torch.from_numpy(rng.standard_normal((num_pairs, text_dim))).float()
        self.metadata: dict[str, object] = {
            "ids": [f"{clip}#{n}" for clip in CLIPS for n in range(1, CAPTIONS + 1)],
            "audio_embedding_shape": [num_pairs, audio_dim],
            "text_embedding_shape": [num_pairs, text_dim],
            "audio_sample_rate": 32000,
            "audio_encoder": "AudioEncoder",
            "text_encoder": "TextEncoder",
            "num_pairs": num_pairs,
            "metadata_source": SOURCE,
        }

    def written(self, folder: Folder) -> Folder:
        """The folder, with the files in it."""
        folder.write("audio_embeddings.pt", tensor_file(self.audio))
        folder.write("text_embeddings.pt", tensor_file(self.text))
        folder.write("metadata.json", json.dumps(self.metadata).encode())
        return folder
