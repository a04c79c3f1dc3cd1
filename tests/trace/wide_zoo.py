"""The wide zoo: networks that people deploy, beside those of `tests.trace.zoo`, by family.

Small configurations and images where the library allows it; random weights, nothing is downloaded.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from autoprune.core.groups import BoolArray, Structure
from autoprune.core.space import SearchSpace
from autoprune.cost.counter import count_macs, count_params
from autoprune.cost.model import CostModel
from autoprune.surgery.cut import cut
from autoprune.trace.tracer import trace_space

TARGETS = {
    "torchvision": 28,
    "timm": 28,
    "transformers": 33,
    "detectors": 30,
    "segmenters": 30,
    "diffusers": 45,
    "recurrent": 45,
}
"""Percent of the parameters that may be left by the median network of a family, when half of every group is cut."""

ACCEPTED = 60
"""Percent that may be left of any network without a reason that a user would accept."""


@dataclass(frozen=True)
class Network:
    """One network of the wide zoo.

    Attributes:
        family: one of `TARGETS`.
        make: builds it with random weights.
        example: makes its input.
        left: percent of the parameters that may be left: what was measured, rounded up.
        outputs: the outputs that count.
        fast: whether the tests that run on every change include it.
        exports: whether the cut network is turned into ONNX and a `torch.export` program, too.
        uncounted: whether torch's own counter does not see all of its multiply-adds.
        single: whether it runs in single precision only.
        lesson: makes an input that the network trains on, in training mode; without it, it gets its gradients on the
            example, in evaluation mode.
        why: why so much is left, where it is more than `ACCEPTED`.
    """

    family: str
    make: Callable[[], nn.Module]
    example: Callable[[], Any]
    left: int
    outputs: tuple[str, ...] = ()
    fast: bool = False
    exports: bool = False
    uncounted: bool = False
    single: bool = False
    lesson: Callable[[], Any] | None = None
    why: str = ""


@dataclass(frozen=True, eq=False)
class Half:
    """A network cut to half of every group.

    Attributes:
        structure: the traced structure.
        kept: (n_genes,) the channels that stay, in random order.
        small: the cut network.
        costs: MACs and parameters by the formula.
        counted_macs: the MACs that the cut network runs.
        left: share of the parameters that is left.
        seconds: processor seconds of the trace, validation included.
    """

    structure: Structure
    kept: BoolArray
    small: nn.Module
    costs: dict[str, int]
    counted_macs: int
    left: float
    seconds: float


def halve(model: nn.Module, example: Any, outputs: tuple[str, ...] = ()) -> Half:
    """Trace a network, which a tenth of every group must be left of at least, and cut it to half of every group."""
    start = time.process_time()
    layout = partial(SearchSpace.build, levels=None, min_keep_ratio=0.1)
    space = trace_space(model, example, layout, outputs=outputs)
    structure, seconds = space.structure, time.process_time() - start
    genome = space.nearest(np.full((1, space.n_variables), 0.5))
    rng = np.random.default_rng(0)
    orders = [rng.permutation(group.width) for group in structure.groups]
    kept = structure.kept_genes(orders, space.widths(genome)[0])
    small = cut(model, structure, kept).eval()
    costs = {name: int(values[0]) for name, values in CostModel(structure, space)(genome).items()}
    left = count_params(small) / count_params(model)
    return Half(structure, kept, small, costs, count_macs(small, example), left, seconds)


WIDE: dict[str, Network] = {}


def build(name: str) -> tuple[nn.Module, Any]:
    """Return a network in evaluation mode and its input; the test that asks is skipped where its library is absent."""
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations inside the libraries are theirs
        model = WIDE[name].make().eval()
    return model, WIDE[name].example()


def _noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def _tokens(n: int = 12) -> Tensor:
    return torch.randint(3, 90, (1, n), generator=torch.Generator().manual_seed(1))


def _library(name: str) -> Any:
    return pytest.importorskip(name, reason=f"{name} cannot be imported", exc_type=ImportError)


# ---------------------------------------------------------------- torchvision and timm


def _made(library: str, path: str, name: str, settings: dict[str, Any]) -> nn.Module:
    module = _library(library)
    for part in filter(None, path.split(".")):
        module = getattr(module, part)
    return getattr(module, name)(**settings)


def _torchvision(name: str, left: int, size: int = 64, path: str = "models", **settings: Any) -> None:
    make = partial(_made, "torchvision", path, name, {"weights": None, **settings})
    WIDE[f"tv.{name}"] = Network("torchvision", make, partial(_noise, 1, 3, size, size), left)


_torchvision("alexnet", 27)
_torchvision("vgg11", 26)
_torchvision("resnext50_32x4d", 28)
_torchvision("mnasnet0_5", 41)
_torchvision("mobilenet_v3_large", 32)
_torchvision("efficientnet_v2_s", 28)
_torchvision("regnet_x_400mf", 28)
_torchvision("squeezenet1_0", 36)
_torchvision("inception_v3", 37, size=96, init_weights=False)
_torchvision("googlenet", 31, init_weights=False)  # with its auxiliary classifiers, which run in training only
_torchvision("swin_v2_t", 26)
_torchvision("maxvit_t", 26, size=224)


def _video(name: str, left: int) -> None:
    make = partial(_made, "torchvision", "models.video", name, {"weights": None})
    WIDE[f"tv.{name}"] = Network("torchvision", make, partial(_noise, 1, 3, 4, 32, 32), left)


_video("r3d_18", 26)
_video("r2plus1d_18", 26)


def _timm(name: str, left: int, why: str = "") -> None:
    make = partial(_made, "timm", "", "create_model", {"model_name": name})
    WIDE[f"timm.{name}"] = Network("timm", make, partial(_noise, 1, 3, 64, 64), left, why=why)


_timm("ecaresnet26t", 56)
_timm("skresnet18", 27)
_timm("resnest14d", 30)
_timm("regnety_002", 29)
_timm("mobilenetv4_conv_small_035", 43)
_timm("lcnet_050", 43)
_timm("rexnet_100", 33)
_timm("ese_vovnet19b_dw", 30)
_timm("densenetblur121d", 29)
_timm("resnetv2_50x1_bit", 28)
_timm("convnextv2_atto", 29)
_timm("edgenext_xx_small", 30)
_timm("mobilevit_xxs", 32)
_timm("mobilevitv2_050", 31)
_timm("efficientvit_b0", 38)
_timm("fastvit_t8", 31)
_timm("hgnetv2_b0", 34)
_timm("mambaout_femto", 30)
_timm("poolformer_s12", 27)
_timm("pvt_v2_b0", 29)
_timm("repvit_m0_9", 29)
_timm("starnet_s1", 29)
_timm("xcit_nano_12_p16_224", 27)

# ---------------------------------------------------------------- transformers


def _hugging_face(model: str, settings: dict[str, Any]) -> nn.Module:
    transformers = _library("transformers")
    made = getattr(transformers, model)
    return made(made.config_class(**settings))


def _transformers(
    model: str,
    left: int,
    settings: dict[str, Any],
    example: Callable[[], Any],
    family: str = "transformers",
    **more: Any,
) -> None:
    name = model.partition("For")[0].removesuffix("Model").removesuffix("LMHead")
    WIDE[f"hf.{name}"] = Network(family, partial(_hugging_face, model, settings), example, left, **more)


def _words() -> dict[str, Tensor]:
    return {"input_ids": _tokens()}


def _marked_words() -> dict[str, Tensor]:
    return {"input_ids": _tokens(), "attention_mask": torch.ones(1, 12, dtype=torch.long)}


def _pairs() -> dict[str, Tensor]:
    return {"input_ids": _tokens(), "decoder_input_ids": _tokens(6)}


def _pixels(size: int) -> Callable[[], dict[str, Tensor]]:
    return lambda: {"pixel_values": _noise(1, 3, size, size)}


_TEXT = {
    "vocab_size": 99,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_DECODER = _TEXT | {"num_key_value_heads": 2, "use_cache": False}
_IMAGE = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "image_size": 32,
    "patch_size": 8,
}
_PAIR = {
    "vocab_size": 99,
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "use_cache": False,
}
_STAGES = {"num_encoder_blocks": 2, "depths": [1, 1], "hidden_sizes": [16, 32], "strides": [4, 2]} | {
    "num_attention_heads": [2, 4],
    "mlp_ratios": [2, 2],
}
_WINDOWS = {"image_size": 32, "patch_size": 2, "embed_dim": 16, "depths": [1, 1], "num_heads": [2, 4], "window_size": 4}

_transformers("BertForSequenceClassification", 32, _TEXT, _marked_words, fast=True, exports=True)
_transformers("RobertaForSequenceClassification", 32, _TEXT, _marked_words)
_transformers("ElectraForSequenceClassification", 30, _TEXT | {"embedding_size": 16}, _marked_words)
_transformers("AlbertForSequenceClassification", 32, _TEXT | {"embedding_size": 16}, _marked_words)
_transformers(
    "DistilBertForSequenceClassification",
    32,
    {"vocab_size": 99, "dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64, "max_position_embeddings": 64},
    _marked_words,
)
_transformers("MPNetForSequenceClassification", 32, _TEXT, _marked_words)
_transformers(
    "DebertaV2ForSequenceClassification",
    44,
    _TEXT | {"relative_attention": True, "pos_att_type": ["p2c", "c2p"]},
    _marked_words,
    uncounted=True,  # it does not run on scripted functions
)
_transformers("ConvBertForSequenceClassification", 42, _TEXT | {"embedding_size": 32}, _marked_words)
_transformers("ModernBertForSequenceClassification", 29, _TEXT | {"cls_token_id": 1, "sep_token_id": 2}, _marked_words)
_transformers(
    "GPT2LMHeadModel",
    30,
    {"vocab_size": 99, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "use_cache": False},
    _words,
)
_transformers("GPTNeoXForCausalLM", 33, _TEXT | {"use_cache": False}, _words)
_transformers(
    "BloomForCausalLM",
    37,
    {"vocab_size": 99, "hidden_size": 32, "n_layer": 2, "n_head": 4, "use_cache": False},
    _words,
    single=True,
)
_transformers("LlamaForCausalLM", 32, _DECODER, _words, fast=True, exports=True)
_transformers("MistralForCausalLM", 32, _DECODER, _words)
_transformers("Qwen2ForCausalLM", 32, _DECODER, _words)
_transformers("Qwen3ForCausalLM", 32, _DECODER | {"head_dim": 8}, _words)
_transformers("Gemma2ForCausalLM", 29, _DECODER | {"head_dim": 8}, _words, single=True)
_transformers("Phi3ForCausalLM", 35, _DECODER, _words)
_transformers("Olmo2ForCausalLM", 32, _DECODER, _words)
_transformers(
    "MambaForCausalLM",
    31,
    {"vocab_size": 99, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 8, "use_cache": False},
    _words,
)
_transformers(
    "T5ForConditionalGeneration",
    28,
    {"vocab_size": 99, "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4, "use_cache": False},
    _pairs,
    outputs=("logits",),
)
_transformers("MarianMTModel", 30, _PAIR | {"max_position_embeddings": 64}, _pairs, outputs=("logits",))
_transformers("BartForConditionalGeneration", 30, _PAIR | {"max_position_embeddings": 64}, _pairs, outputs=("logits",))
_transformers(
    "WhisperForConditionalGeneration",
    30,
    _PAIR | {"max_source_positions": 32, "max_target_positions": 32, "num_mel_bins": 16, "decoder_start_token_id": 1},
    lambda: {"input_features": _noise(1, 16, 64), "decoder_input_ids": _tokens(6)},
    outputs=("logits",),
)
_transformers("ViTForImageClassification", 33, _IMAGE, _pixels(32), exports=True)
_transformers("BeitForImageClassification", 33, _IMAGE, _pixels(32))
_transformers("Dinov2ForImageClassification", 32, _IMAGE, _pixels(32))
_transformers("SwinForImageClassification", 27, _WINDOWS, _pixels(32), outputs=("logits",))
_transformers("Swinv2ForImageClassification", 28, _WINDOWS, _pixels(32), outputs=("logits",), fast=True)
_transformers(
    "PvtForImageClassification",
    45,
    _STAGES | {"image_size": 32, "sequence_reduction_ratios": [2, 1], "patch_sizes": [4, 2]},
    _pixels(32),
)
_transformers(
    "PvtV2ForImageClassification",
    31,
    _STAGES | {"image_size": 32, "sr_ratios": [2, 1], "patch_sizes": [7, 3]},
    _pixels(32),
    exports=True,
)
_transformers(
    "ConvNextForImageClassification", 29, {"hidden_sizes": [16, 24, 32, 48], "depths": [1, 1, 1, 1]}, _pixels(64)
)
_transformers(
    "MobileViTForImageClassification",
    27,
    {"image_size": 64, "hidden_sizes": [24, 32, 40], "neck_hidden_sizes": [8, 16, 24, 32, 40, 48, 64]},
    _pixels(64),
)
_transformers(
    "CLIPModel",
    33,
    {"text_config": _TEXT | {"eos_token_id": 98}, "vision_config": _IMAGE, "projection_dim": 16},
    lambda: _marked_words() | _pixels(32)(),
    outputs=("logits_per_image",),
)
_transformers(
    "SiglipModel",
    31,
    {"text_config": _TEXT | {"max_position_embeddings": 16}, "vision_config": _IMAGE},
    lambda: _words() | _pixels(32)(),
    outputs=("logits_per_image",),
)
_transformers(
    "TimesformerForVideoClassification",
    31,
    _IMAGE | {"num_frames": 2},
    lambda: {"pixel_values": _noise(1, 2, 3, 32, 32)},
)
_transformers(
    "VideoMAEForVideoClassification",
    72,
    _IMAGE | {"num_frames": 4, "tubelet_size": 2},
    lambda: {"pixel_values": _noise(1, 4, 3, 32, 32)},
    why="positions are a tensor that is neither a parameter nor a buffer; the reason says to register it",
)
_transformers(
    "ASTForAudioClassification",
    28,
    _IMAGE | {"patch_size": 4, "frequency_stride": 4, "time_stride": 4, "max_length": 16, "num_mel_bins": 16},
    lambda: {"input_values": _noise(1, 16, 16)},
)
_transformers(
    "Wav2Vec2ForCTC",
    64,
    _TEXT
    | {"conv_dim": (16, 16, 16), "conv_stride": (5, 2, 2), "conv_kernel": (10, 3, 3)}
    | {"num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 2},
    lambda: {"input_values": _noise(1, 800)},
    why="weight norm over the stream; the reason names the call that removes it",
)
_transformers(
    "PatchTSTForPrediction",
    29,
    {"num_input_channels": 2, "context_length": 32, "prediction_length": 4, "patch_length": 8, "patch_stride": 8}
    | {"d_model": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "ffn_dim": 32},
    lambda: {"past_values": _noise(1, 32, 2)},
    outputs=("prediction_outputs",),
)
_transformers(
    "SegformerForSemanticSegmentation",
    30,
    _STAGES | {"sr_ratios": [2, 1], "patch_sizes": [7, 3], "decoder_hidden_size": 32},
    _pixels(32),
    family="segmenters",
    outputs=("logits",),
)
_transformers(
    "DetrForObjectDetection",
    26,
    {"use_timm_backbone": True, "backbone": "resnet18", "use_pretrained_backbone": False, "d_model": 32}
    | {"encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 4, "decoder_attention_heads": 4}
    | {"encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "num_queries": 5},
    _pixels(64),
    family="detectors",
    outputs=("logits", "pred_boxes"),
)

# ---------------------------------------------------------------- detectors and segmenters


def _yolo(name: str, left: int, family: str = "detectors", **more: Any) -> None:
    def make() -> nn.Module:
        return _library("ultralytics").YOLO(f"{name}.yaml", verbose=False).model

    outputs = () if name.endswith("-cls") else ("0",)  # decoded boxes and scores; the pyramid is returned beside them
    WIDE[f"yolo.{name}"] = Network(family, make, partial(_noise, 1, 3, 64, 64), left, outputs, **more)


_yolo("yolov5n", 26)
_yolo("yolov6n", 26)
_yolo("yolov8n", 26)
_yolo("yolov9t", 26)
_yolo("yolov10n", 27)
_yolo("yolo11n", 26)
_yolo("yolo12n", 26)
_yolo("yolo26n", 26)
_yolo("yolo11n-pose", 26)
_yolo("yolo11n-obb", 26)
_yolo("yolov8n-seg", 26, family="segmenters")
_yolo("yolov8n-cls", 37, family="torchvision")


def _detector(name: str, left: int, **settings: Any) -> None:
    settings = {"weights": None, "weights_backbone": None, "num_classes": 5, **settings}
    make = partial(_made, "torchvision", "models.detection", name, settings)
    WIDE[f"tv.{name}"] = Network("detectors", make, _image, left, lesson=_images_with_a_box)


def _image() -> tuple[list[Tensor]]:
    return ([torch.rand(3, 80, 100, generator=torch.Generator().manual_seed(1))],)


def _images_with_a_box() -> tuple[list[Tensor], list[dict[str, Tensor]]]:
    """Return two images: where one pixel is left, a batch norm has no statistics of one alone."""
    box = {"boxes": torch.tensor([[10.0, 10.0, 60.0, 70.0]]), "labels": torch.tensor([1])}
    return [*_image()[0], 1 - _image()[0][0]], [box, box]


_detector("retinanet_resnet50_fpn", 26, min_size=96, max_size=128)
_detector("fcos_resnet50_fpn", 26, min_size=96, max_size=128)
_detector("ssdlite320_mobilenet_v3_large", 29)
_detector("fasterrcnn_mobilenet_v3_large_320_fpn", 26, min_size=96, max_size=128)


def _segmenter(name: str, left: int) -> None:
    settings = {"weights": None, "weights_backbone": None, "num_classes": 5}
    make = partial(_made, "torchvision", "models.segmentation", name, settings)
    WIDE[f"tv.{name}"] = Network("segmenters", make, partial(_noise, 1, 3, 64, 64), left, outputs=("out",))


_segmenter("lraspp_mobilenet_v3_large", 26)
_segmenter("deeplabv3_mobilenet_v3_large", 26)
_segmenter("fcn_resnet50", 26)


def _smp(name: str, left: int, encoder: str = "resnet18", size: int = 64, **more: Any) -> None:
    settings = {"encoder_name": encoder, "encoder_weights": None, "classes": 3, **more}
    make = partial(_made, "segmentation_models_pytorch", "", name, settings)
    WIDE[f"smp.{name}.{encoder}"] = Network("segmenters", make, partial(_noise, 1, 3, size, size), left)


_smp("Unet", 26)
_smp("UnetPlusPlus", 26)
_smp("FPN", 26)
_smp("PSPNet", 26, encoder_depth=5)
_smp("DeepLabV3Plus", 26)
_smp("Linknet", 26)
_smp("MAnet", 45)
_smp("UPerNet", 26)
_smp("Segformer", 26)
_smp("Unet", 26, encoder="mobilenet_v2")
_smp("Unet", 31, encoder="efficientnet-b0")

# ---------------------------------------------------------------- diffusers


def _diffusers(name: str, left: int, settings: dict[str, Any], example: Callable[[], Any], **more: Any) -> None:
    make = partial(_made, "diffusers", "", name, settings)
    WIDE[f"diffusers.{name}"] = Network("diffusers", make, example, left, outputs=("sample",), **more)


_U = {"sample_size": 16, "block_out_channels": (16, 32), "layers_per_block": 1, "norm_num_groups": 4}
_V = {"block_out_channels": (16, 32), "layers_per_block": 1, "norm_num_groups": 4} | {
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
}
_diffusers(
    "UNet2DModel",
    26,
    _U
    | {"down_block_types": ("DownBlock2D", "AttnDownBlock2D"), "up_block_types": ("AttnUpBlock2D", "UpBlock2D")}
    | {"attention_head_dim": 8},
    lambda: {"sample": _noise(1, 3, 16, 16), "timestep": torch.tensor([3])},
)
_diffusers(
    "UNet2DConditionModel",
    27,
    _U
    | {"in_channels": 4, "out_channels": 4, "attention_head_dim": 4, "cross_attention_dim": 16}
    | {"down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D")}
    | {"up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D")},
    lambda: {
        "sample": _noise(1, 4, 16, 16),
        "timestep": torch.tensor([3]),
        "encoder_hidden_states": _noise(1, 5, 16),
    },
)
_diffusers("AutoencoderKL", 26, _V, partial(_noise, 1, 3, 32, 32))
_diffusers("VQModel", 26, _V | {"num_vq_embeddings": 16}, partial(_noise, 1, 3, 32, 32), uncounted=True)  # cdist
_diffusers(
    "DiTTransformer2DModel",
    51,
    {"num_attention_heads": 4, "attention_head_dim": 8, "in_channels": 4, "num_layers": 2, "norm_num_groups": 4}
    | {"sample_size": 8, "patch_size": 2, "num_embeds_ada_norm": 10},
    lambda: {"hidden_states": _noise(1, 4, 8, 8), "timestep": torch.tensor([3]), "class_labels": torch.tensor([1])},
)
_diffusers(
    "AutoencoderTiny",
    26,
    {"encoder_block_out_channels": (16,) * 4, "decoder_block_out_channels": (16,) * 4}
    | {"num_encoder_blocks": (1,) * 4, "num_decoder_blocks": (1,) * 4},
    partial(_noise, 1, 3, 32, 32),
    single=True,
)

# ---------------------------------------------------------------- recurrent, by hand


class _Reader(nn.Module):
    """Convolutions, a recurrent layer over columns, scores: a CRNN."""

    def __init__(self, recurrent: nn.RNNBase) -> None:
        super().__init__()
        self.columns = nn.Sequential(
            *(nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d((2, 1))),
        )
        self.recurrent = recurrent
        self.scores = nn.Linear(recurrent.hidden_size * (1 + recurrent.bidirectional), 21)

    def forward(self, x: Tensor) -> Tensor:
        y = self.columns(x).flatten(1, 2).transpose(1, 2)
        return self.scores(self.recurrent(y)[0])


class _Tagger(nn.Module):
    """Words in, a tag for each out."""

    def __init__(self, recurrent: nn.RNNBase) -> None:
        super().__init__()
        self.words, self.recurrent = nn.Embedding(90, recurrent.input_size), recurrent
        self.tags = nn.Linear(recurrent.hidden_size * (1 + recurrent.bidirectional), 9)

    def forward(self, words: Tensor) -> Tensor:
        return self.tags(self.recurrent(self.words(words))[0])


class _LastState(nn.Module):
    """A series in, one answer from the last state out."""

    def __init__(self, recurrent: nn.RNNBase) -> None:
        super().__init__()
        self.recurrent, self.answer = recurrent, nn.Linear(recurrent.hidden_size, 3)

    def forward(self, x: Tensor) -> Tensor:
        _, last = self.recurrent(x)
        return self.answer((last[0] if isinstance(last, tuple) else last)[-1])


class _ConvLstm(nn.Module):
    """A convolutional LSTM by hand, over frames."""

    def __init__(self, width: int = 12) -> None:
        super().__init__()
        self.width = width
        self.gates, self.out = nn.Conv2d(3 + width, 4 * width, 3, padding=1), nn.Conv2d(width, 2, 1)

    def forward(self, frames: Tensor) -> Tensor:
        n, _, _, height, width = frames.shape
        h = c = torch.zeros(n, self.width, height, width, dtype=frames.dtype)
        for frame in frames.unbind(1):
            i, f, o, g = self.gates(torch.cat([frame, h], 1)).chunk(4, 1)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            h = o.sigmoid() * c.tanh()
        return self.out(h)


class _Translator(nn.Module):
    """A GRU encoder, and cells that look back at it by attention of one head."""

    def __init__(self, width: int = 24) -> None:
        super().__init__()
        self.words, self.encoder = nn.Embedding(90, 16), nn.GRU(16, width, batch_first=True)
        self.cell, self.key = nn.GRUCell(16 + width, width), nn.Linear(width, width)
        self.out = nn.Linear(width, 90)

    def forward(self, words: Tensor) -> Tensor:
        embedded = self.words(words)
        memory, last = self.encoder(embedded)
        state, said = last[0], []
        for step in embedded.unbind(1)[:4]:
            weights = (self.key(memory) @ state.unsqueeze(2)).softmax(1)
            state = self.cell(torch.cat([step, (weights * memory).sum(1)], 1), state)
            said.append(self.out(state))
        return torch.stack(said, 1)


def _recurrent(name: str, left: int, make: Callable[[], nn.Module], example: Callable[[], Any], **more: Any) -> None:
    WIDE[f"recurrent.{name}"] = Network("recurrent", make, example, left, uncounted=True, **more)


_line, _series = partial(_noise, 1, 1, 16, 24), partial(_noise, 1, 7, 6)
_recurrent(
    "crnn lstm", 27, lambda: _Reader(nn.LSTM(128, 24, 2, bidirectional=True, batch_first=True)), _line, fast=True
)
_recurrent("crnn gru", 27, lambda: _Reader(nn.GRU(128, 24, 2, batch_first=True)), _line)
_recurrent("lstm tagger", 28, lambda: _Tagger(nn.LSTM(16, 24, 2, bidirectional=True, batch_first=True)), _tokens)
_recurrent("gru tagger", 29, lambda: _Tagger(nn.GRU(16, 24, 2, bidirectional=True, batch_first=True)), _tokens)
_recurrent("rnn tagger", 42, lambda: _Tagger(nn.RNN(16, 24, batch_first=True)), _tokens)
_recurrent("lstm series", 29, lambda: _LastState(nn.LSTM(6, 24, 2, batch_first=True)), _series)
_recurrent("gru series", 32, lambda: _LastState(nn.GRU(6, 24, batch_first=True)), _series)
_recurrent("convolutional lstm", 31, _ConvLstm, partial(_noise, 1, 3, 3, 8, 8))
_recurrent("translator", 34, _Translator, _tokens, fast=True)
