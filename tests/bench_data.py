"Loading and scoring: cached captures against decoding PNGs each epoch, batched metrics against a NumPy loop (the baselines)."
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent))
from toy import write_synthdepth  # noqa: E402

from synthdepth.data import open_data  # noqa: E402
from synthdepth.metrics import depth_metrics  # noqa: E402
from synthdepth.preprocess import loader  # noqa: E402


def rate(f, n: int, repeats: int = 3) -> float:
    best = float('inf')
    for _ in range(repeats):
        start = time.perf_counter()
        f()
        best = min(best, time.perf_counter() - start)
    return n/best


def numpy_loop(pred, depth, valid):
    out = []
    for p, t, v in zip(pred.numpy(), depth.numpy(), valid.numpy()):
        p, t = p[v], t[v]
        ratio, g = np.maximum(p/t, t/p), np.log(p) - np.log(t)
        out.append([(ratio < 1.25**k).mean() for k in (1, 2, 3)] + [
            (np.abs(p-t)/t).mean(), ((p-t)**2/t).mean(), np.sqrt(((p-t)**2).mean()), np.sqrt((g**2).mean()), np.abs(g).mean(),
            np.abs(p-t).mean(), np.sqrt((g**2).mean() - g.mean()**2), np.sqrt((g**2).mean() - .5*g.mean()**2)])
    return np.array(out)


if __name__ == '__main__':
    with tempfile.TemporaryDirectory() as tmp:
        data = open_data(write_synthdepth(f'{tmp}/set', scenes=20, views=4, size=(480, 640)))
        cold = rate(lambda: [b['rgb'].sum() for b in loader(data, 256, 8)], len(data))
        kept = loader(data, 256, 8, cache=True)
        warm = rate(lambda: [b['rgb'].sum() for b in kept], len(data))
    print(f'loader, 640x480 to 256x256: decoding {cold:.0f} captures/s (baseline), cached {warm:.0f}: {warm/cold:.1f} x')
    torch.manual_seed(0)
    depth = torch.rand(16, 480, 640)*9 + .5
    pred, valid = depth*torch.exp(.2*torch.randn_like(depth)), torch.rand(depth.shape) > .2
    loop, batch = rate(lambda: numpy_loop(pred, depth, valid), 16), rate(lambda: depth_metrics(pred, depth, valid), 16)
    print(f'metrics, 640x480: NumPy loop {loop:.0f} images/s (baseline), batched {batch:.0f}: {batch/loop:.2f} x')
