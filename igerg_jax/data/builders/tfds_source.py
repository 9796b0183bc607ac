"""Access to datasets that TFDS downloads."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import Any

from igerg_jax.data.builders.source import Options
from igerg_jax.data.lazy_tensorflow import tfds
from igerg_jax.errors import UserError


def load(name: str, options: Options) -> dict[str, Any]:
    """Returns {split: random-access source} of a TFDS dataset, images not decoded.

    Downloads and builds it below options.data_dir/tfds on first use.

    Raises:
      UserError: it cannot be downloaded or built.
    """
    folder = os.path.join(os.path.expanduser(options.data_dir), "tfds")
    builder = tfds.builder(name, data_dir=folder, file_format="array_record")
    manual = os.path.expanduser(options.manual_dir) if options.manual_dir else None
    config = tfds.download.DownloadConfig(manual_dir=manual)
    tfds.disable_progress_bar()  # its bars garble a log
    try:
        with contextlib.redirect_stdout(sys.stderr):  # stdout is for results
            builder.download_and_prepare(download_config=config)
    except Exception as error:  # whatever a download or a foreign builder raises
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise UserError(
            f"TFDS cannot make '{name}' in '{folder}': {reason[0]}. It needs a network, or a copy "
            f"of the folder '{name}' that was made elsewhere (with file_format='array_record')"
        ) from error
    skip = {
        name: tfds.decode.SkipDecoding()
        for name, feature in builder.info.features.items()
        if isinstance(feature, tfds.features.Image)
    }
    return {split: builder.as_data_source(split, decoders=skip) for split in builder.info.splits}
