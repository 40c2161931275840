"""Names that other hubs and papers have for models of timm: DINO's torch.hub, Hugging Face, CLIP's, torchvision's."""

import re

import timm

SIZES = {
    "ti": "tiny", "t": "tiny", "s": "small", "b": "base", "l": "large", "h": "huge", "g": "giant",
    "tiny": "tiny", "small": "small", "base": "base", "large": "large", "huge": "huge", "giant": "giant",
}  # fmt: skip
S = r"(?P<size>tiny|small|base|large|huge|giant|ti|t|s|b|l|h|g)"
PATCH = r"(?P<patch>8|14|16|32)"
PIXELS = r"(?P<pixels>224|256|336|378|384|448|512)"

# Pattern of a name in lower case with hyphens only, and timm's names for it: {size}, {patch} and {pixels} are the
# pattern's groups. A name that timm does not have is left out, a tag that it does not have is dropped.
RULES: list[tuple[str, tuple[str, ...]]] = [
    (rf"dinov2-vit{S}14(-lc|-pretrain)?", ("vit_{size}_patch14_dinov2",)),
    (rf"dinov2-vit{S}14-reg4?(-lc|-pretrain)?", ("vit_{size}_patch14_reg4_dinov2",)),
    (rf"dinov2-{S}(-imagenet1k-1-layer)?", ("vit_{size}_patch14_dinov2",)),
    (rf"dinov2-with-registers-{S}(-imagenet1k-1-layer)?", ("vit_{size}_patch14_reg4_dinov2",)),
    (rf"dinov3-vit{S}16(-pretrain-lvd1689m)?", ("vit_{size}_patch16_dinov3.lvd1689m",)),
    (rf"dinov3-vit{S}16plus(-pretrain-lvd1689m)?", ("vit_{size}_plus_patch16_dinov3.lvd1689m",)),
    (r"dinov3-vit7b16(-pretrain-lvd1689m)?", ("vit_7b_patch16_dinov3.lvd1689m",)),
    (r"dinov3-vitl16-pretrain-sat493m", ("vit_large_patch16_dinov3.sat493m",)),
    (r"dinov3-vit7b16-pretrain-sat493m", ("vit_7b_patch16_dinov3.sat493m",)),
    (rf"dino-vit{S}{PATCH}", ("vit_{size}_patch{patch}_224.dino",)),
    (rf"vit-mae-{S}", ("vit_{size}_patch16_224.mae", "vit_{size}_patch14_224.mae")),
    (rf"deit-{S}(-?{PATCH})?", ("deit_{size}_patch16_224",)),
    (rf"deit-?(3|iii)-{S}(-?{PATCH})?", ("deit3_{size}_patch16_224",)),
    (rf"deit-{S}-patch{PATCH}-{PIXELS}", ("deit_{size}_patch{patch}_{pixels}",)),
    (rf"vit-{S}-patch{PATCH}-{PIXELS}", ("vit_{size}_patch{patch}_{pixels}",)),
    (rf"vit-{S}-patch{PATCH}-{PIXELS}-in21k", ("vit_{size}_patch{patch}_{pixels}.orig_in21k",)),
    (rf"vit-?{S}-?{PATCH}(-224)?", ("vit_{size}_patch{patch}_224", "vit_{size}_patch{patch}_clip_224")),
    (rf"vit-{S}-{PATCH}(-quickgelu)?-{PIXELS}(px)?", ("vit_{size}_patch{patch}_clip_{pixels}",)),
    (rf"vit-{S}-{PATCH}-quickgelu", ("vit_{size}_patch{patch}_clip_quickgelu_224",)),
    (rf"clip-vit-{S}-patch{PATCH}", ("vit_{size}_patch{patch}_clip_224.openai",)),
    (rf"clip-vit-{S}-patch{PATCH}-{PIXELS}", ("vit_{size}_patch{patch}_clip_{pixels}.openai",)),
    (rf"clip-vit-{S}-{PATCH}-laion2b.*", ("vit_{size}_patch{patch}_clip_224.laion2b",)),
    (rf"siglip-{S}-patch{PATCH}-{PIXELS}", ("vit_{size}_patch{patch}_siglip_{pixels}.webli",)),
    (rf"siglip2-{S}-patch{PATCH}-{PIXELS}", ("vit_{size}_patch{patch}_siglip_{pixels}.v2_webli",)),
    (rf"siglip-so400m-patch14-{PIXELS}", ("vit_so400m_patch14_siglip_{pixels}.webli",)),
    (rf"siglip2-so400m-patch{PATCH}-{PIXELS}", ("vit_so400m_patch{patch}_siglip_{pixels}.v2_webli",)),
    (rf"vit-{S}-{PATCH}-siglip", ("vit_{size}_patch{patch}_siglip_224.webli",)),
    (rf"vit-{S}-{PATCH}-siglip-{PIXELS}", ("vit_{size}_patch{patch}_siglip_{pixels}.webli",)),
    (rf"vit-{S}-{PATCH}-siglip2", ("vit_{size}_patch{patch}_siglip_224.v2_webli",)),
    (rf"vit-{S}-{PATCH}-siglip2-{PIXELS}", ("vit_{size}_patch{patch}_siglip_{pixels}.v2_webli",)),
    (rf"aimv2-{S}-patch14-{PIXELS}", ("aimv2_{size}_patch14_{pixels}",)),
    (rf"pe-(?P<kind>core|lang|spatial)-{S}{PATCH}-{PIXELS}", ("vit_pe_{kind}_{size}_patch{patch}_{pixels}",)),
    (rf"eva-?02-{S}", ("eva02_{size}_patch14_224", "eva02_{size}_patch14_448")),
    (rf"eva02-{S}-{PATCH}", ("eva02_{size}_patch{patch}_clip_224",)),
    (rf"eva02-{S}-{PATCH}-{PIXELS}", ("eva02_{size}_patch{patch}_clip_{pixels}",)),
    (rf"c-radiov(?P<version>[34])-{S}", ("vit_{size}_patch16_radio_v{version}",)),
]


def timm_names(name: str) -> list[str]:
    """What timm calls a model that another hub or a paper calls `name`; [] where it is not recognised.

    More than one where a name is ambiguous: "ViT-B/16" is an ImageNet network to some and CLIP's to others.
    """
    text = re.sub(r"^(hf[-_]hub:|https?://[^/]+/)", "", name.strip())
    owner, _, rest = text.rpartition("/")
    if owner and not rest[:1].isdigit():  # "google/vit-base-patch16-224", but not "ViT-B/16"
        text = rest
    found = [_known(candidate) for candidate in (text, text.lower().replace("-", "_"))]
    plain = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
    for pattern, templates in RULES:
        if match := re.fullmatch(pattern, plain):
            groups = match.groupdict() | {"size": SIZES.get(match.groupdict().get("size", ""), "")}
            found += [_known(template.format(**groups)) for template in templates]
    return [one for one in dict.fromkeys(found) if one and one != name]


def _known(name: str) -> str:
    """A name as timm has it, without a tag that timm does not have; "" where it has no such model."""
    model, _, tag = name.partition(".")
    if model not in timm.list_models():  # without those that timm calls deprecated
        return ""
    tags = [known.partition(".")[2] for known in timm.list_pretrained(f"{model}.*")]
    return name if not tag or tag in tags else model
