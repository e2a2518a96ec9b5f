"""Throughput against Blender Cycles on the CPU at equal quality, on the same scenes, one process of
one thread on each core.

Cycles runs in another interpreter that has bpy (`pip install bpy` in an environment of its own; it
is GPL and no dependency): BLENDER_PYTHON=/path/to/python python tests/bench_cycles.py

A capture is
the denoised picture, the depth at pixel centres (in Cycles one more render, of one sample), and a
fifteenth of what a scene takes once: loading, and what its first view takes longer. (In Cycles,
too, two processes of one thread are up to a tenth faster than one of two threads.) Quality is the
PSNR of the picture against the same renderer's converged, denoised picture. Skies are turned about
the vertical against each other (the two renderers start their panoramas at different sides).
Cycles is measured as it is shipped, which blurs pixels, clamps bright indirect light and softens
reflections of what is not seen directly, and made to estimate what is estimated here: a box filter
of one pixel, nothing clamped or softened."""
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np

SIZE, SCENES, REFERENCE = (256, 256), int(os.environ.get('BENCH_SCENES', 4)), 512
VIEWS, COMPARED = 15, 2  # of a scene: that share its loading; that are compared (Cycles: rendered)
UPRIGHT = np.array([[1., 0, 0, 0], [0, 0, -1, 0], [0, 1, 0, 0], [0, 0, 0, 1]])  # y up to z up
OURS, THEIRS = (4, 8, 16), (4, 8, 16, 32)


def export(folder: Path, scene):
    "Triangles, looks and cameras of a scene, for an interpreter that does not know this project."
    from synthdepth.scenes import MATERIALS, camera_pose, object_triangles, sky, sun_direction
    arrays, looks = {}, {}
    for name in sorted({o.material for o in scene.objects}):
        parts = [object_triangles(o) for o in scene.objects if o.material == name]
        for k, x in zip(('corners', 'normals', 'uv'), zip(*parts)):
            arrays[f'{k}_{name}'] = np.concatenate(x)
        m = MATERIALS[name]
        if m.texture: arrays[f'texture_{name}'] = np.clip(m.texture(), 0, 1).astype(np.float32)
        looks[name] = dict(glass=list(m.glass) if m.glass else None,
                           roughness=m.roughness, metallic=m.metallic,
                           clearcoat=m.clearcoat, sheen=m.sheen, emission=m.emission)
    arrays['sky'] = sky(scene.background)
    views = [dict(pose=camera_pose(v).tolist(), sun=sun_direction(v).tolist())
             for v in scene.views[:COMPARED]]
    np.savez(folder/'scene.npz', **arrays)
    told = dict(looks=looks, views=views, fov=scene.fov, sun=scene.sun)
    (folder/'scene.json').write_text(json.dumps(told))


def blender_mesh(bpy, name, arrays, look):
    n = len(arrays[f'corners_{name}'])
    mesh = bpy.data.meshes.new(name)
    corners = arrays[f'corners_{name}'].reshape(-1, 3)@UPRIGHT[:3, :3].T
    for part, count in ((mesh.vertices, 3*n), (mesh.loops, 3*n), (mesh.polygons, n)):
        part.add(count)
    mesh.vertices.foreach_set('co', corners.astype(np.float32).ravel())
    mesh.loops.foreach_set('vertex_index', np.arange(3*n, dtype=np.int32))
    mesh.polygons.foreach_set('loop_start', np.arange(0, 3*n, 3, dtype=np.int32))
    mesh.update()
    mesh.uv_layers.new().data.foreach_set('uv', arrays[f'uv_{name}'].reshape(-1).astype(np.float32))
    normals = arrays[f'normals_{name}'].reshape(-1, 3)@UPRIGHT[:3, :3].T
    mesh.normals_split_custom_set(normals.tolist())
    material = bpy.data.materials.new(name)
    material.use_nodes = True
    nodes, links = material.node_tree.nodes, material.node_tree.links
    shader = nodes['Principled BSDF']
    shader.inputs['Roughness'].default_value = look['roughness']
    shader.inputs['Metallic'].default_value = look['metallic']
    if look['glass']:
        shader.inputs['Transmission Weight'].default_value = 1
        shader.inputs['Base Color'].default_value = (*look['glass'], 1)
    else:
        texture = arrays[f'texture_{name}']
        image = bpy.data.images.new(name, texture.shape[1], texture.shape[0], float_buffer=True)
        opaque = np.ones(texture.shape[:2], np.float32)
        image.pixels.foreach_set(np.dstack([texture[::-1], opaque]).ravel())
        node = nodes.new('ShaderNodeTexImage')
        node.image = image
        links.new(node.outputs['Color'], shader.inputs['Base Color'])
        if look['emission']:
            links.new(node.outputs['Color'], shader.inputs['Emission Color'])
            shader.inputs['Emission Strength'].default_value = look['emission']
    mesh.materials.append(material)
    bpy.context.collection.objects.link(bpy.data.objects.new(name, mesh))


def blender_scene(bpy, folder: Path):
    from mathutils import Matrix
    arrays, info = np.load(folder/'scene.npz'), json.loads((folder/'scene.json').read_text())
    bpy.ops.wm.read_factory_settings(use_empty=True)
    for name, look in info['looks'].items(): blender_mesh(bpy, name, arrays, look)
    scene = bpy.context.scene
    scene.world = world = bpy.data.worlds.new('sky')
    world.use_nodes = True
    sky = arrays['sky']
    image = bpy.data.images.new('sky', sky.shape[1], sky.shape[0], float_buffer=True)
    image.pixels.foreach_set(np.dstack([sky[::-1], np.ones(sky.shape[:2], np.float32)]).ravel())
    node = world.node_tree.nodes.new('ShaderNodeTexEnvironment')
    node.image = image
    background = world.node_tree.nodes['Background']
    world.node_tree.links.new(node.outputs['Color'], background.inputs['Color'])
    sun = bpy.data.objects.new('sun', bpy.data.lights.new('sun', 'SUN'))
    sun.data.energy, sun.data.angle = info['sun'], 0
    camera = bpy.data.objects.new('camera', bpy.data.cameras.new('camera'))
    camera.data.sensor_fit, camera.data.angle = 'VERTICAL', np.radians(info['fov'])
    for o in (sun, camera): bpy.context.collection.objects.link(o)
    scene.camera = camera
    r, c = scene.render, scene.cycles
    r.engine, r.resolution_percentage = 'CYCLES', 100
    r.resolution_x, r.resolution_y = SIZE[1], SIZE[0]
    r.use_persistent_data, r.threads_mode = True, 'FIXED'
    r.threads = int(os.environ['BENCH_THREADS'])
    r.image_settings.file_format, r.image_settings.color_depth = 'OPEN_EXR', '32'
    c.device, c.use_adaptive_sampling, c.max_bounces = 'CPU', False, 7
    c.use_denoising, c.denoiser = True, 'OPENIMAGEDENOISE'
    if os.environ['BENCH_SAME'] == '1':
        c.pixel_filter_type, c.sample_clamp_indirect, c.blur_glossy = 'BOX', 0, 0
    bpy.context.view_layer.use_pass_z = True
    def look(view):
        pose = UPRIGHT@np.array(view['pose'])@np.diag([1., -1., -1., 1.])
        camera.matrix_world = Matrix(pose.tolist())
        d = np.array(view['sun'])
        side = np.cross([1, 0, 0] if abs(d[1]) > .99 else [0, 1, 0], -d)
        side /= np.linalg.norm(side)
        turn = np.eye(4)
        turn[:3, :3] = np.stack([side, np.cross(-d, side), -d], 1)
        sun.matrix_world = Matrix((UPRIGHT@turn).tolist())
    return scene, info['views'], look


def blender(folder: Path):
    "Render all views at each number of samples, and their depth; seconds per view: times.json."
    import bpy
    warnings.simplefilter('ignore')  # bpy 5 announces changes of bpy 6
    start = time.perf_counter()
    scene, views, look = blender_scene(bpy, folder)
    times = {'build': time.perf_counter() - start}

    def take(name, seed, rounds=3):
        "Seconds of each view, the least of several rounds."
        took = {}
        for n, view in [*enumerate(views)]*rounds:
            look(view)
            scene.cycles.seed, scene.render.filepath = n + seed, str(folder/f'{name}_{n}.exr')
            start = time.perf_counter()
            bpy.ops.render.render(write_still=True)
            took.setdefault(n, []).append(time.perf_counter() - start)
        if name == f'cycles_{THEIRS[0]}': times['first'] = took[0][0] - min(took[0])
        return [min(x) for x in took.values()]
    for spp in (*THEIRS, REFERENCE):
        scene.cycles.samples = spp
        times[spp] = take(f'cycles_{spp}', *((1000, 1) if spp == REFERENCE else (0, 3)))
    # one sample through the middle of each pixel
    c, output = scene.cycles, scene.render.image_settings
    c.samples, c.max_bounces, c.use_denoising = 1, 0, False
    c.pixel_filter_type, c.filter_width = 'BOX', .01
    if hasattr(output, 'media_type'): output.media_type = 'MULTI_LAYER_IMAGE'
    output.file_format = 'OPEN_EXR_MULTILAYER'
    times['depth'] = take('depth', 0)
    (folder/'times.json').write_text(json.dumps(times))


def psnr(x, truth) -> float:
    from synthdepth.scenes import exposure, tone_map
    gain = exposure(truth)
    error = tone_map(x, gain).astype(float) - tone_map(truth, gain)
    return float(10*np.log10(255**2/np.mean(error**2)))


def ours(scenes, send):
    """Samples -> (seconds per capture, PSNR) of each scene, after another has compiled the kernels;
    in a process of its own."""
    import drjit as dr
    import mitsuba as mi
    from synthdepth.scenes import aim, choose_variant, pinhole_sensor, radiance, to_mitsuba
    from synthdepth.scenes import turn_sun, z_depth
    variant, found = choose_variant(), []
    dr.set_thread_count(1)

    def render(scene, spp, views):
        mi_scene = to_mitsuba(scene, variant)
        sensor = pinhole_sensor(scene.views[0], scene.fov, SIZE)
        params, pictures = mi.traverse(mi_scene), []
        for n, view in enumerate(views):
            if scene.sun: turn_sun(params, view)
            aim(sensor, view)
            pictures.append(radiance(mi_scene, sensor, spp, n + 1000*(spp == REFERENCE), True))
            z_depth(mi_scene, sensor, view, variant, SIZE, scene.fov)
        return pictures
    for scene in scenes:
        truth, rows = render(scene, REFERENCE, scene.views[:COMPARED]), {}
        for spp in OURS:
            if not found: render(scene, spp, scene.views[:2])
            start = time.perf_counter()
            pictures = render(scene, spp, scene.views)
            took = (time.perf_counter() - start)/len(scene.views)
            rows[spp] = [took]*COMPARED, [psnr(x, t) for x, t in zip(pictures, truth)]
        found.append(rows)
    send.send(found)


def on_all_cores(scenes, cores):
    "What `ours` finds, the scenes dealt out to the cores."
    spawn, pipes = multiprocessing.get_context('spawn'), []
    for k in range(cores):
        receive, send = spawn.Pipe(False)
        spawn.Process(target=ours, args=(scenes[k::cores], send)).start()
        pipes.append(receive)
    return [rows for p in pipes for rows in p.recv()]


def theirs(scene, python: str, same: bool, folder: Path):
    "Cycles at work on a scene, on one thread."
    export(folder, scene)
    return subprocess.Popen([python, __file__, str(folder)], stdout=subprocess.DEVNULL,
                            env=os.environ | dict(BENCH_THREADS='1', BENCH_SAME=str(int(same))))


def read_theirs(folder: Path) -> dict:
    "Samples -> (seconds per capture, PSNR) of a scene."
    import mitsuba as mi
    def read(name):
        rgb, floats = mi.Bitmap.PixelFormat.RGB, mi.Struct.Type.Float32
        x = mi.Bitmap(str(folder/name)).convert(rgb, floats, srgb_gamma=False)
        return np.array(x)
    times, views = json.loads((folder/'times.json').read_text()), range(COMPARED)
    rest = (times['build'] + times['first'])/VIEWS + np.median(times['depth'])
    truth = [read(f'cycles_{REFERENCE}_{n}.exr') for n in views]
    quality = {spp: [psnr(read(f'cycles_{spp}_{n}.exr'), truth[n]) for n in views]
               for spp in THEIRS}
    return {spp: ([t + rest for t in times[str(spp)]], quality[spp]) for spp in THEIRS}


def cycles_on_all_cores(scenes, python: str, cores: int, same: bool) -> list:
    "What Cycles finds, as many scenes at a time as there are cores."
    found = []
    for k in range(0, len(scenes), cores):
        with tempfile.TemporaryDirectory() as tmp:
            folders = [Path(tmp)/str(n) for n in range(len(scenes[k:k+cores]))]
            for f in folders: f.mkdir()
            running = [theirs(s, python, same, f) for s, f in zip(scenes[k:k+cores], folders)]
            if any(p.wait() for p in running):
                raise RuntimeError('Cycles failed; its message stands above')
            found += [read_theirs(f) for f in folders]
    return found


def table(name: str, found: list[dict], cores: int) -> list[tuple]:
    rows = []
    for spp in found[0]:
        took, quality = (np.concatenate([f[spp][k] for f in found]) for k in (0, 1))
        took = took/cores
        rows.append((float(np.median(took)), float(quality.mean())))
        print(f'{name:19} {spp:3} samples: {np.median(took):.3f} s a capture, '
              f'PSNR {quality.mean():.1f} dB', flush=True)
    return rows


def main(python: str):
    from synthdepth.scenes import choose_variant, factors, sample_scene
    os.environ.update(OIDN_NUM_THREADS='1', OIDN_SET_AFFINITY='0')
    cores = min(2, os.cpu_count())
    choose_variant()
    scenes = [sample_scene(factors('published', views=VIEWS), 2, i) for i in range(SCENES)]
    print(f'{SIZE[1]}x{SIZE[0]}, {SCENES} scenes x {VIEWS} views, '
          f'{cores} processes of one thread, both denoised', flush=True)
    found = table('synthdepth', on_all_cores(scenes, cores), cores)
    for name, same in (('Cycles as shipped', False), ('Cycles, same light', True)):
        cycles = table(name, cycles_on_all_cores(scenes, python, cores, same), cores)
        seconds, decibel = zip(*cycles)
        for spp, (took, quality) in zip(OURS, found):
            if quality > max(decibel):
                ratio = f'more than {seconds[-1]/took:.1f} x; it does not reach {quality:.1f} dB'
            elif quality < min(decibel):
                ratio = f'{seconds[0]/took:.1f} x at its fewest samples, which are better'
            else: ratio = f'{np.exp(np.interp(quality, decibel, np.log(seconds)))/took:.1f} x'
            print(f'synthdepth with {spp} samples, times the throughput of {name} at the same '
                  f'PSNR: {ratio}', flush=True)


if __name__ == '__main__':
    if len(sys.argv) > 1: blender(Path(sys.argv[1]))
    elif python := os.environ.get('BLENDER_PYTHON'): main(python)
    else: print('Cycles: not measured, BLENDER_PYTHON names no interpreter that has bpy')
