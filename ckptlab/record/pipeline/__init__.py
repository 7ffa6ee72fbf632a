"""The way of a snapshot from the device to the store: capture, buffers, encoding, writer thread."""
