"""The OCI image-spec as values: digests, references, descriptors, manifests, configs. No I/O."""
