"""Pictures of nets as values: boxes, splits, their places on the page, and strokes. Nothing here draws."""
