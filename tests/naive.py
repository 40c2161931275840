"""Slow, obvious references for the numerics, written from the method's description; no code shared with the package.

Weights come as a dict under the released checkpoints' names. Every function works in the dtype of what it is given.
Shapes: B images, C foreground classes, P patches on an h x w grid, N = C + P tokens, D width, L blocks, H heads.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


# ---------------------------------------------------------------- resampling


def cubic(t, a=-0.75):
    """Keys' kernel at distance t."""
    t = abs(t)
    if t <= 1:
        return (a + 2) * t**3 - (a + 3) * t**2 + 1
    if t < 2:
        return a * t**3 - 5 * a * t**2 + 8 * a * t - 4 * a
    return 0.0


def resize_matrix(n_in, n_out, factor, kind):
    """(n_out, n_in) weights of a 1-D resize; output i samples (i + 1/2) / factor - 1/2, the border is repeated."""
    matrix = torch.zeros(n_out, n_in, dtype=torch.float64)
    for i in range(n_out):
        source = (i + 0.5) / factor - 0.5
        if kind == "bilinear":
            source = max(source, 0.0)
        first = math.floor(source)
        for j in range(first - 1, first + 3):
            distance = abs(source - j)
            weight = max(0.0, 1 - distance) if kind == "bilinear" else cubic(distance)
            matrix[i, min(max(j, 0), n_in - 1)] += weight
    return matrix


def resize(x, size, kind="bilinear", factors=None):
    """(..., h, w) to (..., *size); factors default to the ratio of the sizes."""
    (h, w), (out_h, out_w) = x.shape[-2:], size
    fy, fx = factors or (out_h / h, out_w / w)
    rows = resize_matrix(h, out_h, fy, kind).to(x.dtype)
    columns = resize_matrix(w, out_w, fx, kind).to(x.dtype)
    return torch.einsum("ih,...hw,jw->...ij", rows, x, columns)


# ---------------------------------------------------------------- transformer


def layer_norm(x, weight, bias, eps):
    centred = x - x.mean(-1, keepdim=True)
    variance = (centred**2).mean(-1, keepdim=True)
    return centred / torch.sqrt(variance + eps) * weight + bias


def linear(x, weight, bias=None):
    out = x @ weight.T
    return out if bias is None else out + bias


def gelu(x):
    return 0.5 * x * (1 + torch.erf(x / math.sqrt(2)))


def rotate(x, grid):
    """EVA-02's rotary embedding of the patch tokens of one head: x (B, P, d)."""
    h, w = grid
    d = x.shape[-1]
    out = x.clone()
    for row in range(h):
        for column in range(w):
            for half, (i, n) in enumerate(((row, h), (column, w))):
                for k in range(d // 4):
                    angle = i * 16 / n * 10000 ** (-2 * k / (d / 2))
                    c = half * d // 2 + 2 * k
                    x0, x1 = x[:, row * w + column, c], x[:, row * w + column, c + 1]
                    out[:, row * w + column, c] = x0 * math.cos(angle) - x1 * math.sin(angle)
                    out[:, row * w + column, c + 1] = x1 * math.cos(angle) + x0 * math.sin(angle)
    return out


def block(x, sd, prefix, num_heads, eps, grid=None):
    """One pre-norm block: x (B, N, D) -> x, attention maps (B, H, N, N), projected attention branch (B, N, D)."""

    def p(name):
        return sd[f"{prefix}.{name}"]

    normed = layer_norm(x, p("norm1.weight"), p("norm1.bias"), eps)
    width = x.shape[-1]
    size = width // num_heads
    if f"{prefix}.attn.q_bias" in sd:
        bias = torch.cat([p("attn.q_bias"), torch.zeros_like(p("attn.q_bias")), p("attn.v_bias")])
    else:
        bias = p("attn.qkv.bias")
    qkv = linear(normed, p("attn.qkv.weight"), bias)
    maps, mixed = [], []
    for head in range(num_heads):
        q, k, v = (qkv[..., part * width + head * size : part * width + (head + 1) * size] for part in range(3))
        if f"{prefix}.attn.q_bias" in sd:
            q = torch.cat([q[:, :1], rotate(q[:, 1:], grid)], 1)
            k = torch.cat([k[:, :1], rotate(k[:, 1:], grid)], 1)
        scores = q @ k.transpose(1, 2) / math.sqrt(size)
        attention = torch.exp(scores - scores.amax(-1, keepdim=True))
        attention = attention / attention.sum(-1, keepdim=True)
        maps.append(attention)
        mixed.append(attention @ v)
    branch = linear(torch.cat(mixed, -1), p("attn.proj.weight"), p("attn.proj.bias"))
    x = x + branch * sd.get(f"{prefix}.ls1.gamma", 1)
    normed = layer_norm(x, p("norm2.weight"), p("norm2.bias"), eps)
    if f"{prefix}.mlp.w12.weight" in sd:
        a, b = linear(normed, p("mlp.w12.weight"), p("mlp.w12.bias")).chunk(2, -1)
        mlp = linear(a * torch.sigmoid(a) * b, p("mlp.w3.weight"), p("mlp.w3.bias"))
    else:
        hidden = gelu(linear(normed, p("mlp.fc1.weight"), p("mlp.fc1.bias")))
        mlp = linear(hidden, p("mlp.fc2.weight"), p("mlp.fc2.bias"))
    return x + mlp * sd.get(f"{prefix}.ls2.gamma", 1), torch.stack(maps, 1), branch


def depth(sd, prefix):
    return 1 + max(int(key[len(prefix) + 1 :].split(".")[0]) for key in sd if key.startswith(prefix + "."))


def embed_patches(x, weight, bias):
    """(B,3,H,W) -> tokens (B,P,D) and the grid; the remainder at the right and bottom is dropped."""
    size = weight.shape[-1]
    h, w = x.shape[-2] // size, x.shape[-1] // size
    tokens = []
    for row in range(h):
        for column in range(w):
            patch = x[:, :, row * size : (row + 1) * size, column * size : (column + 1) * size]
            tokens.append(patch.flatten(1) @ weight.flatten(1).T + bias)
    return torch.stack(tokens, 1), (h, w)


# ---------------------------------------------------------------- step 1


def cam_position_embedding(patch_embedding, pixels, grid):
    """Patch position embedding (1, P0, D) for an image of `pixels` (H, W) on `grid` (h, w): bicubic, DINO's offset."""
    count, width = patch_embedding.shape[1:]
    side = round(math.sqrt(count))
    h, w = grid
    if pixels[0] == pixels[1] and h * w == count:
        return patch_embedding
    image = patch_embedding.reshape(side, side, width).permute(2, 0, 1)
    resized = resize(image, (h, w), "bicubic", ((h + 0.1) / side, (w + 0.1) / side))
    return resized.permute(1, 2, 0).reshape(1, h * w, width)


def adaptive_scores(branches, sd, num_heads, pool):
    """Step 3's vector (B, H*L), head-major, from every block's branch output O_l (B, N, D)."""

    def p(name):
        return sd[f"adaptive_attention_fusion.attn_feat_ffn.{name}"]

    scores = []
    for head in range(num_heads):
        for output in branches:
            feature = output[..., head::num_heads]  # channel d belongs to head d mod H
            pooled = feature.amax(1) if pool == "max" else feature.mean(1)
            hidden = linear(pooled, p("0.weight"), p("0.bias"))
            scores.append(linear(hidden, p("1.weight"), p("1.bias"))[:, 0])
    return torch.stack(scores, 1)


def gate(scores, sd):
    """Step 4: scores (B, H*L) -> weights in (0,1) of the same shape."""
    first = sd["adaptive_attention_fusion.attn_head_ffn.0.weight"]
    second = sd["adaptive_attention_fusion.attn_head_ffn.2.weight"]
    return torch.sigmoid(linear(torch.relu(linear(scores, first)), second))


def fuse(attentions, weights, num_classes, grid):
    """Attention maps L x (B,H,N,N) and weights (B,L,H) -> cross attention (B,C,h,w), patch attention (B,P,P)."""
    total = torch.zeros_like(attentions[0][:, 0])
    for layer, maps in enumerate(attentions):
        for head in range(maps.shape[1]):
            total = total + weights[:, layer, head, None, None] * maps[:, head]
    total = total / (len(attentions) * attentions[0].shape[1])
    cross = total[:, :num_classes, num_classes:]
    return cross.reshape(*cross.shape[:2], *grid), total[:, num_classes:, num_classes:]


def refine(cam, patch_attention):
    """CAM (B,C,h,w), row i = sum over j of PA[i,j] cam[j]."""
    flat = cam.flatten(2)
    out = torch.zeros_like(flat)
    for i in range(flat.shape[-1]):
        out[:, :, i] = (patch_attention[:, i, None, :] * flat).sum(-1)
    return out.reshape(cam.shape)


def cam_network(sd, x, num_heads, pool="max", weights=None):
    """The step-1 network. weights (B,L,H) replaces the adaptive ones. Returns a dict of all named intermediates."""
    num_classes = sd["head.weight"].shape[0]
    patches, grid = embed_patches(x, sd["patch_embed.proj.weight"], sd["patch_embed.proj.bias"])
    position = sd["pos_embed"]
    patches = patches + cam_position_embedding(position[:, num_classes:], x.shape[-2:], grid)
    classes = sd["cls_token"] + position[:, :num_classes]
    tokens = torch.cat([classes.expand(len(x), -1, -1), patches], 1)
    attentions, branches = [], []
    for i in range(depth(sd, "blocks")):
        tokens, maps, branch = block(tokens, sd, f"blocks.{i}", num_heads, 1e-6)
        attentions.append(maps)
        branches.append(branch)
    features = tokens[:, num_classes:].transpose(1, 2).reshape(len(x), -1, *grid)
    padded = F.pad(features, (1, 1, 1, 1))
    coarse = sd["head.bias"][:, None, None]
    for dy in range(3):
        for dx in range(3):
            shifted = padded[:, :, dy : dy + grid[0], dx : dx + grid[1]]
            coarse = coarse + torch.einsum("cd,bdhw->bchw", sd["head.weight"][:, :, dy, dx], shifted)
    detached = [maps.detach() for maps in attentions]
    if weights is None:
        vector = gate(adaptive_scores([branch.detach() for branch in branches], sd, num_heads, pool), sd)
        weights = vector.reshape(len(x), num_heads, len(attentions)).transpose(1, 2)
    cross, patch_attention = fuse(detached, weights, num_classes, grid)
    relu_coarse = torch.relu(coarse.detach())
    fused = cross * relu_coarse
    fine = refine(fused, patch_attention)
    return {
        "cls_logits": tokens[:, :num_classes].mean(-1),
        "coarse_logits": coarse.mean((2, 3)),
        "fine_logits": fine.mean((2, 3)),
        "coarse_cam": coarse,
        "fused_cam": fused,
        "fine_cam": fine,
        "patchcam": relu_coarse,
        "head_weights": weights,
        "cross_attention": cross,
        "patch_attention": patch_attention,
        "attentions": attentions,
        "branches": branches,
    }


def soft_margin(logits, labels):
    """Multilabel soft margin: mean over images and classes of the two-way log loss."""
    positive, negative = torch.log1p(torch.exp(-logits)), torch.log1p(torch.exp(logits))
    return (labels * positive + (1 - labels) * negative).mean()


def head_weight_measures(weights):
    """(n,L,H): mean, std, least and largest of the heads' mean weights, mean of their std over the images."""
    means, deviations = [], []
    for layer in range(weights.shape[1]):
        for head in range(weights.shape[2]):
            values = [float(image[layer, head]) for image in weights]
            mean = sum(values) / len(values)
            means.append(mean)
            deviations.append(math.sqrt(sum((value - mean) ** 2 for value in values) / len(values)))
    overall = sum(means) / len(means)
    spread = math.sqrt(sum((mean - overall) ** 2 for mean in means) / len(means))
    return overall, spread, min(means), max(means), sum(deviations) / len(deviations)


def class_attention_correlation(maps):
    """(C,h,w) of one image: mean over the pairs of classes of their correlation over the patches."""
    found = []
    for first in range(len(maps)):
        for second in range(first):
            a, b = ([float(value) for value in maps[c].flatten()] for c in (first, second))
            mean_a, mean_b = sum(a) / len(a), sum(b) / len(b)
            covariance = sum((x - mean_a) * (y - mean_b) for x, y in zip(a, b))
            variances = [sum((x - mean_a) ** 2 for x in a), sum((y - mean_b) ** 2 for y in b)]
            found.append(covariance / math.sqrt(variances[0] * variances[1]))
    return sum(found) / len(found)


def generate_cams(fine_cam, image, labels, scales, mean=IMAGENET_MEAN, std=IMAGENET_STD):
    """fine_cam: normalised (1,3,h,w) tensor -> (C,gh,gw). One view at a time; {class: HxW} for the present classes."""
    height, width = image.shape[:2]
    total = 0
    for scale in scales:
        resized = image
        if scale != 1:
            size = (round(width * scale), round(height * scale))
            resized = np.asarray(Image.fromarray(image).resize(size, Image.BICUBIC))
        pixels = (resized / 255 - np.array(mean)) / np.array(std)
        view = torch.tensor(pixels, dtype=torch.float32).permute(2, 0, 1)[None]
        for mirrored in (False, True):
            cam = fine_cam(view.flip(-1) if mirrored else view).double()
            cam = resize(cam, (height, width))
            total = total + (cam.flip(-1) if mirrored else cam)
    cams = {}
    for c, present in enumerate(labels):
        if present:
            low, high = total[c].min(), total[c].max()
            cams[c] = ((total[c] - low) / (high - low + 1e-8)).numpy()
    return cams


# ---------------------------------------------------------------- step 2


def segmenter_position_embedding(position, grid):
    """(1, 1 + P0, D) for another grid: patch positions bilinearly to the target size, class position kept."""
    side = round(math.sqrt(position.shape[1] - 1))
    if grid == (side, side):
        return position
    image = position[0, 1:].reshape(side, side, -1).permute(2, 0, 1)
    patches = resize(image, grid).permute(1, 2, 0).reshape(1, grid[0] * grid[1], -1)
    return torch.cat([position[:, :1], patches], 1)


def encode(sd, x, num_heads):
    """Plain ViT with its final norm, class token dropped: x (B,3,H,W), a multiple of the patch -> (B,P,D), grid."""

    def p(name):
        return sd[f"encoder.{name}"]

    patches, grid = embed_patches(x, p("patch_embed.proj.weight"), p("patch_embed.proj.bias"))
    tokens = torch.cat([p("cls_token").expand(len(x), -1, -1), patches], 1)
    tokens = tokens + segmenter_position_embedding(p("pos_embed"), grid)
    for i in range(depth(sd, "encoder.blocks")):
        tokens, _, _ = block(tokens, sd, f"encoder.blocks.{i}", num_heads, 1e-5, grid)
    return layer_norm(tokens, p("norm.weight"), p("norm.bias"), 1e-5)[:, 1:], grid


def decode(sd, patches, grid, num_heads, blocks=None):
    """Mask transformer: patches (B,P,D) -> masks (B,K,h,w) after its first `blocks` blocks, None: all of them."""

    def p(name):
        return sd[f"decoder.{name}"]

    count = patches.shape[1]
    tokens = linear(patches, p("proj_dec.weight"), p("proj_dec.bias"))
    tokens = torch.cat([tokens, p("cls_emb").expand(len(patches), -1, -1)], 1)
    for i in range(blocks or depth(sd, "decoder.blocks")):
        tokens, _, _ = block(tokens, sd, f"decoder.blocks.{i}", num_heads, 1e-5)
    tokens = layer_norm(tokens, p("decoder_norm.weight"), p("decoder_norm.bias"), 1e-5)
    patches, classes = tokens[:, :count] @ p("proj_patch"), tokens[:, count:] @ p("proj_classes")
    patches = patches / patches.norm(dim=-1, keepdim=True)
    classes = classes / classes.norm(dim=-1, keepdim=True)
    masks = layer_norm(patches @ classes.transpose(1, 2), p("mask_norm.weight"), p("mask_norm.bias"), 1e-5)
    return masks.transpose(1, 2).reshape(len(masks), -1, *grid)


def segmenter(sd, x, num_heads, decoder_heads, blocks=None):
    """Logits (B,K,H,W) at the size of x, after `blocks` of the decoder's blocks."""
    height, width = x.shape[-2:]
    size = sd["encoder.patch_embed.proj.weight"].shape[-1]
    padded = F.pad(x, (0, -width % size, 0, -height % size))
    patches, grid = encode(sd, padded, num_heads)
    masks = decode(sd, patches, grid, decoder_heads, blocks)
    return resize(masks, padded.shape[-2:])[..., :height, :width]


def window_starts(length, window, stride):
    starts, start = [], 0
    while start + window < length:
        starts.append(start)
        start += stride
    return [*starts, length - window]


def window_logits(model, view, window, stride):
    """(1,3,h,w) -> (1,K,h',w'): one window at a time, summed and divided by how often each pixel was covered."""
    h, w = view.shape[-2:]
    if min(h, w) < window:
        short = min(h, w)
        size = tuple(window if side == short else side * window // short for side in (h, w))
        view = resize(view, size)
        h, w = size
    total, count = 0, torch.zeros(h, w, dtype=view.dtype)
    for y in window_starts(h, window, stride):
        for x in window_starts(w, window, stride):
            logits = model(view[:, :, y : y + window, x : x + window])
            total = total + F.pad(logits, (x, w - x - window, y, h - y - window))
            count[y : y + window, x : x + window] += 1
    return total / count


def predict_probabilities(model, views, flips, size, window, stride):
    """Average over the views of the softmax of each view's logits at the original size: (K,H,W)."""
    total = 0
    for view, flip in zip(views, flips, strict=True):
        logits = resize(window_logits(model, view, window, stride), size)[0]
        if flip:
            logits = logits.flip(-1)
        exponential = torch.exp(logits - logits.amax(0))
        total = total + exponential / exponential.sum(0)
    return total / len(views)


def two_mask_scores(first, last, weight, *views):
    """The raw sum of the averages of two models, of which the first counts `weight`; views: as above."""
    return weight * predict_probabilities(first, *views) + predict_probabilities(last, *views)


# ---------------------------------------------------------------- gradient clipping


def gradient_clipping(logits, target, start_value, patch_size, ignore_index=255, scope="batch"):
    """numpy arrays (B,K,h,w), (B,h,w). Returns loss, pixel_loss, threshold (B,h,w), kept and the loss's gradient."""
    if scope == "own":
        images = [
            gradient_clipping(logits[b : b + 1], target[b : b + 1], start_value, patch_size, ignore_index)
            for b in range(len(logits))
        ]
        found = {name: np.concatenate([image[name] for image in images]) for name in images[0] if name != "loss"}
        return found | {"loss": np.mean([image["loss"] for image in images]), "grad": found["grad"] / len(images)}
    logits = logits.astype(np.float64)
    batch, _, height, width = logits.shape
    pixel_loss, slope = np.zeros(target.shape), np.zeros(logits.shape)
    for b in range(batch):
        for y in range(height):
            for x in range(width):
                label = target[b, y, x]
                if label == ignore_index:
                    continue
                exponential = np.exp(logits[b, :, y, x] - logits[b, :, y, x].max())
                probability = exponential / exponential.sum()
                pixel_loss[b, y, x] = -np.log(probability[label])
                slope[b, :, y, x] = probability
                slope[b, label, y, x] -= 1
    overall = pixel_loss.mean()
    threshold = np.full(target.shape, np.inf)
    if scope != "none" and overall <= start_value:
        for b in range(batch):
            for y in range(0, height, patch_size):
                for x in range(0, width, patch_size):
                    cell = np.s_[y : y + patch_size, x : x + patch_size]
                    images = pixel_loss[b : b + 1] if scope == "image" else pixel_loss
                    local = images[(slice(None), *cell)].mean()
                    values = {
                        "batch": max(local, overall),
                        "image": max(local, overall),
                        "local": local,
                        "global": overall,
                    }
                    threshold[(b, *cell)] = values[scope]
    kept = pixel_loss <= threshold
    return {
        "loss": np.minimum(pixel_loss, threshold).mean(),
        "pixel_loss": pixel_loss,
        "threshold": threshold,
        "kept": kept,
        "grad": slope * kept[:, None] / pixel_loss.size,
    }


# ---------------------------------------------------------------- metrics


def confusion_matrix(prediction, truth, num_classes, ignore=255):
    """(K,K) int64, rows are the truth; pixel by pixel."""
    matrix = np.zeros((num_classes, num_classes), dtype=np.int64)
    for p, t in zip(prediction.flat, truth.flat, strict=True):
        if t != ignore:
            matrix[t, p] += 1
    return matrix


def iou(matrix):
    """Per class TP / (T + P - TP), nan where the class is in neither truth nor prediction."""
    out = []
    for c in range(len(matrix)):
        union = matrix[c].sum() + matrix[:, c].sum() - matrix[c, c]
        out.append(matrix[c, c] / union if union else float("nan"))
    return np.array(out)


def seed_mask(cams, threshold, shape):
    """Class of the largest CAM, plus one, where it is strictly greater than the threshold; else 0."""
    mask = np.zeros(shape, dtype=np.uint8)
    for y in range(shape[0]):
        for x in range(shape[1]):
            best = threshold
            for c in sorted(cams):
                if cams[c][y, x] > best:
                    best, mask[y, x] = cams[c][y, x], c + 1
    return mask


def threshold_curve(samples, num_classes, thresholds):
    """A list of (IoU per class, mean over the present classes), percent, each threshold from scratch."""
    rows = []
    for threshold in thresholds:
        total = np.zeros((num_classes, num_classes), dtype=np.int64)
        for cams, truth in samples:
            total += confusion_matrix(seed_mask(cams, threshold, truth.shape), truth, num_classes)
        per_class = 100 * iou(total)
        rows.append((per_class, float(np.nanmean(per_class))))
    return rows


# ---------------------------------------------------------------- CRF unaries


def label_unary(labels, n_labels, probability=0.7):
    """Pseudo-label unary (K, H*W): -log 0.7 at the pixel's own label, -log(0.3 / (K - 1)) elsewhere."""
    unary = np.zeros((n_labels, labels.size), dtype=np.float32)
    for i, label in enumerate(labels.flat):
        for k in range(n_labels):
            unary[k, i] = -math.log(probability if k == label else (1 - probability) / (n_labels - 1))
    return unary


def softmax_unary(probabilities):
    """The classes that win somewhere, and their unary (K', H*W): -log of the rows as they are, clipped at 1e-5."""
    count = len(probabilities)
    flat = probabilities.reshape(count, -1)
    winners = sorted({int(flat[:, i].argmax()) for i in range(flat.shape[1])})
    return winners, np.stack([-np.log(np.maximum(flat[k], 1e-5)) for k in winners]).astype(np.float32)


# ---------------------------------------------------------------- schedules


def cam_learning_rate(epoch, lr, epochs=60):
    """lr is the effective one (already times batch / 512)."""
    e = max(epoch - 1, 0)
    if e < 5:
        return 1e-6 + (lr - 1e-6) * e / 5
    return 1e-5 + (lr - 1e-5) * 0.5 * (1 + math.cos(math.pi * e / epochs))


def segmenter_learning_rate(iteration, iterations, lr, min_lr):
    return min_lr + (lr - min_lr) * (1 - iteration / iterations) ** 0.9


# ---------------------------------------------------------------- random checkpoints in the released layout


def _tensors(shapes, seed, scale=0.1):
    generator = torch.Generator().manual_seed(seed)
    out = {}
    for name, shape in shapes.items():
        values = scale * torch.randn(shape, generator=generator)
        ones = name.endswith((".gamma", "norm.weight", "norm1.weight", "norm2.weight", "_norm.weight"))
        out[name] = values + 1 if ones else values
    return out


def _block_shapes(prefix, width, kind="vit"):
    shapes = {
        "norm1.weight": (width,),
        "norm1.bias": (width,),
        "attn.qkv.weight": (3 * width, width),
        "attn.proj.weight": (width, width),
        "attn.proj.bias": (width,),
        "norm2.weight": (width,),
        "norm2.bias": (width,),
    }
    if kind == "eva02":
        hidden = int(8 / 3 * width)
        shapes |= {
            "attn.q_bias": (width,),
            "attn.v_bias": (width,),
            "mlp.w12.weight": (2 * hidden, width),
            "mlp.w12.bias": (2 * hidden,),
            "mlp.w3.weight": (width, hidden),
            "mlp.w3.bias": (width,),
        }
    else:
        shapes |= {
            "attn.qkv.bias": (3 * width,),
            "mlp.fc1.weight": (4 * width, width),
            "mlp.fc1.bias": (4 * width,),
            "mlp.fc2.weight": (width, 4 * width),
            "mlp.fc2.bias": (width,),
        }
    if kind == "dinov2":
        shapes |= {"ls1.gamma": (width,), "ls2.gamma": (width,)}
    return {f"{prefix}.{name}": shape for name, shape in shapes.items()}


def random_cam_checkpoint(
    seed=0, classes=3, width=48, layers=2, heads=3, patch=8, side=3, reduction=2, feat_reduction=8
):
    """A released-layout step-1 state dict with random weights."""
    size, total = width // heads, layers * heads
    shapes = {
        "cls_token": (1, classes, width),
        "pos_embed": (1, classes + side**2, width),
        "patch_embed.proj.weight": (width, 3, patch, patch),
        "patch_embed.proj.bias": (width,),
    }
    for i in range(layers):
        shapes |= _block_shapes(f"blocks.{i}", width)
    shapes |= {
        "norm.weight": (width,),
        "norm.bias": (width,),
        "head.weight": (classes, width, 3, 3),
        "head.bias": (classes,),
    }
    fusion = {
        "attn_head_ffn.0.weight": (int(total / reduction), total),
        "attn_head_ffn.2.weight": (total, int(total / reduction)),
        "attn_feat_ffn.0.weight": (int(size / feat_reduction), size),
        "attn_feat_ffn.0.bias": (int(size / feat_reduction),),
        "attn_feat_ffn.1.weight": (1, int(size / feat_reduction)),
        "attn_feat_ffn.1.bias": (1,),
    }
    shapes |= {f"adaptive_attention_fusion.{name}": shape for name, shape in fusion.items()}
    return _tensors(shapes, seed)


def random_segmenter_checkpoint(kind="vit", seed=0, classes=4, width=48, layers=2, patch=8, side=4):
    """A released-layout step-2 state dict with random weights; kind vit, dinov2 or eva02."""
    shapes = {
        "encoder.cls_token": (1, 1, width),
        "encoder.pos_embed": (1, 1 + side**2, width),
        "encoder.patch_embed.proj.weight": (width, 3, patch, patch),
        "encoder.patch_embed.proj.bias": (width,),
    }
    for i in range(layers):
        shapes |= _block_shapes(f"encoder.blocks.{i}", width, kind)
    shapes |= {
        "encoder.norm.weight": (width,),
        "encoder.norm.bias": (width,),
        "encoder.head.weight": (7, width),
        "encoder.head.bias": (7,),
        "decoder.cls_emb": (1, classes, width),
        "decoder.proj_patch": (width, width),
        "decoder.proj_classes": (width, width),
    }
    for i in range(2):
        shapes |= _block_shapes(f"decoder.blocks.{i}", width)
    shapes |= {
        "decoder.proj_dec.weight": (width, width),
        "decoder.proj_dec.bias": (width,),
        "decoder.decoder_norm.weight": (width,),
        "decoder.decoder_norm.bias": (width,),
        "decoder.mask_norm.weight": (classes,),
        "decoder.mask_norm.bias": (classes,),
    }
    tensors = _tensors(shapes, seed)
    if kind == "eva02":  # the released files repeat the rotary tables under every block
        tensors |= rope_tables(side, width // 3, layers)
    return tensors


def rope_tables(side, size, layers):
    """freqs_cos and freqs_sin (side**2, size) as the released EVA-02 files hold them."""
    angles = torch.zeros(side * side, size)
    for row in range(side):
        for column in range(side):
            for half, i in enumerate((row, column)):
                for k in range(size // 4):
                    angle = i * 16 / side * 10000 ** (-2 * k / (size / 2))
                    c = half * size // 2 + 2 * k
                    angles[row * side + column, c : c + 2] = angle
    tables = {"rope.freqs_cos": angles.cos(), "rope.freqs_sin": angles.sin()}
    prefixes = ["encoder."] + [f"encoder.blocks.{i}.attn." for i in range(layers)]
    return {prefix + name: table.clone() for prefix in prefixes for name, table in tables.items()}


# ---------------------------------------------------------------- comparison


def error(actual, expected):
    """Largest difference relative to the largest magnitude expected."""
    actual, expected = (
        np.asarray(x.detach() if torch.is_tensor(x) else x, dtype=np.float64) for x in (actual, expected)
    )
    assert actual.shape == expected.shape, f"{actual.shape} is not {expected.shape}"
    return float(np.abs(actual - expected).max() / max(np.abs(expected).max(), 1e-30))
