"""One photograph, every explanation: the script behind the README's figure."""


import numpy as np
import pytest

from papers import gallery

pytestmark = pytest.mark.promotes("ranks", "types")


@pytest.mark.slow
def test_gallery(tmp_path):
    with pytest.raises(SystemExit, match="unknown explanation 'lime'"):
        gallery.run(["--explanations", "lime"])
    gallery.run(["--explanations", "grad_cam", "--steps", "1", "--size", "96", "--out", str(tmp_path / "run")])
    assert np.load(tmp_path / "run" / "arrays.npz")["grad_cam/map_adv"].shape == (1, 3, 3)
    assert (tmp_path / "run" / "figure.png").stat().st_size > 10_000
