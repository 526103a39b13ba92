"""Operations in C++ for nets on processors, compiled on first use; without a compiler PyTorch computes."""
