"""Tasks: what a model is trained for and measured by.

`Classification` is the default, `Segmentation` gives every pixel a class, `Detection` finds boxes, `Unlabelled` is that
of data without targets. `TorchMetrics` takes any loss and any metrics of torchmetrics, `FunctionTask` any loss, or
none, and any functions of the model. Anything else is a class with the attributes of `Task`: a loss of a batch, metrics
of a loader; everything that trains or measures uses nothing else.
"""

from autoprune.train.brought_tasks import FunctionTask, Loss, TorchMetrics
from autoprune.train.detection import Detection
from autoprune.train.segmentation import Segmentation
from autoprune.train.source import Batch
from autoprune.train.tasks import Classification, Task, Unlabelled, check_metrics

__all__ = [
    "Batch",
    "Classification",
    "Detection",
    "FunctionTask",
    "Loss",
    "Segmentation",
    "Task",
    "TorchMetrics",
    "Unlabelled",
    "check_metrics",
]
