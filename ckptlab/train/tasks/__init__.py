"""What the network learns from the images: a registry, and a module for each task."""
