"""The state of a training between two epochs, stored so that a killed one goes on from there.

Decides: a state is taken up only by the training that wrote it: same data, same configuration, same
versions, told by a fingerprint; any other file is as good as none. It is written in the background
while the next epoch trains, replaced in one step, and deleted when the checkpoint is there. Where
writing takes long beside an epoch, as to a distant store, it is not written after each: a killed
training then loses a few times what writing takes.

Conventions: a safetensors file. Tensors are named `model.…`, `best.…`, `optimizer.<index>.<name>`,
`generator.<purpose>`; the header's metadata holds one entry, `e2i`, a JSON object.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType

from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from e2i.errors import StorageNotFoundError
from e2i.storage import Folder

_METADATA_KEY = "e2i"


@dataclass(frozen=True, slots=True)
class TrainingState:
    """All that the next epoch depends on.

    Attributes:
        tensors: by name, on the CPU.
        content: the rest, fit for JSON.
    """

    tensors: Mapping[str, Tensor]
    content: Mapping[str, object]

    def below(self, prefix: str) -> dict[str, Tensor]:
        """Tensors whose names begin with `<prefix>.`, without that."""
        start = f"{prefix}."
        return {
            name.removeprefix(start): tensor
            for name, tensor in self.tensors.items()
            if name.startswith(start)
        }


class StateFile:
    """Where the state of one training is kept. Use it in a `with`, which ends its thread."""

    def __init__(self, folder: Folder, name: str, *, largest_share: float = 1.0) -> None:
        """Take the file's place; nothing is read or written yet.

        Args:
            folder: where it lies.
            name: of the file.
            largest_share: of the time of training that may be spent on writing, about; at 1 it is
                written after each epoch, whatever that takes.
        """
        self._folder = folder
        self._largest_share = largest_share
        self._began_s, self._took_s = 0.0, 0.0
        self._name = name
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="e2i-training-state")
        self._written: Future[None] | None = None

    def __enter__(self) -> StateFile:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._pool.shutdown(wait=True)

    def load(self, fingerprint: str) -> TrainingState | None:
        """The state that a training of this fingerprint left behind; None where there is none."""
        try:
            data = self._folder.read(self._name)
            tensors = load_tensors(data)
            header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
            content = json.loads(header["__metadata__"][_METADATA_KEY])
        except (StorageNotFoundError, SafetensorError, ValueError, KeyError, TypeError):
            return None
        if not isinstance(content, dict) or content.pop("fingerprint", None) != fingerprint:
            return None
        return TrainingState(tensors, content)

    @property
    def is_due(self) -> bool:
        """Whether the state of the epoch that has ended is to be written."""
        if self._written is None or self._largest_share >= 1.0:
            return True
        waited_s = time.monotonic() - self._began_s
        return self._written.done() and self._took_s <= self._largest_share * waited_s

    def save(self, fingerprint: str, state: TrainingState) -> None:
        """Write a state, once the one before is written; its tensors may not change any more.

        Raises:
            StorageError: the store refused the one before.
        """
        self._wait()
        self._began_s = time.monotonic()
        self._written = self._pool.submit(self._write, fingerprint, state)

    def discard(self) -> None:
        """Delete it: the training has come to its end.

        Raises:
            StorageError: the store refused.
        """
        self._wait()
        self._folder.delete(self._name)

    def _wait(self) -> None:
        if self._written is not None:
            self._written.result()
            self._written = None

    def _write(self, fingerprint: str, state: TrainingState) -> None:
        text = json.dumps({**state.content, "fingerprint": fingerprint})
        tensors = {name: tensor.contiguous() for name, tensor in state.tensors.items()}
        self._folder.write(self._name, save_tensors(tensors, {_METADATA_KEY: text}), durable=False)
        self._took_s = time.monotonic() - self._began_s
