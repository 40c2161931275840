"""The segmenter of step 2: plain ViT encoder, mask-transformer decoder (paper Sec. IV)."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from .backbones import Backbone, Channels, ImageSize, make_vit, normalisation, released_eps, untagged
from .decoder import MaskTransformer
from .encoders import SegmenterEncoder
from .weights import load_pretrained, pretrained_state


@dataclass(frozen=True)
class SegmenterConfig:
    """What a segmenter is built from, as its checkpoint keeps it; see `create_segmenter`."""

    backbone: Backbone
    num_classes: int
    image_size: ImageSize
    patch_size: int | None
    decoder_heads: int | None
    decoder_depth: int


class Segmenter(nn.Module):
    """Encoder and decoder; normalised images of any size → logits of the same size."""

    config: dict[str, Any]  # a SegmenterConfig with the key "step"
    mean: Channels  # of the normalisation its backbone was pretrained with
    std: Channels
    details: dict[str, Any]  # of a loaded model: what `save_model` was given

    def __init__(self, encoder: SegmenterEncoder, decoder: MaskTransformer) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder

    def forward(self, x: Tensor) -> Tensor:
        """Normalised images (B,3,height,width) → logits (B,K,height,width)."""
        padded = self._padded(x)
        masks = self.decoder(*self.encoder(padded))
        return self._enlarged(masks, padded, x)

    def masks_of_every_block(self, x: Tensor) -> list[Tensor]:
        """Logits (B,K,height,width) after each block of the decoder; the last are those of `forward`.

        Only the last are trained. The documented evaluation of the released code adds those of the first block to them
        (docs/method.md, "Step 2").
        """
        padded = self._padded(x)
        masks = self.decoder.masks_of_every_block(*self.encoder(padded))
        return [self._enlarged(block_masks, padded, x) for block_masks in masks]

    def _padded(self, x: Tensor) -> Tensor:
        """Images with zeros on the right and below, up to multiples of the patch."""
        height, width = x.shape[-2:]
        patch = self.encoder.vit.patch_embed.patch_size[0]
        return F.pad(x, (0, -width % patch, 0, -height % patch))

    def _enlarged(self, masks: Tensor, padded: Tensor, x: Tensor) -> Tensor:
        """Masks (B,K,h,w) of padded images, bilinearly at the size of the padded, cut back to that of the images."""
        height, width = x.shape[-2:]
        masks = F.interpolate(masks.float(), padded.shape[-2:], mode="bilinear", align_corners=False)
        return masks[..., :height, :width]


def create_segmenter(  # noqa: PLR0913 (the keywords are the interface)
    backbone: Backbone,
    num_classes: int,
    *,
    pretrained: bool = True,
    weights: str | Path = "",
    image_size: ImageSize = 480,
    patch_size: int | None = None,
    drop_path: float = 0.0,
    decoder_heads: int | None = None,
    decoder_depth: int = 2,
    decoder_dropout: float = 0.1,
) -> Segmenter:
    """The segmenter on any plain timm ViT (or `weaktr_tiny_patch8_96`).

    Args:
        backbone: See `backbones.Backbone`.
        num_classes: K = C + 1, background included.
        pretrained: Whether the encoder starts from pretrained weights.
        weights: A local file of them instead of timm's download, see `pretrained_state`.
        image_size: Training crop in pixels.
        patch_size: Pixels; None keeps the backbone's own (16 in the published table).
        drop_path: Rate in the encoder's last block.
        decoder_heads: None means D/64.
        decoder_depth: Blocks of the decoder.
        decoder_dropout: Rate in the decoder.

    Raises:
        UserError: For an unfit backbone and for missing or unfit weights.
        ValueError: For fewer than two classes.
    """
    if num_classes < 2:
        raise ValueError(f"num_classes is {num_classes}; background and at least one class are needed")
    config = SegmenterConfig(
        backbone=backbone,
        num_classes=num_classes,
        image_size=image_size,
        patch_size=patch_size,
        decoder_heads=decoder_heads,
        decoder_depth=decoder_depth,
    )
    vit = make_vit(
        backbone,
        image_size=image_size,
        patch_size=patch_size,
        eps=released_eps(backbone),
        drop_path=drop_path,
        step=2,
    )
    if pretrained:
        mode = starting_position_mode(backbone)
        load_pretrained(vit, pretrained_state(backbone, weights), mode, weights or backbone)
    heads = decoder_heads or max(1, vit.embed_dim // 64)
    decoder = MaskTransformer(num_classes, vit.embed_dim, heads, decoder_depth, decoder_dropout)
    model = Segmenter(SegmenterEncoder(vit), decoder)
    model.config = {"step": "segmenter"} | asdict(config)
    model.mean, model.std = normalisation(backbone)
    return model


def starting_position_mode(backbone: Backbone) -> str:
    """How pretrained position embeddings are resized to the grid of the training crop: "bilinear", or "bicubic".

    The released code resizes them bilinearly, except those of the published ViT-S: its .npz file goes through timm's
    loader of 2022, which resizes bicubically (24 → 30 patches a side for crops of 480 px). A file does not tell where
    it comes from once it is converted, so the name decides, also where `weights` gives the file. Only the start is
    meant: `SegmenterEncoder` resizes bilinearly to the grids of other images, whatever the backbone.
    """
    name = "" if isinstance(backbone, dict) else untagged(backbone)
    return "bicubic" if name == "vit_small_patch16_384" else "bilinear"
