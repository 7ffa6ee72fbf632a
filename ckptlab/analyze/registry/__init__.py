"""What a metric is: its entry, options and panels."""
