"""The TIPC harness behind `tipc.py`: reading recipes, planning commands, running and judging them. Standard library
only."""
