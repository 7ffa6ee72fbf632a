"""Recording: which steps, from the device to the host, into the store."""
