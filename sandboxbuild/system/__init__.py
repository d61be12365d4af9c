"""Every system call that the standard library lacks or does unsafely. Knows nothing of images."""
