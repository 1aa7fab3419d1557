"""Other libraries' calls, answered by Spanwright."""
