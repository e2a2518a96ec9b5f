"Losses, alignment, metrics and the protocols they are computed under."
import lazy_loader

# Imported on use: the command line and the renderer start without torch.
__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submod_attrs={
    'batches': ['masked_median'],
    'losses': ['LOSSES', 'gradient_loss', 'log_gradient_loss', 'mean_where', 'silog_loss',
        'ssi_loss', 'standardise'],
    'alignment': ['PREDICTS', 'align', 'fit_alignment'],
    'pixel_metrics': ['METRICS', 'depth_metrics'],
    'protocols': ['PROTOCOLS', 'Protocol', 'apply_protocol', 'evaluate_batch', 'get_protocol',
        'summarise'],
    'boundaries': ['CONTOUR_RATIOS', 'boundary_f1', 'edge_metrics'],
    'normals': ['normal_metrics'],
    'order': ['ordinal_metrics'],
    'geometry': ['GEOMETRY', 'geometry_metrics'],
    'image_metric': ['ImageMetric'],
    'objectives': ['OBJECTIVES', 'Objective', 'objective_for', 'objective_loss', 'parse_loss',
        'target_of', 'weighted_loss'],
})
