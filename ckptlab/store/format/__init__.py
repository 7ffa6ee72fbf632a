"""Store format 1: layout, codecs, shards and metadata."""
