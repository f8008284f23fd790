"""How fast an export is: backends in processes of their own, timed in turns, against budgets."""
