"""What answers are proved against: a trace of the real module, and a measured step. They need PyTorch."""
