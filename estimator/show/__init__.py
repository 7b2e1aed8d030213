"""What people see: the command line, tables, figures and exported formulas."""
