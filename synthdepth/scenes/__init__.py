"What a scene is, and how it becomes a picture, exact depth and a dataset folder."
import lazy_loader

# Imported on use: the command line and the renderer start without torch.
__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submod_attrs={
    'shapes': ['KINDS', 'MATERIALS', 'SHAPES', 'shape_mesh'],
    'description': ['PRESETS', 'Factors', 'Object', 'Scene', 'View', 'camera_pose', 'factors',
        'from_json', 'intrinsics', 'sample_scene', 'sun_direction', 'to_json'],
    'custom': ['OwnError', 'add_environments', 'add_meshes', 'read_environment', 'read_mesh'],
    'skies': ['sky'],
    'light_paths': ['CERTAIN', 'LONGEST', 'trace'],
    'render': ['RenderError', 'choose_variant', 'encode_normal', 'exposure', 'fault', 'focal_stack',
        'millimetres', 'place', 'render_dataset', 'render_scene', 'surface', 'tone_map', 'z_depth'],
    'rerendering': ['contact_sheet', 'rerender', 'stored_scene', 'traced'],
})
