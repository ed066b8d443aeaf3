"""The corpus of a study, on every node that trains on it."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import ray

from study.corpus import Corpus, cached_corpus


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


def share(corpus: Corpus) -> SharedCorpus:
    """Makes a corpus of this machine available to the cluster."""
    mapped = np.frombuffer(pa.memory_map(str(corpus.path)).read_buffer(), dtype=np.uint8)  # not read into memory first
    return SharedCorpus(corpus.sha256, ray.put(mapped))
