"""The base of every configuration object.

One configuration object per concern, a frozen pydantic model beside the code that it configures.
The flow parameter, the deployment form, the command line and the run record are made from it, so
modules that hold configuration import neither torch nor Prefect.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Configuration(BaseModel):
    """Frozen, and strict about names: a misspelt option is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)
