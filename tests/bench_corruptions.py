"Corruptions, images per second at 640x480 against a loop in NumPy, SciPy, Pillow (the baseline)."
import io
import sys
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from scipy import ndimage, signal

sys.path.insert(0, str(Path(__file__).parent))
from toy import toy_capture  # noqa: E402

from synthdepth.evaluation import CORRUPTIONS, corrupt, disc_kernel, motion_kernels  # noqa: E402

RNG = np.random.default_rng(0)


def clip(x): return (np.clip(x, 0, 1)*255).round().astype(np.uint8)


def convolve(x, kernel):
    return np.stack([signal.fftconvolve(np.pad(x[..., c], len(kernel)//2, 'reflect'), kernel,
                                        'valid') for c in range(3)], -1)


def glass(x):
    "Severity 3: the published swaps, one pixel after the other."
    x = ndimage.gaussian_filter(x, (1, 1, 0))
    for _ in range(3):
        for h in range(x.shape[0] - 3, 2, -1):
            for w in range(x.shape[1] - 3, 2, -1):
                dx, dy = RNG.integers(-2, 3, 2)
                x[h, w], x[h + dy, w + dx] = x[h + dy, w + dx].copy(), x[h, w].copy()
    return ndimage.gaussian_filter(x, (1, 1, 0))


def zoomed(x):
    h, w = x.shape[:2]
    total = x.copy()
    for z in 1 + .02*np.arange(11):
        a, b = round(h/z), round(w/z)
        part = x[(h - a)//2:(h - a)//2 + a, (w - b)//2:(w - b)//2 + b]
        total += ndimage.zoom(part, (h/a, w/b, 1), order=1)[:h, :w]
    return total/12


def elastic(x):
    h, w = x.shape[:2]
    dv, du = (ndimage.gaussian_filter(RNG.uniform(-2.4, 2.4, (h, w)), 4.8)*21.25 for _ in range(2))
    v, u = np.mgrid[:h, :w]
    return np.stack([ndimage.map_coordinates(x[..., c], [v + dv, u + du], order=1, mode='reflect')
                     for c in range(3)], -1)


def jpeg(x):
    file = io.BytesIO()
    Image.fromarray(clip(x)).save(file, 'jpeg', quality=15)
    return np.array(Image.open(file))/255


def pixelate(x):
    h, w = x.shape[:2]
    small = Image.fromarray(clip(x)).resize((w*2//5, h*2//5), Image.Resampling.BOX)
    return np.array(small.resize((w, h), Image.Resampling.NEAREST))/255


DISC, STREAK = disc_kernel(6)[0].numpy(), motion_kernels(15, 8, torch.tensor([.4]))[0].numpy()
BASELINE = {
    'defocus': lambda x: convolve(x, DISC), 'motion': lambda x: convolve(x, STREAK),
    'glass': glass, 'zoom': zoomed, 'elastic': elastic,
    'gaussian': lambda x: x + RNG.normal(size=x.shape, scale=.18),
    'shot': lambda x: RNG.poisson(x*12)/12,
    'iso': lambda x: np.clip(RNG.poisson(x*25)/25, 0, 1) + RNG.normal(size=x.shape, scale=.7*.18),
    'impulse': lambda x: np.select([(u := RNG.random(x.shape)) < .045, u < .09], [0, 1], x),
    'contrast': lambda x: (x - x.mean((0, 1)))*.2 + x.mean((0, 1)), 'pixelate': pixelate,
    'jpeg': jpeg}


def rate(f, n, repeats):
    best = float('inf')
    for _ in range(repeats):
        start = time.perf_counter()
        f()
        best = min(best, time.perf_counter() - start)
    return n/best


if __name__ == '__main__':
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    toys = [toy_capture(i, 0, (480, 640)) for i in range(8)]
    rgb = torch.stack([torch.from_numpy(t[0]).permute(2, 0, 1)/255 for t in toys]).to(device)
    depth = torch.stack([torch.from_numpy(t[1]) for t in toys]).to(device)
    pictures, keys = [t[0]/255 for t in toys], [str(i) for i in range(8)]

    def batched(name):
        corrupt(rgb, name, 3, keys, depth)
        if device == 'cuda': torch.cuda.synchronize()

    seconds = {}
    for name in CORRUPTIONS:
        batched(name)
        ours, text = rate(lambda: batched(name), 8, 3), ''
        if name in BASELINE:
            n = 1 if name == 'glass' else 4
            loop = rate(lambda: [clip(BASELINE[name](x)) for x in pictures[:n]], n,
                        1 if name == 'glass' else 3)
            seconds[name] = 1/loop, 1/ours
            text = f'; loop {loop:.2f} (baseline): {ours/loop:.1f} x'
        print(f'{name:<11} batched on {device} {ours:.1f} images/s{text}')
    for what, left in (('all that have a baseline', ()), ('the same without glass', ('glass',))):
        a, b = np.sum([s for n, s in seconds.items() if n not in left], 0)
        print(f'{what}: loop {a:.2f} s for one picture of each (baseline), '
              f'batched {b:.2f} s: {a/b:.1f} x')
