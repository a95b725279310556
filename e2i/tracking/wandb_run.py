"""One run at Weights & Biases, or in a folder for `wandb sync`.

Decides: W&B never asks, hangs or fails a run.

- The mode is decided here: the one asked for, else that of the environment, else online if there
  is a key, else offline. `wandb.login` is never called, and wandb is told to be silent, in which
  state it cannot ask at a terminal.
- Before going online the server is asked for any answer. Where none comes in time, or the run
  cannot be started there, it is kept offline, and where that cannot be, W&B is off.
- All calls run in a thread of their own, with limits: starting 12 s (offline, where only this
  machine can be slow, 60 s), a step 2 s, an artifact 4 s, ending 6 s. What takes longer is left
  behind, and so are all later calls. Importing wandb is not counted.
- Steps are numbered by W&B; ours are its value `step`, and the axis of its charts. So a step is
  a row of its own as soon as it is logged, and a retry goes on in the run that has its id. A run
  that is killed loses what it logged in its last second.
- What lies in the store is logged by reference: its URL and its digest, without asking the store.
- Neither source code, git remotes, command lines nor package lists are recorded: they may hold
  tokens.

Source: wandb 0.31 `sdk/wandb_settings.py`, `sdk/wandb_init.py`, `errors/term.py`.
"""

from __future__ import annotations

import contextlib
import re
import ssl
import threading
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from e2i.errors import RunFailedError
from e2i.tracking.bounded_calls import Worker
from e2i.tracking.config import WandbMode
from e2i.tracking.tracker import Status, StoredArtifact, Warn, described, without_credentials

if TYPE_CHECKING:
    import wandb

START_LIMIT_S = 12.0
OFFLINE_START_LIMIT_S = 60.0
LOG_LIMIT_S = 2.0
ARTIFACT_LIMIT_S = 4.0
FINISH_LIMIT_S = 6.0
_LONGEST_TAG = 64
_ANSWER_S = 3.0
_INIT_S = 5.0
_UPLOAD_S = 4.0
_FLUSH_S = 1.0

Mode = Literal["online", "offline", "disabled"]
_ENVIRONMENT_MODES: dict[str, Mode] = {
    "online": "online",
    "run": "online",
    "shared": "online",
    "offline": "offline",
    "dryrun": "offline",
    "disabled": "disabled",
}


@dataclass(frozen=True, slots=True)
class WandbAccess:
    """What the environment says about W&B.

    Attributes:
        mode: the variable WANDB_MODE; empty if it is not set.
        has_key: whether there is an API key; never the key.
    """

    mode: str = ""
    has_key: bool = False


@dataclass(frozen=True, slots=True)
class RunLabels:
    """What a run is found and grouped by.

    Attributes:
        job_type: what it does, such as `train-projection`.
        group: runs that belong together.
        tags: data set, split, encoders, …
    """

    job_type: str = ""
    group: str = ""
    tags: tuple[str, ...] = ()


def choose_mode(wanted: WandbMode, access: WandbAccess) -> Mode:
    """The mode asked for, else that of the environment, else online with a key, else offline."""
    if wanted != "auto":
        return wanted
    if (found := _ENVIRONMENT_MODES.get(access.mode.strip().lower())) is not None:
        return found
    return "online" if access.has_key else "offline"


class WandbRun:
    """A run at W&B, in the mode that can be had."""

    def __init__(
        self,
        mode: Mode,
        project: str,
        *,
        run_name: str,
        run_id: str,
        folder: Path,
        warn: Warn,
        labels: RunLabels = RunLabels(),
    ) -> None:
        """Describe the run; nothing happens before `start`.

        Args:
            mode: as `choose_mode` decides.
            project: the project at W&B.
            run_name: what is shown.
            run_id: which run; one that is there already goes on.
            folder: where wandb makes its folder `wandb`.
            warn: told when the run cannot be had online.
            labels: what it is found and grouped by.
        """
        self._mode = mode
        self._project = project
        self._run_name = run_name
        self._run_id = run_id
        self._folder = folder
        self._warn = warn
        self._labels = labels
        self._worker = Worker()
        self._run: wandb.Run | None = None
        self._is_given_up = False

    def links(self) -> Mapping[str, str]:
        """The run's page, or the folder that it is kept in."""
        if self._run is None:
            return {}
        return {"wandb": self._run.url or str(Path(self._run.dir).parent)}

    def start(self, config: Mapping[str, object]) -> None:
        """Start or go on with the run; where it cannot be had online, offline.

        Raises:
            RunFailedError: it took too long.
            OSError: the folder cannot be written to.
            Exception: whatever wandb raises.
        """
        if self._mode == "disabled":
            return
        import wandb  # noqa: F401, PLC0415 - takes seconds, which are not wandb's fault

        _require_writable(self._folder)
        limit, other = (
            (OFFLINE_START_LIMIT_S, "disabled")
            if self._mode == "offline"
            else (START_LIMIT_S, "offline")
        )
        try:
            self._run = self._worker.call(
                lambda: self._opened_in_time(dict(config)),
                limit,
                "start",
                f"Use --wandb-mode {other}.",
            )
        except RunFailedError:
            self._is_given_up = True
            raise

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Log one step.

        Raises:
            RunFailedError: it took too long.
        """
        if (run := self._run) is not None:
            row = {**values, "step": step}
            self._worker.call(lambda: run.log(row), LOG_LIMIT_S, "log a step")

    def summary(self, values: Mapping[str, float]) -> None:
        """Add to the run's summary.

        Raises:
            RunFailedError: it took too long.
        """
        if (run := self._run) is not None:
            shown = dict(values)
            self._worker.call(lambda: run.summary.update(shown), LOG_LIMIT_S, "log a summary")

    def artifact(self, artifact: StoredArtifact) -> None:
        """Log a reference to what lies in the store; nothing is read, copied or uploaded of it.

        Raises:
            RunFailedError: it took too long.
        """
        if (run := self._run) is not None:
            self._worker.call(
                lambda: run.log_artifact(_reference(artifact)), ARTIFACT_LIMIT_S, "log an artifact"
            )

    def finish(self, status: Status) -> None:
        """End the run; what could not be uploaded in time stays in its folder.

        Raises:
            RunFailedError: it took too long.
            TimeoutError: uploading did.
        """
        if (run := self._run) is None:
            return
        self._run = None
        code = 0 if status == "completed" else 1
        try:
            self._worker.call(lambda: run.finish(exit_code=code), FINISH_LIMIT_S, "finish")
        except TimeoutError as error:
            raise RunFailedError(
                f"the run was not uploaded in time: got no end within {_UPLOAD_S:.0f} s, expected "
                f"one. Run `wandb sync {Path(run.dir).parent}`."
            ) from error
        finally:
            self._worker.end()

    def _opened_in_time(self, config: dict[str, Any]) -> wandb.Run:
        """The run; one that nobody waits for any more is ended, so that its id is free again."""
        run = self._open(config)
        if self._is_given_up:
            run.finish(exit_code=1)
        return run

    def _open(self, config: dict[str, Any]) -> wandb.Run:
        if self._mode == "online":
            reason = no_answer_from_wandb(self._folder)
            if not reason:
                try:
                    return self._init("online", config)
                except Exception as error:
                    reason = described(error)
                    # wandb's service still holds the id of the run that it could not start.
                    self._run_id += "-offline"
            self._warn(
                f"W&B cannot be had, so the run is kept offline: {reason.rstrip(' .:')}. Run "
                f"`wandb sync {self._folder / 'wandb'}/offline-run-*-{self._run_id}` later."
            )
        return self._init("offline", config)

    def _init(self, mode: Mode, config: dict[str, Any]) -> wandb.Run:
        import wandb  # noqa: PLC0415

        _disable_telemetry()
        settings = _settings(mode, self._folder)
        wandb.setup(settings)
        run = wandb.init(
            project=self._project,
            name=self._run_name,
            id=self._run_id,
            group=self._labels.group or None,
            job_type=self._labels.job_type or None,
            tags=_tags(self._labels.tags),
            resume="allow",
            reinit="create_new",
            settings=settings,
        )
        run.config.update(config, allow_val_change=True)  # type: ignore[no-untyped-call]
        run.define_metric("step", hidden=True)
        run.define_metric("*", step_metric="step")
        return run


def no_answer_from_wandb(folder: Path) -> str:
    """Why there is no answer from the server that wandb would go to; empty where there is.

    Args:
        folder: that wandb may write to.
    """
    import wandb  # noqa: PLC0415

    # Disabled, its settings are read without starting its service, which would wait for the
    # server at the end of the process.
    settings = wandb.setup(_settings("disabled", folder)).settings
    return _no_answer(settings.base_url, settings.https_proxy)


def silence(folder: Path) -> None:
    """Have wandb neither print nor ask nor report, and write to this folder alone."""
    import wandb  # noqa: PLC0415

    _disable_telemetry()
    wandb.setup(_settings("online", folder))


def _settings(mode: Mode, folder: Path) -> wandb.Settings:
    import wandb  # noqa: PLC0415

    return wandb.Settings(
        mode=mode,
        root_dir=str(folder),
        silent=True,
        quiet=True,
        console="off",
        init_timeout=_INIT_S,
        finish_timeout=_UPLOAD_S,
        finish_timeout_raises=True,
        x_service_wait=_INIT_S,
        x_transaction_log_flush_interval=_FLUSH_S,
        disable_code=True,
        disable_git=True,
        save_code=False,
        x_disable_meta=True,
        x_save_requirements=False,
    )


def _tags(words: Sequence[str]) -> list[str]:
    """Each once, and short enough for W&B."""
    return list(dict.fromkeys(word[:_LONGEST_TAG] for word in words if word))


def _reference(artifact: StoredArtifact) -> wandb.Artifact:
    """An artifact that points to the store.

    wandb's own way to make a reference asks the store for it, with a client and credentials of its
    own; what it would find out is known here.
    """
    import wandb  # noqa: PLC0415
    from wandb.sdk.artifacts.artifact_manifest_entry import (  # noqa: PLC0415
        ArtifactManifestEntry,
    )

    entry = artifact.as_entry()
    url = without_credentials(artifact.url)
    made = wandb.Artifact(
        re.sub(r"[^A-Za-z0-9_.-]+", "-", artifact.name), type=artifact.kind, metadata=entry
    )
    made.manifest.add_entry(
        ArtifactManifestEntry(
            path=url.rstrip("/").rsplit("/", 1)[-1],
            digest=artifact.sha256 or url,
            ref=url if "://" in url else Path(url).absolute().as_uri(),
            size=0,
        )
    )
    return made


def _disable_telemetry() -> None:
    """Keep wandb from reporting its own errors, which prints, and holds up the end of a process.

    The variable WANDB_ERROR_REPORTING does the same; a library sets no variables.
    """
    with contextlib.suppress(ImportError, AttributeError):
        from wandb.analytics.opentelemetry import opentelemetry_proxy  # noqa: PLC0415

        opentelemetry_proxy.disable()


def _require_writable(folder: Path) -> None:
    """Make the folder; wandb itself would go elsewhere without a word.

    Raises:
        OSError: it cannot be made or written to.
    """
    probe = folder / "wandb" / ".e2i-probe.tmp"
    probe.parent.mkdir(parents=True, exist_ok=True)
    probe.touch()
    probe.unlink(missing_ok=True)


def _no_answer(url: str, proxy: str | None) -> str:
    """Why there is no answer from a server; empty where there is any."""
    handlers = [urllib.request.ProxyHandler({"https": proxy, "http": proxy})] if proxy else []
    found: list[str] = []

    def ask() -> None:
        try:
            with urllib.request.build_opener(*handlers).open(url, timeout=_ANSWER_S):
                found.append("")
        except urllib.error.HTTPError as answer:
            answer.close()
            found.append("")
        except urllib.error.URLError as error:
            # Certificates are judged by wandb's own rules.
            secure = isinstance(error.reason, ssl.SSLError)
            found.append("" if secure else f"no connection to {url} ({error.reason}).")
        except (OSError, ValueError) as error:
            found.append(f"no connection to {url} ({error}).")

    thread = threading.Thread(target=ask, name="wandb-answer", daemon=True)
    thread.start()
    thread.join(_ANSWER_S)
    return found[0] if found else f"no answer from {url} within {_ANSWER_S:.0f} s."
