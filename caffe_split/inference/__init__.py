"""What trained nets are used for: scores on a test set, classes of images, features; and how long a net takes."""
