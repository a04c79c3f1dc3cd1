"""Batched image transforms."""

import pytest
import torch
from torchvision.transforms.functional import pad

from autoprune.errors import DataError, InvalidArgumentError
from autoprune.train.transforms import ImageTransform


def images(n: int = 64, size: int = 6) -> torch.Tensor:
    """Make random images without black pixels."""
    return torch.randint(1, 256, (n, 3, size, size), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def test_normalize_equals_the_formula() -> None:
    """Pixels are scaled to 0..1, the mean subtracted, the deviation divided, channel by channel."""
    x = images()
    transform = ImageTransform((0.1, 0.2, 0.3), (0.5, 0.6, 0.7))
    out = transform.normalize(x)
    for c, (m, s) in enumerate(zip(transform.mean, transform.std, strict=True)):
        torch.testing.assert_close(out[:, c], (x[:, c].float() / 255 - m) / s)


def test_crops_are_windows_of_the_image_in_a_black_frame() -> None:
    """Every augmented image is one of the windows that padding with black pixels offers, flipped or not."""
    x = images()
    out = ImageTransform(crop_padding=2, horizontal_flip=True).augment(x, torch.Generator().manual_seed(1))
    seen = set()
    for original, changed in zip(x, out, strict=True):
        framed = pad(original, [2, 2, 2, 2], fill=0)
        windows = {
            (i, j, flip): framed[:, i : i + 6, j : j + 6].flip(-1) if flip else framed[:, i : i + 6, j : j + 6]
            for i in range(5)
            for j in range(5)
            for flip in (False, True)
        }
        found = [key for key, window in windows.items() if torch.equal(window, changed)]
        assert len(found) == 1
        seen.add(found[0])
    assert {flip for _, _, flip in seen} == {False, True}
    assert {i for i, _, _ in seen} == {j for _, j, _ in seen} == set(range(5))


def test_generator_is_the_only_randomness() -> None:
    """Equal generators give equal crops, others do not, and the global state does not move."""
    x, transform = images(), ImageTransform(crop_padding=2, horizontal_flip=True)
    before = torch.get_rng_state()
    first = transform.augment(x, torch.Generator().manual_seed(1))
    assert torch.equal(first, transform.augment(x, torch.Generator().manual_seed(1)))
    assert not torch.equal(first, transform.augment(x, torch.Generator().manual_seed(2)))
    assert torch.equal(before, torch.get_rng_state())


def test_without_augmentation_nothing_changes() -> None:
    """A transform without crop and flip returns training images as they are."""
    x = images()
    assert ImageTransform().augment(x, torch.Generator()) is x


@pytest.mark.parametrize("settings", [{"mean": (0.5,)}, {"mean": (0.5,), "std": (0.0,)}, {"crop_padding": -1}], ids=str)
def test_bad_settings_are_refused(settings: dict[str, object]) -> None:
    """Settings that cannot be applied are refused where they are made."""
    with pytest.raises(InvalidArgumentError, match="expected"):
        ImageTransform(**settings)  # type: ignore[arg-type]


def test_wrong_shapes_are_refused() -> None:
    """Images with other channels than means, and things that are no images, are refused by name."""
    with pytest.raises(DataError, match="3 means"):
        ImageTransform((0.1, 0.2, 0.3), (1.0, 1.0, 1.0)).normalize(torch.zeros(2, 1, 4, 4))
    with pytest.raises(DataError, match="crop or flip"):
        ImageTransform(crop_padding=1).augment(torch.zeros(2, 5), torch.Generator())
