"""engines/torch_cuda"""
