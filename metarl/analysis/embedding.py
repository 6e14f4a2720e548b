"""Pictures that go into a page: what a run directory holds may be anything, so that only a real picture is embedded."""

import io
import logging
import warnings
from pathlib import Path

from PIL import Image

from metarl.runs.reader import read_bytes

MOST_BYTES = 2**24
MOST_PIXELS = 5 * 10**7

log = logging.getLogger(__name__)


def picture(path: Path) -> bytes | None:
    """The PNG at ``path``; None where there is none, with a warning where something else has that name.

    Links and pipes are not read, nor what is too large; all parts of the file are checked, and decoded once.
    """
    try:
        data = read_bytes(path, most=MOST_BYTES)
        if data is None:
            return None
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # of pictures that are large once unpacked
            with Image.open(io.BytesIO(data), formats=["PNG"]) as found:
                if found.width * found.height > MOST_PIXELS:
                    raise ValueError(f"{found.width} x {found.height} pixels are too many")
                found.verify()
            with Image.open(io.BytesIO(data), formats=["PNG"]) as found:
                found.load()
        return data
    except Exception as error:  # decoders raise many kinds over damaged files
        log.warning("%s is left out of the page: no picture that can be shown (%s)", path, error)
        return None
