"""SGLang on GPUs: the share of each that it keeps for weights and pools, and the tokens of its pools."""
