"""The segmenter of step 2: plain ViT encoder, mask-transformer decoder (paper Sec. IV). Suffixes: see encoder.py."""

import torch.nn.functional as F
from torch import nn

from .backbones import make_vit, normalisation
from .decoder import MaskTransformer
from .encoders import SegmenterEncoder
from .weights import load_pretrained, pretrained_state


class Segmenter(nn.Module):
    """forward: normalised images x (B,3,height,width) of any size → logits (B,K,height,width)."""

    def __init__(self, encoder, decoder):
        super().__init__()
        self.encoder, self.decoder = encoder, decoder

    def forward(self, x):
        padded = self._padded(x)
        return self._at_size(self.decoder(*self.encoder(padded)), padded, x)

    def masks_of_every_block(self, x):
        """Logits after each block of the decoder → list of (B,K,height,width), the last one being `forward`'s."""
        padded = self._padded(x)
        masks = self.decoder.masks_of_every_block(*self.encoder(padded))
        return [self._at_size(mask, padded, x) for mask in masks]

    def _padded(self, x):
        height, width = x.shape[-2:]
        patch = self.encoder.vit.patch_embed.patch_size[0]
        return F.pad(x, (0, -width % patch, 0, -height % patch))

    def _at_size(self, masks, padded, x):
        masks = F.interpolate(masks.float(), padded.shape[-2:], mode="bilinear", align_corners=False)
        return masks[..., : x.shape[-2], : x.shape[-1]]


def create_segmenter(
    backbone,
    num_classes,
    *,
    pretrained=True,
    weights="",
    image_size=480,
    patch_size=None,
    drop_path=0.0,
    decoder_heads=None,
    decoder_depth=2,
    decoder_dropout=0.1,
):
    """The segmenter on any plain timm ViT (or `weaktr_tiny_patch8_96`).

    num_classes: K = C + 1, background included. image_size: training crop in pixels. patch_size: None keeps the
    backbone's own (16 in the published table). decoder_heads: None means D/64. Raises UserError as create_cam_model.
    """
    skipped = ("pretrained", "weights", "drop_path", "decoder_dropout")
    config = {name: value for name, value in locals().items() if name not in (*skipped, "skipped")}
    if num_classes < 2:
        raise ValueError(f"num_classes is {num_classes}; background and at least one class are needed")
    vit = make_vit(backbone, image_size=image_size, patch_size=patch_size, eps=1e-5, drop_path=drop_path)
    if pretrained:
        load_pretrained(vit, pretrained_state(backbone, weights), "bilinear", weights or backbone)
    heads = decoder_heads or max(1, vit.embed_dim // 64)
    decoder = MaskTransformer(num_classes, vit.embed_dim, heads, decoder_depth, decoder_dropout)
    model = Segmenter(SegmenterEncoder(vit), decoder)
    model.config = {"step": "segmenter"} | config
    model.mean, model.std = normalisation(backbone)
    return model
