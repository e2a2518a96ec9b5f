"""Training at ZoeDepth's size on a GPU: images/s, share of the card's bf16 matrix peak, peak memory.

Random weights (345 M parameters, BEiT-L). `256` is the published input, 256x256 stretched to 384x512; `384` is 384x384
as it is. Batch 2 as published, and the largest sensible. The peak is measured on the same card, with a square matrix product.
`--dry` runs the same code on small shapes on the CPU.
"""
import argparse
import time

import torch
from torch.utils.flop_counter import FlopCounterMode

from synthdepth.losses import silog_loss
from synthdepth.models import create_model, freeze

SMALL = dict(backbone_config=dict(model_type='beit', image_size=384, hidden_size=32, intermediate_size=64, num_hidden_layers=4,
                                  num_attention_heads=4, use_relative_position_bias=True, reshape_hidden_states=False,
                                  out_features=['stage1', 'stage2', 'stage3', 'stage4']),
             neck_hidden_sizes=[8, 16, 16, 32], fusion_hidden_size=16, bottleneck_features=16, num_relative_features=8)
CASES = {'256': ((256, 256), (384, 512)), '384': ((384, 384), (384, 384))}  # picture, what the network sees
DRY = {'64': ((64, 64), (64, 96))}
BATCHES = (2, 4, 8, 16, 32, 64, 96, 128)


class Clock:
    "Seconds between calls, after the device has finished."
    def __init__(self, device): self.device = device

    def now(self):
        if self.device == 'cuda': torch.cuda.synchronize()
        return time.perf_counter()

    def best(self, f, repeats):
        times = []
        for _ in range(repeats):
            start = self.now()
            f()
            times.append(self.now() - start)
        return min(times)


def matrix_peak(device, n, repeats=20):
    "FLOP/s of a bf16 matrix product, the best of several."
    a, b = (torch.randn(n, n, device=device, dtype=torch.bfloat16) for _ in range(2))
    return 2*n**3/Clock(device).best(lambda: a @ b, repeats)


def build(config, sees, frozen, device, compiled):
    torch.manual_seed(0)
    model = create_model('zoedepth', 'none', **config)
    model.processor.size = dict(height=sees[0], width=sees[1])
    model.processor.keep_aspect_ratio = model.processor.do_pad = False
    if frozen: freeze(model)
    model = model.to(device).train()
    if compiled: model.compile()
    return model


def make_step(model, batch, size, device):
    "One training step on random pictures, as in the published loop: SILog, clipping, AdamW; bf16."
    live = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(live, 1e-6, fused=device == 'cuda')
    rgb, depth = torch.rand(batch, 3, *size, device=device), torch.rand(batch, *size, device=device)*8 + .5
    valid = depth > 1

    def step(update=True):
        optimizer.zero_grad()
        with torch.autocast(device, torch.bfloat16): pred = model(rgb)
        silog_loss(pred.float(), depth, valid).backward()
        torch.nn.utils.clip_grad_norm_(live, 1.)
        if update: optimizer.step()
    return step


def measure(config, case, frozen, batch, device, compiled, repeats):
    "images/s, FLOP/s, GiB; None where it does not fit."
    size, sees = (CASES | DRY)[case]
    model = step = None
    try:
        model = build(config, sees, frozen, device, compiled)
        step = make_step(model, batch, size, device)
        with FlopCounterMode(display=False) as count: step()
        if device == 'cuda': torch.cuda.reset_peak_memory_stats()
        for _ in range(2): step()
        seconds = Clock(device).best(step, repeats)
        memory = torch.cuda.max_memory_allocated()/2**30 if device == 'cuda' else float('nan')
        return batch/seconds, count.get_total_flops()/seconds, memory
    except torch.OutOfMemoryError: return None
    finally:
        del model, step
        if device == 'cuda': torch.cuda.empty_cache()


def largest(config, case, frozen, device, batches):
    "The fastest of the batches that fit."
    best = None
    for batch in batches:
        found = measure(config, case, frozen, batch, device, False, 2)
        if not found: break
        if best is None or found[0] > 1.02*best[1]: best = batch, found[0]
    return best[0]


def main(dry=False, compiled=False):
    if not dry and not torch.cuda.is_available():
        print('No GPU here: nothing was measured (run this file on a machine with CUDA, or with --dry to see that it works).')
        return
    device, config = ('cpu', SMALL) if dry else ('cuda', {})
    torch.backends.cudnn.benchmark = True
    peak = matrix_peak(device, 256 if dry else 8192, 3 if dry else 20)
    print(f'{"CPU, small shapes, to show that this works" if dry else torch.cuda.get_device_name()}, torch {torch.__version__}: '
          f'bf16 matrix product {peak/1e12:.2f} TFLOP/s')
    print('| input | encoder | batch | images/s | share of peak | peak memory GiB |\n| --- | --- | ---: | ---: | ---: | ---: |')
    for case in DRY if dry else CASES:
        for frozen in (True, False):
            few = (2,) if dry else BATCHES
            for batch in sorted({2, largest(config, case, frozen, device, few)}):
                rate, flops, memory = measure(config, case, frozen, batch, device, compiled, 1 if dry else 8)
                row = case, 'frozen' if frozen else 'trained', batch, f'{rate:.1f}', f'{flops/peak:.1%}', f'{memory:.1f}'
                print(f'| {" | ".join(map(str, row))} |', flush=True)


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--dry', action='store_true', help='small shapes on the CPU')
    parser.add_argument('--compile', action='store_true', help='torch.compile the model')
    args = parser.parse_args()
    main(args.dry, args.compile)
