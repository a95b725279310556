"""The original's options, which of them are not there yet and why, and which defaults differ."""

from __future__ import annotations

from pathlib import Path

_ORIGINAL = {
    "cache-embeddings": """
        --metadata --cache-dir --audio-arch --text-model --batch-size --device
        --id-key --audio-key --text-key --sample-rate-key --force --no-progress
        --upload-every --hf-dataset --hf-prefix --hf-token
        --with-images --image-size --image-mode --image-channel-mode --images-dir --clip-images
    """,
    "cache-images": """
        --cache-dir --hf-dataset --hf-prefix --hf-token
        --image-size --image-mode --image-channel-mode --images-dir
        --upload-every --clip-values --include-embeddings
    """,
    "train-projection": """
        --cache-dir --output-dir --epochs --batch-size --lr --weight-decay --hidden-dim --out-dim
        --activation --dropout --temperature --val-fraction --seed --device --input-type
        --log-dir --run-name --vision-base-channels --vision-hidden-dim
        --vision-image-source --vision-image-dir --vision-image-size --vision-image-mode
        --vision-image-channel-mode --vision-clip-images
    """,
    "eval-projection": """
        --cache-dir --checkpoint --batch-size --sim-batch-size --device --log-dir --run-name
        --hidden-dim --out-dim --activation --dropout --input-type
        --vision-base-channels --vision-hidden-dim
        --vision-image-source --vision-image-dir --vision-image-size --vision-image-mode
        --vision-image-channel-mode --vision-clip-images
    """,
    "finetune": """
        --metadata --output-dir --log-dir --run-name --model-type --audio-arch --text-model
        --projection-dim --hidden-dim --dropout --sample-rate --max-audio-seconds
        --max-text-length --batch-size --epochs --warmup-epochs --max-lr --min-lr --weight-decay
        --grad-clip-norm --val-fraction --num-workers --seed --selection-metric --metric-mode
        --vision-image-size --vision-image-mode
    """,
    "download-embeddings": """
        --cache-dir --repo-id --subset --revision --force --print-stats
    """,
}
ORIGINAL = {command: options.split() for command, options in _ORIGINAL.items()}
"""Every option of the original, by e2i's name of the command."""

IN_CHECKPOINT = "said by the checkpoint, which knows its own head"

_SAID_BY_CHECKPOINT = ("--hidden-dim", "--out-dim", "--activation", "--dropout", "--input-type")

ABSENT: dict[tuple[str, str], str] = {
    **{
        ("eval-projection", option): IN_CHECKPOINT
        for option in ORIGINAL["eval-projection"]
        if option in _SAID_BY_CHECKPOINT or option.startswith("--vision-")
    },
}
"""Options that no command takes, and why."""

DATA_ROOT = str(Path("~/data/CLOTHO_v2.1").expanduser())
NOT_STATED = object()
"""The default of an option for which the original had none, or a mandatory one."""

_IMAGES: dict[str, object] = {
    "--image-size": 128,
    "--image-mode": "nearest",
    "--image-channel-mode": "split",
    "--images-dir": "pseudo_images",
}
_DEFAULTS: dict[str, dict[str, object]] = {
    "cache-embeddings": {
        "--metadata": f"{DATA_ROOT}/clotho_csv_files/clotho_captions_development.csv",
        "--cache-dir": f"{DATA_ROOT}/embeddings/development",
        "--text-model": "roberta-base",
        "--batch-size": 8,
        "--id-key": "id",
        "--audio-key": "audio",
        "--text-key": "text",
        "--sample-rate-key": "sample_rate",
        "--force": False,
        "--no-progress": False,
        "--with-images": False,
        "--clip-images": False,
        "--hf-prefix": "",
        **_IMAGES,
    },
    "cache-images": {
        "--clip-values": False,
        "--hf-prefix": "",
        "--include-embeddings": False,
        **_IMAGES,
    },
    "download-embeddings": {
        "--repo-id": "younissk/audio-text-embed-to-images",
        "--force": False,
        "--print-stats": False,
    },
    "train-projection": {
        "--output-dir": "checkpoints",
        "--epochs": 10,
        "--batch-size": 256,
        "--lr": 5e-4,
        "--weight-decay": 1e-4,
        "--hidden-dim": 512,
        "--out-dim": 256,
        "--activation": "relu",
        "--dropout": 0.1,
        "--temperature": 0.07,
        "--val-fraction": 0.1,
        "--seed": 13,
        "--input-type": "embedding",
        "--log-dir": "logs",
        "--vision-base-channels": 32,
        "--vision-hidden-dim": 512,
        "--vision-image-source": "auto",
        "--vision-image-dir": "pseudo_images/audio",
        "--vision-image-size": 128,
        "--vision-image-mode": "nearest",
        "--vision-image-channel-mode": "split",
        "--vision-clip-images": False,
    },
    "eval-projection": {
        "--checkpoint": "checkpoints/projection_heads.pt",
        "--batch-size": 1024,
        "--sim-batch-size": 512,
        "--log-dir": "logs",
    },
    "finetune": {
        "--output-dir": "checkpoints",
        "--log-dir": "logs",
        "--model-type": "baseline",
        "--audio-arch": "passt_s_swa_p16_128_ap476",
        "--text-model": "roberta-base",
        "--projection-dim": 1024,
        "--hidden-dim": 1024,
        "--dropout": 0.1,
        "--sample-rate": 32000,
        "--max-audio-seconds": None,
        "--max-text-length": 32,
        "--batch-size": 32,
        "--epochs": 10,
        "--warmup-epochs": 1,
        "--max-lr": 3e-6,
        "--min-lr": 1e-7,
        "--weight-decay": 0.0,
        "--grad-clip-norm": 1.0,
        "--val-fraction": 0.1,
        "--num-workers": 4,
        "--seed": 13,
        "--selection-metric": "val_loss",
        "--metric-mode": "min",
        "--vision-image-size": 128,
        "--vision-image-mode": "nearest",
    },
}

DEPARTURES: dict[tuple[str, str], object] = {
    # By device, for one number does not suit both a CPU and a GPU.
    ("cache-embeddings", "--batch-size"): None,
    # By the metadata's split: this is the original's for the original's metadata.
    ("cache-embeddings", "--cache-dir"): "",
    # As heads are chosen; each metric knows whether its lowest or highest value is best.
    ("finetune", "--selection-metric"): "text_to_audio_mAP@10",
    ("finetune", "--metric-mode"): "auto",
    # No pickles.
    ("eval-projection", "--checkpoint"): "checkpoints/projection_heads.safetensors",
}
"""Defaults that differ, as they are here."""


def default_of(command: str, option: str) -> object:
    """What e2i has to take where the option is not given; relative locations as they are typed."""
    if (command, option) in DEPARTURES:
        return DEPARTURES[command, option]
    return _DEFAULTS[command].get(option, NOT_STATED)
