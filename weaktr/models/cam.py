"""The CAM network of step 1: end-to-end class activation maps from a plain ViT (paper Sec. III)."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .attention import AttentionMaps
from .backbones import make_vit, normalisation
from .encoders import CamEncoder
from .fusion import AttentionFusion
from .weights import load_pretrained, pretrained_state

CAM_KINDS = ("fused", "patchcam", "attn")


@dataclass
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
    attentions: AttentionMaps  # L maps (B,H,N,N), kept or made anew at each access


class CamModel(nn.Module):
    """Plain ViT with class tokens, coarse CAM convolution and attention fusion. forward: x (B,3,·,·) → CamOutput."""

    def __init__(self, encoder, fusion):
        super().__init__()
        self.encoder, self.fusion = encoder, fusion
        self.head = nn.Conv2d(encoder.vit.embed_dim, encoder.num_classes, 3, padding=1)

    def forward(self, x):
        classes = self.encoder.num_classes
        tokens, attentions, outputs, grid = self.encoder(x)
        patches = tokens[:, -grid[0] * grid[1] :]
        coarse_cam = self.head(patches.transpose(1, 2).unflatten(2, grid))
        head_weights, fused_BNN = self.fusion(attentions.blocks, outputs)
        first_patch = fused_BNN.shape[1] - patches.shape[1]
        cross_attention = fused_BNN[:, :classes, first_patch:].unflatten(2, grid)
        patch_attention = fused_BNN[:, first_patch:, first_patch:]
        fused_cam = cross_attention * F.relu(coarse_cam.detach())
        fine_cam = refine(fused_cam, patch_attention)
        return CamOutput(
            cls_logits=tokens[:, :classes].mean(-1),
            coarse_logits=coarse_cam.mean((2, 3)),
            fine_logits=fine_cam.mean((2, 3)),
            coarse_cam=coarse_cam,
            fused_cam=fused_cam,
            fine_cam=fine_cam,
            head_weights=head_weights,
            cross_attention=cross_attention,
            patch_attention=patch_attention,
            attentions=attentions,
        )


def refine(cam_BChw, patch_attention_BPP):
    """Spread CAMs along the patch attention: row i becomes Σ_j PA[i,j]·cam[j]."""
    refined_BPC = patch_attention_BPP @ cam_BChw.flatten(2).transpose(1, 2).to(patch_attention_BPP)
    return refined_BPC.transpose(1, 2).unflatten(2, cam_BChw.shape[2:])


def cam_variant(output, kind="fused", refined=True):
    """One of the compositions of the ablation (paper Table "CAM variants") → (B,C,h,w).

    kind: "fused" (cross attention ⊙ ReLU(coarse)), "patchcam" (ReLU(coarse)) or "attn" (cross attention).
    """
    if kind not in CAM_KINDS:
        raise ValueError(f"CAM kind {kind!r} is unknown; one of {', '.join(CAM_KINDS)}")
    cam = {"fused": output.fused_cam, "patchcam": F.relu(output.coarse_cam), "attn": output.cross_attention}[kind]
    return refine(cam, output.patch_attention) if refined else cam


def create_cam_model(
    backbone,
    num_classes,
    *,
    pretrained=True,
    weights="",
    image_size=224,
    patch_size=None,
    fusion="adaptive",
    pool="max",
    reduction=8,
    feat_reduction=8,
    last_k=1,
    drop_path=0.0,
    keep_maps=None,
):
    """The CAM network on any plain timm ViT (or `weaktr_tiny_patch8_96`).

    num_classes: C foreground classes. image_size: training size in pixels. fusion: "adaptive", "mean", "random",
    "learned" or "last-k"; pool: "max" or "avg"; reduction, feat_reduction: the r of steps 4 and 3 of METHOD's fusion.
    weights: a local file instead of timm's download. keep_maps: True holds every attention map in memory, False makes
    them anew where they are needed, None keeps up to 1,024 tokens, and 1,408 without gradients; results are the same.
    Raises UserError for an unfit backbone or missing weights, ValueError for an unknown variant.
    """
    skipped = ("pretrained", "weights", "drop_path", "keep_maps")
    config = {name: value for name, value in locals().items() if name not in (*skipped, "skipped")}
    if num_classes < 1:
        raise ValueError(f"num_classes is {num_classes}; at least one foreground class is needed")
    vit = make_vit(backbone, image_size=image_size, patch_size=patch_size, drop_path=drop_path)
    if pretrained:
        load_pretrained(vit, pretrained_state(backbone, weights), "bicubic", weights or backbone)
    sizes = len(vit.blocks), vit.blocks[0].attn.num_heads, vit.embed_dim
    options = {"pool": pool, "reduction": reduction, "feat_reduction": feat_reduction, "last_k": last_k}
    with torch.random.fork_rng(devices=[]):
        fusing = AttentionFusion(*sizes, variant=fusion, **options)
    # Whatever the fusion, as many random numbers are drawn as for the published one: one seed starts one convolution,
    # so that the coarse CAMs of an ablation are the same and its differences are those of the fusion.
    AttentionFusion(*sizes, reduction=min(8, sizes[0] * sizes[1]), feat_reduction=min(8, sizes[2] // sizes[1]))
    model = CamModel(CamEncoder(vit, num_classes, keep_maps), fusing)
    model.config = {"step": "cam"} | config
    model.mean, model.std = normalisation(backbone)
    return model
