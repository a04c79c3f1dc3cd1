"""What transformers and timm keep beside the weights is true of a pruned model."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from torch import nn
from transformers import BertConfig, BertForSequenceClassification, GenerationConfig, LlamaConfig, LlamaForCausalLM

import autoprune as ap
from autoprune import artifact
from autoprune.core.groups import Structure
from autoprune.errors import ArtifactError, InvalidArgumentError
from autoprune.surgery.cut import cut
from autoprune.trace import trace
from tests.surgery.surgery_laws import random_kept

SIZES = {
    "vocab_size": 50,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 32,
}
WORDS = torch.tensor([[3, 1, 4, 1, 5, 9]])


class Found:
    """A pruned model as `ap.prune` returns one, without the search."""

    def __init__(self, dense: nn.Module, structure: Structure) -> None:
        self.structure, self.kept = structure, random_kept(structure, np.random.default_rng(0))
        self.model = cut(dense, structure, self.kept).eval()

    def save(self, path: str | Path) -> None:
        artifact.save(path, self.model, self.structure, kept=self.kept)


def encoder() -> nn.Module:
    """Return a small BERT."""
    return BertForSequenceClassification(BertConfig(**SIZES, num_labels=5)).eval()


def decoder() -> nn.Module:
    """Return a small Llama in bfloat16 whose head shares the embedding, with settings of its own for generation."""
    model = LlamaForCausalLM(LlamaConfig(**SIZES, tie_word_embeddings=True)).to(torch.bfloat16).eval()
    model.generation_config = GenerationConfig(max_new_tokens=3, pad_token_id=0)
    return model


@pytest.mark.parametrize("make", [encoder, decoder])
def test_configuration_and_file_make_the_same_model(make: object, tmp_path: Path) -> None:
    """The loaded model answers bit for bit what was saved, in its own precision; ties and configurations are kept."""
    dense = make()  # type: ignore[operator]
    found = Found(dense, trace(dense, {"input_ids": WORDS}, outputs=["logits"]))
    ap.save_pretrained(found, tmp_path / "small", dense)
    again = ap.load_pretrained(tmp_path / "small")
    assert type(again) is type(dense)
    assert torch.equal(again(WORDS).logits, found.model(WORDS).logits)
    assert again.dtype is dense.dtype
    assert again.config.to_diff_dict() == dense.config.to_diff_dict() | {"architectures": [type(dense).__name__]}
    assert sum(p.numel() for p in again.parameters()) == sum(p.numel() for p in found.model.parameters())
    if make is decoder:
        assert again.get_input_embeddings().weight is again.get_output_embeddings().weight
        assert torch.equal(again.generate(WORDS), found.model.generate(WORDS, max_new_tokens=3, pad_token_id=0))


def test_what_is_no_such_folder_is_refused(tmp_path: Path) -> None:
    """No configuration, no class of transformers, no model of transformers: each refusal says which."""
    with pytest.raises(ArtifactError, match=r"no config\.json"):
        ap.load_pretrained(tmp_path)
    for named in ("os", "BertTokenizer", 3):
        (tmp_path / "config.json").write_text(json.dumps({"architectures": [named]}))
        with pytest.raises(ArtifactError, match="does not have"):
            ap.load_pretrained(tmp_path)
    dense = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    with pytest.raises(InvalidArgumentError, match="got Sequential"):
        ap.save_pretrained(Found(dense, trace(dense, torch.rand(1, 3), validate=False)), tmp_path / "small", dense)
    with pytest.raises(InvalidArgumentError, match="got Sequential"):
        ap.correct_feature_info(dense, dense, torch.rand(1, 3))


def test_a_dense_model_on_the_meta_device_takes_a_file(tmp_path: Path) -> None:
    """All tensors come from the file, buffers that no state dict has, too."""
    dense = decoder()
    found = Found(dense, trace(dense, {"input_ids": WORDS}, outputs=["logits"]))
    found.save(tmp_path / "small.autoprune")
    with torch.device("meta"):
        empty = LlamaForCausalLM(dense.config)
    again = ap.load(tmp_path / "small.autoprune", empty)
    assert {tensor.device.type for tensor in (*again.parameters(), *again.buffers())} == {"cpu"}
    assert torch.equal(again(WORDS).logits, found.model(WORDS).logits)


@pytest.mark.parametrize("name", ["test_resnet", "test_convnext", "test_vit", "test_efficientnet"])
def test_feature_info_is_true_of_a_pruned_classifier(name: str) -> None:
    """Entry for entry the channels that `forward_intermediates` returns, whichever axis a module has them on."""
    dense, image = timm.create_model(name, num_classes=4).eval(), torch.rand(1, 3, 160, 160)
    found = Found(dense, trace(dense, image, validate=False))
    small = found.model
    before = [entry["num_chs"] for entry in dense.feature_info]
    ap.correct_feature_info(small, dense, image)
    wanted = [features.shape[1] for features in small.forward_intermediates(image, intermediates_only=True)]
    assert [entry["num_chs"] for entry in small.feature_info] == wanted != before
    assert [entry["num_chs"] for entry in dense.feature_info] == before


def test_a_backbone_keeps_the_width_of_its_features() -> None:
    """All outputs count unless `outputs=` says otherwise; then the table is put right as a classifier's is."""
    dense, image = timm.create_model("test_resnet", features_only=True).eval(), torch.rand(1, 3, 64, 64)
    kept = Found(dense, trace(dense, image, validate=False)).model
    assert kept.feature_info.channels() == [features.shape[1] for features in kept(image)]
    last = str(len(dense(image)) - 1)
    small = Found(dense, trace(dense, image, outputs=[last], validate=False)).model
    ap.correct_feature_info(small, dense, image)
    assert small.feature_info.channels() == [features.shape[1] for features in small(image)]
    assert small.feature_info.channels()[:-1] != dense.feature_info.channels()[:-1]
