"""Bases whose linear layers are held in fewer bits: what is resident, saved and dequantised."""
