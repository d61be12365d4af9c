"""The content-addressed store: blobs, unpacked layers, step cache, images, pruning."""
