"""Training pairs: dataset, sampler, transforms, captions and caches."""
