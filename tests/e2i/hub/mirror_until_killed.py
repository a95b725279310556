"""Mirrors a cache to the Hub of its environment, until it is killed: `python … <cache folder>`."""

from __future__ import annotations

import sys

from e2i.hub.config import HubConfig
from e2i.hub.mirror import Mirror, Pace
from e2i.storage import Folder

config = HubConfig(hf_dataset="me/sounds")
Mirror(Folder(sys.argv[1]), config, pace=Pace(interval_s=0.0)).finish()
