"""From a model and an image to a segmentation on the image's own grid: windows, streaming, post-processing, files."""
