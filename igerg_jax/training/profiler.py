"""Traces some steps of a run, for TensorBoard's profile plug-in and XProf.

<workdir>/profile/plugins/profile/<time>/<host>.xplane.pb, .trace.json.gz

pip install xprof && xprof --logdir=<workdir>/profile       (or tensorboard, with that installed)
"""

import pathlib
import tempfile
from typing import Any

import jax
from etils import epath


class Profile:
    """Traces `config.profile.steps` steps, after the first `after_steps` of this start.

    Only process 0 traces: all processes do the same work, and a browser cannot show the traces of a
    pod together. It waits for the device before and after, so that the trace holds complete steps;
    clu's `periodic_actions.Profile` does not, nor does it write to buckets.
    """

    def __init__(self, settings: Any, workdir: epath.Path, first_step: int):
        self._begin = first_step + settings.after_steps
        self._end = self._begin + settings.steps
        self._wanted = settings.steps > 0 and jax.process_index() == 0
        self._folder = workdir / "profile"
        self._scratch: tempfile.TemporaryDirectory | None = None

    def update(self, step: int, state: Any) -> epath.Path | None:
        """Starts or stops the trace if that is due after `step`; `state` is waited for.

        Returns:
          The folder of the trace if it was stopped, else None.
        """
        if self._wanted and step == self._begin:
            jax.block_until_ready(state)
            # JAX writes to local folders; the workdir may be a bucket.
            self._scratch = tempfile.TemporaryDirectory()
            jax.profiler.start_trace(self._scratch.name)
        elif self._scratch is not None and step == self._end:
            jax.block_until_ready(state)
            self.close()
            return self._folder
        return None

    def close(self) -> None:
        """Stops a running trace and writes it."""
        if self._scratch is None:
            return
        with self._scratch as scratch:
            self._scratch = None
            jax.profiler.stop_trace()
            for file in pathlib.Path(scratch).rglob("*"):
                if file.is_file():
                    target = self._folder / file.relative_to(scratch).as_posix()
                    target.parent.mkdir(parents=True, exist_ok=True)
                    target.write_bytes(file.read_bytes())
