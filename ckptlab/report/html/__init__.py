"""HTML of the report: markup, charts and number formats."""
