"Boundaries, normals and order against NumPy loops in float64; torchmetrics over two processes."
import numpy as np
import pytest
import torch
from scipy.ndimage import distance_transform_edt
from torch import multiprocessing
from torch.nn import functional as F
from toy import toy_capture

from synthdepth.metrics import CONTOUR_RATIOS, GEOMETRY, METRICS, ImageMetric, batches
from synthdepth.metrics import boundary_f1, edge_metrics, evaluate_batch, geometry_metrics
from synthdepth.metrics import normal_metrics, ordinal_metrics
from synthdepth.metrics.boundaries import contour_counts, discontinuities, edge_distance
from synthdepth.metrics.boundaries import squared_edge_distance
from synthdepth.metrics.normals import surface_normals

CAMERA = torch.tensor([55., 52., 31., 25.])


@pytest.fixture(scope='module')
def batch():
    "Spheres over a floor, blurred and noisy predictions, holes; the last image has no valid pixel."
    g = torch.Generator().manual_seed(0)
    depth = torch.stack([torch.from_numpy(toy_capture(k, 0)[1]) for k in range(4)])
    solid = torch.where(depth > 0, depth, 12.)
    blurred = F.avg_pool2d(solid[:, None], 3, 1, 1, count_include_pad=False)[:, 0]
    pred = blurred*torch.exp(.03*torch.randn(solid.shape, generator=g))
    valid = (depth > 0) & (torch.rand(depth.shape, generator=g) > .05)
    valid[3] = False
    pred[~valid] = torch.nan
    return pred, depth, valid


def each(pred, depth, valid):
    for p, t, v in zip(pred, depth, valid): yield p.double().numpy(), t.double().numpy(), v.numpy()


def pairs(x):  # neighbours: (one, other) to the right and below
    return (x[:, :-1], x[:, 1:]), (x[:-1], x[1:])


def loop_boundary_f1(p, t, v):
    scores = []
    for ratio in np.float32(CONTOUR_RATIOS):
        precision, recall = [], []
        for (p0, p1), (t0, t1), (v0, v1) in zip(pairs(p), pairs(t), pairs(v)):
            for a, b in ((np.float32(p1)/np.float32(p0), np.float32(t1)/np.float32(t0)),
                         (np.float32(p0)/np.float32(p1), np.float32(t0)/np.float32(t1))):
                a, b = (a > ratio) & v0 & v1, (b > ratio) & v0 & v1
                precision.append((a & b).sum()/max(a.sum(), 1))
                recall.append((a & b).sum()/max(b.sum(), 1))
        precision, recall = np.mean(precision), np.mean(recall)
        scores.append(2*precision*recall/max(precision + recall, 1e-12))
    return np.average(scores, weights=CONTOUR_RATIOS)


@pytest.mark.filterwarnings('ignore:divide by zero', 'ignore:invalid value')
def test_boundary_f1_is_the_loops(batch):
    found = boundary_f1(*batch)['boundary_f1']
    for i, image in enumerate(each(*batch)):
        if i < 3: assert found[i].item() == pytest.approx(loop_boundary_f1(*image), abs=1e-6)
    assert found[:3].min() > .02 and found[:3].max() < .98 and found[3].isnan()


def test_contours_image_by_image_and_at_once(batch):
    pred, depth, valid = batch
    steps = torch.tensor(CONTOUR_RATIOS)
    one = torch.cat([contour_counts(*(x[i:i + 1] for x in batch), steps) for i in range(4)], 2)
    assert torch.equal(one, contour_counts(pred, depth, valid, steps)) and one[:, 0].sum() > 50


def test_boundary_f1_does_not_see_scale_and_counts_zero_as_near(batch):
    pred, depth, valid = batch
    a = boundary_f1(pred, depth, valid)['boundary_f1'][:3]
    b = boundary_f1(4*pred, depth/2, valid)['boundary_f1'][:3]
    assert torch.equal(a, b)
    nothing = boundary_f1(torch.zeros(1, 8, 8), torch.eye(8)[None] + 1)['boundary_f1']
    assert nothing.item() == 0


@pytest.mark.parametrize('limit', [1, 3, 10, 11, 12, 40, 200])
@pytest.mark.parametrize('share', [0., .001, .02, .5])
def test_edge_distance_is_scipys(limit, share):
    edge = torch.rand(3, 37, 53, generator=torch.Generator().manual_seed(1)) < share
    edge[2] = False
    edge[2, 5, 7] = True
    found = edge_distance(edge, limit)
    for e, d in zip(edge.numpy(), found.numpy()):
        true = np.minimum(distance_transform_edt(~e), limit) if e.any() else np.full(e.shape, limit)
        np.testing.assert_allclose(d, true, atol=1e-6)
    assert torch.equal(squared_edge_distance(edge, limit).float().sqrt(), found)


@pytest.mark.parametrize('shape', [(1, 1, 1), (1, 1, 9), (1, 9, 1), (2, 2, 3)])
def test_edge_distance_of_small_images(shape):
    edge = torch.zeros(shape, dtype=torch.bool)
    edge[0, 0, 0] = True
    v, u = np.mgrid[:shape[1], :shape[2]]
    np.testing.assert_allclose(edge_distance(edge)[0], np.minimum(np.hypot(u, v), 10), atol=1e-6)


def loop_edges(d, v, ratio=1.1):
    edge = np.zeros(d.shape, bool)
    for (y, x) in np.argwhere(v):
        for dy, dx in ((0, 1), (0, -1), (1, 0), (-1, 0)):
            a, b = y + dy, x + dx
            if not (0 <= a < d.shape[0] and 0 <= b < d.shape[1]): continue
            if v[a, b] and d[a, b] > ratio*d[y, x]: edge[y, x] = True
    return edge


@pytest.mark.parametrize('loops', [True, False], ids=['loops', 'arrays'])
@pytest.mark.parametrize('within, limit', [(3, 10), (1, 25), (0, 10), (12, 5)])
def test_edges_are_the_loops(batch, within, limit, loops, monkeypatch):
    if not loops: monkeypatch.setattr(batches, 'find_spec', lambda _: None)
    found = edge_metrics(*batch, within=within, limit=limit)
    for i, (p, t, v) in enumerate(each(*batch)):
        true, guess = loop_edges(t, v), loop_edges(np.nan_to_num(p), v)
        np.testing.assert_array_equal(discontinuities(batch[1], batch[2])[i], true)
        if i == 3: continue
        to_true, to_guess = (distance_transform_edt(~e) for e in (true, guess))
        near = v & (to_true <= within)
        expected = dict(edge_abs_rel=(abs(p - t)/np.maximum(t, 1e-9))[near].mean(),
                        dbe_acc=to_true[guess & (to_true < limit)].mean(),
                        dbe_comp=np.minimum(to_guess, limit)[true].mean())
        for name, value in expected.items():
            assert found[name][i].item() == pytest.approx(value, rel=1e-6), name
    assert all(x[3].isnan() for x in found.values())


def test_edges_that_no_prediction_finds_are_ten_pixels_away(batch):
    _, depth, valid = batch
    found = edge_metrics(torch.full_like(depth, 3.), depth, valid)
    assert (found['dbe_acc'][:3] == 10).all() and (found['dbe_comp'][:3] == 10).all()


def loop_normals(d, camera):
    fx, fy, cx, cy = camera
    v, u = np.mgrid[:d.shape[0], :d.shape[1]] + .5
    points = np.stack([(u - cx)/fx*d, (v - cy)/fy*d, d], -1)
    n = np.cross(points[1:-1, 2:] - points[1:-1, :-2], points[2:, 1:-1] - points[:-2, 1:-1])
    n *= -np.sign((n*points[1:-1, 1:-1]).sum(-1, keepdims=True))  # towards the camera
    return n/np.linalg.norm(n, axis=-1, keepdims=True)


def test_normals_are_the_loops(batch):
    pred, depth, valid = batch
    found = normal_metrics(pred, depth, valid, CAMERA)
    for i, (p, t, v) in enumerate(each(*batch)):
        if i == 3: continue
        a, b = (loop_normals(np.where(v, x, 1.), CAMERA.tolist()) for x in (p, t))
        angle = np.rad2deg(np.arctan2(np.linalg.norm(np.cross(a, b), axis=-1), (a*b).sum(-1)))
        angle = angle[v[1:-1, 1:-1] & v[1:-1, 2:] & v[1:-1, :-2] & v[2:, 1:-1] & v[:-2, 1:-1]]
        expected = dict(normal_mean=angle.mean(), normal_median=np.median(angle),
                        normal_11=(angle < 11.25).mean(),
                        normal_22=(angle < 22.5).mean(), normal_30=(angle < 30).mean())
        for name, value in expected.items():
            assert found[name][i].item() == pytest.approx(value, rel=1e-6), name
    assert all(x[3].isnan() for x in found.values())


def test_normals_look_at_the_camera_and_need_one(batch):
    pred, depth, valid = batch
    plane = torch.full((1, 9, 12), 3.)
    torch.testing.assert_close(surface_normals(plane, CAMERA)[0, :, 4, 5],
                               torch.tensor([0., 0., -1.]))
    unknown = torch.stack([CAMERA, CAMERA*torch.nan, CAMERA, CAMERA])
    found = normal_metrics(pred, depth, valid, unknown)['normal_mean']
    assert found[[0, 2]].isfinite().all() and found[1].isnan()
    assert normal_metrics(depth, depth, valid, CAMERA)['normal_mean'][:3].max() == 0


def test_order_is_that_of_all_pairs(batch):
    pred, depth, valid = batch
    found = ordinal_metrics(pred, depth, valid, pairs=200_000)
    for i, (p, t, v) in enumerate(each(*batch)):
        if i == 3: continue
        p, t = p[v][::3], t[v][::3]
        a, b = np.triu_indices(len(p), 1)

        def order(x): return (x[a] > 1.03*x[b]).astype(int) - (x[b] > 1.03*x[a])

        wrong = (order(p) != order(t)).mean()
        tau = (np.sign(p[a] - p[b])*np.sign(t[a] - t[b])).mean()
        assert found['ordinal_error'][i].item() == pytest.approx(wrong, abs=.02)
        assert found['kendall'][i].item() == pytest.approx(tau, abs=.03)
    assert found['kendall'][3].isnan()
    again = ordinal_metrics(pred[1:2], depth[1:2], valid[1:2], pairs=200_000)
    assert again['kendall'][0] == found['kendall'][1]  # the same pairs whatever the batch


def test_loops_are_the_way_of_the_device(batch, monkeypatch):
    assert batches.use_kernels(*batch) and not batches.use_kernels(batch[0].double(), *batch[1:])
    for valid in (batch[2], torch.ones_like(batch[2])):
        pred, depth = (torch.where(valid, x, 1.).nan_to_num(1.) for x in batch[:2])
        loops = geometry_metrics(pred, depth, valid, CAMERA)
        with monkeypatch.context() as patch:
            patch.setattr(batches, 'find_spec', lambda _: None)
            arrays = geometry_metrics(pred, depth, valid, CAMERA)
        for k in GEOMETRY:
            torch.testing.assert_close(loops[k], arrays[k], rtol=1e-6, atol=1e-6, equal_nan=True,
                                       msg=k)


def test_accumulated_is_the_mean_over_images(batch):
    pred, depth, valid = batch
    geometry = geometry_metrics(pred.clamp(1e-3, 10), depth, valid & (depth < 10), CAMERA)
    accuracy = evaluate_batch(pred, depth, valid, 'metric')
    for scores, expected in (('geometry', geometry), ('depth', accuracy)):
        metric = ImageMetric(scores)
        for part in (slice(0, 1), slice(1, 4)):
            metric.update(pred[part], depth[part], valid[part], CAMERA)
        for name, value in metric.compute().items():
            assert value.item() == pytest.approx(expected[name].nanmean().item(), rel=1e-9), name


def test_accumulating_needs_images_and_known_scores():
    with pytest.raises(ValueError,
                       match="unknown scores 'depths', expected one of depth, geometry"):
        ImageMetric('depths')
    with pytest.raises(ValueError, match='no mean over images'): ImageMetric('depth', 'published')
    assert set(ImageMetric('geometry').names) == set(GEOMETRY)
    assert set(ImageMetric().names) == set(METRICS)


def _share(rank, folder):
    "One of two processes: it scores its part and writes what all of them found."
    torch.set_num_threads(1)
    meeting = f'file://{folder}/meet'
    torch.distributed.init_process_group('gloo', init_method=meeting, rank=rank, world_size=2)
    pred, depth, valid = torch.load(f'{folder}/batch.pt', weights_only=True)
    found = {}
    for scores in ('depth', 'geometry'):
        metric = ImageMetric(scores)
        part = slice(0, 1) if rank == 0 else slice(1, 4)
        metric.update(pred[part], depth[part], valid[part], CAMERA)
        found |= metric.compute()
    torch.save(found, f'{folder}/found{rank}.pt')
    torch.distributed.destroy_process_group()


def test_two_processes_find_what_one_finds(batch, tmp_path):
    torch.save(batch, tmp_path/'batch.pt')
    multiprocessing.start_processes(_share, (str(tmp_path),), nprocs=2, start_method='spawn')
    first, second = (torch.load(tmp_path/f'found{rank}.pt', weights_only=True) for rank in (0, 1))
    for scores in ('depth', 'geometry'):
        alone = ImageMetric(scores)
        alone.update(*batch, CAMERA)
        for name, value in alone.compute().items():
            assert first[name].item() == second[name].item(), name
            assert first[name].item() == pytest.approx(value.item(), rel=1e-12), name
