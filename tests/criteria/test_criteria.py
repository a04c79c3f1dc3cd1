import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from autoprune.criteria.registry import CRITERIA, CriterionInfo
from autoprune.criteria.scoring import order, scores
from autoprune.criteria.weights import NormSettings
from autoprune.errors import DataError, InvalidArgumentError, SurgeryError, UnknownNameError
from autoprune.trace.tracer import trace

# The inner group of the network below passes no batch norm; tests/criteria/test_missing_evidence.py is about that.
pytestmark = pytest.mark.filterwarnings("ignore:the criterion 'batchnorm' says nothing")


class Residual(nn.Module):
    """A residual stream (4 channels, two producers, depthwise inside), an inner group and a flattened head."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.bn = nn.BatchNorm2d(4)
        self.inner = nn.Conv2d(4, 5, 1)
        self.deep = nn.Conv2d(5, 5, 3, padding=1, groups=5)
        self.back = nn.Conv2d(5, 4, 1)
        self.head = nn.Linear(16, 3)

    def forward(self, x):
        x = self.bn(self.stem(x)).relu()
        x = x + self.back(self.deep(self.inner(x)).relu())
        return self.head(F.adaptive_avg_pool2d(x, 2).flatten(1))


def network():
    """Return a network with its structure; the batch norm is not the identity."""
    torch.manual_seed(0)
    model = Residual().eval()
    with torch.no_grad():
        model.bn.weight.uniform_(0.5, 2.0)
        model.bn.bias.normal_()
    return model, trace(model, torch.randn(1, 3, 8, 8), validate=False)


def batches(n=3):
    """Return the same labelled batches every time."""
    generator = torch.Generator().manual_seed(1)
    return [(torch.randn(6, 3, 8, 8, generator=generator), torch.tensor([0, 1, 2, 0, 1, 2])) for _ in range(n)]


def loss(model, batch):
    """Cross entropy of a batch."""
    return F.cross_entropy(model(batch[0]), batch[1])


def score(name, model, structure, **options):
    """Score with everything a criterion may need."""
    return scores(name, model, structure, batches=batches(), loss=loss, **options)


def group(structure, module):
    """Return the index of the group that the module produces."""
    return structure.index(module)


@pytest.fixture(params=CRITERIA)
def name(request):
    """Every registered criterion in turn."""
    return request.param


def test_scores_are_finite_and_not_negative(name):
    """Every criterion gives one finite, non-negative score per channel of every group."""
    model, structure = network()
    found = score(name, model, structure)
    assert [values.shape for values in found] == [(g.width,) for g in structure.groups]
    assert all(values.dtype == np.float64 and np.isfinite(values).all() and (values >= 0).all() for values in found)


def test_scores_are_reproducible(name):
    """The same model, data and seed give the same scores, bit for bit."""
    first, second = (score(name, *network(), seed=3) for _ in range(2))
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


def test_the_model_is_untouched(name):
    """Scoring leaves tensors, gradients, flags and statistics as they were, and works on frozen parameters."""
    model, structure = network()
    model.train().requires_grad_(requires_grad=False)
    before = copy.deepcopy(model.state_dict())
    score(name, model, structure)
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())
    assert all(p.grad is None and not p.requires_grad for p in model.parameters())
    assert model.training


def test_permuting_channels_permutes_scores(name):
    """A relabeling of a group's channels, in all their tensors, relabels the scores and changes nothing else."""
    if name == "random":
        pytest.skip("random scores belong to positions")
    model, structure = network()
    before = score(name, model, structure)
    stream = group(structure, "stem")
    permutation = np.array([2, 0, 3, 1])
    tensors = dict(model.state_dict())
    chosen = structure.groups[stream]
    for axis in structure.axes:
        if (axis.genes >= chosen.start).all() and (axis.genes < chosen.start + 4).all():
            copies = len(axis.genes) // 4
            assert np.array_equal(axis.genes, np.repeat(chosen.genes, copies))
            index = (permutation[:, None] * copies + np.arange(copies)).ravel()
            tensors[axis.tensor].copy_(tensors[axis.tensor].index_select(axis.dim, torch.from_numpy(index)))
    after = score(name, model, structure)
    for i, (old, new) in enumerate(zip(before, after, strict=True)):
        np.testing.assert_allclose(new, old[permutation] if i == stream else old, rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize("name", ["l1", "l2", "oicsr", "batchnorm", "taylor", "ccm", "relevance_lasso"])
def test_a_dead_channel_scores_zero(name):
    """A channel whose weights are all zero has the least score there is."""
    model, structure = network()
    i = group(structure, "stem")
    chosen = structure.groups[i]
    tensors = model.state_dict()
    for axis in structure.axes:
        if "running" not in axis.tensor:
            dead = torch.from_numpy(np.flatnonzero(axis.genes == chosen.start + 1))
            tensors[axis.tensor].index_fill_(axis.dim, dead, 0.0)
    found = score(name, model, structure)[i]
    assert found[1] == 0
    assert np.delete(found, 1).min() > 0


@pytest.mark.parametrize("name", ["l1", "l2", "batchnorm", "fpgm", "taylor", "ccm", "relevance_lasso"])
def test_every_group_has_mean_one(name):
    """Scores of every group have mean 1, "as important as the average channel here": groups can be compared."""
    for values in score(name, *network()):
        np.testing.assert_allclose(values.mean(), 1)


@pytest.mark.parametrize("name", ["l1", "l2", "batchnorm", "fpgm", "cpmc"])
def test_weight_criteria_ignore_the_scale_of_layers(name):
    """Multiplying all weights by a number changes no score."""
    model, structure = network()
    before = scores(name, model, structure)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(8)  # exactly
    after = scores(name, model, structure)
    for old, new in zip(before, after, strict=True):
        np.testing.assert_allclose(new, old)


def test_norms_run_over_all_coupled_kernels():
    """L1 and L2 are norms of one vector: rows of producers, slices of consumers, depthwise kernels; no biases."""
    model, structure = network()
    state = {key: tensor.double().numpy() for key, tensor in model.state_dict().items()}
    stream = [
        np.concatenate(
            [
                state["stem.weight"][c].ravel(),
                state["back.weight"][c].ravel(),
                state["inner.weight"][:, c].ravel(),
                state["head.weight"][:, 4 * c : 4 * c + 4].ravel(),
            ]
        )
        for c in range(4)
    ]
    inner = [
        np.concatenate(
            [state["inner.weight"][c].ravel(), state["deep.weight"][c].ravel(), state["back.weight"][:, c].ravel()]
        )
        for c in range(5)
    ]
    for name, p in (("l1", 1), ("l2", 2)):
        found = scores(name, model, structure)
        for module, vectors in (("stem", stream), ("inner", inner)):
            expected = np.array([np.linalg.norm(vector, p) for vector in vectors])
            np.testing.assert_allclose(found[group(structure, module)], expected / expected.mean())


def test_batch_norm_scale():
    """The score is the absolute gamma over the group's mean; a group without batch norm has its L2 scores."""
    model, structure = network()
    gamma = model.bn.weight.detach().double().abs().numpy()
    found = scores("batchnorm", model, structure)
    np.testing.assert_allclose(found[group(structure, "stem")], gamma / gamma.mean())
    inner = group(structure, "inner")
    np.testing.assert_array_equal(found[inner], scores("l2", model, structure)[inner])


def test_geometric_median_prefers_outliers():
    """Filters 0, 1, 3, 10 on a line have summed distances 14, 12, 12, 26."""
    model = nn.Sequential(nn.Conv2d(1, 4, 1, bias=False), nn.ReLU(), nn.Conv2d(4, 2, 1))
    structure = trace(model, torch.randn(1, 1, 4, 4), validate=False)
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([0.0, 1.0, 3.0, 10.0]).view(4, 1, 1, 1))
    (found,) = scores("fpgm", model, structure)
    np.testing.assert_allclose(found, np.array([14, 12, 12, 26]) / 16)


def test_taylor_is_the_derivative_of_a_gate():
    """The score is the absolute derivative of the loss by a gate on the channel, over batches and the group's mean."""
    model, structure = network()
    found = score("taylor", model, structure)
    changes = []
    for x, y in batches():
        gate = torch.ones(5, requires_grad=True)
        # before a ReLU, which is positively homogeneous: equal to a gate on the slices of the consumer behind it
        hook = model.deep.register_forward_hook(lambda *call, gate=gate: call[-1] * gate.view(1, 5, 1, 1))
        F.cross_entropy(model(x), y).backward()
        hook.remove()
        changes.append(gate.grad.double().abs().numpy())
    expected = np.mean(changes, axis=0)
    np.testing.assert_allclose(found[group(structure, "inner")], expected / expected.mean(), rtol=1e-4)


def test_random_scores_depend_on_seed_and_group():
    """Another seed draws other scores; so does another group."""
    model, structure = network()
    a, b = scores("random", model, structure, seed=0), scores("random", model, structure, seed=1)
    assert not np.array_equal(a[0], b[0])
    assert not np.array_equal(a[0][:4], a[1][:4])


def test_what_a_criterion_needs_is_checked():
    """Missing data, empty data and another model are errors at the door."""
    model, structure = network()
    with pytest.raises(InvalidArgumentError, match="'taylor' needs batches and loss; give them"):
        scores("taylor", model, structure)
    with pytest.raises(InvalidArgumentError, match="'taylor' needs loss; give it"):
        scores("taylor", model, structure, batches=batches())
    with pytest.raises(DataError, match="at least one batch"):
        scores("taylor", model, structure, batches=[], loss=loss)
    with pytest.raises(SurgeryError, match="is missing"):
        scores("l1", nn.Linear(2, 2), structure)
    with pytest.raises(UnknownNameError, match="did you mean 'taylor'"):
        scores("tailor", model, structure)


def test_scores_that_are_not_finite_are_refused():
    """A diverged model is not ranked: the error names criterion and group."""
    model, structure = network()
    with torch.no_grad():
        model.stem.weight[0] = float("nan")
    with pytest.raises(InvalidArgumentError, match="'l1' must give 4 finite scores for group 'stem'"):
        scores("l1", model, structure)


def test_order_is_stable_and_best_first():
    """Channels come best first; equal scores keep the channels' order."""
    (found,) = order([np.array([1.0, 3.0, 1.0, 3.0, 2.0])])
    assert found.tolist() == [1, 3, 4, 0, 2]


def test_third_parties_register_through_entry_points(monkeypatch):
    """A criterion of another package is found by its entry point; built-in names cannot be taken over."""
    info = CriterionInfo("mine", "mine", "autoprune.criteria.weights:random")

    class Entry:
        def __init__(self, name, value):
            self.name, self.value = name, value

        def load(self):
            return self.value

    entries = [Entry("mine", info), Entry("l1", info), Entry("odd", 3)]
    monkeypatch.setattr(
        "importlib.metadata.entry_points", lambda group: entries if group == "autoprune.criteria" else []
    )
    assert CRITERIA.find("mine") is info
    assert CRITERIA.find("l1") is CRITERIA["l1"]
    with pytest.raises(InvalidArgumentError, match="must be a CriterionInfo, got 3"):
        CRITERIA.find("odd")
    with pytest.raises(UnknownNameError, match="did you mean 'mine'"):
        CRITERIA.find("mime")


def test_norms_without_readers_are_those_of_the_filters():
    """`readers=False` is the norm of the paper, in Python as a mapping or as the dataclass."""
    model, structure = network()
    inner = structure.index("inner")
    filters = torch.cat([model.inner.weight.flatten(1), model.deep.weight.flatten(1)], dim=1).abs().sum(dim=1)
    expected = (filters / filters.mean()).detach().numpy()
    for settings in ({"readers": False}, NormSettings(readers=False)):
        found = scores("l1", model, structure, settings=settings)
        np.testing.assert_allclose(found[inner], expected, rtol=1e-6)
    assert not np.allclose(scores("l1", model, structure)[inner], expected)


def test_squared_taylor_weighs_large_changes_more():
    """With one batch it is the square of the plain score, up to the mean of the group."""
    model, structure = network()
    plain, squared = (
        scores("taylor", model, structure, batches=batches(1), loss=loss, settings={"squared": value})
        for value in (False, True)
    )
    for a, b in zip(plain, squared, strict=True):
        np.testing.assert_allclose(b, a**2 / (a**2).mean(), rtol=1e-6)


def test_scales_can_be_compared_as_they_are():
    """Across layers the scores are the gammas themselves, as a training that pushed them to zero left them."""
    model, structure = network()
    stem = structure.index("stem")
    found = scores("batchnorm", model, structure, settings={"across_layers": True})
    np.testing.assert_allclose(found[stem], model.bn.weight.detach().abs().numpy(), rtol=1e-6)


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("taylor", {"square": True}, r"unknown setting 'square' of the criterion 'taylor'.*did you mean 'squared'"),
        ("fpgm", {"p": 2}, r"unknown setting 'p' of the criterion 'fpgm'"),
        ("l2", 3, r"expected the settings of the criterion 'l2' as NormSettings\(readers\)"),
    ],
)
def test_wrong_settings_are_refused(name, settings, message):
    """A setting that the criterion does not have is an error that names those it has."""
    model, structure = network()
    with pytest.raises(InvalidArgumentError, match=message):
        score(name, model, structure, settings=settings)
