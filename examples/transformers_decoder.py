"""A smaller Llama that still generates.

    pip install transformers
    python examples/transformers_decoder.py

A small configuration with random weights stands for yours. Grouped queries are cut with the keys and values that they
share, RMSNorm and rotary positions are followed, and the gated MLP is cut inside.
"""

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

import autoprune as ap


def main() -> None:
    """Keep 40 % of a decoder's parameters, save, load, generate."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=99,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
    )
    model = LlamaForCausalLM(config)
    tokens = np.random.default_rng(0).integers(3, 99, (96, 12))

    # The cache of keys and values is an output, too: naming the logits says that it does not count.
    found = ap.prune(model, ap.Data({"input_ids": tokens}), {"params": "40%"}, outputs=["logits"])
    print(found.summary)

    ap.save_pretrained(found, "small-llama", model)
    small = ap.load_pretrained("small-llama")
    prompt = torch.from_numpy(tokens[:1, :4])
    written = small.generate(prompt, max_new_tokens=8, do_sample=False, pad_token_id=0)
    assert torch.equal(written, found.model.generate(prompt, max_new_tokens=8, do_sample=False, pad_token_id=0))
    print(written[0].tolist())


if __name__ == "__main__":
    main()
