"""Training against the plain loop of the published notebook, rebuilt: loaders, steps, kept
features, evaluation, memory."""
import argparse
import multiprocessing
import tempfile
import time
from pathlib import Path

import torch
from PIL import Image
from test_features import enliven
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms as T

from synthdepth.data import Pairs, loader, open_data
from synthdepth.models import FeatureCache, create_model
from synthdepth.metrics import evaluate_batch, silog_loss
from synthdepth.training import apply_freezing, make_optimizer, make_recipe, start_accelerator
from synthdepth.training import train_batches, train_step


class Published(Dataset):
    """PIL, torchvision's transforms, 256x256, ImageNet normalisation; of 16-bit depth, millimetres
    are its unit."""
    def __init__(self, folder, size=(256, 256)):
        self.rgb = sorted(Path(folder, 'rgb').glob('*'))
        self.depth = sorted(Path(folder, 'depth').glob('*'))
        self.to_rgb = T.Compose([T.Resize(size), T.ToTensor(),
                                 T.Normalize([.485, .456, .406], [.229, .224, .225])])
        self.to_depth = T.Compose([T.Resize(size, T.InterpolationMode.NEAREST), T.ToTensor()])

    def __len__(self): return len(self.rgb)

    def __getitem__(self, i):
        rgb, depth = Image.open(self.rgb[i]).convert('RGB'), Image.open(self.depth[i])
        depth = self.to_depth(depth).float()/1000
        return dict(rgb=self.to_rgb(rgb), depth=depth[0], valid=(depth[0] > .001) & (depth[0] < 10))


MEAN = torch.tensor([.485, .456, .406]).view(3, 1, 1)
STD = torch.tensor([.229, .224, .225]).view(3, 1, 1)


def plain_trainer(model):
    """The published epoch: everything trains, NaN becomes 0, the norm is clipped; the loader's
    normalisation is undone here."""
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-4, weight_decay=1e-4)

    def epoch(batches):
        for batch in batches:
            optimizer.zero_grad()
            pred = torch.nan_to_num(model((batch['rgb']*STD + MEAN).clamp(0, 1)))
            loss = silog_loss(pred, batch['depth'], batch['valid'])
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.)
            optimizer.step()
            loss.item()
    return epoch


def our_trainer(model, frozen):
    "The same epoch in the project's own loop."
    recipe = make_recipe('published', frozen=frozen)
    apply_freezing(model, recipe, 1)
    accelerator = start_accelerator(recipe)
    model.to(memory_format=torch.channels_last)
    net, optimizer = accelerator.prepare(model, make_optimizer(model, recipe, accelerator.device))

    def epoch(pairs):
        net.train()
        for parts in train_batches(pairs, recipe, 1, 0, accelerator, torch.Generator()):
            train_step(net, parts, optimizer, recipe, accelerator)
    return epoch


def plain_scores(pred, depth, valid):
    "The published five metrics of a batch, each pulled to Python."
    p, d = pred[valid].clamp(1e-3, 10), depth[valid]
    ratio, g = torch.maximum(p/d, d/p), torch.log(p) - torch.log(d)
    return [x.item()
            for x in ((ratio < 1.25).float().mean(), ((p - d).abs()/d).mean(),
                      ((p - d)**2).mean().sqrt(),
                               (p - d).abs().mean(),
                               ((g**2).mean() - .5*g.mean()**2).sqrt())]


def rates(n, *fs, repeats=3):
    """Samples per second of each, the best of a few passes that take turns, so that a busy machine
    slows all alike."""
    best = [float('inf')]*len(fs)
    for _ in range(repeats):
        for k, f in enumerate(fs):
            start = time.perf_counter()
            f()
            best[k] = min(best[k], time.perf_counter() - start)
    return [n/b for b in best]


def drain(batches):
    for _ in batches: pass


# ZoeD_N at a quarter of its width everywhere, so that encoder and decoder keep their shares of the
# arithmetic.
SHAPED = dict(backbone_config=dict(model_type='beit', image_size=384, hidden_size=256,
                                   intermediate_size=1024,
                                   num_hidden_layers=24, num_attention_heads=4,
                                   use_relative_position_bias=True,
                                   reshape_hidden_states=False,
                                   out_features=['stage6', 'stage12', 'stage18', 'stage24']),
              neck_hidden_sizes=[64, 128, 256, 256], fusion_hidden_size=64, bottleneck_features=64,
              num_relative_features=8,
              bin_embedding_dim=32)


def make(name, config):
    torch.manual_seed(0)
    model = create_model(name, 'none', **config)
    if name == 'zoedepth': enliven(model)  # or its features fade away, below half precision
    return model


def memory(kind, folder, send):
    "Peak memory of one epoch, in a process of its own."
    torch.set_num_threads(1)
    model = make('tiny', {})
    if kind == 'plain': plain_trainer(model)(DataLoader(Published(folder), 2, shuffle=True))
    else:
        pairs = Pairs(open_data(folder), 256, cache=f'{folder}-kept')
        train = our_trainer(model, 'encoder' if kind == 'kept' else '')
        train(FeatureCache(model, pairs, f'{folder}-kept') if kind == 'kept' else pairs)
    status = Path('/proc/self/status').read_text()  # getrusage would tell the parent's
    send.put(int(status.split('VmHWM:')[1].split()[0])/1024)


def peak(kind, folder):
    context = multiprocessing.get_context('spawn')
    queue = context.Queue()
    process = context.Process(target=memory, args=(kind, folder, queue))
    process.start()
    found = queue.get()
    process.join()
    return found


def bench_loaders(folder, rows):
    data, n, files = open_data(folder), len(Published(folder)), Published(folder)
    start = time.perf_counter()
    kept = Pairs(data, 256, cache=f'{folder}-kept')
    writing = n/(time.perf_counter() - start)
    for batch_size in (2, 16):
        base, cold, cached = rates(n, lambda: drain(DataLoader(files, batch_size)),
                                   lambda: drain(loader(data, 256, batch_size)),
                                   lambda: drain(loader(kept, batch_size=batch_size)), repeats=5)
        rows += [(f'loader, cold, batch {batch_size}', base, cold, 'samples/s'),
                 (f'loader, cached, batch {batch_size}', base, cached, 'samples/s')]
    base, cold = rates(n, lambda: drain(DataLoader(files, 2, num_workers=2)),
                       lambda: drain(loader(data, 256, 2, workers=2)))
    rows += [('loader, cold, batch 2, 2 workers on both sides', base, cold, 'samples/s'),
             ('writing the cache, once', rows[0][1], writing, 'samples/s')]
    return kept


def bench_steps(folder, kept, rows):
    "Epochs of `tiny`, and of a network shaped as ZoeDepth, at the published batch of 2."
    for name, config, label in (('tiny', {}, 'tiny'), ('zoedepth', SHAPED, 'ZoeDepth-shaped')):
        pairs = kept if name == 'tiny' else Pairs(kept.data.subset(range(2)), 256,
                                                  cache=f'{folder}-kept')
        n, files, repeats = len(pairs), Published(folder), 3 if name == 'tiny' else 2
        files.rgb, files.depth = files.rgb[:n], files.depth[:n]
        model = make(name, config)
        plain, every = plain_trainer(make(name, config)), our_trainer(make(name, config), '')
        frozen = our_trainer(model, 'encoder')
        start = time.perf_counter()
        features = FeatureCache(model, pairs, f'{folder}-kept')
        first = n/(time.perf_counter() - start)
        base, all_trained, uncached, cached = rates(
            n, lambda: plain(DataLoader(files, 2, shuffle=True)), lambda: every(pairs),
            lambda: frozen(pairs), lambda: frozen(features), repeats=repeats)
        rows += [(f'training, {label}, everything trained', base, all_trained, 'samples/s'),
                 (f'training, {label}, encoder frozen', base, uncached, 'samples/s'),
                 (f'training, {label}, features kept', base, cached, 'samples/s'),
                 ('... the same against encoder frozen here', uncached, cached, 'samples/s'),
                 (f'computing the features of {label}, once', base, first, 'samples/s')]


def bench_zoedepth(folder, rows):
    """ZoeDepth at its own size (345 M parameters, random), with what is frozen computed in every
    epoch and once.

    The metric head's bins are as many at every width, so the narrow network above would make too
    much of them."""
    pairs = Pairs(open_data(folder).subset(range(2)), 256, cache=f'{folder}-kept')
    for what in ('encoder', 'encoder,neck'):
        model = make('zoedepth', {})
        frozen = our_trainer(model, what)
        start = time.perf_counter()
        kept = FeatureCache(model, pairs, f'{folder}-kept')
        took = time.perf_counter() - start
        uncached, cached = rates(len(pairs), lambda: frozen(pairs), lambda: frozen(kept), repeats=2)
        size = f'{kept.bytes/len(kept)/1e6:.0f} MB a picture, made in {took/len(kept):.1f} s'
        label = f'ZoeDepth, {what} frozen: features kept against not ({size})'
        rows.append((label, uncached, cached, 'samples/s'))


def bench_evaluation(folder, kept, rows):
    "One pass over all captures: prediction and metrics."
    model, n = create_model('tiny', 'none'), len(kept)

    @torch.no_grad()
    def plain():
        for b in DataLoader(Published(folder), 2):
            plain_scores(model((b['rgb']*STD + MEAN).clamp(0, 1)), b['depth'], b['valid'])

    @torch.no_grad()
    def ours():
        for b in loader(kept, batch_size=8):
            evaluate_batch(model(b['rgb']), b['depth'], b['valid'], 'metric')
    rows.append(('evaluation pass of tiny', *rates(n, plain, ours), 'samples/s'))


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--data',
                        help='a dataset folder of 640x480 captures; without it toy scenes')
    parser.add_argument('--threads', type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as tmp:
        folder = f'{tmp}/set'
        if args.data: Path(folder).symlink_to(Path(args.data).resolve())
        else:
            from toy import write_synthdepth
            write_synthdepth(folder, scenes=10, views=2, size=(480, 640))
        rows = []
        pairs = bench_loaders(folder, rows)
        bench_steps(folder, pairs, rows)
        bench_zoedepth(folder, rows)
        bench_evaluation(folder, pairs, rows)
        plain = peak('plain', folder)
        rows += [(f'peak memory of an epoch of tiny, {label}', plain, peak(kind, folder), 'MiB')
                 for kind, label in
                 (('cached', 'pictures cached'), ('kept', 'features kept'))]
    print('| what | published loop | here | unit | ratio |\n| --- | ---: | ---: | --- | ---: |')
    for what, base, ours, unit in rows:
        ratio = base/ours if unit == 'MiB' else ours/base
        print(f'| {what} | {base:.3g} | {ours:.3g} | {unit} | {ratio:.2f} |')
