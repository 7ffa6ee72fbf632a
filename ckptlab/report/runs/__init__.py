"""The report on recordings: phases, panels and tables of one or more runs."""
