"""The networks of the zoo: small, described, and as good as their cards say."""

import numpy as np
import pytest

from common import inputs, robustness, zoo
from xmanip_jax import data

pytestmark = pytest.mark.promotes("ranks", "types")

CARDS = zoo.cards()


def test_the_zoo_is_whole():
    files = sorted(f.stem for f in zoo.FOLDER.glob("*.safetensors"))
    about = (zoo.FOLDER / "README.md").read_text()
    assert files == sorted(CARDS) and {"mnist_plain", "mnist_hessian", "mnist_atex", "mnist_int"} <= set(files)
    for name, card in CARDS.items():
        assert (zoo.FOLDER / f"{name}.safetensors").stat().st_size < 2 * 2**20
        assert f"| {name} |" in about
        for row in card["metrics"].values():
            assert row["low"] <= row["value"] <= row["high"]


@pytest.mark.sampled(4)
@pytest.mark.parametrize("name", CARDS)
def test_a_network_is_as_accurate_as_its_card_says(name):
    try:
        images, labels = data.load_dataset(name.partition("_")[0], "test", limit=1000)
    except data.DatasetError as error:
        pytest.skip(str(error))
    found = np.mean(robustness.right(inputs.network(name).model, images, labels))
    assert found == pytest.approx(CARDS[name]["metrics"]["accuracy"]["value"], abs=0.05)


def test_an_unknown_network_is_named():
    with pytest.raises(ValueError, match="'mnist_magic' is not in the zoo; known: mnist_"):
        zoo.load("mnist_magic")
