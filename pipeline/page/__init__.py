"""What people read of a run: the report's page, its plots, the funnel, and the card of a published dataset."""
