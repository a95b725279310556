"""What changes the values of the transformers text encoder; known without torch or transformers.

Conventions: a length is in tokens, the special ones that the tokenizer adds included.
"""

from __future__ import annotations

from e2i.encoders.config import EncodersConfig
from e2i.encoders.model_files import ModelFiles, model_files
from e2i.errors import ConfigError

TEXT_MODEL_OPTION = "--text-model"
SettingValues = dict[str, str | int | float | bool | None]

_VERSION = 1
_DEFAULT_LENGTH = {"mean": 256, "first": 32}
_DEFAULT_CAPTION_FORM = {"mean": "as-is", "first": "dcase2025"}
_WIDTHS = ("hidden_size", "dim", "d_model", "n_embd")

# Their positions count from behind the padding token's id, so that their table holds fewer tokens.
_POSITIONS_AFTER_PADDING = frozenset(
    {
        *("camembert", "clap_text_model", "data2vec-text", "esm", "ibert", "lilt", "longformer"),
        *("luke", "mpnet", "roberta", "roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl"),
        "xmod",
    }
)


def hf_settings(config: EncodersConfig) -> SettingValues:
    """All that changes the values of the text encoder `hf`.

    Raises:
        EncoderUnavailableError: the model cannot be had.
        ConfigError: the model does not take captions as long as asked for.
    """
    files = model_files(config.text_model, TEXT_MODEL_OPTION, config.models_dir)
    pooling = config.text_pooling
    form = config.caption_form
    return {
        "encoder": "hf",
        "version": _VERSION,
        **files.pins,
        "dim": model_width(files),
        "pooling": pooling,
        "max_length": max_length(files, files.config, config.max_length, _DEFAULT_LENGTH[pooling]),
        "caption_form": _DEFAULT_CAPTION_FORM[pooling] if form == "auto" else form,
        "normalize": config.normalize,
        "precision": config.precision,
    }


def model_width(files: ModelFiles) -> int:
    """D, the width of a model's last layer.

    Raises:
        EncoderUnavailableError: its configuration does not say.
    """
    config = files.config
    for name in _WIDTHS:
        width = config.get(name)
        if isinstance(width, int) and width > 0:
            return width
    raise files.unusable(f"config.json has no {_WIDTHS[0]}")


def max_length(
    files: ModelFiles, config: dict[str, object], wanted: int | None, default: int
) -> int:
    """Most tokens of a caption that are read.

    Args:
        files: the model.
        config: the configuration of its text side.
        wanted: as asked for.
        default: where nothing is asked for; cut to what the model takes.

    Raises:
        ConfigError: the model takes fewer than asked for.
    """
    limits = [files.read("tokenizer_config.json").get("model_max_length")]
    positions = config.get("max_position_embeddings")
    if isinstance(positions, int) and config.get("model_type") in _POSITIONS_AFTER_PADDING:
        padding = config.get("pad_token_id")
        positions -= 1 + (padding if isinstance(padding, int) else 1)
    limits.append(positions)
    limit = min((n for n in limits if isinstance(n, int) and n > 0), default=None)
    if wanted is None:
        return default if limit is None else min(default, limit)
    if limit is not None and wanted > limit:
        raise ConfigError(
            f"the text model does not take so long captions: got {wanted} tokens, expected at most "
            f"{limit} for {files.name}. Lower --max-length."
        )
    return wanted
