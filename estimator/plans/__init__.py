"""What users name, read and checked: plans, models, devices, lengths, files."""
