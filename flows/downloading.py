"""The flow `e2i-download-dataset`: Clotho, fetched, checked and unpacked."""

from __future__ import annotations

from prefect import flow

from e2i.datasets.download_config import DownloadConfig
from e2i.datasets.metadata_file import AUDIO_FOLDER, CSV_FOLDER
from e2i.store_layout import join_url
from flows.parameters import DATA_ROOT
from flows.run_record import RunRecord
from flows.summary import RunSummary
from tasks.downloading import download_dataset as fetch_and_unpack


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
