"""Pages and tables that show what a run or a comparison found."""
