"""Where Ray does not start: apart from the tests that have a cluster running."""

from pathlib import Path

import pytest
from captum_dexar.evaluation.ray_runner import run_on_ray
from captum_dexar.evaluation.runner import Job

ray = pytest.importorskip("ray", reason="Ray is not installed: captum-dexar[ray]")
pytest.importorskip("ray.data", reason="Ray Data is not installed: captum-dexar[ray]")


def no_job() -> Job:
    raise AssertionError("nothing is loaded where Ray does not start")


def test_where_ray_cannot_start_the_plain_run_is_offered(tmp_path: Path) -> None:
    assert not ray.is_initialized()
    with pytest.raises(
        RuntimeError, match="start: nothing listens at 127.* without --ray"
    ):
        run_on_ray(no_job, tmp_path / "out", address="127.0.0.1:1")
    assert not ray.is_initialized() and not (tmp_path / "out").exists()
