"""Data, tasks, the only training loop, BatchNorm recalibration and distillation.

`data` keeps train, search-validation and test items apart; `tasks` says what is trained and measured; `loop` trains.

>>> import torch
>>> from autoprune.train.loop import fit
>>> from autoprune.train.named_data import load_data
>>> from autoprune.train.settings import FitSettings
>>> from autoprune.train.tasks import Classification
>>> data = load_data("digits")
>>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
>>> result = fit(model, data, Classification(), FitSettings(epochs=3, batch_size=32, learning_rate=0.02))
>>> result.steps, result.spent.macs
(120, 7372800)
>>> Classification().metric(model, data.validation.loader(100))["accuracy"] > 0.8
True
"""
