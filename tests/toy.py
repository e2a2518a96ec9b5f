"Toy scenes, spheres over a floor, written in every layout: for tests without a renderer."
import json
from pathlib import Path

import numpy as np
from PIL import Image

from synthdepth.camera import Intrinsics, depth_to_distance


def toy_capture(scene: int, view: int, size=(48, 64),
                fov=60.) -> tuple[np.ndarray, np.ndarray, Intrinsics]:
    "rgb (H,W,3) uint8, z-depth (H,W) float32 metres (0: no surface) and the camera."
    rng = np.random.default_rng([7, scene])
    height, width = size
    camera = Intrinsics.from_fov(fov, width, height)
    u, v = np.meshgrid((np.arange(width) + .5 - camera.cx)/camera.fx,
                       (np.arange(height) + .5 - camera.cy)/camera.fy)
    v = v + .02*view
    with np.errstate(divide='ignore'):
        depth = np.where(v > .05, 1.2/v, np.inf)  # a floor 1.2 m below the camera
    near = np.minimum(depth, 99)
    shade = np.where((np.floor(near*u) + np.floor(near)) % 2 > 0, .8, .5)
    colour = np.ones((height, width, 3))*rng.uniform(.4, 1, 3)
    for _ in range(5):
        centre, radius = rng.uniform([-1, -.6, 1.5], [1, .6, 4]), rng.uniform(.2, .6)
        a, b, c = u**2 + v**2 + 1, -2*(u*centre[0] + v*centre[1]
                                       + centre[2]), (centre**2).sum() - radius**2
        disc = b*b - 4*a*c
        z = (-b - np.sqrt(np.maximum(disc, 0)))/(2*a)
        hit = (disc > 0) & (z > .1) & (z < depth)
        normal = (np.stack([u*z, v*z, z], -1) - centre)/radius
        shade = np.where(hit, (normal @ [-.5, -.7, -.5]).clip(.1, 1), shade)
        colour[hit] = rng.uniform(.2, 1, 3)
        depth = np.where(hit, z, depth)
    depth = np.where(depth < 12, depth, 0).astype(np.float32)
    rgb = np.where(depth[..., None] > 0, colour*shade[..., None], [.5, .7, 1.])
    return (rgb*255).astype(np.uint8), depth, camera


def _save(array: np.ndarray, path: Path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def write_synthdepth(out, scenes=4, views=3, size=(48, 64), preset='toy', seed=0) -> Path:
    "The project's own layout: 16-bit millimetres, metadata.jsonl, dataset.json."
    out, lines = Path(out), []
    for i in range(scenes*views):
        scene, view = divmod(i, views)
        rgb, depth, camera = toy_capture(scene + 1000*seed, view, size)
        _save(rgb, out/f'rgb/rgb_{i:05d}.png')
        _save((depth*1000).round().astype(np.uint16), out/f'depth/depth_{i:05d}.png')
        lines.append(dict(rgb_file_name=f'rgb/rgb_{i:05d}.png',
                          depth_file_name=f'depth/depth_{i:05d}.png',
                          scene=f'{preset}-{seed}-{scene:05d}', view=view, pose=np.eye(4).tolist(),
                          intrinsics=dict(vars(camera), width=size[1], height=size[0])))
    (out/'metadata.jsonl').write_text(''.join(json.dumps(line) + '\n' for line in lines))
    info = dict(format='synthdepth', format_version=1, captures=len(lines), scenes=scenes,
                size=list(size),
                depth=dict(kind='z', metres_per_unit=.001, invalid=0, bit_depth=16), generator={})
    (out/'dataset.json').write_text(json.dumps(info))
    return out


def published_code(depth: np.ndarray, camera: Intrinsics, max_depth=10.) -> np.ndarray:
    "Z-depth in metres to the published study's 8-bit distance, white where there is no surface."
    codes = np.round(depth_to_distance(depth, camera)/max_depth*255).clip(0, 255)
    return np.where(depth > 0, codes, 255).astype(np.uint8)


def write_flat(out, scenes=4, views=3, size=(48, 64)) -> Path:
    "The published flat layout."
    for i in range(scenes*views):
        rgb, depth, camera = toy_capture(*divmod(i, views), size)
        _save(rgb, Path(out)/f'rgb/rgb_{i:04d}.png')
        _save(published_code(depth, camera), Path(out)/f'depth/depth_{i:04d}.png')
    return Path(out)


def write_tasks(out, scenes=4, views=3, size=(48, 64)) -> Path:
    "The published raw layout: a folder for each scene."
    for i in range(scenes*views):
        scene, view = divmod(i, views)
        rgb, depth, camera = toy_capture(scene, view, size)
        _save(rgb, Path(out)/f'task_{scene + 1:03d}/rgb_{view:04d}.png')
        _save(published_code(depth, camera), Path(out)/f'task_{scene + 1:03d}/depth_{view:04d}.png')
    return Path(out)
