"""The report: one page that shows what a manifest says, with pictures."""
