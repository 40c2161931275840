"""The CAM network of step 1: end-to-end class activation maps from a plain ViT (paper Sec. III)."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .attention import AttentionMaps
from .backbones import NO_CLASS_TOKEN, Backbone, Channels, ImageSize, make_vit, normalisation
from .encoders import CamEncoder
from .fusion import AttentionFusion
from .weights import load_pretrained, pretrained_state

CAM_KINDS = ("fused", "patchcam", "attn", "lifted")
BALANCING_ROUNDS = 3  # of rows and columns; five change the seeds of photographs by 0.2 points of mIoU


@dataclass(frozen=True)
class CamConfig:
    """What a CAM network is built from, as its checkpoint keeps it; see `create_cam_model`."""

    backbone: Backbone
    num_classes: int
    image_size: ImageSize
    patch_size: int | None
    fusion: str
    pool: str
    reduction: float
    feat_reduction: float
    last_k: int


@dataclass(frozen=True)
class CamOutput:
    """Everything the CAM network computes for a batch."""

    cls_logits: Tensor  # (B,C) from the class tokens
    coarse_logits: Tensor  # (B,C) mean of the coarse CAM
    fine_logits: Tensor  # (B,C) mean of the fine CAM
    coarse_cam: Tensor  # (B,C,h,w) 3×3 convolution of the patch tokens, before any ReLU
    fused_cam: Tensor  # (B,C,h,w) cross attention ⊙ ReLU(coarse CAM)
    fine_cam: Tensor  # (B,C,h,w) fused CAM refined by the patch attention
    head_weights: Tensor  # (B,L,H) of the attention maps
    cross_attention: Tensor  # (B,C,h,w) class rows of the fused attention map
    patch_attention: Tensor  # (B,P,P) patch rows of the fused attention map
    attentions: AttentionMaps  # L maps (B,H,N,N), kept or recomputed at each access


class CamModel(nn.Module):
    """Plain ViT with class tokens, coarse CAM convolution and attention fusion."""

    config: dict[str, Any]  # a CamConfig with the key "step"
    mean: Channels  # of the normalisation its backbone was pretrained with
    std: Channels
    details: dict[str, Any]  # of a loaded model: what `save_model` was given

    def __init__(self, encoder: CamEncoder, fusion: AttentionFusion) -> None:
        super().__init__()
        self.encoder = encoder
        self.fusion = fusion
        self.head = nn.Conv2d(encoder.vit.embed_dim, encoder.num_classes, 3, padding=1)

    def forward(self, x: Tensor) -> CamOutput:
        """Normalised images (B,3,height,width) → CamOutput."""
        classes = self.encoder.num_classes
        tokens, attentions, outputs, grid = self.encoder(x)
        patches = tokens[:, -grid[0] * grid[1] :]
        coarse_cam = self.head(patches.transpose(1, 2).unflatten(2, grid))
        head_weights, fused_BNN = self.fusion(attentions, outputs)
        composed = compose(coarse_cam, fused_BNN)
        return CamOutput(
            cls_logits=tokens[:, :classes].mean(-1),
            coarse_logits=coarse_cam.mean((2, 3)),
            fine_logits=composed.fine_cam.mean((2, 3)),
            coarse_cam=coarse_cam,
            fused_cam=composed.fused_cam,
            fine_cam=composed.fine_cam,
            head_weights=head_weights,
            cross_attention=composed.cross_attention,
            patch_attention=composed.patch_attention,
            attentions=attentions,
        )


class Composition(NamedTuple):
    """What the fused attention map makes of the coarse CAM; shapes as in CamOutput."""

    cross_attention: Tensor
    patch_attention: Tensor
    fused_cam: Tensor
    fine_cam: Tensor


def compose(coarse_cam_BChw: Tensor, fused_BNN: Tensor) -> Composition:
    """Coarse CAM and fused attention map, class tokens first and patches last among its N tokens → Composition."""
    classes, *grid = coarse_cam_BChw.shape[1:]
    first_patch = fused_BNN.shape[1] - grid[0] * grid[1]
    cross_attention = fused_BNN[:, :classes, first_patch:].unflatten(2, grid)
    patch_attention = fused_BNN[:, first_patch:, first_patch:]
    fused_cam = cross_attention * F.relu(coarse_cam_BChw.detach())  # detached: the fine loss trains the fusion only
    return Composition(cross_attention, patch_attention, fused_cam, refine(fused_cam, patch_attention))


def refine(cam_BChw: Tensor, patch_attention_BPP: Tensor) -> Tensor:
    """Spread CAMs along the patch attention: row i becomes Σ_j PA[i,j]·cam[j]."""
    cam_BPC = cam_BChw.flatten(2).transpose(1, 2).to(patch_attention_BPP)
    refined_BPC = patch_attention_BPP @ cam_BPC
    return refined_BPC.transpose(1, 2).unflatten(2, cam_BChw.shape[2:])


def balance(patch_attention_BPP: Tensor) -> Tensor:
    """Patch attention whose rows and columns each add up to one, and symmetric: Sinkhorn and Knopp's iteration.

    A ViT has a few patches, often in the background, that all others attend to. The patch attention as it is hands
    their CAM to every patch; balanced, a patch gives away as much as it takes in. Not in the paper; measured in
    docs/results.md.
    """
    balanced_BPP = patch_attention_BPP
    for _ in range(BALANCING_ROUNDS):
        balanced_BPP = balanced_BPP / balanced_BPP.sum(2, keepdim=True)
        balanced_BPP = balanced_BPP / balanced_BPP.sum(1, keepdim=True)
    return (balanced_BPP + balanced_BPP.transpose(1, 2)) / 2


def cam_variant(output: CamOutput, kind: str = "fused", refined: bool = True, balanced: bool = False) -> Tensor:
    """One of the compositions of the ablation (paper Table "CAM variants"), or one beyond the paper → (B,C,h,w).

    Args:
        output: Of the CAM network.
        kind: "fused" (cross attention ⊙ ReLU(coarse)), "patchcam" (ReLU(coarse)), "attn" (cross attention) or, beyond
            the paper, "lifted" (cross attention ⊙ what the coarse CAM has above its own minimum: where ReLU leaves
            nothing of a class that is there, a few patches make its whole map).
        refined: Whether it is spread along the patch attention.
        balanced: Beyond the paper, whether that attention is balanced first, see `balance`; it only matters to what is
            refined.

    Raises:
        ValueError: For an unknown kind.
    """
    if kind not in CAM_KINDS:
        raise ValueError(f"CAM kind {kind!r} is unknown; one of {', '.join(CAM_KINDS)}")
    if kind == "lifted":
        lowest_BC11 = output.coarse_cam.amin((2, 3), keepdim=True)
        cam = output.cross_attention * (output.coarse_cam - lowest_BC11)
    else:
        cam = {"fused": output.fused_cam, "patchcam": F.relu(output.coarse_cam), "attn": output.cross_attention}[kind]
    if not refined:
        return cam
    return refine(cam, balance(output.patch_attention) if balanced else output.patch_attention)


def create_cam_model(  # noqa: PLR0913 (the keywords are the interface)
    backbone: Backbone,
    num_classes: int,
    *,
    pretrained: bool = True,
    weights: str | Path = "",
    image_size: ImageSize = 224,
    patch_size: int | None = None,
    fusion: str = "adaptive",
    pool: str = "max",
    reduction: float = 8,
    feat_reduction: float = 8,
    last_k: int = 1,
    drop_path: float = 0.0,
    keep_maps: bool | None = None,
) -> CamModel:
    """The CAM network on any plain timm ViT (or `weaktr_tiny_patch8_96`).

    Args:
        backbone: See `backbones.Backbone`.
        num_classes: C foreground classes.
        pretrained: Whether the encoder starts from pretrained weights.
        weights: A local file of them instead of timm's download, see `pretrained_state`.
        image_size: Training size in pixels.
        patch_size: Pixels; None keeps the backbone's own.
        fusion: "adaptive", "mean", "random", "learned" or "last-k", see `AttentionFusion`.
        pool: "max" or "avg", over the tokens of an attention output.
        reduction: The r of step 4 of the fusion (docs/method.md, "Step 1").
        feat_reduction: The divisor of its step 3.
        last_k: Blocks that "last-k" averages.
        drop_path: Rate in the encoder's last block.
        keep_maps: True holds every attention map in memory, False recomputes them where they are needed, None keeps up
            to 1,024 tokens, and 1,408 without gradients; results are the same.

    Raises:
        UserError: For an unfit backbone and for missing or unfit weights.
        ValueError: For an unknown variant, and for no class.
    """
    if num_classes < 1:
        raise ValueError(f"num_classes is {num_classes}; at least one foreground class is needed")
    config = CamConfig(
        backbone=backbone,
        num_classes=num_classes,
        image_size=image_size,
        patch_size=patch_size,
        fusion=fusion,
        pool=pool,
        reduction=reduction,
        feat_reduction=feat_reduction,
        last_k=last_k,
    )
    vit = make_vit(backbone, image_size=image_size, patch_size=patch_size, drop_path=drop_path)
    if pretrained:
        load_pretrained(vit, pretrained_state(backbone, weights), "bicubic", weights or backbone)
        if vit.cls_token is None:
            print(f"{backbone}: {NO_CLASS_TOKEN}", flush=True)
    depth = len(vit.blocks)
    heads = vit.blocks[0].attn.num_heads
    with torch.random.fork_rng(devices=[]):  # whatever a variant draws, the generator stays where it was
        fusing = AttentionFusion(
            depth,
            heads,
            vit.embed_dim,
            variant=fusion,
            pool=pool,
            reduction=reduction,
            feat_reduction=feat_reduction,
            last_k=last_k,
        )
    _draw_as_the_published_fusion_does(depth, heads, vit.embed_dim)
    model = CamModel(CamEncoder(vit, num_classes, keep_maps), fusing)
    model.config = {"step": "cam"} | asdict(config)
    model.mean, model.std = normalisation(backbone)
    return model


def _draw_as_the_published_fusion_does(depth: int, heads: int, width: int) -> None:
    """Move torch's generator on by the initial weights of the published fusion, and throw them away.

    One random seed then starts one convolution whatever the fusion, so that the coarse CAMs of an ablation are the same
    and its differences are those of the fusions.
    """
    AttentionFusion(depth, heads, width, reduction=min(8, depth * heads), feat_reduction=min(8, width // heads))
