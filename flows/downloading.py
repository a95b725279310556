"""The flows `e2i-download-dataset` and `e2i-download-embeddings`."""

from __future__ import annotations

from dataclasses import asdict, replace

from e2i.datasets.download_config import DownloadConfig
from e2i.datasets.metadata_file import AUDIO_FOLDER, CSV_FOLDER
from e2i.hub.config import DEFAULT_REPO
from e2i.store_layout import join_url
from flows.flow_setup import flow
from flows.parameters import DATA_ROOT
from flows.run_record import RunRecord, name_run
from flows.summary import RunSummary
from tasks.downloading import download_dataset as fetch_and_unpack
from tasks.downloading import embedding_statistics, fetch_embeddings, find_embeddings


@flow(
    name="e2i-download-dataset",
    flow_run_name="download-clotho",
    persist_result=False,
)
def download_dataset(
    data_root: str = DATA_ROOT,
    download: DownloadConfig = DownloadConfig(),
) -> RunSummary:
    """Fetch, check and unpack Clotho, or what is missing of it.

    Args:
        data_root: Local folder that the data set is kept in.
        download: Which splits, from where, and how patiently.
    """
    record = RunRecord()
    record.add(fetch_and_unpack(data_root, download))
    record.locations |= {
        "data": data_root,
        "captions": join_url(data_root, CSV_FOLDER),
        "audio": join_url(data_root, AUDIO_FOLDER),
    }
    return record.summary()


@flow(name="e2i-download-embeddings", flow_run_name=name_run, persist_result=False)
def download_embeddings(
    cache_dir: str,
    repo_id: str = DEFAULT_REPO,
    subset: str = "",
    revision: str | None = None,
    force: bool = False,
    print_stats: bool = False,
) -> RunSummary:
    """Restore a cache from the Hub, or from another folder.

    Args:
        cache_dir: Folder or URL that the cache is restored to.
        repo_id: Data set on the Hugging Face Hub, or a folder.
        subset: Folder of the cache there; default: the name of cache_dir, or else the root.
        revision: Branch, tag or commit of the data set.
        force: Replace what cache_dir holds, if that is something else.
        print_stats: Print figures about the embeddings.
    """
    record = RunRecord()
    kept = find_embeddings(repo_id, revision, subset, cache_dir)
    record.add(fetch_embeddings(kept, cache_dir, force=force))
    record.locations |= {"cache": cache_dir, "source": kept.folder.url}
    if not print_stats:
        return record.summary()
    figures = embedding_statistics(cache_dir)
    record.notes += [figures.audio.in_words("audio"), figures.text.in_words("text")]
    return replace(record.summary(), details={"statistics": asdict(figures)})
