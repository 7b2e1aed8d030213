"""What people see: the command line, reports, figures and exported formulas."""
