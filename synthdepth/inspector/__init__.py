"Widgets to look at every depth map."
import lazy_loader

# Imported on use: the command line and the renderer start without torch.
__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submod_attrs={
    'comparison': ['colour_limits'],
    'comparisons': ['Comparisons', 'change_conditions'],
    'transport': ['decode_depth'],
    'page': ['COLOUR_MAPS', 'PAGE_LAYOUTS', 'has_frontend'],
    'inspect': ['DepthInspector'],
    'predictor': ['PredictPanel', 'predict_picture'],
    'monitor': ['TrainingMonitor'],
    'folders': ['open_run', 'show_folder'],
    'server': ['serve', 'write_page'],
})
