"""What the runs of a study learn from, on every node that trains."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import ray

from study.corpus import Corpus, cached_corpus
from study.tasks.data import Data
from study.tasks.task_files import TaskFiles


@dataclass(frozen=True)
class SharedCorpus:
    """A tokenised corpus that travels to a node when the node first opens it.

    Attributes:
        sha256: of the text.
        file: the Arrow file, as bytes in Ray's object store.
    """

    sha256: str
    file: "ray.ObjectRef[np.ndarray]"

    def open(self) -> Corpus:
        """Opens the corpus in the node's cache."""
        return cached_corpus(self.sha256, lambda: ray.get(self.file).data)


@dataclass(frozen=True)
class SharedTask:
    """The files of the user's own task, which are small enough to travel with each run."""

    files: TaskFiles

    def open(self) -> TaskFiles:
        """Returns the files."""
        return self.files


SharedData = SharedCorpus | SharedTask


def share(data: Data) -> SharedData:
    """Makes what runs learn from available to the cluster."""
    if isinstance(data, TaskFiles):
        return SharedTask(data)
    mapped = np.frombuffer(pa.memory_map(str(data.path)).read_buffer(), dtype=np.uint8)  # not read into memory first
    return SharedCorpus(data.sha256, ray.put(mapped))
