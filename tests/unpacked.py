"""Importing this unpacks the package's images once for all commands of a process, and of those that it forks.

That is a third of the time of a short command. A file with other content is unpacked as ever.
"""

import functools
import lzma

from lvm_lightning.data.mnist import packaged_file

lzma.decompress = functools.lru_cache(maxsize=2)(lzma.decompress)  # type: ignore[assignment]
lzma.decompress(packaged_file().read_bytes())
