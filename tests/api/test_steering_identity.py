"""What steers belongs to a problem's identity as what scores does."""

from __future__ import annotations

import torch
from torch.utils.data import Dataset

import autoprune as ap
from autoprune.testing.digits_network import digits_network


class Items(Dataset):
    """Digits without ``targets``: the labels of some items are changed."""

    def __init__(self, split: object, changed: frozenset[int] = frozenset()) -> None:
        x, y = zip(*split.loader(500), strict=True)
        self.x, self.y, self.changed = torch.cat(x), torch.cat(y), changed

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.x[index], (int(self.y[index]) + (index in self.changed)) % 10


def test_labels_of_items_that_steer_are_in_the_fingerprint() -> None:
    """One changed label among those that steer a search is another problem; the same labels are the same."""
    digits = ap.load_data("digits", val_size=200)

    def fingerprint(changed: frozenset[int] = frozenset()) -> str:
        data = ap.Data(Items(digits.train), Items(digits.validation, changed))
        evaluation = ap.ProxySettings(n_calibration=32, n_validation=32, batch_size=32)
        return ap.Problem(digits_network(), data=data, evaluation=evaluation).fingerprint

    steer = ap.Data(Items(digits.train), Items(digits.validation)).steer.positions
    assert fingerprint() == fingerprint()
    assert fingerprint(frozenset({int(steer[17])})) != fingerprint()
