"""A smaller encoder of transformers, saved with its configuration and loaded without the dense model.

    pip install transformers
    python examples/transformers_encoder.py

A small configuration with random weights stands for yours: `BertForSequenceClassification.from_pretrained(...)`.
"""

import numpy as np
import torch
from transformers import BertConfig, BertForSequenceClassification

import autoprune as ap


def main() -> None:
    """Halve the multiply-adds of an encoder by heads, widths and embedding; save and load it."""
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=99, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64, num_labels=3
    )
    model = BertForSequenceClassification(config)
    tokens = np.random.default_rng(0).integers(1, 99, (96, 12))
    batch = {"input_ids": tokens, "attention_mask": np.ones_like(tokens)}  # what the tokenizer returns

    found = ap.prune(model, ap.Data(batch), {"macs": "50%"})
    print(found.summary)

    ap.save_pretrained(found, "small-bert", model)  # `found.model.save_pretrained` could not be loaded
    small = ap.load_pretrained("small-bert")
    example = {name: torch.from_numpy(values[:2]) for name, values in batch.items()}
    assert torch.equal(small(**example).logits, found.model(**example).logits)
    print(sum(p.numel() for p in model.parameters()), "->", sum(p.numel() for p in small.parameters()), "parameters")


if __name__ == "__main__":
    main()
