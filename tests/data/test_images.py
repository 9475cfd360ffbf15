"""The real digits: preprocessing against Pillow and torchvision."""

from collections import Counter
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms import Normalize, ToTensor

from mnist_exp.data.images import ImageSplit, stratified_split
from mnist_exp.errors import ConfigError
from tests.conftest import NAMES, mnist_files


def test_all_70000_digits_equal_pillows_bilinear_resize(
    all_digits: tuple[ImageSplit, ImageSplit], digits_root: Path
) -> None:
    for digits, name, count in zip(all_digits, (NAMES[0], NAMES[2]), (60_000, 10_000), strict=True):
        raw = np.frombuffer(mnist_files(digits_root)[name], np.uint8, offset=16).reshape(-1, 28, 28)
        assert digits.images.shape == (count, 1, 32, 32) and digits.images.dtype == torch.uint8
        bilinear = Image.Resampling.BILINEAR
        pillow = np.stack([np.asarray(Image.fromarray(image).resize((32, 32), bilinear)) for image in raw])
        assert np.array_equal(digits.images[:, 0].numpy(), pillow)


def test_labels_are_the_known_first_ones(all_digits: tuple[ImageSplit, ImageSplit]) -> None:
    assert all_digits[0].labels[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    assert all_digits[1].labels[:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]
    assert torch.bincount(all_digits[1].labels).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]


def test_normalisation_is_torchvisions_bit_for_bit(all_digits: tuple[ImageSplit, ImageSplit]) -> None:
    digits = all_digits[1]
    ours = digits.normalised(torch.arange(100))
    transform = Normalize((0.1307,), (0.30812881,))
    for image, mine in zip(digits.images[:100, 0].numpy(), ours, strict=True):
        assert torch.equal(mine, transform(ToTensor()(image)))


def test_of_the_60000_the_classes_are_held_out_in_proportion(all_digits: tuple[ImageSplit, ImageSplit]) -> None:
    """By hand: a twelfth of 5923, 6742, 5958, … is 493.58, 561.83, 496.5, …, rounded down 4,994 in all.

    So the six largest remainders are rounded up: those of 3, 1, 4, 5 and 9, and then, 0 and 8 being
    equal, that of 0.
    """
    rest, held = stratified_split(all_digits[0], 5000, seed=3)
    assert torch.bincount(held.labels).tolist() == [494, 562, 496, 511, 487, 452, 493, 522, 487, 496]
    assert len(rest) == 55_000 and rest.images.shape == (55_000, 1, 32, 32)
    assert (held.mean, held.std) == (rest.mean, rest.std) == (0.1307, 0.30812881)


def numbered(labels: list[int]) -> ImageSplit:
    """Images whose one pixel is their position."""
    return ImageSplit(torch.arange(len(labels)).view(-1, 1, 1, 1), torch.tensor(labels), 0.0, 1.0)


@given(st.lists(st.sampled_from([0, 1, 1, 2, 2, 2, 7, 9]), min_size=1, max_size=120), st.integers(1, 130))
def test_held_out_digits_are_a_share_of_every_class_or_refused(labels: list[int], size: int) -> None:
    counts = Counter(labels)
    exact = {label: Fraction(count * size, len(labels)) for label, count in counts.items()}
    shares = {label: int(share) for label, share in exact.items()}
    for label in sorted(counts, key=lambda label: (shares[label] - exact[label], label)):
        shares[label] += sum(shares.values()) < size
    if min(counts.values()) < 2 or not len(counts) <= size <= len(labels) - len(counts):
        with pytest.raises(ConfigError, match=f"data.validation_size={size}: with {len(labels)} images"):
            stratified_split(numbered(labels), size, seed=0)
        return
    rest, held = stratified_split(numbered(labels), size, seed=0)
    if all(0 < shares[label] < count for label, count in counts.items()):
        assert Counter(held.labels.tolist()) == shares
    assert len(held) == size and {*held.labels.tolist()} == {*rest.labels.tolist()} == {*counts}
    places = [part.images.flatten().tolist() for part in (rest, held)]
    assert places == [sorted(part) for part in places]
    assert sorted(places[0] + places[1]) == list(range(len(labels)))
    assert rest.labels.tolist() + held.labels.tolist() == [labels[place] for place in places[0] + places[1]]


def test_what_is_held_out_follows_from_the_seed_alone() -> None:
    digits = numbered([0, 1] * 500)
    before = torch.get_rng_state()
    first, again, other = (stratified_split(digits, 100, seed)[1].images.flatten() for seed in (1, 1, 2))
    assert torch.equal(first, again) and torch.equal(torch.get_rng_state(), before)
    # Of ten in a hundred, another seed's draw shares about ten; more than thirty would be no draw.
    assert len(set(first.tolist()) & set(other.tolist())) < 30
    # The classes alternate, so a held-out share that is no draw would have no spread within them.
    assert first.double().diff().std() > 5
