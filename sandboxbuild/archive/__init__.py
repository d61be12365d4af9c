"""Layer tars: read, write, unpack, compress; streaming, by descriptor, bounded."""
