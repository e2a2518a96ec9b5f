"""Training at ZoeDepth's size on a GPU: images/s, share of the matrix-product peak, peak memory.

Random weights (345 M parameters, BEiT-L) in the project's own loop: batches from memory, no
augmentation, SILog, clipping, AdamW. `256` is the published input, 256x256 stretched to 384x512 by
the model; `384` is 384x384 as it is. Batch 2 as published, and the fastest that fits. The peak is
measured on the same card, with a square matrix product in the precision of the training.
`--dry` runs the same code on small shapes on the CPU.
"""
import argparse
import gc
import time

import torch
from torch.utils.data import Dataset
from torch.utils.flop_counter import FlopCounterMode

from synthdepth.models import create_model
from synthdepth.training import apply_freezing, choose_precision, make_optimizer, make_recipe
from synthdepth.training import start_accelerator, train_batches, train_step

SMALL = dict(backbone_config=dict(model_type='beit', image_size=384, hidden_size=32,
                                  intermediate_size=64, num_hidden_layers=4,
                                  num_attention_heads=4, use_relative_position_bias=True,
                                  reshape_hidden_states=False,
                                  out_features=['stage1', 'stage2', 'stage3', 'stage4']),
             neck_hidden_sizes=[8, 16, 16, 32], fusion_hidden_size=16, bottleneck_features=16,
             num_relative_features=8)
CASES = {'256': ((256, 256), (384, 512)),
         '384': ((384, 384), (384, 384))}  # picture, what the network sees
DRY = {'64': ((64, 64), (64, 96))}
BATCHES = (2, 4, 8, 16, 32, 64, 96, 128)
DTYPES = dict(no=torch.float32, bf16=torch.bfloat16, fp16=torch.float16)


class Pictures(Dataset):
    "As many captures as are asked for, all alike, as a cache in memory hands them out."
    def __init__(self, n, size):
        torch.manual_seed(0)
        self.n, self.rgb, self.depth = n, (torch.rand(3, *size)*255).byte(), torch.rand(size)*8 + .5

    def __len__(self): return self.n

    def __getitems__(self, at):
        rgb, depth = (x.expand(len(at), *x.shape).contiguous() for x in (self.rgb, self.depth))
        return dict(rgb=rgb.float().div_(255), depth=depth, valid=depth > 1, index=torch.tensor(at),
                    intrinsics=torch.ones(len(at), 4))


def now(device):
    if device == 'cuda': torch.cuda.synchronize()
    return time.perf_counter()


def matrix_peak(device, n, dtype, repeats):
    "FLOP/s of a matrix product, the best of several."
    a, b = (torch.randn(n, n, device=device, dtype=dtype) for _ in range(2))
    best = float('inf')
    for _ in range(repeats):
        start = now(device)
        a @ b
        best = min(best, now(device) - start)
    return 2*n**3/best


class Training:
    "One network, to be measured with several batch sizes."
    def __init__(self, config, case, frozen, device, compiled):
        torch.manual_seed(0)
        self.size, sees = (CASES | DRY)[case]
        self.device, self.compiled, self.flops = device, compiled, None
        self.frozen = 'encoder' if frozen else ''
        model = create_model('zoedepth', 'none', **config)
        model.processor.size = dict(height=sees[0], width=sees[1])
        model.processor.keep_aspect_ratio = model.processor.do_pad = False
        recipe = self.recipe(2)
        apply_freezing(model, recipe, 1)
        self.accelerator = start_accelerator(recipe)
        model.to(memory_format=torch.channels_last)
        optimizer = make_optimizer(model, recipe, self.accelerator.device)
        self.net, self.optimizer = self.accelerator.prepare(model, optimizer)

    def recipe(self, batch):
        return make_recipe('published', frozen=self.frozen, batch_size=batch, precision='auto',
                           lr=1e-6, height=self.size[0],
                           width=self.size[1])

    def epoch(self, batch, steps):
        self.net.train()
        recipe, pictures = self.recipe(batch), Pictures(steps*batch, self.size)
        workers = 2 if self.device == 'cuda' else 0
        for parts in train_batches(pictures, recipe, 1, 0, self.accelerator, torch.Generator(),
                                   workers):
            train_step(self.net, parts, self.optimizer, recipe, self.accelerator)

    def count(self):
        "FLOP of a picture; before compiling, which hides operations from the counter."
        with FlopCounterMode(display=False) as count: self.epoch(1, 1)
        self.flops = count.get_total_flops()
        if self.compiled: self.accelerator.unwrap_model(self.net).compile()

    def measure(self, batch, steps):
        "images/s, FLOP/s, GiB; None where it does not fit."
        try:
            if not self.flops: self.count()
            self.epoch(batch, 3)  # warm up
            if self.device == 'cuda': torch.cuda.reset_peak_memory_stats()
            start = now(self.device)
            self.epoch(batch, steps)
            rate = steps*batch/(now(self.device) - start)
            used = torch.cuda.max_memory_allocated() if self.device == 'cuda' else float('nan')
            return rate, self.flops*rate, used/2**30
        except torch.OutOfMemoryError: return None
        finally:
            self.optimizer.zero_grad()
            gc.collect()
            if self.device == 'cuda': torch.cuda.empty_cache()

    def fastest(self, batches):
        "The fastest of the batches that fit; a larger one must gain 2 %."
        best = None
        for batch in batches:
            found = self.measure(batch, 6)
            if not found: break
            if best is None or found[0] > 1.02*best[1]: best = batch, found[0]
        if best is None:
            raise SystemExit(f'not even a batch of {batches[0]} fits the memory of this card')
        return best[0]


def main(dry=False, compiled=False):
    if not dry and not torch.cuda.is_available():
        print('No GPU here: nothing was measured (run this file on a machine with CUDA, or with '
              '--dry to see that it works).')
        return
    device, config = ('cpu', SMALL) if dry else ('cuda', {})
    torch.backends.cudnn.benchmark = True
    kind = choose_precision()
    peak = matrix_peak(device, 256 if dry else 8192, DTYPES[kind], 3 if dry else 30)
    where = 'CPU, small shapes, to show that this works' if dry else torch.cuda.get_device_name()
    print(f'{where}, torch {torch.__version__}: '
          f'{str(DTYPES[kind])[6:]} matrix product {peak/1e12:.2f} TFLOP/s')
    print('| input | encoder | batch | images/s | share of peak | peak memory GiB |')
    print('| --- | --- | ---: | ---: | ---: | ---: |')
    for case in DRY if dry else CASES:
        for frozen in (True, False):
            training = Training(config, case, frozen, device, compiled)
            for batch in sorted({2, training.fastest((2,) if dry else BATCHES)}):
                rate, flops, memory = training.measure(batch, 1 if dry else max(20, 300//batch))
                row = (case, 'frozen' if frozen else 'trained', batch, f'{rate:.1f}',
                       f'{flops/peak:.1%}', f'{memory:.1f}')
                print(f'| {" | ".join(map(str, row))} |', flush=True)
            training.accelerator.free_memory()
            del training


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--dry', action='store_true', help='small shapes on the CPU')
    parser.add_argument('--compile', action='store_true', help='torch.compile the model')
    args = parser.parse_args()
    main(args.dry, args.compile)
