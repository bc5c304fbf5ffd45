"""Image sets, the drawn set, decoding into batches, patches."""
