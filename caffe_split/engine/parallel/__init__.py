"""Several processes that train one net together: they start, find each other, share batches, and notice a loss."""
