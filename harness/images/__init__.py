"""Image sets, synthetic images, decoding into batches, image patches."""
