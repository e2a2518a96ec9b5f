"What a scene is, and how it becomes a picture, exact depth and a dataset folder."
import lazy_loader

# Imported on use: the command line and the renderer start without torch.
__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submod_attrs={
    'household': ['HOUSEHOLD', 'HOUSEHOLD_KINDS', 'KINDS', 'REAL_SIZES', 'SHAPES', 'shape_mesh'],
    'materials': ['MATERIALS'],
    'description': ['Factors', 'Lens', 'Object', 'Scene', 'View', 'camera_pose', 'from_json',
        'sun_colour', 'sun_direction', 'to_json'],
    'home_factors': ['HomeFactors'],
    'presets': ['PRESETS', 'factors', 'usual_factors'],
    'homes': ['draw_home', 'sample_home'],
    'sampling': ['sample_scene'],
    'custom': ['OwnError', 'add_environments', 'add_meshes', 'read_environment', 'read_mesh'],
    'skies': ['sky'],
    'mitsuba_scene': ['RenderError', 'aim', 'choose_variant', 'object_triangles', 'pinhole_sensor',
        'thin_lens_sensor', 'to_mitsuba', 'turn_sun', 'variant_problem'],
    'light_paths': ['MAX_DEPTH', 'ROULETTE_DEPTH', 'trace'],
    'picture': ['exposure', 'focal_stack', 'radiance', 'tone_map'],
    'exact_depth': ['decode_normal', 'encode_normal', 'millimetres', 'surface', 'z_depth'],
    'render': ['enough_samples', 'EXTRAS', 'render_scene', 'view_fault'],
    'write': ['render_dataset'],
    'rerendering': ['rerender', 'scene_sheet', 'stored_scene', 'trace_depths'],
})
