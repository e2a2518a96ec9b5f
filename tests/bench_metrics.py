"""Throughput of the metrics at 480x640 against per-image NumPy loops as published evaluations
write them (the baselines)."""
import sys
import time
from pathlib import Path

import numpy as np
import torch
from scipy.ndimage import distance_transform_edt

sys.path.insert(0, str(Path(__file__).parent))
from toy import toy_capture  # noqa: E402

from synthdepth.metrics import CONTOUR_RATIOS, boundary_f1, depth_metrics  # noqa: E402
from synthdepth.metrics import edge_metrics, normal_metrics, ordinal_metrics  # noqa: E402

N, SIZE = 8, (480, 640)
CAMERA = torch.tensor([520., 520., 320., 240.])


def rate(f, n: int, repeats: int = 7) -> float:
    best = float('inf')
    for _ in range(repeats):
        start = time.perf_counter()
        f()
        best = min(best, time.perf_counter() - start)
    return n/best


def numpy_loop(pred, depth, valid) -> np.ndarray:
    "Mask, indexing, one expression per metric, as the evaluations of BTS, AdaBins and ZoeDepth."
    out = []
    for p, t, v in zip(pred.numpy(), depth.numpy(), valid.numpy()):
        p, t = p[v], t[v]
        thresh = np.maximum(t/p, p/t)
        g = np.log(p) - np.log(t)
        out.append([(thresh < 1.25**k).mean() for k in (1, 2, 3)] + [
            np.mean(np.abs(t - p)/t), np.mean((t - p)**2/t), np.sqrt(((t - p)**2).mean()),
            np.sqrt(((np.log(t) - np.log(p))**2).mean()), np.abs(np.log10(t) - np.log10(p)).mean(),
            np.abs(t - p).mean(), 100*np.sqrt(np.mean(g**2) - np.mean(g)**2),
            np.sqrt(np.mean(g**2) - .5*np.mean(g)**2)])
    return np.array(out)


def loop_boundary_f1(pred, depth) -> np.ndarray:
    "Four maps of contours per ratio and picture, as Depth Pro's own evaluation."
    def contours(d, t):
        return d[:, 1:]/d[:, :-1] > t, d[:, :-1]/d[:, 1:] > t, d[1:]/d[:-1] > t, d[:-1]/d[1:] > t
    out, weights = [], np.array(CONTOUR_RATIOS)/sum(CONTOUR_RATIOS)
    for p, t in zip(pred.numpy(), depth.numpy()):
        f1 = []
        for ratio in CONTOUR_RATIOS:
            pairs = list(zip(contours(p, ratio), contours(t, ratio)))
            recall = np.mean([(a & b).sum()/max(b.sum(), 1) for a, b in pairs])
            precision = np.mean([(a & b).sum()/max(a.sum(), 1) for a, b in pairs])
            f1.append(2*precision*recall/max(precision + recall, 1e-12))
        out.append((np.array(f1)*weights).sum())
    return np.array(out)


def loop_edges(pred, depth, ratio=1.1, limit=10) -> np.ndarray:
    "Edges by comparing neighbours, SciPy's exact distances, as iBims-1's own evaluation."
    def edges(d):
        e = np.zeros(d.shape, bool)
        e[:, :-1] |= d[:, 1:] > ratio*d[:, :-1]
        e[:, 1:] |= d[:, :-1] > ratio*d[:, 1:]
        e[:-1] |= d[1:] > ratio*d[:-1]
        e[1:] |= d[:-1] > ratio*d[1:]
        return e
    out = []
    for p, t in zip(pred.numpy(), depth.numpy()):
        true, found = edges(t), edges(p)
        to_true, to_found = (np.minimum(distance_transform_edt(~e), limit) for e in (true, found))
        near = to_true <= 3
        out.append([(np.abs(p - t)/t)[near].mean(), to_true[found & (to_true < limit)].mean(),
                    to_found[true].mean()])
    return np.array(out)


def loop_normals(pred, depth, valid) -> np.ndarray:
    "Points, central differences, cross product, arctan2, per picture."
    fx, fy, cx, cy = CAMERA.tolist()
    v, u = (np.mgrid[:SIZE[0], :SIZE[1]] + .5).astype(pred.numpy().dtype)

    def normals(d):
        x = np.stack([(u - cx)/fx*d, (v - cy)/fy*d, d], -1)
        n = np.cross(x[1:-1, 2:] - x[1:-1, :-2], x[2:, 1:-1] - x[:-2, 1:-1])
        return n/np.linalg.norm(n, axis=-1, keepdims=True)
    out = []
    for p, t, k in zip(pred.numpy(), depth.numpy(), valid.numpy()):
        a, b = normals(p), normals(t)
        angle = np.rad2deg(np.arctan2(np.linalg.norm(np.cross(a, b), axis=-1), (a*b).sum(-1)))
        angle = angle[k[1:-1, 1:-1] & k[1:-1, 2:] & k[1:-1, :-2] & k[2:, 1:-1] & k[:-2, 1:-1]]
        out.append([angle.mean(), np.median(angle),
                    *((angle < limit).mean() for limit in (11.25, 22.5, 30))])
    return np.array(out)


def loop_order(pred, depth, valid, pairs=10_000, equal=.03) -> np.ndarray:
    "Indices of the valid pixels, pairs of them, comparisons."
    generator, out = torch.Generator().manual_seed(0), []
    draws = torch.rand(2*pairs, generator=generator, dtype=torch.float64).numpy()
    for p, t, v in zip(pred.numpy(), depth.numpy(), valid.numpy()):
        p, t = p[v], t[v]
        i, j = np.split((draws*len(t)).astype(int), 2)
        apart = i != j

        def order(x): return (x[i] > (1 + equal)*x[j]).astype(int) - (x[j] > (1 + equal)*x[i])
        kendall = np.sign(p[i] - p[j])*np.sign(t[i] - t[j])
        out.append([(order(p) != order(t))[apart].mean(), kendall[apart].mean()])
    return np.array(out)


def stacked(scores) -> np.ndarray: return torch.stack(list(scores.values()), 1).numpy()


def show(what, loop, batch, error):
    a, b = rate(loop, N), rate(batch, N)
    print(f'{what}: NumPy loop {a:.0f} images/s (baseline), batched {b:.0f}: {b/a:.2f} x, '
          f'largest difference {error:.1e}')


if __name__ == '__main__':
    print(f'{N} images of {SIZE[1]} x {SIZE[0]}, float32; best of several runs')
    torch.manual_seed(0)
    depth = torch.rand(N, *SIZE)*9 + .5
    pred = depth*torch.exp(.2*torch.randn_like(depth))
    smooth = torch.stack([torch.from_numpy(toy_capture(k, 0, SIZE)[1]) for k in range(N)])
    smooth = torch.where(smooth > 0, smooth, 12.)
    guess = torch.nn.functional.avg_pool2d(smooth[:, None], 9, 1, 4, count_include_pad=False)[:, 0]
    full, exactly = torch.ones_like(depth, dtype=torch.bool), [x.double() for x in (pred, depth)]
    for threads in sorted({1, torch.get_num_threads()}):
        torch.set_num_threads(threads)
        print(f'{threads} threads')
        for share in (0., .2):
            valid = torch.rand(depth.shape) >= share
            # not d1 to d3: float32 may put single pixels on the other side of the limit
            ratio = stacked(depth_metrics(pred, depth, valid))/numpy_loop(*exactly, valid)
            error = np.abs(ratio - 1)[:, 3:].max()
            show(f'depth metrics, {1 - share:.0%} valid', lambda: numpy_loop(pred, depth, valid),
                 lambda: depth_metrics(pred, depth, valid), error)
        error = np.abs(stacked(boundary_f1(guess, smooth))[:, 0]
                       - loop_boundary_f1(guess, smooth)).max()
        show('boundary F1', lambda: loop_boundary_f1(guess, smooth),
             lambda: boundary_f1(guess, smooth), error)
        error = np.abs(stacked(edge_metrics(guess, smooth)) - loop_edges(guess, smooth)).max()
        show('edges and their distances', lambda: loop_edges(guess, smooth),
             lambda: edge_metrics(guess, smooth), error)
        expected = loop_normals(guess.double(), smooth.double(), full)
        error = np.abs(stacked(normal_metrics(guess, smooth, full, CAMERA)) - expected).max()
        show('normals', lambda: loop_normals(guess, smooth, full),
             lambda: normal_metrics(guess, smooth, full, CAMERA), error)
        some = torch.rand(smooth.shape) > .2
        error = np.abs(stacked(ordinal_metrics(guess, smooth, some))
                       - loop_order(guess, smooth, some)).max()
        show('order', lambda: loop_order(guess, smooth, some),
             lambda: ordinal_metrics(guess, smooth, some), error)
    a, read = np.ones(64*2**20, np.float32), 9*SIZE[0]*SIZE[1]
    bandwidth = rate(a.sum, 1)*a.nbytes
    print(f'memory read {bandwidth/1e9:.1f} GB/s on one thread: reading prediction, truth and mask '
          f'alone allows {bandwidth/read:.0f} images/s')
