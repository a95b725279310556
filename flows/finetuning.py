"""The flow `e2i-finetune`."""

from __future__ import annotations

from e2i.datasets.config import MetadataConfig
from e2i.tracking.config import TrackingConfig
from e2i.training.finetune.config import FinetuneConfig
from e2i.training.finetune.sources import default_waveforms_url, other_split
from flows.flow_setup import flow
from flows.run_record import RunRecord, name_run
from flows.summary import RunSummary
from tasks.finetuning import PreparedSplit, finetune_encoders, prepare_recordings
from tasks.remote import unvisited


@flow(name="e2i-finetune", flow_run_name=name_run, persist_result=False)
def finetune(
    source: MetadataConfig,
    val_metadata: str = "",
    test_metadata: str = "",
    output_dir: str = "checkpoints",
    waveform_dir: str = "",
    finetuning: FinetuneConfig = FinetuneConfig(),
    tracking: TrackingConfig = TrackingConfig(),
) -> RunSummary:
    """Train PaSST, a text model and a head behind each, end to end; keep the best epoch.

    Args:
        source: Where the recordings and captions to train on are.
        val_metadata: Caption file to choose the epoch by; default: that of the split 'validation'
            beside the training metadata, if it is there; else a part of the clips.
        test_metadata: Caption file to test the best epoch on; default: that of 'evaluation'.
        output_dir: Folder or URL of the checkpoints.
        waveform_dir: Folder or URL that decoded recordings are kept in; default: waveforms below
            the data set.
        finetuning: Which encoders and heads, and how they are trained.
        tracking: Where the run is logged.
    """
    record = RunRecord()
    waveforms_url = waveform_dir or default_waveforms_url(source)
    splits: dict[str, PreparedSplit] = {}
    others = {
        "validation": other_split(source, val_metadata, "validation"),
        "test": other_split(source, test_metadata, "evaluation"),
    }
    for role, metadata in {"training": source, **others}.items():
        if metadata is not None:
            splits[role] = prepare_recordings(metadata, role, waveforms_url, finetuning)
            record.add(splits[role].counts)
            record.notes += splits[role].notes
    done = finetune_encoders(
        unvisited(splits["training"].examples),
        unvisited(splits["validation"].examples if "validation" in splits else None),
        unvisited(splits["test"].examples if "test" in splits else None),
        waveforms_url,
        output_dir,
        finetuning,
        tracking,
    )
    record.add(done.counts)
    record.notes += done.notes
    record.locations |= {
        "waveforms": waveforms_url,
        "checkpoint": done.best_url,
        "last_checkpoint": done.last_url,
    }
    return record.summary(metrics=done.metrics)
