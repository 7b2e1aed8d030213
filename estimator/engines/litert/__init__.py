"""LiteRT-LM and MediaPipe: published figures, since their files cannot be had."""
