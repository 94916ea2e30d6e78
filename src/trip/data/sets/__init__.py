"""Data sets: lists, folders and shards of clips with captions, and one clip of them as frames for training."""
