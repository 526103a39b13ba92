"""What is known of each layer type, without PyTorch: shapes, parameters, cost, description."""
