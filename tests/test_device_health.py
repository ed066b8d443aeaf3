"""A worker whose GPU no longer answers, and a machine on which trials cannot be compiled."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch._inductor.config

from study.corpus import build_corpus
from study.engine import memory_check, trial
from study.engine.device_health import device_works, free_memory
from study.training.config import PRESETS


def broken(*_: Any) -> None:
    raise RuntimeError("CUDA error: an illegal memory access was encountered")


@pytest.fixture
def broken_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """CUDA as it answers after a fault in a kernel; there is no GPU here to break."""
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "synchronize", broken)
    monkeypatch.setattr(torch.cuda, "empty_cache", broken)


def test_a_cpu_works() -> None:
    assert device_works()
    free_memory()


def test_a_gpu_that_does_not_answer_is_noticed(broken_gpu: None, caplog: pytest.LogCaptureFixture) -> None:
    assert not device_works()
    free_memory()
    assert "no longer works" in caplog.text


@pytest.mark.parametrize("works", [True, False])
def test_a_worker_with_a_broken_gpu_ends_and_does_not_fail_the_trial(
    works: bool, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not works:
        request.getfixturevalue("broken_gpu")
    told: list[dict[str, Any]] = []
    monkeypatch.setattr(trial.tune, "report", told.append)
    monkeypatch.setattr(trial.ray, "get_gpu_ids", list)

    class Job:
        def results(self, config: object, folder: object) -> Iterator[dict[str, Any]]:
            yield from ()
            raise RuntimeError("Triton Error [CUDA]: an illegal memory access was encountered")

    spec = SimpleNamespace(training=PRESETS["smoke"].training)
    folder = SimpleNamespace(path=Path("x"))
    run = lambda: trial._run_trial(spec, Job(), folder, None)  # type: ignore[arg-type]  # noqa: E731
    if works:
        run()
        assert "illegal memory access" in told[0]["failed"]
    else:
        with pytest.raises(RuntimeError, match="illegal memory access"):
            run()
        assert not told


class OpenCorpus:
    def open(self) -> Any:
        return build_corpus("to be or not to be, that is the question. " * 200)


@pytest.fixture
def no_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "inductor"))
    torch._dynamo.reset()
    with torch._inductor.config.patch({"cpp.cxx": (str(tmp_path / "no-compiler"),)}):
        yield
    torch._dynamo.reset()


def test_without_a_compiler_trials_train_all_the_same(no_compiler: None, monkeypatch: pytest.MonkeyPatch) -> None:
    measure = memory_check._measure
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: False)
    monkeypatch.setattr(memory_check, "_measure", lambda training, corpus, device: measure(training, corpus, "cpu"))
    on_cuda = {"compile": True, "dtype": "bfloat16"}
    found = memory_check._try_out(True, PRESETS["smoke"].training, on_cuda, OpenCorpus())  # type: ignore[arg-type]
    assert isinstance(found, memory_check.Estimate)
    assert found.on_cuda == {"compile": False, "dtype": "float32"}
    assert [line.partition(":")[0] for line in found.warnings] == [
        "this GPU has no bfloat16",
        "torch.compile does not work here, and trials train without it, slower",
    ]
    assert 0 < found.training_share < 1


def test_a_config_that_must_compile_says_why_it_cannot(no_compiler: None) -> None:
    training = replace(PRESETS["smoke"].training, compile=True)
    found = memory_check._try_out(False, training, {}, OpenCorpus())  # type: ignore[arg-type]
    assert isinstance(found, str)
    assert "compiler" in found.lower()
