"""Data: training, search-validation and test items, kept apart.

`Data` takes arrays, Datasets and DataLoaders. `load_data` finds data by name: ``digits``, ``npz:PATH``, ``cifar10``,
``imagefolder:PATH`` and what third parties add. To add one, write a function that takes a `DataRequest` and returns
`DataRoles`, and put a `DataInfo` that names it under the entry point group ``autoprune.data``; problem files and
``--data`` know it then, too.
"""

from autoprune.train.data import Data
from autoprune.train.named_data import NAMED_DATA, DataInfo, DataRequest, DataRoles, load_data
from autoprune.train.source import Batch, unpack_batch
from autoprune.train.split import Split
from autoprune.train.transforms import ImageTransform

__all__ = [
    "NAMED_DATA",
    "Batch",
    "Data",
    "DataInfo",
    "DataRequest",
    "DataRoles",
    "ImageTransform",
    "Split",
    "load_data",
    "unpack_batch",
]
