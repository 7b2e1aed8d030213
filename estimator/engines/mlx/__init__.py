"""MLX: mlx-lm trains and generates, on Apple silicon or on a CPU."""
