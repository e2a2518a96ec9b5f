"""What every model costs: parameters, work, memory and seconds.

GMAC of a forward pass and what autograd keeps of it, of one picture of 480x640: with the network
working at about 192x256, and at the size that it works at by itself. Large networks are counted
without being computed (on torch's `meta` device). Seconds are of a forward pass and of one with
its gradients, at the small size, on one CPU core for networks below a number of parameters, and on
a GPU for all, where there is one. Weights are random; time does not depend on them. MoGe-2 is left
out where its library is not installed.

python tests/bench_models.py [--names A,B] [--most MILLIONS]    a line for each model
"""
import argparse
import time
from importlib.util import find_spec

import torch
from torch.utils.flop_counter import FlopCounterMode

from synthdepth.models import create_model, model_names
from synthdepth.training.memory import example_inputs

PICTURE = (480, 640)
SMALL = {  # the beginning of a name -> what makes it work at about 192x256; the longest counts
    '': {}, 'tiny': dict(size=(192, 256)), 'timm:': dict(size=(192, 256)),
    'hybriddepth': dict(size=(192, 256)), 'depth-anything': dict(size=(196, 252)),
    'distill': dict(size=(196, 252)), 'dpt': dict(size=(192, 256)), 'dpt-hybrid': {},
    'marigold': dict(processing_resolution=256), 'clip': dict(size=(192, 256))}


def small_settings(name: str) -> dict:
    "What makes a model work at about 192x256, where anything does."
    return SMALL[max((start for start in SMALL if name.startswith(start)), key=len)]


def through(model, rgb, **inputs):
    "A forward pass without the look at the picture's values, which `meta` does not have."
    size = tuple(rgb.shape[-2:])
    return model.decode(model.neck(model.encode(rgb, **inputs), size, **inputs), size, **inputs)


def counted(model, device: str) -> str:
    "GMAC of a forward pass, and GiB that autograd keeps of it."
    kept = {}

    def note(x):
        kept[x.untyped_storage()._cdata] = x.untyped_storage().nbytes()
        return x
    inputs = {k: v.to(device) for k, v in example_inputs(model, 1, PICTURE, slices=5).items()}
    with FlopCounterMode(display=False) as flops, \
            torch.autograd.graph.saved_tensors_hooks(note, lambda x: x):
        out = through(model.train(), **inputs)
    for p in model.parameters(): kept.pop(p.untyped_storage()._cdata, None)
    del out
    return f'{flops.get_total_flops()/2e9:7.1f} {sum(kept.values())/2**30:6.2f} GiB'


def seconds(model, device: str, repeat: int = 3) -> list[float]:
    "The best of some forward passes, and of some with gradients."
    inputs = {k: v.to(device) for k, v in example_inputs(model, 1, PICTURE, slices=5).items()}

    def best(call):
        times = []
        for _ in range(repeat + 1):
            start = time.perf_counter()
            call()
            if device == 'cuda': torch.cuda.synchronize()
            times.append(time.perf_counter() - start)
        return min(times[1:])
    with torch.no_grad(): forward = best(lambda: model.eval()(**inputs))
    model.train()
    return [forward, best(lambda: model(**inputs).mean().backward())]


def main(names: list[str], most: float):
    gpu = torch.cuda.is_available()
    torch.set_num_threads(1)
    print(f'{"model":40} {"params":>8}   at 192x256: GMAC, kept   by itself: GMAC, kept   '
          'forward, with gradients')
    for name in names:
        with torch.device('meta'): model = create_model(name, 'none')
        millions = sum(p.numel() for p in model.parameters())/1e6
        computed = millions <= most or name == 'clip-depth'  # whose precision `meta` cannot set
        device, cells = 'cpu' if computed else 'meta', [f'{millions:7.1f}M']
        for settings in (small_settings(name), {}):
            with torch.device(device): model = create_model(name, 'none', **settings)
            try: cells.append(counted(model, device))
            except (NotImplementedError, RuntimeError) as e:
                if 'meta' not in str(e): raise
                cells.append('looks at values, so not counted')
        if gpu or device == 'cpu':
            model = create_model(name, 'none', **small_settings(name)).to('cuda' if gpu else 'cpu')
            cells.append(', '.join(f'{x:.3f} s' for x in seconds(model, 'cuda' if gpu else 'cpu')))
        if gpu: cells.append(f'{torch.cuda.max_memory_allocated()/2**30:.1f} GiB')
        print(f'{name:40}', '  '.join(cells), flush=True)


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__)
    known = [name for name in model_names() if not name.startswith('moge') or find_spec('moge')]
    parser.add_argument('--names', default=','.join([*known, 'timm:tf_efficientnet_lite0']))
    parser.add_argument('--most', type=float, default=60, help='million parameters, for CPU times')
    given = parser.parse_args()
    main(given.names.split(','), given.most)
